"""Hands values to a Zabbix server or proxy in the protocol of `zabbix_sender`: one connection, one request, one answer of counts.

Packets and answers are zabbix_utils' own. Its AsyncSender is not used: it tells neither why it can't connect nor that an answer
never comes, and leaves the connection open then.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import zlib
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec
from zabbix_utils import ProcessingError
from zabbix_utils.common import ZabbixProtocol
from zabbix_utils.types import TrapperResponse

from sinks.base import Unavailable, describe
from sinks.network_errors import explain

DEFAULT_PORT: Final = 10051
MAX_VALUES: Final = 250
"""Values in one request: what `zabbix_sender` itself sends (its manual page, option -i)."""

_SILENT: Final = logging.getLogger(f"{__name__}.protocol")
_SILENT.setLevel(logging.CRITICAL)  # the library would write every value into a debug log


class Counts(NamedTuple):
    """What a server made of a request."""

    processed: int
    failed: int


class Trapper:
    """The address where values are taken; it keeps no connection between requests, as the protocol has none."""

    def __init__(
        self, host: str, port: int, *, connect_timeout: float, read_timeout: float, compress: bool, context: ssl.SSLContext | None
    ) -> None:
        self.address = f"{host}:{port}"
        self._host = host
        self._port = port
        self._connect_timeout = connect_timeout
        self._read_timeout = read_timeout
        self._compress = compress
        self._context = context

    async def send(self, values: Sequence[dict[str, Any]]) -> Counts:
        """Hand over at most MAX_VALUES values. Raises Unavailable when there is no answer or it isn't one of Zabbix."""
        body = msgspec.json.encode({"request": "sender data", "data": values})
        packet = ZabbixProtocol.create_packet(body, _SILENT, self._compress)
        try:
            answer = await self._exchange(packet)
        except (OSError, EOFError) as error:
            raise Unavailable(f"Zabbix at {self.address} can't be reached: {explain(error) or describe(error)}") from error
        except (ProcessingError, ValueError, UnicodeDecodeError, msgspec.DecodeError, zlib.error) as error:
            raise Unavailable(
                f"what listens at {self.address} does not answer like Zabbix ({describe(error)}): "
                "`url` must name the port for values of a server or proxy, usually 10051"
            ) from error
        return self._counts(answer, len(values))

    async def _exchange(self, packet: bytes) -> dict[str, Any]:
        async with asyncio.timeout(self._connect_timeout):
            reader, writer = await asyncio.open_connection(self._host, self._port, ssl=self._context)
        try:
            async with asyncio.timeout(self._read_timeout):
                writer.write(packet)
                await writer.drain()
                text = await ZabbixProtocol.parse_async_packet(reader, _SILENT, ProcessingError)
            return msgspec.json.decode(text, type=dict[str, Any])
        finally:
            writer.close()
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(1):
                    await writer.wait_closed()

    def _counts(self, answer: dict[str, Any], sent: int) -> Counts:
        if answer.get("response") != "success":
            reason = " ".join(str(answer.get("info") or answer).split())[:300]
            raise Unavailable(f"Zabbix at {self.address} refuses the request: {reason}. Is it an active server or proxy?")
        try:
            counts = TrapperResponse().add({"info": str(answer.get("info", ""))})
        except (ProcessingError, AttributeError) as error:
            raise Unavailable(f"Zabbix at {self.address} answers without counts ({answer.get('info')!r})") from error
        if counts.processed + counts.failed != sent:
            raise Unavailable(
                f"Zabbix at {self.address} speaks of {counts.processed} processed and {counts.failed} failed values of {sent}: "
                "that doesn't add up, so they are sent again"
            )
        return Counts(counts.processed, counts.failed)
