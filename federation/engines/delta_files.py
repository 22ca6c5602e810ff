"""The Delta log as we read it: a kept table handle, its files and statistics by version, and the SQL that reads just those.

DuckDB never sees a table, only the data files that may hold a matching row, each by its full name: nobody lists folders.
Partition columns are not in the files: where every path spells them as the log does, DuckDB takes them from the path
(a constant a file, which it can filter by); elsewhere they are joined to the file's name. Columns that a file does not have
(it is older than they are) come as NULL. What the files alone do not tell (deletion vectors, column mapping) goes through
DuckDB's Delta extension instead.
"""

# ruff: noqa: S608 - SQL is made here: names come from declarations and logs and are quoted, values are literals

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Final
from urllib.parse import unquote

import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError

from federation.engines.arrow_sql import literal, quoted, sql_type
from federation.engines.base import QueryError, ScanStats, Unavailable
from federation.engines.pruning import ColumnStats, Predicate, prune

READABLE_FEATURES: Final = frozenset({"timestampNtz", "vacuumProtocolCheck", "v2Checkpoint"})
"""Reader features that leave a data file meaning what it says; with any other the Delta extension reads the table."""

MAX_READER: Final = 3
"""The last reader version there is: 2 brings column mapping, 3 names its features."""

_READ: Final = "union_by_name = true, can_have_nan = true"
"""How files are read; without the second, DuckDB skips those whose statistics, which leave NaN out, lie below what is asked."""

HIVE_NULL: Final = "__HIVE_DEFAULT_PARTITION__"
KEPT_VERSIONS: Final = 8
"""Past versions of a table whose file lists are kept for time travel."""


@dataclass(frozen=True)
class Relation:
    """SQL that gives a table's rows (a superset of those that match), and what reading it costs."""

    sql: str
    stats: ScanStats


@dataclass
class Snapshot:
    """One version of one table: its schema, files and statistics."""

    uri: str
    table_id: str
    version: int
    schema: pa.Schema
    partition_columns: tuple[str, ...]
    actions: pa.Table
    needs_extension: str | None = None
    _stats: dict[str, ColumnStats | None] = field(default_factory=dict, init=False)

    @cached_property
    def files(self) -> list[str]:
        """Each data file's full path or address."""
        root = self.uri.rstrip("/")
        return [_full_path(root, str(path)) for path in self.actions["path"].to_pylist()]

    @cached_property
    def sizes(self) -> list[int]:
        """Each data file's size in bytes."""
        return [int(size or 0) for size in self.actions["size_bytes"].to_pylist()]

    @cached_property
    def rows(self) -> list[int | None]:
        """Each data file's rows, None where the log does not say."""
        return list(self.actions["num_records"].to_pylist())

    @property
    def row_count(self) -> int | None:
        """Rows of the table, None when a file does not say."""
        return None if None in self.rows else sum(row or 0 for row in self.rows)

    def partition(self, column: str) -> list[Any]:
        """Each data file's value of a partition column."""
        values = _struct_field(self.actions, "partition", column)
        return [None] * len(self.files) if values is None else values.to_pylist()

    def stats(self, column: str) -> ColumnStats | None:
        """What the log knows of a column; None when it knows nothing at all."""
        if column not in self._stats:
            self._stats[column] = self._read_stats(column)
        return self._stats[column]

    def _read_stats(self, column: str) -> ColumnStats | None:
        if column not in self.schema.names:
            return None
        kind = self.schema.field(column).type
        if column in self.partition_columns:
            values = self.partition(column)
            nulls = [rows if value is None else 0 for value, rows in zip(values, self.rows, strict=True)]
            return ColumnStats(kind, values, values, nulls, self.rows, exact=True)
        found = [_struct_field(self.actions, part, column) for part in ("min", "max", "null_count")]
        lists = [[None] * len(self.files) if part is None else part.to_pylist() for part in found]
        return ColumnStats(kind, lists[0], lists[1], lists[2], self.rows)

    def prune(self, predicates: Sequence[Predicate]) -> tuple[list[int], tuple[str, ...]]:
        """The files that may hold a matching row, and the conditions that were judged."""
        kept = list(range(len(self.files)))
        used = []
        ordered = sorted(predicates, key=lambda p: p.column not in self.partition_columns)
        for predicate in ordered:
            stats = self.stats(predicate.column)
            if stats is not None:
                kept = prune(kept, stats, predicate)
                used.append(str(predicate))
        return kept, tuple(used)

    def relation(self, name: str, predicates: Sequence[Predicate]) -> Relation:
        """The table as a SELECT over the files that `predicates` leave."""
        total = sum(self.sizes)
        whole = ScanStats(
            name,
            "extension",
            self.version,
            files=len(self.files),
            files_total=len(self.files),
            bytes=total,
            bytes_total=total,
            rows_total=self.row_count,
        )
        if self.needs_extension is not None:
            return Relation(f"SELECT * FROM delta_scan({literal(self.uri)}, version := {self.version})", whole)
        kept, used = self.prune(predicates)
        size = sum(self.sizes[i] for i in kept)
        return Relation(self._select(kept), replace(whole, route="files", files=len(kept), bytes=size, pushed=used))

    def _select(self, kept: Sequence[int]) -> str:
        parts = [empty_relation(self.schema)]
        if kept:
            parts.append(self._read_hive(kept) if self._paths_spell_partitions(kept) else self._read_joined(kept))
        columns = ", ".join(f"CAST({quoted(f.name)} AS {sql_type(f.type)}) AS {quoted(f.name)}" for f in self.schema)
        return f"SELECT {columns} FROM ({' UNION ALL BY NAME '.join(parts)})"

    def _read_hive(self, kept: Sequence[int]) -> str:
        types = ", ".join(f"{quoted(c)}: {sql_type(self.schema.field(c).type)}" for c in self.partition_columns)
        hive = f"hive_partitioning = true, hive_types = {{{types}}}" if types else "hive_partitioning = false"
        return f"SELECT * FROM read_parquet({self._listed(kept)}, {_READ}, {hive})"

    def _read_joined(self, kept: Sequence[int]) -> str:
        names = [f"p{place}" for place in range(len(self.partition_columns))]
        columns = [self.partition(column) for column in self.partition_columns]
        rows = ", ".join(f"({literal(self.files[i])}, {', '.join(literal(values[i]) for values in columns)})" for i in kept)
        picked = ", ".join(
            f"CAST(parts.{name} AS {sql_type(self.schema.field(column).type)}) AS {quoted(column)}"
            for name, column in zip(names, self.partition_columns, strict=True)
        )
        return (
            f"SELECT files.* EXCLUDE (__file), {picked} "
            f"FROM read_parquet({self._listed(kept)}, {_READ}, hive_partitioning = false, "
            f"filename = '__file') AS files "
            f"JOIN (VALUES {rows}) AS parts(__file, {', '.join(names)}) ON files.__file = parts.__file"
        )

    def _listed(self, kept: Sequence[int]) -> str:
        return f"[{', '.join(literal(self.files[i]) for i in kept)}]"

    def _paths_spell_partitions(self, kept: Sequence[int]) -> bool:
        """Whether DuckDB, reading `key=value` folders, gets from each path what the log says, and nothing besides."""
        own = {column.casefold() for column in self.schema.names}
        expected = {column.casefold(): column for column in self.partition_columns}
        if any(not _spelt_alike(self.schema.field(column).type) for column in self.partition_columns):
            return False
        values = {column: self.partition(column) for column in self.partition_columns}
        for i in kept:
            found = {}
            for segment in self.files[i].split("/")[:-1]:
                key, equals, text = segment.partition("=")
                key = unquote(key).casefold()
                if equals and key in own:
                    if key in found or "=" in text or "?" in segment or "\\" in segment:
                        return False
                    found[key] = unquote(text)
            if found.keys() != expected.keys():
                return False
            if any(_spelling(values[column][i]) != found[key] for key, column in expected.items()):
                return False
        return True


def empty_relation(schema: pa.Schema) -> str:
    """A SELECT of no rows with these columns."""
    columns = ", ".join(f"CAST(NULL AS {sql_type(f.type)}) AS {quoted(f.name)}" for f in schema)
    return f"SELECT {columns} WHERE false"


@dataclass
class DeltaLog:
    """One table's log, followed as it grows; safe to share between threads."""

    name: str
    uri: str
    storage_options: Mapping[str, str]
    _table: DeltaTable | None = field(default=None, init=False)
    _latest: Snapshot | None = field(default=None, init=False)
    _past: OrderedDict[int, tuple[Snapshot, datetime]] = field(default_factory=OrderedDict, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def latest(self) -> Snapshot | None:
        """The newest version; None when there is no such table (yet). Raises Unavailable."""
        with self._lock:
            try:
                if self._table is None:
                    self._table = DeltaTable(self.uri, storage_options=dict(self.storage_options))
                else:
                    self._table.update_incremental()
            except TableNotFoundError:
                self._table = self._latest = None
                return None
            except (DeltaError, OSError) as error:
                self._table = self._latest = None
                message = f"{self.name}: its Delta log can't be read now ({_first_line(error)}): try again, or check lake.root"
                raise Unavailable(message) from error
            if self._latest is None or self._latest.version != self._table.version():
                self._latest = self._snapshot(self._table)
            return self._latest

    def at(self, moment: datetime) -> Snapshot | None:
        """The version that was current at `moment` (aware); None when there is no such table.

        Raises QueryError when the table did not exist yet at that moment.
        """
        try:
            moment = moment.astimezone(UTC)
        except OverflowError:
            message = f"as_of {moment.isoformat()} is outside the years 1 to 9999 in UTC: ask for a moment of the last 30 days"
            raise QueryError(message) from None
        with self._lock:
            try:
                table = DeltaTable(self.uri, storage_options=dict(self.storage_options))
                newest = table.version()
                table.load_as_version(moment)
            except TableNotFoundError:
                return None
            except (DeltaError, OSError) as error:
                message = (
                    f"{self.name}: the version of {moment.isoformat()} can't be read ({_first_line(error)}): "
                    "ask for a later moment, the log keeps 30 days"
                )
                raise QueryError(message) from error
            version = table.version()
            if version not in self._past:
                # once a handle has travelled, delta-rs numbers its history wrongly: newest first, counted from there
                written = table.history()[newest - version]["timestamp"]
                self._past[version] = self._snapshot(table), datetime.fromtimestamp(written / 1000, UTC)
                while len(self._past) > KEPT_VERSIONS:
                    self._past.popitem(last=False)
            self._past.move_to_end(version)
            snapshot, committed = self._past[version]
        if committed > moment:  # asked for a moment before the first, delta-rs gives the first
            message = (
                f"{self.name} has no version as old as {moment.isoformat()}: "
                f"its oldest is of {committed.isoformat()}, ask for that moment or a later one"
            )
            raise QueryError(message)
        return snapshot

    def transaction(self, app_id: str, version: int) -> int | None:
        """Where the cursor `app_id` stood at that version; None if it was never set, or the log no longer tells."""
        with self._lock:
            table = self._table
            try:
                if table is None or table.version() != version:
                    table = DeltaTable(self.uri, version=version, storage_options=dict(self.storage_options))
                mark: int | None = table.transaction_version(app_id)
            except (DeltaError, OSError):
                return None
            return mark

    def _snapshot(self, table: DeltaTable) -> Snapshot:
        return Snapshot(
            uri=self.uri,
            table_id=str(table.metadata().id),
            version=table.version(),
            schema=_schema(table),
            partition_columns=tuple(table.metadata().partition_columns),
            actions=pa.table(table.get_add_actions()),
            needs_extension=_needs_extension(table),
        )


def _schema(table: DeltaTable) -> pa.Schema:
    schema: Any = table.schema().to_arrow()
    return pa.schema(schema)


def _needs_extension(table: DeltaTable) -> str | None:
    """Why the data files alone do not tell the table's rows; None when they do."""
    if table.metadata().configuration.get("delta.columnMapping.mode", "none") != "none":
        return "column mapping"
    protocol = table.protocol()
    features = set(protocol.reader_features or ())
    if protocol.min_reader_version > MAX_READER:
        return f"reader version {protocol.min_reader_version}"
    unknown = sorted(features - READABLE_FEATURES)
    return ", ".join(unknown) if unknown else None


def _full_path(root: str, path: str) -> str:
    if "://" in path or path.startswith("/"):
        message = f"a table under {root} names a data file outside its folder: it can't be read here"
        raise QueryError(message)
    return f"{root}/{unquote(path)}"


def _struct_field(actions: pa.Table, part: str, column: str) -> pa.ChunkedArray[Any] | None:
    if part not in actions.column_names:
        return None
    kind: Any = actions.schema.field(part).type
    place = kind.get_field_index(column)
    if place < 0:
        return None
    chunks: list[Any] = actions[part].chunks
    return pa.chunked_array([chunk.field(place) for chunk in chunks], kind.field(place).type)


def _spelt_alike(kind: pa.DataType) -> bool:
    """Whether the path's text of a value of this type is one that can be compared with the log's."""
    return bool(pa.types.is_string(kind) or pa.types.is_date(kind) or pa.types.is_integer(kind))


def _spelling(value: Any) -> str:
    return HIVE_NULL if value is None else str(value)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
