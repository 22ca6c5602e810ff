"""Pruning never changes a result: the same statement with and without it, over statistics that lie as much as they may."""

# ruff: noqa: DTZ001 - the lake keeps UTC without zone

from __future__ import annotations

import datetime as dt
import json
import math
import random
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from deltalake import WriterProperties, write_deltalake
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlglot import exp

from federation.config import DuckDBConfig
from federation.engines import gate, predicates
from federation.engines.delta_files import DeltaLog, Snapshot
from federation.engines.duckdb_session import DuckDBSession
from federation.engines.pruning import ColumnStats, Predicate, prune
from lakehouse.config import LakeConfig
from lakehouse.lake import Lake

TABLE = "lake.t"
LONG = "x" * 40
STRINGS = [
    "",
    "a",
    "ab",
    "fab1",
    "fab10",
    "fab2",
    LONG,
    LONG + "a",
    LONG + "b",
    "é" * 40,
    "é" * 41,
    "\U0010ffff" * 33,
    "z",
    "Z",
    "'",
    "%",
]
MOMENTS = [dt.datetime(2024, 1, 1, 0, 0, 0, micro) for micro in (0, 1, 999, 1000, 123456, 123999, 999999)]
MOMENTS += [dt.datetime(1969, 12, 31, 23, 59, 59, 999001), dt.datetime(2023, 12, 31, 23, 59, 59), dt.datetime(2024, 1, 2)]
DATES = [dt.date(2023, 12, 31), dt.date(2024, 1, 1), dt.date(2024, 1, 2), dt.date(1970, 1, 1)]
FLOATS = [0.0, -0.0, 0.1, 0.1 + 0.2, 1.0, -1.5, 1e300, math.nan, math.inf, -math.inf, 9007199254740993.0]
INTEGERS = [-(2**63), -1, 0, 1, 2, 2**53, 2**53 + 1, 2**63 - 1]
PARTS = ["a b/c=ü%", "x", "", None, "é'\"", "..", "a=b", "[1]*?"]
DECIMALS = [Decimal("0.1"), Decimal("1.005"), Decimal(-3), Decimal("99999.999")]

SCHEMA = pa.schema(
    {
        "i": pa.int64(),
        "s": pa.string(),
        "f": pa.float64(),
        "ts": pa.timestamp("us"),
        "d": pa.date32(),
        "b": pa.bool_(),
        "dec": pa.decimal128(10, 3),
        "p": pa.string(),
        "q": pa.date32(),
    }
)
POOLS: dict[str, list[Any]] = {
    "i": INTEGERS, "s": STRINGS, "f": FLOATS, "ts": MOMENTS, "d": DATES, "b": [True, False], "dec": DECIMALS, "p": PARTS,
    "q": DATES,
}  # fmt: skip


def random_rows(dice: random.Random, schema: pa.Schema, *, count: int, partition: bool) -> pa.Table:
    columns = {}
    for field in schema:
        pool = POOLS[field.name.removesuffix("_late")]
        few = dice.sample(pool, min(len(pool), dice.choice([1, 2, 3])))
        nulls = dice.choice([0.0, 0.3, 1.0 if not partition or field.name not in "pq" else 0.3])
        columns[field.name] = [None if dice.random() < nulls else dice.choice(few) for _ in range(count)]
    return pa.table(columns, schema=schema)


def spark_like(stats: dict[str, Any], dice: random.Random) -> dict[str, Any] | None:
    """Statistics as other writers leave them: cut to 32 characters with a tie-breaker, in part, or not at all."""
    choice = dice.random()
    if choice < 0.15:
        return None
    for part, lift in (("minValues", ""), ("maxValues", "\uffff")):
        for name, value in list(stats.get(part, {}).items()):
            if isinstance(value, str) and name == "s" and len(value) > 32:
                stats[part][name] = value[:32] + (lift if dice.random() < 0.5 else "")
    if choice < 0.4:
        for part in ("minValues", "maxValues", "nullCount"):
            for name in list(stats.get(part, {})):
                if dice.random() < 0.3:
                    del stats[part][name]
    return stats


def rewrite_stats(table: Path, change: Callable[[dict[str, Any]], dict[str, Any] | None]) -> None:
    for commit in sorted((table / "_delta_log").glob("*.json")):
        lines = []
        for line in commit.read_text().splitlines():
            action = json.loads(line)
            if "add" in action:
                changed = change(json.loads(action["add"]["stats"]))
                action["add"]["stats"] = None if changed is None else json.dumps(changed)
            lines.append(json.dumps(action))
        commit.write_text("\n".join(lines) + "\n")


def build(folder: Path, seed: int) -> Path:
    dice = random.Random(seed)
    partition_by = [["p"], ["q"], ["p", "q"], []][seed % 4]
    late = pa.schema([*SCHEMA, pa.field("i_late", pa.int64()), pa.field("s_late", pa.string())])
    for commit in range(dice.choice([4, 6])):
        evolved = commit >= 3
        rows = random_rows(dice, late if evolved else SCHEMA, count=dice.choice([1, 3, 8]), partition=bool(partition_by))
        write_deltalake(
            folder,
            rows,
            mode="append",
            partition_by=partition_by or None,
            schema_mode="merge" if evolved else None,
            writer_properties=WriterProperties(statistics_truncate_length=dice.choice([4, 64])),
        )
    rewrite_stats(folder, lambda stats: spark_like(stats, dice))
    return folder


class Twin:
    """One table, asked with pruning and without."""

    def __init__(self, folder: Path, session: DuckDBSession) -> None:
        found = DeltaLog(TABLE, str(folder), {}).latest()
        assert found is not None
        self.snapshot: Snapshot = found
        self.session = session

    def run(self, sql: str, *, pruned: bool) -> tuple[list[str] | str, int]:
        """The rows in order, or the error's kind; and how many files were left out."""
        tree = gate.check(sql, {TABLE}).tree.copy()
        skipped = 0
        texts = {}
        for place, node in enumerate([n for n in tree.find_all(exp.Table) if n.db]):
            wanted = predicates.of_table(node, self.snapshot.schema, self.session.evaluate).predicates if pruned else ()
            relation = self.snapshot.relation(TABLE, wanted)
            skipped += relation.stats.files_total - relation.stats.files
            texts[f'"tm_{place}"'] = relation.sql
            if not node.alias:
                node.set("alias", exp.TableAlias(this=exp.to_identifier(node.name)))
            node.set("this", exp.to_identifier(f"tm_{place}", quoted=True))
            node.set("db", None)
        text = tree.sql(dialect="duckdb")
        for name, relation_sql in texts.items():
            text = text.replace(name, f"({relation_sql})")
        with self.session.cursor() as cursor:
            try:
                rows = cursor.execute(text).to_arrow_table().to_pylist()
            except duckdb.Error as error:
                return type(error).__name__, skipped
        return sorted(repr(tuple(row.values())) for row in rows), skipped


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Twin]]:
    root = tmp_path_factory.mktemp("lake")
    session = DuckDBSession(Lake(LakeConfig(str(root))), DuckDBConfig(threads=1, memory_limit=300 * 2**20))
    yield [Twin(build(root / f"t{seed}", seed), session) for seed in range(12)]
    session.close()


def sql_literal(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dt.datetime):
        return f"TIMESTAMP '{value.isoformat(sep=' ')}'"
    if isinstance(value, dt.date):
        return f"DATE '{value}'"
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else f"'{value}'::DOUBLE"
    return str(value)


def literals(column: str) -> st.SearchStrategy[str]:
    pool = POOLS[column.removesuffix("_late")]
    own = st.sampled_from(pool).map(sql_literal)
    match column.removesuffix("_late"):
        case "s" | "p":
            extra = st.text("abéfx1", max_size=3).map(sql_literal)
        case "i":
            extra = st.one_of(st.integers(-3, 3).map(str), st.sampled_from(["0.5", "1e0", "9007199254740992.0", "'1'", "2 - 1"]))
        case "f":
            extra = st.sampled_from(["0", "1", "0.3", "-1e300", "'nan'", "1 / 3"])
        case "ts":
            extra = st.sampled_from(
                [
                    "'2024-01-01'",
                    "DATE '2024-01-01'",
                    "TIMESTAMP '2024-01-01' + INTERVAL 1 SECOND",
                    "TIMESTAMPTZ '2024-01-01 00:00:00+00'",
                ]
            )
        case "d" | "q":
            extra = st.sampled_from(["'2024-01-01'", "TIMESTAMP '2024-01-01 12:00:00'", "DATE '2024-01-01' + INTERVAL 1 DAY"])
        case "dec":
            extra = st.sampled_from(["0.1", "1", "1.005", "1e0"])
        case _:
            extra = st.sampled_from(["true", "false"])
    return st.one_of(own, extra)


COLUMNS = [*POOLS, "i_late", "s_late"]


@st.composite
def condition(draw: st.DrawFn, alias: str = "") -> str:
    column = draw(st.sampled_from(COLUMNS))
    name = f"{alias}{column}"
    form = draw(st.sampled_from(["compare", "compare", "mirror", "in", "between", "null", "not null", "or", "not", "cast"]))
    value = draw(literals(column))
    operator = draw(st.sampled_from(["=", "<", "<=", ">", ">=", "<>"]))
    match form:
        case "compare":
            return f"{name} {operator} {value}"
        case "mirror":
            return f"{value} {operator} ({name})"
        case "in":
            return f"{name} IN ({value}, {draw(literals(column))})"
        case "between":
            return f"{name} BETWEEN {value} AND {draw(literals(column))}"
        case "null":
            return f"{name} IS NULL"
        case "not null":
            return f"{name} IS NOT NULL"
        case "or":
            return f"({name} {operator} {value} OR {name} IS NULL)"
        case "not":
            return f"NOT ({name} {operator} {value})"
        case _:
            return f"CAST({name} AS VARCHAR) >= '1'"


@st.composite
def statement(draw: st.DrawFn) -> str:
    form = draw(st.sampled_from(["plain", "plain", "join", "left", "full", "subquery", "cte", "asof"]))
    here = " AND ".join(draw(st.lists(condition(), min_size=1, max_size=3)))
    left = " AND ".join(draw(st.lists(condition("a."), min_size=1, max_size=2)))
    right = " AND ".join(draw(st.lists(condition("b."), min_size=1, max_size=2)))
    match form:
        case "plain":
            return f"SELECT * FROM {TABLE} WHERE {here}"
        case "join":
            return f"SELECT a.i, b.s FROM {TABLE} a JOIN {TABLE} b ON a.i = b.i AND {right} WHERE {left}"
        case "left":
            return f"SELECT a.i, b.s, b.f FROM {TABLE} a LEFT JOIN {TABLE} b ON a.d = b.d AND {right} WHERE {left} AND {right}"
        case "full":
            return f"SELECT a.i, b.i FROM {TABLE} a FULL JOIN {TABLE} b ON a.i = b.i AND {right} WHERE {left}"
        case "subquery":
            return f"SELECT count(*) FROM (SELECT * FROM {TABLE} WHERE {here}) WHERE i IS NOT NULL OR {here}"
        case "cte":
            return f"WITH x AS (SELECT * FROM {TABLE} WHERE {here}) SELECT i FROM x UNION ALL SELECT i FROM {TABLE} WHERE {here}"
        case _:
            return f"SELECT a.i, a.ts, b.ts FROM {TABLE} a ASOF JOIN {TABLE} b ON a.ts >= b.ts WHERE {right}"


SKIPPED = {"files": 0}


def same(twins: list[Twin], sql: str, which: int) -> None:
    twin = twins[which]
    plain, _ = twin.run(sql, pruned=False)
    pruned, skipped = twin.run(sql, pruned=True)
    SKIPPED["files"] += skipped
    if isinstance(plain, str):
        return  # an error of a row in a file that is not read need not come up
    assert pruned == plain, sql


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(sql=statement(), which=st.integers(0, 11))
def test_leaving_files_out_changes_no_row(twins: list[Twin], sql: str, which: int) -> None:
    same(twins, sql, which)


@pytest.mark.full
@settings(max_examples=5_000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(sql=statement(), which=st.integers(0, 11))
def test_leaving_files_out_changes_no_row_at_length(twins: list[Twin], sql: str, which: int) -> None:
    same(twins, sql, which)


def test_no_file_that_holds_a_matching_row_is_ever_left_out(twins: list[Twin]) -> None:
    """Every comparison of every column with every value near its statistics, against what each file really holds."""
    kept = 0
    for twin in twins:
        conditions = [
            f"{column} {operator} {sql_literal(value)}"
            for column in twin.snapshot.schema.names
            for value in POOLS[column.removesuffix("_late")]
            if value is not None
            for operator in ("=", "<", "<=", ">", ">=")
        ]
        conditions += [f"{column} IS {no}NULL" for column in twin.snapshot.schema.names for no in ("", "NOT ")]
        conditions += [f"i {operator} {text}" for operator in ("=", "<", ">=") for text in ("0.5", "1e0", "9007199254740992e0")]
        conditions += [f"d {operator} TIMESTAMP '2024-01-01 12:00:00'" for operator in ("<", "<=", ">", ">=")]
        conditions += [f"ts {operator} TIMESTAMPTZ '2024-01-01 00:00:00.000001+00'" for operator in ("<=", "=", ">")]
        judged = [left_by(twin, condition) for condition in conditions]
        columns = ", ".join(f"coalesce(bool_or({condition}), false) AS c{n}" for n, condition in enumerate(conditions))
        for i in range(len(twin.snapshot.files)):
            with twin.session.cursor() as cursor:
                truth = cursor.execute(f"SELECT {columns} FROM ({twin.snapshot._select([i])})").fetchone()
            assert truth is not None
            for condition, holds, left in zip(conditions, truth, judged, strict=True):
                assert not holds or i in left, condition
        kept += sum(len(left) < len(twin.snapshot.files) for left in judged)
    assert kept > 500, "hardly anything is pruned: the test proves nothing"


def left_by(twin: Twin, condition: str) -> set[int]:
    """The files that are left when a statement has this condition."""
    tree = gate.check(f"SELECT * FROM {TABLE} WHERE {condition}", {TABLE}).tree
    (table,) = (node for node in tree.find_all(exp.Table) if node.db)
    wanted = predicates.of_table(table, twin.snapshot.schema, twin.session.evaluate).predicates
    return set(twin.snapshot.prune(wanted)[0])


JOINS = ["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN", "SEMI JOIN", "ANTI JOIN", "ASOF JOIN"]


@pytest.mark.parametrize("join", JOINS)
def test_a_join_keeps_the_rows_that_it_makes_up_or_chooses_among(twins: list[Twin], join: str) -> None:
    on = "a.ts >= b.ts" if join == "ASOF JOIN" else "a.d = b.d"
    sides = "a" if join in {"SEMI JOIN", "ANTI JOIN"} else "ab"
    tests = ("d IS NULL", "ts IS NULL", "i IS NOT NULL", "i = 1", "s > 'fab'", "i <= 0", "b")
    for which in (0, 3):
        for test in tests:
            for side in sides:
                same(twins, f"SELECT a.* FROM {TABLE} a {join} {TABLE} b ON {on} WHERE {side}.{test}", which)
            if join != "ASOF JOIN":
                same(twins, f"SELECT a.* FROM {TABLE} a {join} {TABLE} b ON {on} AND a.{test}", which)
                same(twins, f"SELECT a.* FROM {TABLE} a {join} {TABLE} b ON {on} AND b.{test}", which)


def test_pruning_does_leave_files_out(twins: list[Twin]) -> None:
    skipped = sum(twin.run(f"SELECT * FROM {TABLE} WHERE i = 77 AND ts > '2030-01-01'", pruned=True)[1] for twin in twins)
    assert skipped > 0


def stats(kind: pa.DataType, smallest: Any, largest: Any, nulls: int | None = 0, rows: int | None = 5) -> ColumnStats:
    return ColumnStats(kind, [smallest], [largest], [nulls], [rows])


@pytest.mark.parametrize(
    ("column", "predicate"),
    [
        (stats(pa.string(), "x" * 32, "x" * 32), Predicate("c", "=", ("x" * 40,))),
        (stats(pa.string(), "a", "fab1"), Predicate("c", ">", ("fab10",))),
        (stats(pa.float64(), 1.0, 2.0), Predicate("c", ">", (100.0,))),
        (
            stats(pa.float64(), 0.30000000000000004, 0.30000000000000004),
            Predicate("c", "=", (math.nextafter(0.30000000000000004, 1),)),
        ),
        (stats(pa.timestamp("us"), MOMENTS[0], MOMENTS[0]), Predicate("c", "=", (MOMENTS[2],))),
        (stats(pa.int64(), None, None, None, None), Predicate("c", "=", (1,))),
        (stats(pa.int64(), 2**53 + 1, 2**53 + 1), Predicate("c", "=", (float(2**53),))),
        (stats(pa.decimal128(10, 3), Decimal(1), Decimal(1)), Predicate("c", "=", (Decimal("1.001"),))),
        (stats(pa.int64(), 1, 2, nulls=None), Predicate("c", "is null")),
        (stats(pa.date32(), DATES[1], DATES[1]), Predicate("c", "<", (dt.datetime(2024, 1, 1, 12),))),
    ],
)
def test_a_doubtful_file_is_kept(column: ColumnStats, predicate: Predicate) -> None:
    assert prune([0], column, predicate) == [0]


@pytest.mark.parametrize(
    ("column", "predicate"),
    [
        (stats(pa.string(), "fab1", "fab2"), Predicate("c", "=", ("fab3",))),
        (stats(pa.string(), "fab1", "fab2"), Predicate("c", "in", ("a", "z"))),
        (stats(pa.float64(), 1.0, 2.0), Predicate("c", "<", (0.9,))),
        (stats(pa.float64(), 1.0, 2.0), Predicate("c", "=", (3,))),
        (stats(pa.timestamp("us"), MOMENTS[0], MOMENTS[0]), Predicate("c", ">=", (dt.datetime(2024, 1, 1, 0, 0, 0, 1001),))),
        (stats(pa.int64(), 1, 2), Predicate("c", ">", (2,))),
        (stats(pa.int64(), 1, 2), Predicate("c", "is null")),
        (stats(pa.int64(), None, None, nulls=5), Predicate("c", "is not null")),
        (stats(pa.int64(), None, None, nulls=5), Predicate("c", "=", (1,))),
        (stats(pa.date32(), DATES[1], DATES[1]), Predicate("c", ">", (dt.datetime(2024, 1, 1, 12),))),
        (stats(pa.bool_(), False, False), Predicate("c", "=", (True,))),
    ],
)
def test_a_file_that_can_not_match_is_left_out(column: ColumnStats, predicate: Predicate) -> None:
    assert prune([0], column, predicate) == []
