"""The lake's silver.events as a source: files pruned by the Delta log, then filtered, ordered and cut by DuckDB."""

# ruff: noqa: S608 - SQL is made here of our own column names; what callers give stands for question marks

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, aclosing, suppress
from typing import Any, Final

import duckdb
import pyarrow as pa

from contract.columns import NAMES, PROMOTED_ENTITIES
from contract.errors import TrackMateError
from contract.request import EventRequest, severities_from
from federation.adapters.base import EVERYTHING, SourceError, SourceHealth
from federation.adapters.threads import SourceThreads
from federation.engines.delta_files import DeltaLog, Snapshot
from federation.engines.pruning import Predicate
from lakehouse.config import LakeConfig
from lakehouse.lake import Lake
from lakehouse.tables import FLAT_SCHEMA

TABLE: Final = "silver.events"
_BATCH_ROWS: Final = 10_000
_COLUMNS: Final = ", ".join(f'"{name}"' for name in NAMES)
_BY_DIRECTION: Final = {"asc": ("ASC", ">"), "desc": ("DESC", "<")}


class LakeAdapter:
    """silver.events under the name `lake`."""

    kind = "lake"
    pushes_down = EVERYTHING

    def __init__(self, config: LakeConfig, name: str = "lake") -> None:
        self.name = name
        self._lake = Lake(config)
        self._log = DeltaLog(TABLE, self._lake.uri(TABLE), self._lake.storage_options)
        self._threads = SourceThreads(name)
        # of its own: whether a kept answer still holds is to be known while long scans have all the other threads
        self._log_threads = SourceThreads(f"{name}-log", workers=2)
        self._open = ExitStack()
        self._database: duckdb.DuckDBPyConnection | None = None
        self._opening = threading.Lock()

    async def query(self, request: EventRequest) -> AsyncIterator[pa.RecordBatch]:
        """Rows in order, from the files that can hold any. Raises SourceError."""
        snapshot = await self._log_threads.call(self._log.latest)
        if snapshot is None:
            return
        cursor = await self._threads.call(self._cursor)
        try:
            async with aclosing(self._threads.iterate(lambda: self._rows(cursor, snapshot, request))) as batches:
                async for batch in batches:
                    yield batch
        finally:
            with suppress(duckdb.ConnectionException):  # it is closed already when all rows were taken
                cursor.interrupt()

    async def version(self, request: EventRequest) -> str | None:  # noqa: ARG002 - every adapter is asked about a request
        """The table's version."""
        snapshot = await self._log_threads.call(self._log.latest)
        return None if snapshot is None else str(snapshot.version)

    async def as_of(self) -> dt.datetime | None:
        """When the newest of its events came to the lake; None while it has none, or does not say."""
        snapshot = await self._log_threads.call(self._log.latest)
        stats = None if snapshot is None else snapshot.stats("ingested_at")
        moments = [] if stats is None else [moment for moment in stats.largest if moment is not None]
        return max(moments).replace(tzinfo=dt.UTC) if moments else None

    async def check(self) -> SourceHealth:
        """Whether the table's log can be read."""
        try:
            snapshot = await self._log_threads.call(self._log.latest)
        except TrackMateError as error:
            return SourceHealth(ok=False, detail=str(error))
        return SourceHealth(ok=True, detail="no events yet" if snapshot is None else f"version {snapshot.version}")

    async def close(self) -> None:
        """Close the database and let the threads end."""
        self._threads.close()
        self._log_threads.close()
        with self._opening:
            self._database = None
            self._open.close()

    def _cursor(self) -> duckdb.DuckDBPyConnection:
        with self._opening:
            if self._database is None:
                self._database = self._open.enter_context(self._lake.connect(ordered=True))
            return self._database.cursor()

    def _rows(self, cursor: duckdb.DuckDBPyConnection, snapshot: Snapshot, request: EventRequest) -> Iterator[pa.RecordBatch]:
        relation = snapshot.relation(TABLE, predicates(request))
        if relation.stats.route != "files":
            message = f"source {self.name}: {TABLE} uses Delta features ({snapshot.needs_extension}) that only POST /v1/sql reads"
            raise SourceError(message)
        if relation.stats.files == 0:
            return
        where, values = conditions(request)
        direction = _BY_DIRECTION[request.order][0]
        limit = f" LIMIT {request.limit}" if request.limit > 0 else ""
        statement = (
            f"SELECT {_COLUMNS} FROM ({relation.sql}) WHERE {where} ORDER BY timestamp {direction}, event_id {direction}{limit}"
        )
        try:
            for batch in cursor.execute(statement, values).to_arrow_reader(_BATCH_ROWS):
                yield batch.cast(FLAT_SCHEMA)
        except duckdb.InterruptException:
            return
        except duckdb.Error as error:
            message = f"source {self.name}: DuckDB could not read {TABLE}: {str(error).splitlines()[0]}"
            raise SourceError(message) from error
        finally:
            cursor.close()


def predicates(request: EventRequest) -> list[Predicate]:
    """What every matching row meets, for pruning files."""
    first, last = _naive(request.start), _naive(request.end)
    found = [
        Predicate("event_date", ">=", (first.date(),)),
        Predicate("event_date", "<=", (last.date(),)),
        Predicate("timestamp", ">=", (first,)),
        Predicate("timestamp", "<", (last,)),
    ]
    if request.after is not None:
        beyond = _naive(request.after.timestamp)
        found.append(Predicate("timestamp", ">=" if request.order == "asc" else "<=", (beyond,)))
    sets: dict[str, Any] = {"site_id": request.sites, "kind": request.kinds or None, "name": request.names or None}
    if request.severity_min is not None:
        sets["severity"] = severities_from(request.severity_min)
    found += [Predicate(column, "in", tuple(sorted(values))) for column, values in sets.items() if values is not None]
    single = {"run_id": request.run_id, "trace_id": request.trace_id}
    single |= {key: value for key, value in request.entities.items() if key in PROMOTED_ENTITIES}
    found += [Predicate(column, "=", (value,)) for column, value in single.items() if value is not None]
    return found


def conditions(request: EventRequest) -> tuple[str, list[Any]]:
    """The request as SQL over the flat layout, with the values that stand for its question marks."""
    parts = ["timestamp >= ?", "timestamp < ?"]
    values: list[Any] = [_naive(request.start), _naive(request.end)]

    def add(condition: str, *more: Any) -> None:
        parts.append(condition)
        values.extend(more)

    if request.after is not None:
        beyond = _BY_DIRECTION[request.order][1]
        add(f"(timestamp, event_id) {beyond} (?, ?)", _naive(request.after.timestamp), request.after.event_id)
    for column, wanted in (("site_id", request.sites), ("kind", request.kinds or None), ("name", request.names or None)):
        if wanted is not None:
            add(_one_of(column, len(wanted)), *sorted(wanted))
    if request.severity_min is not None:
        severities = severities_from(request.severity_min)
        add(_one_of("severity", len(severities)), *severities)
    for column, value in (("run_id", request.run_id), ("trace_id", request.trace_id)):
        if value is not None:
            add(f"{column} = ?", value)
    for key, value in request.entities.items():
        if key in PROMOTED_ENTITIES:
            add(f'"{key}" = ?', value)
        else:
            add("CAST(CAST(entities AS JSON) AS MAP(VARCHAR, VARCHAR))[?] = ?", key, value)
    if request.text is not None:
        pattern = "%" + request.text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"
        columns = ("name", "message", "error_message")
        add("(" + " OR ".join(f"{column} ILIKE ? ESCAPE '\\'" for column in columns) + ")", *[pattern] * len(columns))
    return " AND ".join(parts), values


def _one_of(column: str, count: int) -> str:
    """Constants, one by one: DuckDB pushes these into the Parquet scan, a subquery it would join."""
    return f"{column} IN ({', '.join('?' * count)})" if count else "false"


def _naive(moment: dt.datetime) -> dt.datetime:
    return moment.astimezone(dt.UTC).replace(tzinfo=None)
