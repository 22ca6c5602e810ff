"""The engine over a real lake: bounds, deadlines, what sites may be seen, the cache, time travel, and DuckDB's locks."""

# ruff: noqa: DTZ001 - the lake keeps UTC without zone

from __future__ import annotations

import asyncio
import datetime as dt
import time
from decimal import Decimal
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from deltalake import write_deltalake

from federation.engines.base import EngineError, GateError, QueryError, QueryTimeout, ResourceLimit
from federation.engines.duckdb_engine import DuckDBEngine
from lakehouse.lake import Lake
from tests.federation.engines.conftest import DAY, EVERYONE, append, ask, engine_over, events, limits, only, rows_of
from tests.services.base import wait_until

ENDLESS = "SELECT count(*) FROM silver.events a, silver.events b, silver.events c, silver.events d, silver.events e"


async def test_an_hour_of_one_site_reads_one_file_and_gives_the_right_rows(engine: DuckDBEngine) -> None:
    sql = (
        "SELECT timestamp, site_id FROM silver.events WHERE site_id = 'fab1' "
        "AND timestamp >= '2024-05-02 00:00' AND timestamp < TIMESTAMP '2024-05-02 01:00' ORDER BY 1"
    )
    result = await engine.query(sql, principal=EVERYONE)
    rows = (await result.read_all()).to_pylist()
    expected = [DAY + dt.timedelta(days=1, minutes=i) for i in range(60) if i % 3 == 1]
    assert [row["timestamp"] for row in rows] == expected
    assert {row["site_id"] for row in rows} == {"fab1"}
    stats = result.stats
    assert (stats.files, stats.files_total) == (1, 4)
    assert 0 < stats.bytes < stats.bytes_total
    assert (stats.rows, stats.truncated, stats.cache) == (20, None, "miss")


async def test_macros_give_what_they_promise(engine: DuckDBEngine) -> None:
    rows = await ask(
        engine,
        "SELECT time_bucket(INTERVAL '1 hour', timestamp) AS hour, percentile(duration_ms, 0.5) AS middle, count(*) AS n "
        "FROM silver.events WHERE event_date = '2024-05-01' GROUP BY ALL ORDER BY 1",
    )
    assert rows == [{"hour": DAY, "middle": 29.5, "n": 60}, {"hour": DAY + dt.timedelta(hours=1), "middle": 89.5, "n": 60}]
    (row,) = await ask(
        engine,
        "SELECT json_text(attributes, 'a.b') AS t, json_number(attributes, 'n') AS n, json_number(attributes, 'a.b') AS none "
        "FROM silver.events WHERE timestamp = '2024-05-01 00:05:00'",
    )
    assert row == {"t": "x5", "n": 5.0, "none": None}


async def test_columns_without_a_name_go_by_the_callers_own_words(engine: DuckDBEngine) -> None:
    (row,) = await ask(
        engine, "SELECT count(*), percentile(duration_ms, 0.5), silver.events.kind FROM silver.events GROUP BY 3 LIMIT 1"
    )
    assert list(row) == ["count(*)", "percentile(duration_ms, 0.5)", "kind"]


async def test_a_file_whose_statistics_leave_nan_out_is_skipped_by_duckdb(lake: Lake) -> None:
    strange = rows_of("silver.metrics", 2, value=lambda i: [1.0, float("nan")][i], site_id=lambda _: "fab1")
    append(lake, "silver.metrics", strange)
    async with engine_over(lake) as engine:
        for principal in (EVERYONE, only("fab1")):  # NaN is the largest of all numbers, as ORDER BY has it
            assert await ask(engine, "SELECT count(*) AS n FROM silver.metrics WHERE value > 2.5", principal) == [{"n": 1}]


async def test_what_a_statement_costs_tells_how_many_rows_other_sites_have(engine: DuckDBEngine) -> None:
    for principal, rows in ((EVERYONE, 480), (only("fab1"), None)):
        async with await engine.query("SELECT count(*) FROM silver.events", principal=principal) as result:
            assert [scan.rows_total for scan in result.stats.scans] == [rows]


async def test_now_is_the_requests_own_moment_in_utc(lake: Lake) -> None:
    async with engine_over(lake) as engine:
        engine._now = lambda: dt.datetime(2024, 5, 4, 1, 0, tzinfo=dt.UTC)
        sql = (
            "SELECT count(*) AS n, max(now()) AS now FROM silver.events "
            "WHERE timestamp >= now() - INTERVAL '1 hour' AND timestamp < now()"
        )
        result = await engine.query(sql, principal=EVERYONE)
        assert (await result.read_all()).to_pylist() == [{"n": 60, "now": dt.datetime(2024, 5, 4, 1, 0)}]
        assert result.stats.files == 1
        assert result.stats.cache == "off"


async def test_a_statement_that_ends_duckdb_is_the_last_that_is_answered(engine: DuckDBEngine) -> None:
    class GivenUp:
        """A database after a fault of its own, which no statement is known to bring about for sure."""

        def cursor(self) -> GivenUp:
            return self

        def execute(self, _: str) -> None:
            raise duckdb.FatalException("database has been invalidated because of a previous fatal error")

        def close(self) -> None:
            opened.close()

    opened = engine._session._connection
    engine._session._connection = GivenUp()
    sql = "SELECT count(*) AS n FROM silver.events WHERE kind = 'error'"
    with pytest.raises(EngineError, match="invalidated"):
        await ask(engine, sql)
    assert await ask(engine, sql) == [{"n": 48}]


async def test_an_age_of_yesterday_is_kept(lake: Lake) -> None:
    async with engine_over(lake) as engine:
        for day in (5, 6):
            engine._now = lambda day=day: dt.datetime(2024, 5, day, 1, 0, tzinfo=dt.UTC)
            sql = "SELECT age(max(timestamp)) > INTERVAL 1 DAY AS older FROM silver.events"
            assert await ask(engine, sql) == [{"older": day == 6}]


# ------------------------------------------------------------------------------------------------------------- bounds


async def test_rows_beyond_the_bound_are_cut_and_the_answer_says_so(engine: DuckDBEngine) -> None:
    result = await engine.query("SELECT * FROM silver.events ORDER BY timestamp", principal=EVERYONE, limits=limits(max_rows=100))
    table = await result.read_all()
    assert table.num_rows == 100
    assert result.stats.truncated == "rows"
    assert table["timestamp"][-1].as_py() == DAY + dt.timedelta(minutes=99)
    whole = await engine.query("SELECT * FROM silver.events", principal=EVERYONE, limits=limits(max_rows=480))
    assert (await whole.read_all()).num_rows == 480
    assert whole.stats.truncated is None


async def test_bytes_beyond_the_bound_are_cut_and_the_answer_says_so(engine: DuckDBEngine) -> None:
    result = await engine.query(
        "SELECT lpad('x', 10000, 'y') AS text FROM generate_series(1, 5000) AS t(n)",
        principal=EVERYONE,
        limits=limits(max_bytes=2**20),
    )
    table = await result.read_all()
    assert result.stats.truncated == "bytes"
    assert table.nbytes <= 2**20
    assert 0 < table.num_rows < 5000


async def test_a_callers_limits_can_not_exceed_the_configured_ones(lake: Lake) -> None:
    async with engine_over(lake, max_rows=10, timeout=0.5) as engine:
        assert len(await ask(engine, "SELECT * FROM silver.events", limits=limits(timeout=1000, max_rows=10**9))) == 10
        with pytest.raises(QueryTimeout, match=r"after 0\.5 s"):
            await ask(engine, ENDLESS, limits=limits(timeout=1000))


@pytest.mark.parametrize(
    "sql",
    [
        ENDLESS,
        "SELECT count(*) FROM generate_series(1, 100000000000) AS a(x), generate_series(1, 100000000000) AS b(y)",
        "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r) SELECT count(*) FROM r",
        "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT a.n + 1 FROM r a, generate_series(1, 2) b(x)) SELECT max(n) FROM r",
        "SELECT x FROM generate_series(1, 100000000000) AS a(x) ORDER BY hash(x)",
        "SELECT x, y FROM generate_series(1, 100000000000) AS a(x), generate_series(1, 1000000) AS b(y) WHERE x = -y",
        "SELECT sum(x) FROM (SELECT x FROM generate_series(1, 100000000000) AS a(x) WHERE regexp_matches(x || '', '(a*)*b'))",
    ],
)
async def test_what_never_ends_is_stopped_and_the_engine_lives(engine: DuckDBEngine, sql: str) -> None:
    started = time.monotonic()
    with pytest.raises((QueryTimeout, ResourceLimit)) as stopped:
        await ask(engine, sql, limits=limits(timeout=0.4))
    assert time.monotonic() - started < 15
    assert "narrow" in str(stopped.value) or "memory" in str(stopped.value)
    assert await ask(engine, "SELECT count(*) AS n FROM silver.events") == [{"n": 480}]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT len(list(x)) FROM generate_series(1, 100000000000) AS a(x)",
        "SELECT length(string_agg(x || 'abcdefghij', ',')) FROM generate_series(1, 100000000000) AS a(x)",
        "SELECT count(*) FROM (SELECT DISTINCT x, hash(x) FROM generate_series(1, 100000000000) AS a(x))",
    ],
)
async def test_what_needs_more_memory_than_there_is_fails_with_advice(lake: Lake, sql: str) -> None:
    async with engine_over(lake, memory_limit=60 * 2**20, temp_limit=2**20) as engine:
        with pytest.raises((QueryTimeout, ResourceLimit)):
            await ask(engine, sql, limits=limits(timeout=4))
        assert await ask(engine, "SELECT count(*) AS n FROM silver.events") == [{"n": 480}]


async def test_a_reader_that_goes_away_stops_the_engine(engine: DuckDBEngine) -> None:
    result = await engine.query(
        "SELECT x, hash(x) FROM generate_series(1, 100000000000) AS a(x)", principal=EVERYONE, limits=limits(max_rows=100_000)
    )
    async for _ in result:
        break
    await result.aclose()
    task = asyncio.create_task(ask(engine, ENDLESS))
    await asyncio.sleep(0.2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    # the threads are free again: as many statements as there are threads, and one more, are answered
    answers = await asyncio.gather(*(ask(engine, f"SELECT {n} AS n") for n in range(engine.config.concurrency + 1)))
    assert [answer[0]["n"] for answer in answers] == list(range(engine.config.concurrency + 1))
    await asyncio.to_thread(wait_until, lambda: not engine._endings, seconds=10, what="stopped statements to be gone")


async def test_an_answer_that_nobody_reads_is_let_go_at_the_deadline(engine: DuckDBEngine) -> None:
    started = time.monotonic()
    result = await engine.query(
        "SELECT now() AS t, x FROM generate_series(1, 1000000) AS a(x)", principal=EVERYONE, limits=limits(timeout=3)
    )
    batches = aiter(result)
    await anext(batches)
    await asyncio.sleep(max(0.0, started + 4 - time.monotonic()))
    with pytest.raises(QueryTimeout):
        await anext(batches)
    assert not engine._endings


# -------------------------------------------------------------------------------------------------------------- sites

ESCAPES = [
    "SELECT DISTINCT site_id FROM silver.events",
    "SELECT site_id FROM silver.events WHERE true OR site_id = 'fab0'",
    "SELECT site_id FROM silver.events UNION SELECT site_id FROM silver.events WHERE site_id = 'fab0'",
    "WITH x AS (SELECT * FROM silver.events) SELECT DISTINCT site_id FROM x",
    "SELECT DISTINCT b.site_id FROM silver.events a LEFT JOIN silver.events b ON true",
    "SELECT DISTINCT e.site_id FROM silver.events e FULL JOIN silver.events f ON e.event_id = f.event_id",
    "SELECT (SELECT min(site_id) FROM silver.events) AS site_id",
    "SELECT DISTINCT s.site_id FROM (SELECT * FROM silver.events) s",
    "SELECT DISTINCT site_id FROM silver.events WHERE site_id IN (SELECT 'fab0' UNION ALL SELECT 'fab1')",
    "SELECT DISTINCT x.site_id FROM silver.events, LATERAL (SELECT site_id FROM silver.events) x",
    'WITH "silver.events" AS (SELECT 1) SELECT DISTINCT site_id FROM silver.events',
    "WITH silver AS (SELECT 1), events AS (SELECT 'fab1' AS site_id) SELECT DISTINCT site_id FROM events",
    "SELECT DISTINCT site_id FROM silver.events e ASOF JOIN (SELECT timestamp AS t FROM silver.events) f ON e.timestamp >= f.t",
    'SELECT DISTINCT "SITE_ID" AS site_id FROM SILVER.EVENTS',
    "SELECT site_id FROM silver.events GROUP BY ROLLUP (site_id) HAVING site_id IS NOT NULL",
    "SELECT DISTINCT split_part(message, ' ', 3) AS site_id FROM silver.events",
]


@pytest.mark.parametrize("sql", ESCAPES)
async def test_no_statement_reaches_another_sites_rows(engine: DuckDBEngine, sql: str) -> None:
    rows = await ask(engine, sql, only("fab1"))
    assert {row["site_id"] for row in rows} == {"fab1"}


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT CAST(message AS INT) FROM silver.events WHERE message <> 'secret of fab1'",
        "SELECT count(*) FROM silver.events WHERE CASE WHEN site_id = 'fab0' THEN CAST(message AS INT) ELSE 1 END = 1",
        "SELECT count(*) FROM silver.events WHERE strptime(if(message LIKE '%fab2', 'x', '2024'), '%Y') IS NOT NULL",
        "SELECT count(*) FROM silver.events WHERE site_id = 'fab0' AND CAST(message AS INT) > 0",
        "SELECT count(*) FROM silver.events WHERE site_id = 5 OR message = 7",
    ],
)
async def test_errors_tell_nothing_about_another_sites_rows(engine: DuckDBEngine, sql: str) -> None:
    if "site_id = 5" in sql:  # an error that the caller's own rows give comes up, without their values
        with pytest.raises(QueryError) as wrong:
            await ask(engine, sql, only("fab1"))
        assert "fab" not in str(wrong.value)
    else:
        rows = await ask(engine, sql, only("fab1"))
        assert not rows or next(iter(rows[0].values())) in {0, 160}


async def test_tables_without_sites_are_hidden_from_who_sees_some(engine: DuckDBEngine) -> None:
    assert "bronze.quarantine" in engine.catalog.names(EVERYONE)
    assert "bronze.quarantine" not in engine.catalog.names(only("fab1"))
    with pytest.raises(GateError, match=r"there is no table bronze\.quarantine"):
        await ask(engine, "SELECT * FROM bronze.quarantine", only("fab1"))


async def test_a_principal_without_any_site_sees_no_row(engine: DuckDBEngine) -> None:
    assert await ask(engine, "SELECT count(*) AS n FROM silver.events", only()) == [{"n": 0}]


async def test_a_site_name_is_a_value_not_sql(engine: DuckDBEngine) -> None:
    assert await ask(engine, "SELECT count(*) AS n FROM silver.events", only("fab1') OR ('1'='1")) == [{"n": 0}]


async def test_one_callers_kept_answer_is_never_anothers(engine: DuckDBEngine) -> None:
    sql = "SELECT min(site_id) AS low, max(site_id) AS high FROM silver.events"
    assert await ask(engine, sql) == [{"low": "fab0", "high": "fab2"}]
    assert await ask(engine, sql, only("fab1")) == [{"low": "fab1", "high": "fab1"}]
    assert await ask(engine, sql, only("fab2")) == [{"low": "fab2", "high": "fab2"}]
    assert await ask(engine, sql) == [{"low": "fab0", "high": "fab2"}]


# -------------------------------------------------------------------------------------------------------------- cache


async def test_a_kept_answer_is_given_until_the_table_changes(lake: Lake) -> None:
    async with engine_over(lake) as engine:
        sql = "SELECT count(*) AS n FROM silver.events"
        first = await engine.query(sql, principal=EVERYONE)
        again = await engine.query("select COUNT(*) as n from silver.events -- the same", principal=EVERYONE)
        assert (first.stats.cache, again.stats.cache, again.stats.files) == ("miss", "hit", 0)
        assert (await again.read_all()).to_pylist() == [{"n": 480}]
        append(lake, "silver.events", events(9, 7))
        fresh = await engine.query(sql, principal=EVERYONE)
        assert (await fresh.read_all()).to_pylist() == [{"n": 487}]
        assert fresh.stats.cache == "miss"


async def test_other_limits_are_another_answer(engine: DuckDBEngine) -> None:
    sql = "SELECT event_id FROM silver.events"
    assert len(await ask(engine, sql, limits=limits(max_rows=5))) == 5
    assert len(await ask(engine, sql)) == 480


async def test_answers_that_change_by_themselves_are_not_kept(engine: DuckDBEngine) -> None:
    for sql in ("SELECT random() AS r FROM silver.events LIMIT 1", "SELECT uuid() AS r", "SELECT now() AS r"):
        one = await engine.query(sql, principal=EVERYONE)
        assert one.stats.cache == "off"
        await one.aclose()


async def test_twins_that_run_at_once_are_computed_once(engine: DuckDBEngine) -> None:
    sql = "SELECT sum(hash(x) % 7) AS s FROM generate_series(1, 3000000) AS a(x)"
    results = await asyncio.gather(*(engine.query(sql, principal=EVERYONE) for _ in range(4)))
    assert sorted(result.stats.cache for result in results) == ["miss", "shared", "shared", "shared"]
    answers = [(await result.read_all()).to_pylist() for result in results]
    assert answers == [answers[0]] * 4


async def test_a_twin_goes_on_when_the_one_who_computes_gives_up(engine: DuckDBEngine) -> None:
    sql = "SELECT sum(hash(x) % 7) AS s FROM generate_series(1, 3000000) AS a(x)"
    first = asyncio.create_task(ask(engine, sql))
    await asyncio.sleep(0.05)
    second = asyncio.create_task(ask(engine, sql))
    await asyncio.sleep(0.05)
    first.cancel()
    assert isinstance((await second)[0]["s"], Decimal)


async def test_what_is_kept_stays_within_its_bound(lake: Lake) -> None:
    async with engine_over(lake, cache_bytes=200_000) as engine:
        for n in range(50):
            await ask(engine, f"SELECT {n} AS n, event_id FROM silver.events LIMIT 200")
            assert engine.cache.size <= 200_000
        large = "SELECT * FROM silver.events"
        assert len(await ask(engine, large)) == 480
        again = await engine.query(large, principal=EVERYONE)
        assert again.stats.cache == "miss"
        assert (await again.read_all()).num_rows == 480


# ---------------------------------------------------------------------------------------------- time travel and schema


async def test_as_of_gives_the_table_as_it_was(lake: Lake) -> None:
    await asyncio.sleep(0.01)
    before = dt.datetime.now(dt.UTC)
    await asyncio.sleep(0.01)
    append(lake, "silver.events", events(9, 7))
    async with engine_over(lake) as engine:
        sql = "SELECT count(*) AS n FROM silver.events"
        assert await ask(engine, sql, as_of=before) == [{"n": 480}]
        assert await ask(engine, sql) == [{"n": 487}]
        with pytest.raises(QueryError, match="no version as old as"):
            await ask(engine, sql, as_of=dt.datetime(2000, 1, 1, tzinfo=dt.UTC))


async def test_a_table_that_is_not_there_yet_is_empty_and_appears_when_it_is(lake: Lake) -> None:
    async with engine_over(lake) as engine:
        sql = "SELECT count(*) AS n FROM silver.runs"
        assert await ask(engine, sql) == [{"n": 0}]
        append(lake, "silver.runs", rows_of("silver.runs", 3, run_id=lambda i: f"r{i}"))
        assert await ask(engine, sql) == [{"n": 3}]


async def test_a_column_added_later_is_null_in_older_rows(lake: Lake) -> None:
    rows = events(9, 2)
    rows = rows.append_column("added", pa.array(["new", "newer"]))
    write_deltalake(lake.uri("silver.events"), rows, mode="append", schema_mode="merge")
    async with engine_over(lake) as engine:
        found = await ask(engine, "SELECT added, count(*) AS n FROM silver.events GROUP BY 1 ORDER BY 1 NULLS FIRST")
        assert found == [{"added": None, "n": 480}, {"added": "new", "n": 1}, {"added": "newer", "n": 1}]
        assert await ask(engine, "SELECT added FROM silver.events WHERE timestamp < '2024-05-01 00:01'") == [{"added": None}]


async def test_partition_values_come_from_the_log_not_from_the_folders_around(tmp_path: Path) -> None:
    from lakehouse.config import LakeConfig

    lake = Lake(LakeConfig(str(tmp_path / "site_id=wrong" / "event_date=2000-01-01" / "a b é" / "lake")))
    append(lake, "silver.events", events(0, 6))
    append(lake, "silver.events", events(1, 6))
    async with engine_over(lake) as engine:
        found = await ask(engine, "SELECT event_date, site_id, count(*) AS n FROM silver.events GROUP BY ALL ORDER BY 1, 2")
    assert [(row["event_date"].day, row["site_id"], row["n"]) for row in found] == [
        (day, f"fab{site}", 2) for day in (1, 2) for site in range(3)
    ]


# ------------------------------------------------------------------------------------------------------ locks, errors


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM glob('/etc/*')",
        "COPY (SELECT 1) TO '/tmp/out.csv'",
        "ATTACH '/tmp/x.db'",
        "SET memory_limit = '100GB'",
        "SET enable_external_access = true",
        "INSTALL spatial",
        "LOAD spatial",
        "SELECT * FROM secret_table",
        "SELECT * FROM read_csv('http://127.0.0.1:1/x.csv')",
    ],
)
async def test_duckdb_itself_is_locked_should_the_gate_ever_fail(engine: DuckDBEngine, sql: str) -> None:
    secret_table = pa.table({"a": [1]})  # noqa: F841 - what a scan of Python's variables would find
    with engine._session.cursor() as cursor, pytest.raises(duckdb.Error):
        cursor.execute(sql).fetchall()


async def test_errors_name_the_mistake_and_not_our_files(engine: DuckDBEngine, lake: Lake) -> None:
    for sql in (
        "SELECT nope FROM silver.events",
        "SELECT sum(kind) FROM silver.events",
        "SELECT kind FROM silver.events GROUP BY tool",
    ):
        with pytest.raises(QueryError) as wrong:
            await ask(engine, sql)
        assert lake.root not in str(wrong.value)
        assert "read_parquet" not in str(wrong.value)
        assert "GET /v1/catalog" in str(wrong.value)


async def test_explain_shows_push_down_files_and_cache(engine: DuckDBEngine, lake: Lake) -> None:
    sql = "SELECT kind FROM silver.events WHERE timestamp >= '2024-05-04' AND upper(kind) = 'ERROR'"
    explanation = await engine.explain(sql, principal=EVERYONE)
    assert [(scan.files, scan.files_total) for scan in explanation.scans] == [(1, 4)]
    assert explanation.cache == "miss"
    await ask(engine, sql)
    rows = await ask(engine, f"EXPLAIN {sql}")
    text = "\n".join(row["explain"] for row in rows)
    assert "silver.events version 4: 1 of 4 files" in text
    assert "pushed down: timestamp >= 2024-05-04" in text
    assert "upper" not in text.split("cache:")[0]
    assert "cache: would be answered from it" in text
    assert lake.root not in text


async def test_the_catalog_tells_columns_and_sizes_without_reading_data(engine: DuckDBEngine) -> None:
    tables = {table.name: table for table in engine.catalog.describe(EVERYONE)}
    found = tables["silver.events"]
    assert (found.rows, found.files, found.version) == (480, 4, 4)
    assert found.columns[0].name == "event_id"
    assert found.columns[0].description
    assert next(column for column in found.columns if column.name == "timestamp").type == "timestamp"
    assert tables["gold.custody"].rows is None
    assert {table.rows for table in engine.catalog.describe(only("fab1"))} == {None}
