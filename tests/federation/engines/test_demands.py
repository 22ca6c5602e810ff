"""Conditions that reach a table through CTEs, subqueries and unions: never one that changes the answer."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from federation.engines.duckdb_engine import DuckDBEngine
from tests.federation.engines.conftest import EVERYONE, ask, only
from tests.federation.engines.twins import POOLS, TABLE, Twin, literals, same

COLUMNS = [*POOLS, "i_late", "s_late"]


@dataclass(frozen=True)
class Query:
    """A query and its columns: each one's name, and the column of the table whose values it holds."""

    sql: str
    columns: tuple[tuple[str, str], ...]


BASE = Query(f"SELECT * FROM {TABLE}", tuple((column, column) for column in COLUMNS))


@st.composite
def where(draw: st.DrawFn, columns: tuple[tuple[str, str], ...], alias: str = "", *, least: int = 0, most: int = 1) -> str:
    parts = []
    for _ in range(draw(st.integers(least, most))):
        name, kind = draw(st.sampled_from(columns))
        value = draw(literals(kind))
        form = draw(st.sampled_from(["= ", "<= ", "> ", "<> ", "IN", "null", "not null"]))
        match form:
            case "IN":
                parts.append(f"{alias}{name} IN ({value}, {draw(literals(kind))})")
            case "null" | "not null":
                parts.append(f"{alias}{name} IS {'NOT ' if 'not' in form else ''}NULL")
            case _:
                parts.append(f"{alias}{name} {form}{value}")
    return " AND ".join(parts) or "true"


@st.composite
def selected(draw: st.DrawFn, source: str, columns: tuple[tuple[str, str], ...], alias: str) -> Query:
    """Some of a source's columns, under their names or others, with a condition."""
    condition = draw(where(columns, draw(st.sampled_from(["", alias + "."]))))
    form = draw(st.sampled_from(["star", "star of", "exclude", "picked", "renamed", "computed", "alias list"]))
    match form:
        case "star":
            return Query(f"SELECT * FROM {source} WHERE {condition}", columns)
        case "star of":
            return Query(f"SELECT {alias}.* FROM {source} WHERE {condition}", columns)
        case "exclude" if len(columns) > 1:
            gone = draw(st.sampled_from(columns))
            left = tuple(column for column in columns if column != gone)
            return Query(f"SELECT * EXCLUDE ({gone[0]}) FROM {source} WHERE {condition}", left)
        case "renamed":
            names = draw(st.permutations([name for name, _ in columns]))
            listed = ", ".join(f"{old} AS {new}" for (old, _), new in zip(columns, names, strict=True))
            renamed = tuple((new, kind) for (_, kind), new in zip(columns, names, strict=True))
            return Query(f"SELECT {listed} FROM {source} WHERE {condition}", renamed)
        case "computed":
            name, _ = draw(st.sampled_from(columns))
            listed = ", ".join(f"coalesce({old}, {old}) AS {old}" if old == name else old for old, _ in columns)
            return Query(f"SELECT {listed} FROM {source} WHERE {condition}", columns)
        case "alias list":
            names = draw(st.permutations([name for name, _ in columns]))
            renamed = tuple((new, kind) for (_, kind), new in zip(columns, names, strict=True))
            condition = draw(where(renamed))
            return Query(f"SELECT * FROM (SELECT * FROM {source}) AS {alias}({', '.join(names)}) WHERE {condition}", renamed)
        case _:
            few = draw(st.lists(st.sampled_from(columns), min_size=1, max_size=4, unique=True))
            return Query(f"SELECT {', '.join(name for name, _ in few)} FROM {source} WHERE {condition}", tuple(few))


@st.composite
def changed(draw: st.DrawFn, query: Query, alias: str) -> Query:
    """The query within another one, which may do what conditions must not be moved past."""
    columns = query.columns
    source = f"({query.sql}) AS {alias}"
    keys = draw(st.lists(st.sampled_from(columns), min_size=1, max_size=2, unique=True))
    listed = ", ".join(name for name, _ in keys)
    form = draw(st.sampled_from(["select", "select", "group", "rollup", "distinct", "on", "limit", "window", "union", "join"]))
    match form:
        case "group":
            end = draw(st.sampled_from(["", " HAVING count(*) > 1"]))
            return Query(f"SELECT {listed}, count(*) AS n FROM {source} GROUP BY {listed}{end}", tuple(keys))
        case "rollup":
            return Query(f"SELECT {listed}, count(*) AS n FROM {source} GROUP BY ROLLUP ({listed})", tuple(keys))
        case "distinct":
            return Query(f"SELECT DISTINCT {listed} FROM {source}", tuple(keys))
        case "on":
            return Query(f"SELECT DISTINCT ON ({listed}) * FROM {source} ORDER BY ALL", columns)
        case "limit":
            return Query(f"SELECT * FROM {source} ORDER BY ALL LIMIT {draw(st.integers(1, 9))}", columns)
        case "window":
            return Query(f"SELECT *, count(*) OVER (PARTITION BY {listed}) AS n FROM {source}", columns)
        case "union":
            word = draw(st.sampled_from(["UNION", "UNION ALL", "EXCEPT", "EXCEPT ALL", "INTERSECT"]))
            kinds = tuple(kind for _, kind in columns)
            other = draw(selected(f"{TABLE} AS o", BASE.columns, "o").filter(lambda q: "alias" not in q.sql))
            order = [next((name for name, own in other.columns if own == kind), None) for kind in kinds]
            if None in order:
                return query
            as_text = draw(st.integers(0, 3)) == 0
            entries = ", ".join(f"CAST({name} AS VARCHAR)" if as_text else str(name) for name in order)
            here = ", ".join(f"CAST({name} AS VARCHAR) AS {name}" if as_text else name for name, _ in columns)
            both = f"SELECT {here} FROM {source} {word} SELECT {entries} FROM ({other.sql}) AS o"
            return Query(f"({both})" if draw(st.booleans()) else both, columns)
        case "join":
            side = draw(st.sampled_from(["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN", "SEMI JOIN", "ANTI JOIN"]))
            name, kind = draw(st.sampled_from(columns))
            own = ", ".join(f"{alias}.{each} AS {each}" for each, _ in columns)
            on = f"{alias}.{name} = j.{kind} AND {draw(where(columns, alias + '.', most=1))}"
            turned = side not in {"SEMI JOIN", "ANTI JOIN"} and draw(st.booleans())
            sources = f"{TABLE} AS j {side} {source}" if turned else f"{source} {side} {TABLE} AS j"
            return Query(f"SELECT {own} FROM {sources} ON {on}", columns)
        case _:
            return draw(selected(source, columns, alias))


@st.composite
def short(draw: st.DrawFn) -> str:
    """A condition right above one or two of the things that it may not be moved past."""
    query = BASE
    for depth in range(draw(st.integers(1, 2))):
        query = draw(changed(query, f"y{depth}"))
    return f"SELECT * FROM ({query.sql}) AS z WHERE {draw(where(query.columns, least=1, most=2))}"


@st.composite
def long(draw: st.DrawFn) -> str:
    """CTEs, each over the table or one before it, and a query that reads one or two of them with conditions."""
    ctes: list[Query] = []
    for place in range(draw(st.integers(1, 3))):
        if ctes and draw(st.booleans()):
            which = draw(st.integers(0, len(ctes) - 1))
            query = draw(selected(f"c{which} AS x{place}", ctes[which].columns, f"x{place}"))
        else:
            query = draw(selected(f"{TABLE} AS x{place}", BASE.columns, f"x{place}"))
        for depth in range(draw(st.integers(0, 2))):
            query = draw(changed(query, f"y{place}{depth}"))
        ctes.append(query)
    last = len(ctes) - 1
    text = f"SELECT * FROM c{last} AS z WHERE {draw(where(ctes[last].columns, 'z.', most=3))}"
    if draw(st.booleans()):
        which = draw(st.integers(0, last))
        text = f"SELECT count(*) FROM ({text}) UNION ALL SELECT count(*) FROM C{which} WHERE {draw(where(ctes[which].columns))}"
    definitions = ", ".join(f"c{place} AS ({query.sql})" for place, query in enumerate(ctes))
    return f"WITH {definitions} {text}"


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(sql=short() | long(), which=st.integers(0, 11))
def test_a_condition_from_outside_changes_no_row(twins: list[Twin], sql: str, which: int) -> None:
    same(twins, sql, which)


@pytest.mark.full
@settings(max_examples=5_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(sql=short() | long(), which=st.integers(0, 11))
def test_a_condition_from_outside_changes_no_row_at_length(twins: list[Twin], sql: str, which: int) -> None:
    same(twins, sql, which)


# silver.events of four days, a file a day; the conditions below are met on the last day only
DAY_4 = "timestamp >= TIMESTAMP '2024-05-04'"

THROUGH = [
    f"WITH e AS (SELECT * FROM silver.events) SELECT count(*) FROM e WHERE {DAY_4}",
    f"WITH e AS (SELECT * FROM silver.events), f AS (SELECT * FROM E WHERE kind = 'error') SELECT * FROM F AS g WHERE g.{DAY_4}",
    (
        f"WITH e AS MATERIALIZED (SELECT tool, timestamp FROM silver.events) SELECT r.* FROM e JOIN silver.runs r USING "
        f"(tool) WHERE e.{DAY_4}"
    ),
    "SELECT * FROM (SELECT timestamp AS at, kind FROM silver.events) WHERE at >= '2024-05-04'",
    "SELECT * FROM (SELECT * EXCLUDE (message) FROM silver.events AS s) AS t WHERE t.event_date = DATE '2024-05-04'",
    "SELECT * FROM ((SELECT event_date AS d, count(*) AS n FROM silver.events GROUP BY ALL)) WHERE d = '2024-05-04'",
    "SELECT d FROM (SELECT DISTINCT event_date AS d, kind FROM silver.events) WHERE d > '2024-05-03'",
    (
        "SELECT * FROM (SELECT event_date, tool FROM silver.events UNION SELECT event_date, 'x' FROM silver.events) "
        "WHERE event_date = '2024-05-04'"
    ),
    (
        "WITH b AS ((SELECT kind, timestamp FROM silver.events) UNION ALL (SELECT name, timestamp FROM silver.events)) "
        "SELECT kind, count(*) FROM b WHERE timestamp > '2024-05-04' GROUP BY kind"
    ),
    (
        "SELECT * FROM silver.runs r LEFT JOIN (SELECT * FROM silver.events) e ON e.run_id = r.run_id AND e.event_date "
        "= '2024-05-04'"
    ),
    (
        f"WITH e AS (SELECT * FROM silver.events) SELECT (SELECT count(*) FROM e WHERE {DAY_4}), (SELECT max(timestamp) "
        f"FROM e WHERE {DAY_4} AND kind = 'error')"
    ),
]

KEPT = [
    f"WITH e AS (SELECT * FROM silver.events LIMIT 400) SELECT count(*) FROM e WHERE {DAY_4}",
    f"WITH e AS (SELECT * FROM silver.events) SELECT count(*), (SELECT count(*) FROM E) FROM e WHERE {DAY_4}",
    f"WITH RECURSIVE e AS (SELECT * FROM silver.events) SELECT count(*) FROM e WHERE {DAY_4}",
    f"SELECT count(*) FROM (SELECT *, row_number() OVER (ORDER BY event_id) AS n FROM silver.events) WHERE {DAY_4}",
    f"SELECT count(*) FROM (SELECT DISTINCT ON (kind) * FROM silver.events ORDER BY event_id) WHERE {DAY_4}",
    f"SELECT count(*) FROM (SELECT *, timestamp + INTERVAL 1 DAY AS timestamp FROM silver.events) WHERE {DAY_4}",
    f"SELECT count(*) FROM (SELECT * REPLACE (timestamp + INTERVAL 1 DAY AS timestamp) FROM silver.events) WHERE {DAY_4}",
    "SELECT count(*) FROM (SELECT event_date FROM silver.events UNION ALL SELECT 'x') WHERE event_date = '2024-05-04'",
    "SELECT count(*) FROM (SELECT event_date AS d, count(*) FROM silver.events GROUP BY ROLLUP (d)) WHERE d = '2024-05-04'",
    "SELECT 1 FROM (SELECT e.event_date FROM silver.runs r LEFT JOIN silver.events e USING (run_id)) WHERE event_date IS NULL",
    "SELECT * FROM (SELECT event_date AS d FROM silver.events) AS e(x) WHERE e.x = '2024-05-04'",
    "SELECT count(*) FROM silver.events AS e(a, b, c, timestamp) WHERE e.timestamp = 'x'",
    (
        "SELECT count(*) FROM (SELECT event_date FROM silver.events) a ASOF JOIN silver.runs b ON a.event_date >= "
        "b.started_at WHERE a.event_date = '2024-05-04'"
    ),
    "SELECT count(*) FROM silver.runs r LEFT JOIN (SELECT * FROM silver.events) e USING (run_id) WHERE e.event_date IS NULL",
    "WITH e(event_date, kind) AS (SELECT kind, event_date FROM silver.events) SELECT count(*) FROM e WHERE kind = '2024-05-04'",
]


@pytest.mark.parametrize("sql", THROUGH)
async def test_a_condition_on_a_cte_or_subquery_leaves_no_file_out(engine: DuckDBEngine, sql: str) -> None:
    explained = await engine.explain(sql, principal=EVERYONE)
    of_events = [scan for scan in explained.scans if scan.table == "silver.events"]
    assert [(scan.files, scan.files_total) for scan in of_events] == [(1, 4)] * len(of_events)
    assert "silver.events version 4: 1 of 4 files" in "\n".join(explained.lines())


@pytest.mark.parametrize("sql", KEPT)
async def test_a_condition_is_moved_past_what_it_would_change(engine: DuckDBEngine, sql: str) -> None:
    explained = await engine.explain(sql, principal=EVERYONE)
    assert next(scan.files for scan in explained.scans if scan.table == "silver.events") == 4


async def test_a_condition_from_outside_shows_rows_of_other_sites(engine: DuckDBEngine) -> None:
    sql = f"WITH e AS (SELECT site_id, timestamp FROM silver.events) SELECT DISTINCT site_id FROM e WHERE {DAY_4}"
    assert await ask(engine, sql, only("fab1")) == [{"site_id": "fab1"}]
    twice = "WITH e AS (SELECT site_id FROM silver.events) SELECT count(*) AS n FROM e WHERE site_id IN ('fab0', 'fab1')"
    assert await ask(engine, twice, only("fab1")) == [{"n": 160}]


@pytest.mark.parametrize(("length", "demanded"), [(9, ["i = 1"]), (400, [])])
def test_a_long_chain_of_queries_ends_in_an_error(twins: list[Twin], length: int, demanded: list[str]) -> None:
    chain = "".join(f", c{n} AS (SELECT * FROM c{n - 1})" for n in range(1, length + 1))
    sql = f"WITH c0 AS (SELECT * FROM {TABLE}){chain} SELECT * FROM c{length} WHERE i = 1"
    assert [str(predicate) for predicate in twins[0].wanted(sql)[0]] == demanded


def test_a_query_that_reads_each_one_before_it_twice_takes_for_ever(twins: list[Twin]) -> None:
    chain = "".join(f", c{n} AS (SELECT a.* FROM c{n - 1} a JOIN c{n - 1} b ON a.i = b.i AND b.s = 'a')" for n in range(1, 60))
    twice = f"WITH c0 AS (SELECT * FROM {TABLE}){chain} SELECT * FROM c59 WHERE s = 'a'"
    assert len(twins[0].wanted(twice)) == 1
