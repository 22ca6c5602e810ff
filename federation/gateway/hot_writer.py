"""The gateway's way into the hot store: migrated and opened in the background, however late the database comes up."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from contract.event import Event
from federation.adapters.managed import WriteClock
from federation.gateway.services import Services
from lakehouse.config import HotConfig
from lakehouse.hot.errors import HotStoreError
from lakehouse.hot.migrate import migrate
from lakehouse.hot.writer import HotWriter, WriteResult

LOG = logging.getLogger(__name__)

FIRST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 10.0


class ClockedWriter:
    """A HotWriter that notes what time ranges it has written into, so that cached answers about them are dropped."""

    def __init__(self, writer: HotWriter, writes: WriteClock) -> None:
        self._writer = writer
        self._writes = writes

    async def write(self, events: Sequence[Event]) -> WriteResult:
        """Write a batch and return once it is committed. Raises HotStoreError."""
        result = await self._writer.write(events)
        if result.inserted:
            moments = [event.timestamp for event in events]
            self._writes.wrote(min(moments), max(moments))
        return result


@asynccontextmanager
async def kept_open(services: Services, config: HotConfig, writes: WriteClock) -> AsyncIterator[None]:
    """While inside, bring the hot store's tables up to date as soon as it answers, then let `services` write to it."""
    opening = asyncio.create_task(_open(services, config, writes), name="open the hot store")
    try:
        yield
    finally:
        opening.cancel()
        writer = (await asyncio.gather(opening, return_exceptions=True))[0]
        services.writer = None
        services.waiting_for = "the gateway is stopping"
        if isinstance(writer, HotWriter):
            await writer.close()


async def _open(services: Services, config: HotConfig, writes: WriteClock) -> HotWriter:
    pause = FIRST_PAUSE
    while True:
        try:
            revision = await asyncio.to_thread(migrate, config.dsn)
            break
        except HotStoreError as error:
            services.waiting_for = str(error)
            LOG.warning("not ready, trying again in %.1f s: %s", pause, error)
            await asyncio.sleep(pause)
            pause = min(LONGEST_PAUSE, pause * 1.6)
    writer = await HotWriter.open(config)
    services.writer = ClockedWriter(writer, writes)
    LOG.info("hot store ready", extra={"fields": {"revision": revision}})
    return writer
