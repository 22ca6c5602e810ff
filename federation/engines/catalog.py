"""What can be asked for: every table by the name it has on both engines, who may see it, and the rows it stands for.

`bronze.*`, `silver.*` and `gold.*` are the lake's tables, `hot.*` the hot store's, and `unified.events` is silver.events up to
what the lake has taken from the hot store, and the hot store after it, each event once.

A caller with a list of sites sees only rows of these: the condition is part of the table itself, below everything that the caller
writes, and a table that has no site_id is not there at all. A barrier between the two keeps the caller's own expressions from
ever being evaluated on other sites' rows, where an error would tell what they hold.
"""

# ruff: noqa: S608 - SQL is made here: names come from declarations and logs and are quoted, values are literals

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Literal

import pyarrow as pa

from contract.columns import NAMES
from federation.engines.arrow_sql import literal, quoted, type_name
from federation.engines.base import EngineError, QueryError, ScanStats
from federation.engines.delta_files import DeltaLog, Relation, Snapshot, empty_relation
from federation.engines.hot_tables import HOT_TABLES, HotStore, time_span
from federation.engines.pruning import Predicate
from lakehouse.bronze import hot_app_id
from lakehouse.lake import Lake
from lakehouse.tables import TABLES

if TYPE_CHECKING:
    from federation.auth import Principal

Kind = Literal["lake", "hot", "unified"]

UNIFIED: Final = "unified.events"
SITE: Final = "site_id"
BARRIER: Final = 2**63 - 1
"""A LIMIT that cuts nothing off: DuckDB moves no condition from above a LIMIT to below it."""


@dataclass(frozen=True)
class CatalogColumn:
    """One column as users see it."""

    name: str
    type: str
    description: str


@dataclass(frozen=True)
class CatalogTable:
    """One table as users see it; `rows`, `bytes`, `files` and `version` are None where they are not known without counting."""

    name: str
    kind: Kind
    description: str
    columns: tuple[CatalogColumn, ...]
    rows: int | None = None
    bytes: int | None = None
    files: int | None = None
    version: int | None = None
    problem: str | None = None


@dataclass(frozen=True)
class Scan:
    """One table in one statement: SQL for its rows, Arrow tables that the SQL names, and what it costs."""

    sql: str
    stats: tuple[ScanStats, ...]
    arrow: dict[str, pa.Table] = field(default_factory=dict)


class Catalog:
    """The tables of one lake and, where there is one, its hot store. Safe to share between threads."""

    def __init__(self, lake: Lake, hot: HotStore | None = None) -> None:
        self.lake = lake
        self.hot = hot
        self._logs = {name: DeltaLog(name, lake.uri(name), lake.storage_options) for name in TABLES}
        self._watermarks: dict[tuple[int, str], int | None] = {}

    def names(self, principal: Principal) -> frozenset[str]:
        """The tables that `principal` may read."""
        lake = {name for name, table in TABLES.items() if principal.sites is None or SITE in table.names}
        return frozenset(lake | (set(HOT_TABLES) | {UNIFIED} if self.hot is not None else set()))

    def reading(self, principal: Principal, as_of: datetime | None = None) -> Reading:
        """The tables as they are now, or as the lake's were at `as_of`, held still for one statement."""
        return Reading(self, principal, as_of)

    def log(self, name: str) -> DeltaLog:
        """The log of a lake table."""
        return self._logs[name]

    def describe(self, principal: Principal) -> list[CatalogTable]:
        """Every table that `principal` may read, with what its log tells without reading data.

        Sizes are told only to those who see all sites: they count every site's rows.
        """
        return [self._describe(name, principal) for name in sorted(self.names(principal))]

    def _describe(self, name: str, principal: Principal) -> CatalogTable:
        if name in HOT_TABLES:
            hot = HOT_TABLES[name]
            columns = tuple(CatalogColumn(c.name, type_name(c.type), c.description) for c in hot.columns)
            return CatalogTable(name, "hot", hot.description, columns)
        if name == UNIFIED:
            text = "Every event once: silver.events as far as the lake has come, the hot store after it."
            flat = tuple(
                CatalogColumn(c.name, type_name(c.type), c.description) for c in TABLES["silver.events"].columns[: len(NAMES)]
            )
            return CatalogTable(name, "unified", text, flat)
        declared = TABLES[name]
        described = {column.name: column.description for column in declared.columns}
        snapshot: Snapshot | None = None
        problem: str | None = None
        try:
            snapshot = self.log(name).latest()
        except EngineError as error:
            problem = str(error)
        schema = declared.schema if snapshot is None else snapshot.schema
        columns = tuple(CatalogColumn(f.name, type_name(f.type), described.get(f.name, "")) for f in schema)
        if snapshot is None or principal.sites is not None:
            return CatalogTable(name, "lake", declared.description, columns, problem=problem)
        return CatalogTable(
            name,
            "lake",
            declared.description,
            columns,
            rows=snapshot.row_count,
            bytes=sum(snapshot.sizes),
            files=len(snapshot.files),
            version=snapshot.version,
        )

    def hot_watermark(self, silver: Snapshot | None) -> int | None:
        """The last transaction of the hot store whose events are in that version of silver.events; None: none is known to be.

        silver.events notes the version of bronze.events that it has read, which notes the transaction that it had come to.
        """
        if self.hot is None or silver is None:
            return None
        bronze = self.log("bronze.events")
        current = bronze.latest()
        if current is None:
            return None
        key = (silver.version, self.hot.system_identifier())
        if key not in self._watermarks:
            read = self.log("silver.events").transaction(f"bronze.events:{current.table_id}", silver.version)
            mark = None if read is None else bronze.transaction(hot_app_id(key[1]), read)
            self._watermarks = {key: mark}
        return self._watermarks[key]


class Reading:
    """One statement's view of the catalog: each table stays at the version that was first seen."""

    def __init__(self, catalog: Catalog, principal: Principal, as_of: datetime | None) -> None:
        self._catalog = catalog
        self._principal = principal
        self._as_of = as_of
        self._snapshots: dict[str, Snapshot | None] = {}

    def schema(self, name: str) -> pa.Schema:
        """The table's columns."""
        if name in HOT_TABLES:
            return HOT_TABLES[name].schema
        if name == UNIFIED:
            return pa.schema([TABLES["silver.events"].schema.field(column) for column in NAMES])
        snapshot = self.snapshot(name)
        return TABLES[name].schema if snapshot is None else snapshot.schema

    def version(self, name: str) -> Hashable | None:
        """What names the table's content: equal versions have equal rows. None for tables that change without telling."""
        if name in HOT_TABLES or name == UNIFIED:
            return None
        snapshot = self.snapshot(name)
        return "absent" if snapshot is None else (snapshot.table_id, snapshot.version)

    def snapshot(self, name: str) -> Snapshot | None:
        """The lake table's version that this statement reads; None when the lake does not have it yet."""
        if name not in self._snapshots:
            log = self._catalog.log(name)
            self._snapshots[name] = log.latest() if self._as_of is None else log.at(self._as_of)
        return self._snapshots[name]

    def scan(self, name: str, predicates: Sequence[Predicate], *, limit: int | None = None, alias: str) -> Scan:
        """The rows of `name` that `principal` may see, at least those that meet `predicates`.

        `limit` says that any so many of them will do. Arrow tables are named after `alias`. Raises EngineError.
        """
        sites = self._principal.sites
        if sites is not None:
            predicates = (*predicates, Predicate(SITE, "in", tuple(sorted(sites))))
        if name in HOT_TABLES:
            scan = self._hot(name, predicates, limit=limit, alias=alias)
        elif name == UNIFIED:
            scan = self._unified(predicates, alias=alias)
        else:
            relation = self._lake(name, predicates)
            scan = Scan(relation.sql, (relation.stats,))
        if sites is None:
            return scan
        conditions = " AND ".join(_as_sql(predicate) for predicate in predicates)
        inner = f"SELECT * FROM ({scan.sql}) WHERE {conditions} LIMIT {BARRIER}"
        return Scan(inner, tuple(replace(stats, rows_total=None) for stats in scan.stats), scan.arrow)  # of every site's rows

    def _lake(self, name: str, predicates: Sequence[Predicate]) -> Relation:
        snapshot = self.snapshot(name)
        if snapshot is None:
            return Relation(empty_relation(TABLES[name].schema), ScanStats(name, "files", rows_total=0))
        return snapshot.relation(name, predicates)

    def _store(self, name: str) -> HotStore:
        if self._as_of is not None:
            message = f"{name} has no past versions: leave as_of out, or ask silver.events"
            raise QueryError(message)
        if self._catalog.hot is None:
            message = f"{name} needs a hot store and none is configured: set hot.dsn"
            raise QueryError(message)
        return self._catalog.hot

    def _hot(self, name: str, predicates: Sequence[Predicate], *, limit: int | None, alias: str) -> Scan:
        rows, pushed = self._store(name).read(HOT_TABLES[name], predicates, sites=self._principal.sites, limit=limit)
        stats = ScanStats(name, "hot", bytes=rows.nbytes, bytes_total=rows.nbytes, pushed=pushed)
        return Scan(f"SELECT * FROM {quoted(alias)}", (stats,), {alias: rows})

    def _unified(self, predicates: Sequence[Predicate], *, alias: str) -> Scan:
        store = self._store(UNIFIED)
        silver = self.snapshot("silver.events")
        watermark = self._catalog.hot_watermark(silver)
        fresh, pushed = store.read(
            HOT_TABLES["hot.events"], predicates, sites=self._principal.sites, after_xid=watermark, columns=NAMES
        )
        lake = self._lake("silver.events", predicates)
        known = self._lake("silver.events", [*predicates, *time_span(fresh, "timestamp")])
        columns = ", ".join(map(quoted, NAMES))
        sql = (
            f"SELECT {columns} FROM ({lake.sql}) UNION ALL "
            f"SELECT DISTINCT ON (event_id) {columns} FROM {quoted(alias)} AS fresh "
            f"WHERE NOT EXISTS (SELECT 1 FROM ({known.sql}) AS known WHERE known.event_id = fresh.event_id)"
            if fresh.num_rows
            else f"SELECT {columns} FROM ({lake.sql})"
        )
        pushed = (*pushed, f"transactions after {watermark}") if watermark is not None else pushed
        stats = ScanStats("hot.events", "hot", bytes=fresh.nbytes, bytes_total=fresh.nbytes, pushed=pushed)
        return Scan(sql, (lake.stats, stats), {alias: fresh})


def _as_sql(predicate: Predicate) -> str:
    column = quoted(predicate.column)
    match predicate.operator:
        case "is null" | "is not null":
            return f"{column} {predicate.operator.upper()}"
        case "in":
            return f"{column} IN ({', '.join(map(literal, predicate.values))})" if predicate.values else "false"
        case _:
            return f"{column} {predicate.operator} {literal(predicate.values[0])}"


def described(tables: Sequence[CatalogTable]) -> list[dict[str, Any]]:
    """The catalog as JSON has it."""
    return [
        {
            "name": table.name,
            "kind": table.kind,
            "description": table.description,
            "rows": table.rows,
            "bytes": table.bytes,
            "files": table.files,
            "version": table.version,
            "problem": table.problem,
            "columns": [{"name": c.name, "type": c.type, "description": c.description} for c in table.columns],
        }
        for table in tables
    ]
