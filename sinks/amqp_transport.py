"""The TCP or TLS connection under AMQP, in a form that can be cut."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

from aiormq.connection import TransportFactory
from yarl import URL


class AbortableTransport(TransportFactory):
    """Makes the connection and keeps hold of it: closing AMQP's way needs an answer, which a hung broker does not give."""

    def __init__(self, context: ssl.SSLContext | None) -> None:
        self._context = context
        self._writer: asyncio.StreamWriter | None = None

    async def create(self, url: URL, **_: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect; aiormq calls this."""
        reader, self._writer = await asyncio.open_connection(url.host, url.port, ssl=self._context)
        return reader, self._writer

    def abort(self) -> None:
        """Close the connection at once; what waits in its buffer is not sent."""
        if self._writer is not None:
            self._writer.transport.abort()
