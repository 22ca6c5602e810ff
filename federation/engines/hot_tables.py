"""The hot store's tables for SQL: read with statements of our own, conditions pushed into PostgreSQL, the rest left to DuckDB.

DuckDB's PostgreSQL scanner pushes no LIMIT and breaks on compressed chunks, so it is not used.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

import pyarrow as pa
from psycopg import sql

from contract.columns import COLUMNS
from contract.ids import is_uuid
from contract.settings import Secret
from federation.engines.base import QueryError, Unavailable
from federation.engines.pruning import Predicate
from lakehouse.hot import reader
from lakehouse.hot.arrow import stream
from lakehouse.hot.errors import HotStoreError
from lakehouse.tables import FLAT_SCHEMA

MAX_ROWS: Final = 1_000_000
"""Rows of one hot table that one statement may bring into memory."""

_TIMESTAMP: Final = pa.timestamp("us")
_UUIDS: Final = frozenset({"event_id", "run_id", "parent_run_id", "emitter_id"})
_JSON: Final = frozenset({"entities", "metrics", "attributes"})


@dataclass(frozen=True)
class HotColumn:
    """One column: its name, Arrow type and meaning."""

    name: str
    type: pa.DataType
    description: str


@dataclass(frozen=True)
class HotTable:
    """One table of the hot store as the catalog shows it."""

    name: str
    relation: str
    description: str
    columns: tuple[HotColumn, ...]

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema."""
        return pa.schema([pa.field(column.name, column.type) for column in self.columns])


def _aggregate_columns(*columns: tuple[str, pa.DataType, str]) -> tuple[HotColumn, ...]:
    return tuple(HotColumn(*column) for column in columns)


_TEXT: Final = pa.string()
_COUNT: Final = pa.int64()
_FLOAT: Final = pa.float64()

_EVENTS: Final = HotTable(
    "hot.events",
    "events",
    "Events of the last days, within a second of their arrival; older ones are in silver.events.",
    (
        *(HotColumn(c.name, FLAT_SCHEMA.field(c.name).type, c.description) for c in COLUMNS),
        HotColumn("ingested_at", _TIMESTAMP, "When it reached the hot store, UTC"),
    ),
)
_METRICS: Final = HotTable(
    "hot.metrics",
    "metrics",
    "Measured values of the last days: one row a metric of an event.",
    _aggregate_columns(
        ("event_id", _TEXT, "UUID of the event"),
        ("timestamp", _TIMESTAMP, "When it was measured, UTC"),
        ("site_id", _TEXT, "The site"),
        ("app_name", _TEXT, "The program that reported it"),
        ("tool", _TEXT, "Entity: tool"),
        ("chamber", _TEXT, "Entity: chamber"),
        ("recipe", _TEXT, "Entity: recipe"),
        ("name", _TEXT, "The metric's name"),
        ("value", _FLOAT, "The measured value"),
    ),
)


def _aggregates(unit: str, words: str) -> tuple[HotTable, HotTable]:
    events = HotTable(
        f"hot.events_{unit}",
        f"events_{unit}",
        f"Events counted by {words}, late ones included.",
        _aggregate_columns(
            ("bucket", _TIMESTAMP, f"Start of the {words}, UTC"),
            ("site_id", _TEXT, "The site"),
            ("app_name", _TEXT, "The program"),
            ("tool", _TEXT, "Entity: tool; empty for events without one"),
            ("kind", _TEXT, "Kind of the events"),
            ("severity", _TEXT, "Severity of the events"),
            ("events", _COUNT, "How many"),
            ("failed", _COUNT, "of which failed"),
            ("aborted", _COUNT, "of which were aborted"),
            ("duration_count", _COUNT, "of which told a duration"),
            ("duration_sum", _FLOAT, "Sum of the durations, milliseconds"),
            ("duration_max", _FLOAT, "Longest duration, milliseconds"),
        ),
    )
    metrics = HotTable(
        f"hot.metrics_{unit}",
        f"metrics_{unit}",
        f"Measured values summed up by {words}, late ones included.",
        _aggregate_columns(
            ("bucket", _TIMESTAMP, f"Start of the {words}, UTC"),
            ("site_id", _TEXT, "The site"),
            ("app_name", _TEXT, "The program"),
            ("tool", _TEXT, "Entity: tool; empty for events without one"),
            ("chamber", _TEXT, "Entity: chamber; empty for events without one"),
            ("recipe", _TEXT, "Entity: recipe; empty for events without one"),
            ("name", _TEXT, "The metric's name"),
            ("count", _COUNT, "How many values"),
            ("min", _FLOAT, "The smallest"),
            ("max", _FLOAT, "The largest"),
            ("sum_count", _COUNT, "How many values are in sum and sum_squares"),
            ("sum", _FLOAT, "Their sum"),
            ("sum_squares", _FLOAT, "The sum of their squares"),
        ),
    )
    return events, metrics


HOT_TABLES: Final[dict[str, HotTable]] = {
    table.name: table for table in (_EVENTS, _METRICS, *_aggregates("1m", "minute"), *_aggregates("1h", "hour"))
}
"""Every hot table by its name in the catalog."""


@dataclass
class HotStore:
    """Where the hot store is, and reading it with bounds."""

    dsn: Secret
    timeout: timedelta = timedelta(seconds=30)
    max_rows: int = MAX_ROWS
    _identity: str | None = field(default=None, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def system_identifier(self) -> str:
        """The database cluster's own number. Raises Unavailable."""
        with self._lock:
            if self._identity is None:
                try:
                    self._identity = reader.system_identifier(self.dsn)
                except HotStoreError as error:
                    raise _unavailable(error) from error
            return self._identity

    def read(
        self,
        table: HotTable,
        predicates: Sequence[Predicate],
        *,
        sites: frozenset[str] | None = None,
        after_xid: int | None = None,
        limit: int | None = None,
        columns: Sequence[str] | None = None,
    ) -> tuple[pa.Table, tuple[str, ...]]:
        """The rows that meet those conditions that PostgreSQL can judge as DuckDB does, and which those were.

        `sites` keeps only rows of these; `after_xid` only what later transactions brought; `limit` any so many rows, where
        PostgreSQL judges all conditions.
        Raises QueryError when there are more than `max_rows`, Unavailable when the store can't be reached.
        """
        schema = table.schema if columns is None else pa.schema([table.schema.field(name) for name in columns])
        conditions: list[sql.Composable] = []
        pushed: list[str] = []
        for predicate in predicates:
            condition = _condition(table.schema.field(predicate.column).type, predicate)
            if condition is not None:
                conditions.append(condition)
                pushed.append(str(predicate))
        if len(pushed) < len(predicates):
            limit = None  # what is cut off here may be what the conditions left to DuckDB want
        if sites is not None:
            conditions.append(_any_of(sql.Identifier("site_id"), [sql.Literal(s) for s in sorted(sites) if "\0" not in s]))
        if after_xid is not None:
            conditions.append(sql.SQL("ingest_xid > {}::xid8").format(sql.Literal(str(after_xid))))
        bound = self.max_rows + 1 if limit is None else min(limit, self.max_rows + 1)
        where = sql.SQL(" AND ").join(conditions) if conditions else sql.SQL("true")
        # the aggregate is qualified because a plain name in a text comparison would be read as the cast output column
        statement = sql.SQL("SELECT {} FROM trackmate.{} AS t WHERE {} LIMIT {}").format(
            sql.SQL(", ").join(map(_selected, schema.names)), sql.Identifier(table.relation), where, sql.Literal(bound)
        )
        if limit is not None:
            pushed.append(f"limit {limit}")
        return self._fetch(table, statement, schema), tuple(pushed)

    def _fetch(self, table: HotTable, statement: sql.Composable, schema: pa.Schema) -> pa.Table:
        batches: list[pa.RecordBatch] = []
        rows = 0
        try:
            for batch in stream(self.dsn, statement, schema, self.timeout):
                batches.append(batch)
                rows += batch.num_rows
        except HotStoreError as error:
            raise _unavailable(error) from error
        if rows > self.max_rows:
            message = (
                f"{table.name}: the statement needs more than {self.max_rows:,} rows of it: narrow its time range "
                "(timestamp >= … AND timestamp < …), or ask silver.events"
            )
            raise QueryError(message)
        return pa.Table.from_batches(batches, schema)


def _unavailable(error: HotStoreError) -> Unavailable:
    return Unavailable(f"the hot store can't be asked now ({error}): ask silver.* and gold.*, which do not need it, or try again")


def _selected(name: str) -> sql.Composed:
    column = sql.Identifier("t", name)
    if name in _UUIDS or name in _JSON:
        return sql.SQL("{}::text AS {}").format(column, sql.Identifier(name))
    return sql.SQL("{}").format(column)


def _condition(kind: pa.DataType, predicate: Predicate) -> sql.Composable | None:
    """The condition in PostgreSQL's words, None where it might judge otherwise than DuckDB."""
    column = sql.Identifier("t", predicate.column)
    if predicate.operator in {"is null", "is not null"}:
        return sql.SQL("{} {}").format(column, sql.SQL(predicate.operator.upper()))
    if predicate.column in _JSON:
        return None
    values = [_value(kind, predicate.column, value) for value in predicate.values]
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return None
    if predicate.operator == "in":
        return _any_of(column, known)
    compared: sql.Composable = column
    if pa.types.is_string(kind) and predicate.column not in _UUIDS:
        compared = sql.SQL('{} COLLATE "C"').format(column)
    return sql.SQL("{} {} {}").format(compared, sql.SQL(predicate.operator), known[0])


def _any_of(column: sql.Composable, values: Sequence[sql.Composable]) -> sql.Composable:
    if not values:
        return sql.SQL("false")
    return sql.SQL("{} IN ({})").format(column, sql.SQL(", ").join(values))


def _value(kind: pa.DataType, column: str, value: Any) -> sql.Composable | None:
    if column in _UUIDS:
        return sql.SQL("{}::uuid").format(sql.Literal(value)) if isinstance(value, str) and is_uuid(value) else None
    if pa.types.is_string(kind):
        return sql.Literal(value) if isinstance(value, str) and "\0" not in value else None
    if pa.types.is_timestamp(kind):
        return _moment(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, int) and not -(2**53) < value < 2**53:
        return None
    return sql.SQL("{}::float8").format(sql.Literal(str(value))) if isinstance(value, float) else sql.Literal(value)


def _moment(value: Any) -> sql.Composable | None:
    if isinstance(value, datetime):
        naive = value if value.tzinfo is None else value.astimezone(UTC).replace(tzinfo=None)
        return sql.SQL("{}::timestamp").format(sql.Literal(naive.isoformat()))
    if isinstance(value, date):
        return sql.SQL("{}::timestamp").format(sql.Literal(value.isoformat()))
    return None


def time_span(table: pa.Table, column: str) -> Iterator[Predicate]:
    """The range of a column in the rows at hand, as conditions that each of them meets."""
    import pyarrow.compute as pc

    if table.num_rows:
        ends: Any = pc.min_max(table[column]).as_py()
        yield Predicate(column, ">=", (ends["min"],))
        yield Predicate(column, "<=", (ends["max"],))
