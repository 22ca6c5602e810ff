"""Pruning never changes a result: the same statement with and without it, over statistics that lie as much as they may."""

# ruff: noqa: DTZ001 - the lake keeps UTC without zone

from __future__ import annotations

import datetime as dt
import math
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlglot import exp

from federation.engines import gate, predicates
from federation.engines.pruning import ColumnStats, Predicate, prune
from tests.federation.engines.twins import DATES, MOMENTS, POOLS, TABLE, Twin, condition, same, sql_literal


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
        conditions += [
            f"i IN ({numbers})" for numbers in ("1e0, 9007199254740992", "9007199254740992.0, 1e0", "0.5, 9007199254740993")
        ]
        conditions += [f"d {operator} TIMESTAMP '2024-01-01 12:00:00'" for operator in ("<", "<=", ">", ">=")]
        conditions += [f"ts {operator} TIMESTAMPTZ '2024-01-01 00:00:00.000001+00'" for operator in ("<=", "=", ">")]
        judged = [left_by(twin, condition) for condition in conditions]
        columns = ", ".join(f"coalesce(bool_or({condition}), false) AS c{n}" for n, condition in enumerate(conditions))
        for i in range(len(twin.snapshot.files)):
            with twin.session.cursor() as cursor:
                truth = cursor.execute(f"SELECT {columns} FROM ({twin.snapshot._select([i])})").fetchone()
            assert truth is not None
            for test, holds, left in zip(conditions, truth, judged, strict=True):
                assert not holds or i in left, test
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
    skipped = sum(twin.run(f"SELECT * FROM {TABLE} WHERE i = 77 AND ts > '2030-01-01'", "pruned")[1] for twin in twins)
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
