"""Tables whose statistics lie as much as they may, asked with pruning and without, and conditions that hit their edges."""

# ruff: noqa: DTZ001 - the lake keeps UTC without zone

from __future__ import annotations

import datetime as dt
import json
import math
import random
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import duckdb
import pyarrow as pa
from deltalake import WriterProperties, write_deltalake
from hypothesis import strategies as st
from sqlglot import exp

from federation.engines import gate, predicates
from federation.engines.catalog import _as_sql
from federation.engines.delta_files import DeltaLog, Snapshot
from federation.engines.demands import Demands
from federation.engines.duckdb_session import DuckDBSession
from federation.engines.pruning import Predicate

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

    def run(self, sql: str, how: Literal["plain", "pruned", "filtered"]) -> tuple[list[str] | str, int]:
        """The rows in order, or the error's kind; and how many files were left out.

        `pruned` leaves out files, as for those who see all sites; `filtered` rows too, as for all others.
        """
        tree = gate.check(sql, {TABLE}).tree.copy()
        nodes = [node for node in tree.find_all(exp.Table) if node.db]
        found = self._wanted(tree, nodes)
        skipped = 0
        texts = {}
        for place, (node, wanted) in enumerate(zip(nodes, found, strict=True)):
            relation = self.snapshot.relation(TABLE, () if how == "plain" else wanted)
            skipped += relation.stats.files_total - relation.stats.files
            conditions = " AND ".join(_as_sql(predicate) for predicate in wanted) if how == "filtered" else ""
            texts[f'"tm_{place}"'] = f"SELECT * FROM ({relation.sql}) WHERE {conditions}" if conditions else relation.sql
            if not node.alias:
                node.set("alias", exp.TableAlias(this=exp.to_identifier(node.name)))
            node.set("this", exp.to_identifier(f"tm_{place}", quoted=True))
            node.set("db", None)
        text = tree.sql(dialect="duckdb")
        for name, relation_sql in texts.items():
            text = text.replace(name, f"({relation_sql})")
        with self.session.cursor() as cursor:
            try:
                answer = cursor.execute(text).to_arrow_table()
            except duckdb.Error as error:
                return type(error).__name__, skipped
        columns = [column.to_pylist() for column in answer.columns]
        return sorted(repr(row) for row in zip(*columns, strict=True)), skipped

    def wanted(self, sql: str) -> list[tuple[Predicate, ...]]:
        """What the statement demands of each table in it."""
        tree = gate.check(sql, {TABLE}).tree
        return self._wanted(tree, [node for node in tree.find_all(exp.Table) if node.db])

    def _wanted(self, tree: exp.Query, nodes: list[exp.Table]) -> list[tuple[Predicate, ...]]:
        schema = self.snapshot.schema
        demands = Demands(tree, lambda _: schema)
        return [predicates.of_table(node, schema, self.session.evaluate, demands).predicates for node in nodes]


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


def same(twins: list[Twin], sql: str, which: int) -> int:
    """Assert that the statement's answer is the same whatever is left out; how many files were."""
    twin = twins[which]
    plain, _ = twin.run(sql, "plain")
    if isinstance(plain, str):
        return 0  # an error of a row in a file that is not read need not come up
    pruned, skipped = twin.run(sql, "pruned")
    assert pruned == plain, sql
    filtered, _ = twin.run(sql, "filtered")
    assert filtered == plain, sql
    return skipped
