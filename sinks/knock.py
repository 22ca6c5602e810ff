"""Finds out why a server can't be reached, for clients that say only that they failed: connects plainly and looks."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Iterable
from typing import Final

from sinks.base import describe
from sinks.network_errors import explain

_ALERT_SECONDS: Final = 0.3
"""How long a server is given to protest against a TLS connection that it took."""

_CUT: Final = (ConnectionResetError, ConnectionAbortedError, BrokenPipeError, EOFError, ssl.SSLEOFError)
_NO_TLS: Final = "it cuts the connection during the TLS handshake: does it speak TLS at this port, or is it PLAINTEXT?"


async def knock(addresses: Iterable[tuple[str, int]], context: ssl.SSLContext | None, seconds: float) -> str | None:
    """What goes wrong at the first address where something does, as the end of a sentence; None when all take connections.

    `context` is for TLS; each connection may take `seconds`.
    """
    for host, port in addresses:
        try:
            async with asyncio.timeout(seconds):
                if not await _connect(host, port, context):
                    return _NO_TLS
        except (OSError, ValueError) as error:
            return explain(error) or describe(error)
    return None


async def _connect(host: str, port: int, context: ssl.SSLContext | None) -> bool:
    """Connect, and say whether it came through the TLS handshake, if there is one."""
    try:
        reader, writer = await asyncio.open_connection(host, port, ssl=context)
    except _CUT:
        if context is None:
            raise
        return False
    try:
        if context is not None:
            # With TLS 1.3 a server that wants a certificate says so only after the handshake.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_ALERT_SECONDS):
                    await reader.read(1)
    finally:
        writer.transport.abort()
    return True
