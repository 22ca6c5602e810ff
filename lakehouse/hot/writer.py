"""Events into the hot store: batches by COPY, each event once however often it is sent, and no acknowledgement that isn't true.

A batch goes into the tables themselves by COPY, in one transaction. Only when an event of it is there already does it go
through a temporary table and INSERT … ON CONFLICT DO NOTHING instead, and for some batches after it, since duplicates come in
swarms. (Measured by benchmarks/hot_ingest.py: the way through the temporary table reaches four fifths of the direct one's rate.)
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from operator import attrgetter
from typing import Any, Final, Self

import psycopg
from psycopg import AsyncConnection, errors, sql
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout

from contract.event import Event
from lakehouse.config import HotConfig
from lakehouse.hot import connect, levels, partitions, rows
from lakehouse.hot.errors import HotStoreTimeout, HotStoreUnavailable, RowsLost

_CHUNK: Final = 250
"""Events of one COPY message: the server reads one while the next is made."""
_ATTEMPTS: Final = 6
_SWARM: Final = 64
"""Batches after a duplicate that go through the temporary table."""
_AGAIN: Final = (errors.DeadlockDetected, errors.SerializationFailure, errors.LockNotAvailable)
_REFUSED: Final = ("22", "23", "54")
"""Classes of SQLSTATE that say a row can't be taken, today or tomorrow."""
_KEY: Final = attrgetter("event_id", "timestamp")
_TIMESTAMP: Final = attrgetter("timestamp")


def _columns(names: Sequence[str]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, names))


_COPY_EVENTS: Final = sql.SQL("COPY trackmate.events ({}) FROM STDIN " + rows.COPY_OPTIONS).format(_columns(rows.EVENT_COLUMNS))
_COPY_METRICS: Final = sql.SQL("COPY trackmate.metrics ({}) FROM STDIN " + rows.COPY_OPTIONS).format(
    _columns(rows.METRIC_COLUMNS)
)
_STAGE: Final = sql.SQL(
    "CREATE TEMP TABLE IF NOT EXISTS event_stage ON COMMIT DELETE ROWS AS SELECT {} FROM trackmate.events WITH NO DATA"
).format(_columns(rows.EVENT_COLUMNS))
_COPY_STAGE: Final = sql.SQL("COPY event_stage ({}) FROM STDIN " + rows.COPY_OPTIONS).format(_columns(rows.EVENT_COLUMNS))
_INSERT: Final = sql.SQL("INSERT INTO trackmate.events ({0}) SELECT {0} FROM event_stage ON CONFLICT DO NOTHING").format(
    _columns(rows.EVENT_COLUMNS)
)
_OUTCOME: Final = sql.SQL(
    "SELECT s.event_id::text, s.timestamp, e.ingest_xid = pg_current_xact_id()"
    " FROM event_stage s LEFT JOIN trackmate.events e ON e.event_id = s.event_id AND e.timestamp = s.timestamp"
)


@dataclass(frozen=True)
class Refused:
    """An event that the database will never take: its index in the batch as given, its id, and the database's reason."""

    index: int
    event_id: str
    reason: str


@dataclass(frozen=True)
class WriteResult:
    """What became of a batch; the three together are what was sent."""

    inserted: int = 0
    duplicates: int = 0
    refused: list[Refused] = field(default_factory=list)

    def __add__(self, other: WriteResult) -> WriteResult:
        return WriteResult(self.inserted + other.inserted, self.duplicates + other.duplicates, self.refused + other.refused)


@dataclass(frozen=True)
class _Batch:
    """Events in the order of their keys, which every writer keeps, so that no two wait for each other in a circle."""

    events: Sequence[Event]
    indexes: Sequence[int]

    def halves(self) -> tuple[_Batch, _Batch]:
        middle = len(self.events) // 2
        return _Batch(self.events[:middle], self.indexes[:middle]), _Batch(self.events[middle:], self.indexes[middle:])


class HotWriter:
    """Writes to one hot store from one event loop; as many batches at once as its pool has connections."""

    def __init__(self, config: HotConfig, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._config = config
        self._clock = clock
        self._timeout = config.statement_timeout.total_seconds()
        self._days: set[date] = set()
        self._partitioned: bool | None = None
        self._swarm = 0
        self._pool = AsyncConnectionPool(
            connect.conninfo(config.dsn, config.connect_timeout),
            min_size=1,
            max_size=config.pool_size,
            open=False,
            kwargs={"autocommit": True, "prepare_threshold": None},
            configure=self._configure,
            timeout=config.connect_timeout.total_seconds(),
            name="hot-writer",
        )

    @classmethod
    async def open(cls, config: HotConfig, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> Self:
        """A writer that connects in the background: a store that is down is an error of the first write, not of the start."""
        writer = cls(config, clock)
        await writer._pool.open(wait=False)
        return writer

    async def close(self) -> None:
        """Close the connections; batches under way are rolled back."""
        await self._pool.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _configure(self, connection: AsyncConnection[Any]) -> None:
        await connection.execute(connect.settings(self._config.statement_timeout).encode())

    # ------------------------------------------------------------------------------------------------------------- write

    async def write(self, events: Sequence[Event]) -> WriteResult:
        """Store the events and return once they are durable; events stored before count as duplicates and change nothing.

        An event that the database can't take is reported as refused, and the rest is stored. Deadlocks, lost connections and
        restarts are retried for a while; sending a batch again is always safe.
        Raises HotStoreUnavailable when the store can't be reached in time, RowsLost when the server lost rows, HotStoreError.
        """
        if not events:
            return WriteResult()
        order = sorted(range(len(events)), key=[_KEY(event) for event in events].__getitem__)
        result = await self._write(_Batch([events[index] for index in order], order))
        result.refused.sort(key=attrgetter("index"))
        return result

    async def _write(self, batch: _Batch) -> WriteResult:
        try:
            return await self._persistently(batch.events)
        except psycopg.Error as error:
            if not (error.sqlstate or "").startswith(_REFUSED):
                raise connect.translate(error, self._config.dsn) from error
            if len(batch.events) == 1:
                reason = error.diag.message_primary or str(error)
                return WriteResult(refused=[Refused(batch.indexes[0], batch.events[0].event_id, reason)])
        first, second = batch.halves()
        return await self._write(first) + await self._write(second)

    async def _store(self, connection: AsyncConnection[Any], events: Sequence[Event]) -> WriteResult:
        await self._make_days(connection, events)
        if self._swarm == 0:
            try:
                return await self._copy(connection, events)
            except errors.UniqueViolation:
                self._swarm = _SWARM
        self._swarm -= 1
        return await self._copy_staged(connection, events)

    async def _copy(self, connection: AsyncConnection[Any], events: Sequence[Event]) -> WriteResult:
        async with connection.transaction():
            await self._copy_in(connection, _COPY_EVENTS, events, rows.events_text)
            await self._copy_in(connection, _COPY_METRICS, events, rows.metrics_text)
        return WriteResult(inserted=len(events))

    async def _copy_staged(self, connection: AsyncConnection[Any], events: Sequence[Event]) -> WriteResult:
        async with connection.transaction():
            await connection.execute(_STAGE)
            await self._copy_in(connection, _COPY_STAGE, events, rows.events_text)
            inserted = (await connection.execute(_INSERT)).rowcount
            new = events
            if inserted != len(events):
                self._swarm = _SWARM
                new = await self._inserted(connection, events, inserted)
            await self._copy_in(connection, _COPY_METRICS, new, rows.metrics_text)
        return WriteResult(inserted, len(events) - inserted)

    async def _copy_in(
        self,
        connection: AsyncConnection[Any],
        statement: sql.Composed,
        events: Sequence[Event],
        text_of: Callable[[Sequence[Event]], tuple[int, bytes]],
    ) -> None:
        """COPY what `text_of` makes of the events, chunk by chunk; proves that the server took as many rows as it was given."""
        cursor = connection.cursor()
        sent = 0
        chunks = (text_of(events[start : start + _CHUNK]) for start in range(0, len(events), _CHUNK))
        filled = next(((count, text) for count, text in chunks if count), None)
        if filled is None:
            return
        async with cursor.copy(statement) as copy:
            while filled is not None:
                sent += filled[0]
                await copy.write(filled[1])
                filled = next(chunks, None)
        if cursor.rowcount != sent:
            message = (
                f"the hot store ({connect.place(self._config.dsn)}) was given {sent} rows and says it took {cursor.rowcount}: "
                "nothing of the batch was kept. Check the server's log and version, then send the batch again"
            )
            raise RowsLost(message)

    async def _inserted(self, connection: AsyncConnection[Any], events: Sequence[Event], count: int) -> list[Event]:
        """The events of the stage that this transaction inserted, once it is proved that all others were there before."""
        outcome = await (await connection.execute(_OUTCOME)).fetchall()
        new = {(event_id, timestamp) for event_id, timestamp, ours in outcome if ours}
        missing = sum(ours is None for _, _, ours in outcome)
        if missing or len(new) != count or len(outcome) != len(events):
            message = (
                f"the hot store ({connect.place(self._config.dsn)}) was given {len(events)} events, says it inserted {count}, "
                f"holds {len(new)} of this transaction and lacks {missing}: nothing of the batch was kept. "
                "Check the server's log and version, then send the batch again"
            )
            raise RowsLost(message)
        kept = []
        for event in events:
            key = (event.event_id, event.timestamp.astimezone(UTC).replace(tzinfo=None))
            if key in new:
                new.remove(key)
                kept.append(event)
        return kept

    async def _make_days(self, connection: AsyncConnection[Any], events: Sequence[Event]) -> None:
        """On plain PostgreSQL, make the partitions of days that this writer has not met yet."""
        if self._partitioned is None:
            found = await (await connection.execute("SELECT level FROM trackmate.store")).fetchone()
            self._partitioned = found is not None and not levels.Level(found[0]).hypertables
        if not self._partitioned:
            return
        first, last = (pick(map(_TIMESTAMP, events)).astimezone(UTC).date() for pick in (min, max))
        days = {first, last}
        if last - first > timedelta(days=1):
            days = {moment.astimezone(UTC).date() for moment in map(_TIMESTAMP, events)}
        days -= self._days
        if not days:
            return
        today = self._clock().date()
        near = {day for day in days if partitions.worth_one(day, today, self._config.retention)}
        if near:
            await asyncio.to_thread(self._make_partitions, near)
        self._days |= days

    def _make_partitions(self, days: set[date]) -> None:
        with connect.session(self._config.dsn, self._config.statement_timeout, self._config.connect_timeout) as connection:
            partitions.ensure(connection, days)

    # ----------------------------------------------------------------------------------------------------- retries, time

    async def _persistently(self, events: Sequence[Event]) -> WriteResult:
        """Run a batch's transaction until it succeeds, fails for good, or has failed too often or for too long."""
        deadline = time.monotonic() + self._config.connect_timeout.total_seconds()
        attempt = 0
        while True:
            attempt += 1
            try:
                async with self._pool.connection() as connection:
                    return await self._in_time(connection, events)
            except _AGAIN:
                if attempt == _ATTEMPTS:
                    raise
            except (PoolTimeout, PoolClosed) as error:
                message = f"the hot store ({connect.place(self._config.dsn)}) gives no connection: {error}. Check that it runs"
                raise HotStoreUnavailable(message) from error
            except psycopg.OperationalError as error:
                if isinstance(error, errors.QueryCanceled) or time.monotonic() > deadline:
                    raise
                # A restart leaves every pooled connection dead: replace them all at once.
                with contextlib.suppress(PoolTimeout):
                    await self._pool.check()
            await asyncio.sleep(random.uniform(0, min(1.0, 0.02 * 2**attempt)))  # noqa: S311 - jitter, no secret

    async def _in_time(self, connection: AsyncConnection[Any], events: Sequence[Event]) -> WriteResult:
        """Run a batch's transaction; a server that went deaf can't be asked to stop, so the connection is cut."""
        task = asyncio.ensure_future(self._store(connection, events))
        try:
            done, _ = await asyncio.wait({task}, timeout=self._timeout)
        except asyncio.CancelledError:
            _cut(connection)
            await asyncio.wait({task})
            raise
        if done:
            return task.result()
        _cut(connection)
        await asyncio.wait({task})
        message = f"the hot store ({connect.place(self._config.dsn)}) did not store a batch within {self._timeout:.0f} s"
        raise HotStoreTimeout(message) from task.exception()

    async def check(self) -> float:
        """Seconds that a round trip to the store takes. Raises HotStoreUnavailable."""
        started = time.monotonic()
        try:
            async with asyncio.timeout(self._config.connect_timeout.total_seconds()), self._pool.connection() as connection:
                await connection.execute("SELECT 1")
        except (psycopg.Error, TimeoutError) as error:
            message = f"the hot store ({connect.place(self._config.dsn)}) does not answer: {error}. Check that it runs"
            raise HotStoreUnavailable(message) from error
        return time.monotonic() - started


def _cut(connection: AsyncConnection[Any]) -> None:
    """Break a connection's socket: whoever waits for it gets an error at once."""
    with (
        contextlib.suppress(psycopg.OperationalError, OSError),
        socket.socket(fileno=os.dup(connection.pgconn.socket)) as duplicate,
    ):
        duplicate.shutdown(socket.SHUT_RDWR)
