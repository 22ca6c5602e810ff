"""The hot store as a source: everything is pushed down to SQL, and what this gateway wrote itself is known at once."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Final

import pyarrow as pa

from contract.request import EventRequest
from federation.adapters.base import EVERYTHING, SourceHealth
from federation.adapters.threads import SourceThreads
from lakehouse.config import HotConfig
from lakehouse.hot import connect, reader
from lakehouse.hot.arrow import Sessions
from lakehouse.hot.errors import HotStoreError

_MAX_HOURS: Final = 50_000


class WriteClock:
    """Which hours of event time this process has written into, and in which order: what may have changed for a time range."""

    def __init__(self) -> None:
        self._writes = 0
        self._hours: dict[int, int] = {}
        self._floor = 0

    def wrote(self, first: dt.datetime, last: dt.datetime) -> None:
        """Note one committed batch whose events lie between two moments."""
        self._writes += 1
        start, end = _hour(first), _hour(last)
        if end - start > _MAX_HOURS or len(self._hours) > _MAX_HOURS:
            self._hours.clear()
            self._floor = self._writes
            return
        for hour in range(start, end + 1):
            self._hours[hour] = self._writes

    def version(self, first: dt.datetime, last: dt.datetime) -> int:
        """A number that is larger after any write between the two moments."""
        start, end = _hour(first), _hour(last)
        if end - start > _MAX_HOURS:
            return self._writes
        return max(self._floor, *(self._hours.get(hour, 0) for hour in range(start, end + 1)))


class ManagedAdapter:
    """The hot store under the name `managed`; the database stops a statement after `timeout` seconds."""

    kind = "managed"
    pushes_down = EVERYTHING

    def __init__(self, config: HotConfig, name: str = "managed", writes: WriteClock | None = None, timeout: float = 30.0) -> None:
        self.name = name
        self._dsn = config.dsn
        self._writes = writes or WriteClock()
        self._timeout = dt.timedelta(seconds=timeout)
        self._sessions = Sessions()
        self._threads = SourceThreads(name)

    async def query(self, request: EventRequest) -> AsyncIterator[pa.RecordBatch]:
        """Rows in order, everything applied by the database. Raises HotStoreError."""
        async with aclosing(
            self._threads.iterate(lambda: reader.query(self._dsn, request, self._timeout, self._sessions))
        ) as batches:
            async for batch in batches:
                yield batch

    async def version(self, request: EventRequest) -> str | None:
        """Changes when this process has written into the time range; what another wrote is seen when the answer is too old."""
        return str(self._writes.version(request.start, request.end))

    async def as_of(self) -> dt.datetime | None:
        """Always up to date: an event is here once its sender has the answer."""
        return None

    async def check(self) -> SourceHealth:
        """One statement on a connection of its own."""
        try:
            await self._threads.call(self._ping)
        except HotStoreError as error:
            return SourceHealth(ok=False, detail=str(error))
        return SourceHealth(ok=True, detail="answers")

    async def close(self) -> None:
        """Close the kept connections and let the threads end."""
        self._sessions.close()
        self._threads.close()

    def _ping(self) -> None:
        limit = dt.timedelta(seconds=3)
        with (
            connect.connect(self._dsn, connect_timeout=limit, statement_timeout=limit) as connection,
            connect.translated(self._dsn),
        ):
            connection.execute("SELECT 1 FROM trackmate.events LIMIT 1")


def _hour(moment: dt.datetime) -> int:
    return int(moment.timestamp() // 3600)
