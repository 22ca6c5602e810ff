"""One statement while it runs in DuckDB: in a thread, within its limits, stopped when nobody wants it any more."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol, TypeVar

import duckdb
import pyarrow as pa

from federation.engines.base import Limits, QueryTimeout, Result, ScanStats, Stats
from federation.engines.duckdb_session import translating

T = TypeVar("T")

BATCH_ROWS: Final = 16_384
"""Rows of one Arrow batch."""

INTERRUPT_AGAIN: Final = 0.2
"""Seconds between two interrupts of a statement that has to stop: one that has not begun yet misses the first."""


@dataclass(frozen=True)
class Prepared:
    """A statement ready to run: SQL for DuckDB, the Arrow tables it names, what it reads, and its place in the cache."""

    sql: str
    arrow: dict[str, pa.Table]
    scans: tuple[ScanStats, ...]
    key: Hashable | None
    explain: bool
    hide_values: bool

    @property
    def needs_extension(self) -> bool:
        """Whether DuckDB's Delta extension reads one of its tables."""
        return any(scan.route == "extension" for scan in self.scans)


class RunningEngine(Protocol):
    """What a run needs of its engine."""

    @property
    def root(self) -> str:
        """Where the lake is; no error may tell it."""

    def cursor(self, prepared: Prepared) -> duckdb.DuckDBPyConnection:
        """A connection that can run the statement."""

    def submit(self, job: Callable[..., T], *arguments: Any) -> Future[T]:
        """Run something in one of the engine's threads."""

    def end(self, run: Run) -> asyncio.Task[None]:
        """Stop a run in a task of its own, which goes on when its caller is cancelled."""


class Run:
    """One statement while it runs: its cursor, its deadline, and what of the answer has been given out."""

    def __init__(self, engine: RunningEngine, prepared: Prepared, limits: Limits, started: float) -> None:
        self._engine = engine
        self._prepared = prepared
        self._limits = limits
        self._started = started
        self._cursor = engine.cursor(prepared)
        self._reader: pa.RecordBatchReader | None = None
        self._job: Future[Any] | None = None
        self._ending: asyncio.Task[None] | None = None
        self._late = False
        self._alarm = asyncio.get_running_loop().call_later(max(0.0, started + limits.timeout - time.monotonic()), self._expire)
        self.schema = pa.schema([])
        self.stats = Stats(scans=prepared.scans)

    async def start(self) -> None:
        """Begin; the answer's schema is known afterwards."""
        try:
            self.schema = await self._do(self._execute)
        except BaseException:
            await self.aclose()
            raise

    def result(self, cache: Literal["miss", "off"], taken: list[pa.RecordBatch] | None = None) -> Result:
        """The answer as a stream: `taken` batches first, then what is still to come."""
        self.stats.cache = cache
        return Result(self.schema, self.stats, self._stream(taken or []), self.aclose)

    async def next_batch(self) -> pa.RecordBatch | None:
        """The next batch within the limits; None at the end."""
        left = self._limits.max_rows - self.stats.rows
        if self.stats.truncated is not None:
            return None
        batch = await self._do(self._read)
        if batch is None:
            self._measure()
            return None
        if batch.num_rows > left:
            self.stats.truncated = "rows"
            batch = batch.slice(0, left)
        room = self._limits.max_bytes - self.stats.bytes_returned
        if batch.nbytes > room:
            self.stats.truncated = "bytes"
            batch = batch.slice(0, max(0, batch.num_rows * room // batch.nbytes))
        self.stats.rows += batch.num_rows
        self.stats.bytes_returned += batch.nbytes
        self._measure()
        return batch if batch.num_rows else None

    async def aclose(self) -> None:
        """Stop and free; returns when DuckDB has let go."""
        if self._ending is None:
            self._ending = self._engine.end(self)
        await asyncio.shield(self._ending)

    async def stop(self) -> None:
        """Interrupt until the thread is done, then close the cursor."""
        self._alarm.cancel()
        while self._job is not None and not self._job.done():
            self._cursor.interrupt()
            await asyncio.wait({asyncio.wrap_future(self._job)}, timeout=INTERRUPT_AGAIN)
        self._reader = None
        self._cursor.close()

    async def _stream(self, taken: list[pa.RecordBatch]) -> AsyncIterator[pa.RecordBatch]:
        try:
            for batch in taken:
                yield batch
            while (found := await self.next_batch()) is not None:
                yield found
        finally:
            await self.aclose()

    def _measure(self) -> None:
        self.stats.seconds = time.monotonic() - self._started

    def _expire(self) -> None:
        """The deadline has passed: interrupt, and again, until somebody stops the run."""
        self._late = True
        if self._job is None or self._job.done():
            self._ending = self._ending or self._engine.end(self)  # nobody takes the rest of the answer
            return
        self._cursor.interrupt()
        self._alarm = asyncio.get_running_loop().call_later(INTERRUPT_AGAIN, self._expire)

    async def _do(self, job: Callable[[], T]) -> T:
        if self._late:
            raise timed_out(self._limits)
        submitted = self._engine.submit(job)
        self._job = submitted
        try:
            return await asyncio.wrap_future(submitted)
        except duckdb.InterruptException:
            raise timed_out(self._limits) from None

    def _execute(self) -> pa.Schema:
        with translating(hide_values=self._prepared.hide_values, root=self._engine.root):
            for name, table in self._prepared.arrow.items():
                self._cursor.register(name, table)
            self._reader = self._cursor.execute(self._prepared.sql).to_arrow_reader(BATCH_ROWS)
            return self._reader.schema

    def _read(self) -> pa.RecordBatch | None:
        assert self._reader is not None  # noqa: S101 - `start` comes first
        with translating(hide_values=self._prepared.hide_values, root=self._engine.root):
            try:
                return self._reader.read_next_batch()
            except StopIteration:
                return None


def timed_out(limits: Limits) -> QueryTimeout:
    """The error of a statement that ran into its deadline."""
    return QueryTimeout(
        f"the statement was stopped after {limits.timeout:g} s: narrow the time range or the sites, group less finely, "
        "or raise engines.duckdb.timeout"
    )
