"""hot.* read with our own SQL, and unified.events: every event once, wherever it is by now."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from contract.event import Event
from contract.settings import Secret
from federation.config import DuckDBConfig
from federation.engines.base import EngineError, QueryError, Unavailable
from federation.engines.catalog import Catalog
from federation.engines.duckdb_engine import DuckDBEngine
from federation.engines.hot_tables import HOT_TABLES, HotStore
from federation.engines.pruning import Predicate
from lakehouse.bronze import append_events, append_hot
from lakehouse.config import HotConfig, LakeConfig
from lakehouse.hot import aggregates, reader
from lakehouse.hot.writer import HotWriter
from lakehouse.lake import Lake
from lakehouse.silver import refresh_events
from tests.federation.engines.conftest import EVERYONE, ask, only
from tests.lakehouse.hot.events import NOW, event, many
from tests.services.postgres import EmbeddedPostgresService


@pytest.fixture
def dsn(embedded_postgres: EmbeddedPostgresService) -> Iterator[str]:
    made = embedded_postgres.fresh_store()
    yield made
    embedded_postgres.drop(made)


@pytest.fixture
async def writer(dsn: str) -> AsyncIterator[HotWriter]:
    async with await HotWriter.open(HotConfig(dsn=Secret(dsn)), clock=lambda: NOW) as opened:
        yield opened


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(LakeConfig(str(tmp_path / "lake")))


@pytest.fixture
async def engine(lake: Lake, dsn: str) -> AsyncIterator[DuckDBEngine]:
    made = DuckDBEngine(Catalog(lake, HotStore(Secret(dsn), max_rows=1_000)), DuckDBConfig(threads=2, memory_limit=400 * 2**20))
    yield made
    await made.close()


def into_the_lake(lake: Lake, dsn: str) -> None:
    append_hot(lake, dsn)
    while refresh_events(lake).more:
        pass


async def ids(engine: DuckDBEngine, table: str, *principal: Any) -> list[str]:
    return [row["event_id"] for row in await ask(engine, f"SELECT event_id FROM {table} ORDER BY 1", *principal)]


def names_of(events: list[Event]) -> list[str]:
    return sorted(one.event_id for one in events)


async def test_the_hot_store_answers_what_the_statement_asks(engine: DuckDBEngine, writer: HotWriter) -> None:
    await writer.write(many(50, site_id="fab1", kind="log", entities={"tool": "t1"}))
    await writer.write(many(50, start=NOW + dt.timedelta(hours=1), site_id="fab2", kind="metric", metrics={"p": 1.5}))
    sql = (
        "SELECT site_id, count(*) AS n FROM hot.events WHERE timestamp >= '2026-03-10 13:00:00' AND kind IN ('metric', 'log') "
        "AND lower(name) = 'etch' GROUP BY 1"
    )
    result = await engine.query(sql, principal=EVERYONE)
    assert (await result.read_all()).to_pylist() == [{"site_id": "fab2", "n": 50}]
    (scan,) = result.stats.scans
    assert scan.route == "hot"
    assert scan.pushed == ("timestamp >= 2026-03-10 13:00:00", "kind in ('metric', 'log')")
    assert result.stats.cache == "off"
    assert await ask(engine, "SELECT name, sum(value) AS s FROM hot.metrics GROUP BY 1") == [{"name": "p", "s": 75.0}]
    assert await ids(engine, "hot.events WHERE tool IS NULL", only("fab1")) == []
    assert len(await ids(engine, "hot.events", only("fab2"))) == 50


async def test_the_aggregates_can_be_asked(engine: DuckDBEngine, writer: HotWriter, dsn: str) -> None:
    await writer.write(many(50, metrics={"p": 2.0}, kind="metric"))
    aggregates.refresh(dsn, NOW)
    for unit in ("1m", "1h"):
        assert await ask(engine, f"SELECT sum(events)::INT AS n FROM hot.events_{unit}") == [{"n": 50}]
        assert await ask(engine, f'SELECT "sum" / "count" AS mean FROM hot.metrics_{unit}') == [{"mean": 2.0}]


async def test_every_column_of_the_catalog_is_in_the_hot_store(engine: DuckDBEngine) -> None:
    for name in HOT_TABLES:
        assert await ask(engine, f"SELECT * FROM {name}") == []


async def test_a_limit_reaches_the_hot_store_only_when_any_rows_will_do(engine: DuckDBEngine, writer: HotWriter) -> None:
    await writer.write(many(800))
    await writer.write(many(800, start=NOW + dt.timedelta(hours=1)))
    result = await engine.query("SELECT * FROM hot.events WHERE kind = 'log' LIMIT 5 OFFSET 2", principal=EVERYONE)
    assert (await result.read_all()).num_rows == 5
    assert "limit 7" in result.stats.scans[0].pushed
    for sql in (
        "SELECT * FROM hot.events ORDER BY timestamp LIMIT 5",
        "SELECT count(*) FROM hot.events LIMIT 5",
        "SELECT DISTINCT kind FROM hot.events LIMIT 5",
        "SELECT * FROM hot.events WHERE upper(kind) = 'LOG' LIMIT 5",
        "SELECT row_number() OVER () FROM hot.events LIMIT 5",
    ):
        with pytest.raises(QueryError, match="more than 1,000 rows"):
            await ask(engine, sql)


@pytest.mark.parametrize("condition", ["event_id IN ('none', '{last}')", "event_id >= '{start}'", 'entities > \'{{"tool": "t1\''])
async def test_a_limit_cuts_off_before_a_condition_that_the_hot_store_can_not_judge(
    engine: DuckDBEngine, writer: HotWriter, condition: str
) -> None:
    events = many(50, entities={"tool": "t0"})
    events.append(event(timestamp=NOW + dt.timedelta(minutes=1), entities={"tool": "t2"}))
    await writer.write(events)
    last = events[-1].event_id
    where = condition.format(last=last, start=last[:-1])
    found = await ask(engine, f"SELECT event_id FROM hot.events WHERE {where} LIMIT 1")
    assert found == [{"event_id": last}]


@pytest.mark.parametrize(
    ("predicate", "expected"),
    [
        (Predicate("site_id", "=", ("fab1",)), 3),
        (Predicate("site_id", "in", ("fab1", "fab2")), 4),
        (Predicate("site_id", "in", ()), 0),
        (Predicate("site_id", ">", ("fab1",)), 1),
        (Predicate("tool", "is null"), 3),
        (Predicate("tool", "=", ("it's; DROP TABLE trackmate.events --",)), 1),
        (Predicate("duration_ms", ">=", (1.5,)), 1),
        (Predicate("emitter_seq", "<", (2,)), 0),
        (Predicate("event_id", "=", ("not a uuid",)), 4),
        (Predicate("message", ">", ("A",)), 1),
        (Predicate("timestamp", "<", (dt.datetime(2026, 3, 10, 12, 0, 0, 500),)), 4),  # noqa: DTZ001
    ],
)
async def test_what_postgresql_filters_it_filters_as_duckdb_would(
    writer: HotWriter, dsn: str, predicate: Predicate, expected: int
) -> None:
    await writer.write(
        [
            event(site_id="fab1", entities={"tool": "it's; DROP TABLE trackmate.events --"}),
            event(site_id="fab1", kind="finish", duration_ms=2.5),
            event(site_id="fab1", message="a"),
            event(site_id="fab2"),
        ]
    )
    table, _ = HotStore(Secret(dsn)).read(HOT_TABLES["hot.events"], [predicate])
    assert table.num_rows == expected


async def test_unified_gives_each_event_once_at_every_stage_of_its_way(
    engine: DuckDBEngine, writer: HotWriter, lake: Lake, dsn: str
) -> None:
    first, second, third = many(30), many(20, start=NOW + dt.timedelta(minutes=1)), many(10, start=NOW + dt.timedelta(minutes=2))
    await writer.write(first)
    assert await ids(engine, "unified.events") == names_of(first)
    into_the_lake(lake, dsn)
    assert await ids(engine, "unified.events") == names_of(first)
    await writer.write(second)
    assert await ids(engine, "unified.events") == names_of(first + second)
    append_hot(lake, dsn)  # bronze has them, silver not yet
    assert await ids(engine, "unified.events") == names_of(first + second)
    while refresh_events(lake).more:
        pass
    await writer.write(third)
    result = await engine.query("SELECT event_id FROM unified.events", principal=EVERYONE)
    assert sorted((await result.read_all())["event_id"].to_pylist()) == names_of(first + second + third)
    hot = next(scan for scan in result.stats.scans if scan.route == "hot")
    assert any(condition.startswith("transactions after") for condition in hot.pushed)


async def test_unified_knows_an_event_that_reached_the_lake_by_another_way(
    engine: DuckDBEngine, writer: HotWriter, lake: Lake, dsn: str
) -> None:
    events = many(20)
    await writer.write(events)
    copies = reader.read_since(dsn, 0, 1_000).table.drop_columns(["ingest_xid", "ingested_at"]).slice(0, 15)
    append_events(lake, copies, source="archive", source_id="a", version=1)
    while refresh_events(lake).more:
        pass
    assert await ask(engine, "SELECT count(*) AS n FROM silver.events") == [{"n": 15}]
    assert await ids(engine, "unified.events") == names_of(events)
    late = "unified.events WHERE timestamp >= TIMESTAMP '2026-03-10 12:00:00.010'"
    assert await ids(engine, late) == names_of(events[10:])


async def test_unified_keeps_to_the_callers_sites(engine: DuckDBEngine, writer: HotWriter, lake: Lake, dsn: str) -> None:
    await writer.write(many(10, site_id="fab1") + many(10, site_id="fab2"))
    into_the_lake(lake, dsn)
    mine = many(5, site_id="fab1", start=NOW + dt.timedelta(hours=1))
    await writer.write(mine + many(5, site_id="fab2", start=NOW + dt.timedelta(hours=1)))
    rows = await ask(engine, "SELECT site_id, count(*) AS n FROM unified.events GROUP BY 1", only("fab1"))
    assert rows == [{"site_id": "fab1", "n": 15}]


async def test_a_hot_store_that_is_gone_fails_only_what_needs_it(lake: Lake) -> None:
    made = DuckDBEngine(Catalog(lake, HotStore(Secret("postgresql://nobody:hidden@127.0.0.1:1/none"))), DuckDBConfig(threads=1))
    try:
        assert await ask(made, "SELECT count(*) AS n FROM silver.events") == [{"n": 0}]
        for table in ("hot.events", "unified.events"):
            with pytest.raises(Unavailable) as gone:
                await ask(made, f"SELECT count(*) FROM {table}")
            assert "hidden" not in str(gone.value)
        with pytest.raises(EngineError, match="no past versions"):
            await ask(made, "SELECT * FROM hot.events", as_of=NOW)
    finally:
        await made.close()
