"""The one face of every SQL engine: a question goes in, Arrow batches and what they cost come out.

EngineError                 what happened, where, what to do next
├── GateError               the statement is refused before any engine sees it: position and suggestion
├── QueryError              the engine can't run the statement: a type, a missing column, a bad cast
├── QueryTimeout            the deadline passed
├── ResourceLimit           the statement needs more memory or disk than it may have
└── Unavailable             something behind the engine can't be reached
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Literal, Protocol, Self

import pyarrow as pa

from contract.errors import TrackMateError
from federation.renditions import Renditions

if TYPE_CHECKING:
    from federation.auth import Principal

CacheState = Literal["hit", "shared", "miss", "off"]
"""`hit`: from the cache; `shared`: from a twin that was running; `miss`: computed, and kept if small; `off`: not cacheable."""


class EngineError(TrackMateError):
    """An engine can't answer; `code` is a stable word for programs."""

    code = "engine_error"


class GateError(EngineError):
    """A statement is refused before any engine sees it.

    `line` and `column` count from 1 (None where there is no place to point at); `hint` says what to do instead.
    """

    code = "refused"

    def __init__(self, what: str, *, hint: str, line: int | None = None, column: int | None = None) -> None:
        self.what = what
        self.hint = hint
        self.line = line
        self.column = column
        place = f"line {line}, column {column}: " if line is not None else ""
        super().__init__(f"{place}{what}: {hint}")


class QueryError(EngineError):
    """The engine can't run the statement as it is written."""

    code = "invalid_query"


class QueryTimeout(EngineError):
    """The statement ran into its deadline and was stopped."""

    code = "timeout"


class ResourceLimit(EngineError):
    """The statement needs more memory or disk than it may have."""

    code = "resource_limit"


class Unavailable(EngineError):
    """A store behind the engine can't be reached or read now."""

    code = "unavailable"


@dataclass(frozen=True)
class Limits:
    """What one question may cost: `timeout` in seconds, `max_rows` and `max_bytes` (Arrow, in memory) of its answer."""

    timeout: float
    max_rows: int
    max_bytes: int


@dataclass(frozen=True)
class ScanStats:
    """What one table in a statement costs to read.

    `route` says how it is read: `files` (data files named from the log), `extension` (DuckDB's Delta extension), `hot` (the
    hot store, with our own SQL). `pushed` are the conditions that decided which files or rows are read at all.
    """

    table: str
    route: Literal["files", "extension", "hot"]
    version: int | None = None
    files: int = 0
    files_total: int = 0
    bytes: int = 0
    bytes_total: int = 0
    rows_total: int | None = None
    pushed: tuple[str, ...] = ()


@dataclass
class Stats:
    """What an answer cost; complete once its last batch has been taken.

    `files` and `bytes` are those that the engine was given to read, of `files_total` and `bytes_total` that the tables have.
    """

    scans: tuple[ScanStats, ...] = ()
    rows: int = 0
    bytes_returned: int = 0
    seconds: float = 0.0
    cache: CacheState = "off"
    truncated: Literal["rows", "bytes"] | None = None

    @property
    def files(self) -> int:
        """Data files read."""
        return sum(scan.files for scan in self.scans)

    @property
    def files_total(self) -> int:
        """Data files that the tables have."""
        return sum(scan.files_total for scan in self.scans)

    @property
    def bytes(self) -> int:
        """Bytes of the data files read."""
        return sum(scan.bytes for scan in self.scans)

    @property
    def bytes_total(self) -> int:
        """Bytes of the data files that the tables have."""
        return sum(scan.bytes_total for scan in self.scans)


async def _nothing() -> None:
    return None


@dataclass
class Result:
    """An answer in Arrow: `async for batch in result`; `stats` is complete after the last batch.

    `renditions` holds its bytes in other forms for as long as the engine keeps the answer.

    Whoever stops early calls `aclose()`, which stops the engine too; `async with` does that.
    """

    schema: pa.Schema
    stats: Stats
    batches: AsyncIterator[pa.RecordBatch]
    close: Callable[[], Awaitable[None]] = field(default=_nothing)
    renditions: Renditions = field(default_factory=Renditions)

    def __aiter__(self) -> AsyncIterator[pa.RecordBatch]:
        return self.batches

    async def read_all(self) -> pa.Table:
        """The whole answer as one table."""
        return pa.Table.from_batches([batch async for batch in self.batches], self.schema)

    async def aclose(self) -> None:
        """Stop, if it still runs, and let go of everything that it holds."""
        await self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


@dataclass(frozen=True)
class Explanation:
    """How a statement would be run: each table's files after pruning, what is pushed down, the cache, and the engine's plan."""

    scans: tuple[ScanStats, ...]
    cache: CacheState
    sql: str
    plan: str

    def lines(self) -> list[str]:
        """For people, one line an entry."""
        lines = []
        for scan in self.scans:
            at = "" if scan.version is None else f" version {scan.version}"
            if scan.route == "hot":
                lines.append(f"{scan.table}: from the hot store")
            else:
                lines.append(
                    f"{scan.table}{at}: {scan.files} of {scan.files_total} files, {scan.bytes:,} of {scan.bytes_total:,} bytes"
                    + (" (by DuckDB's Delta extension)" if scan.route == "extension" else "")
                )
            lines += [f"  pushed down: {condition}" for condition in scan.pushed] or ["  pushed down: nothing"]
        lines.append(
            {"hit": "cache: would be answered from it", "off": "cache: this statement is never kept"}.get(
                self.cache, "cache: not in it yet"
            )
        )
        return [*lines, *self.plan.splitlines()]


class Engine(Protocol):
    """What the gateway, the command line and Dagster know of an engine."""

    async def query(
        self, sql: str, *, principal: Principal, limits: Limits | None = None, as_of: datetime | None = None
    ) -> Result:
        """Run one statement for `principal`. Raises EngineError; `as_of` (aware) reads the lake as it was then."""

    async def explain(self, sql: str, *, principal: Principal, as_of: datetime | None = None) -> Explanation:
        """Say how `sql` would be run, without running it. Raises EngineError."""

    async def close(self) -> None:
        """Stop everything and free what is held."""
