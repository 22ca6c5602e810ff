"""Moments with a time zone: the answer is DuckDB's own in UTC, wherever the engine runs and however the statement is read."""

# ruff: noqa: DTZ001 - the lake keeps UTC without zone

from __future__ import annotations

import datetime as dt
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pytest

from federation.engines.duckdb_engine import DuckDBEngine
from federation.gateway.formats import Form, table_bytes
from lakehouse.lake import Lake
from tests.federation.engines.conftest import DAY, EVERYONE, ask, engine_over, only

NOON = dt.datetime(2024, 5, 3, 12, 0, tzinfo=dt.UTC)
BERLIN = dt.timedelta(hours=2)

AWAY = """
import asyncio, json, sys
from lakehouse.config import LakeConfig
from lakehouse.lake import Lake
from tests.federation.engines.conftest import ask, engine_over

async def main():
    async with engine_over(Lake(LakeConfig(sys.argv[1])), threads=1) as engine:
        print(json.dumps([list((await ask(engine, sql))[0].values()) for sql in json.load(sys.stdin)], default=str))

asyncio.run(main())
"""


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York"])
def test_the_machines_own_zone_moves_the_moments(lake: Lake, zone: str) -> None:
    statements = [
        "SELECT count(*) FROM silver.events WHERE timestamp >= TIMESTAMPTZ '2024-05-02 00:00:00+00'",
        "SELECT count(*) FROM silver.events WHERE timestamp AT TIME ZONE 'UTC' >= '2024-05-02 00:00:00'",
        "SELECT CAST(min(timestamp AT TIME ZONE 'UTC') AS VARCHAR) FROM silver.events",
        "SELECT hour(TIMESTAMPTZ '2024-05-02 00:00:00+00')",
    ]
    done = subprocess.run(
        [sys.executable, "-c", AWAY, lake.root],
        input=json.dumps(statements),
        env=os.environ | {"TZ": zone},
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == '[[360], [360], ["2024-05-01 00:00:00+00"], [0]]'


COMPARED = [
    "timestamp AT TIME ZONE 'UTC' >= TIMESTAMPTZ '2024-05-03 00:00:00+00'",
    "timestamp >= TIMESTAMPTZ '2024-05-03 02:00:00+02'",
    "timestamp >= (TIMESTAMPTZ '2024-05-02 22:00:00+00' AT TIME ZONE 'Europe/Berlin')",
    "timestamp AT TIME ZONE 'UTC' AT TIME ZONE 'Europe/Berlin' >= TIMESTAMP '2024-05-03 02:00:00'",
    "date_trunc('day', timestamp AT TIME ZONE 'UTC') >= '2024-05-03'",
    "timestamp >= date_trunc('day', now())",
    "timestamp AT TIME ZONE 'UTC' >= now() - INTERVAL 12 HOUR",
    "timestamp >= now() AT TIME ZONE 'UTC' - INTERVAL 12 HOUR",
    "timestamp >= (now() - INTERVAL 14 HOUR) AT TIME ZONE 'Europe/Berlin'",
    "timestamp >= current_timestamp AT TIME ZONE 'America/New_York' - INTERVAL 8 HOUR",
    "timestamp >= date_trunc('day', now() AT TIME ZONE 'Europe/Berlin')",
    "timestamp >= TIMESTAMPTZ '2024-05-02 23:00:00-05'::DATE",
    "event_date >= TIMESTAMPTZ '2024-05-02 23:00:00-05'::DATE",
    "timestamp >= time_bucket(INTERVAL '1 day', TIMESTAMP '2024-05-03 10:00:00')",
    "timestamp >= time_bucket(INTERVAL '1 day', now(), 'Europe/Berlin') AT TIME ZONE 'Europe/Berlin'",
    "time_bucket(INTERVAL '1 day', timestamp AT TIME ZONE 'UTC', 'UTC') >= '2024-05-03'",
]
"""What is true of the last two days alone."""


@pytest.mark.parametrize("condition", COMPARED)
async def test_a_comparison_with_a_zone_is_refused_or_answered_otherwise(lake: Lake, condition: str) -> None:
    async with engine_over(lake, cache_bytes=0) as engine:
        engine._now = lambda: NOON
        for principal in (EVERYONE, only("fab0", "fab1", "fab2")):
            assert await ask(engine, f"SELECT count(*) AS n FROM silver.events WHERE {condition}", principal) == [{"n": 240}]
            around = f"SELECT count(*) AS n FROM (SELECT * FROM silver.events) AS e WHERE {condition}"
            assert await ask(engine, around, principal) == [{"n": 240}]


VALUES: list[tuple[str, Any]] = [
    ("TIMESTAMPTZ '2024-05-02 23:00:00-05'::DATE", dt.date(2024, 5, 3)),
    ("DATE '2024-05-02'::TIMESTAMP", dt.datetime(2024, 5, 2)),
    ("typeof(TIMESTAMP '2024-05-02 10:00'::DATE)", "DATE"),
    ("TIMESTAMPTZ '2024-05-02 12:00:00+02'::VARCHAR LIKE '%10:00:00+00'", True),
    ("VARCHAR 'abc'[2:3]", "bc"),
    ("time_bucket(INTERVAL '1 day', TIMESTAMPTZ '2024-05-02 23:00:00+00', 'Europe/Berlin')::VARCHAR", "2024-05-02 22:00:00+00"),
    ("time_bucket(INTERVAL '1 day', TIMESTAMP '2024-05-02 03:00:00', INTERVAL '6 hours')", dt.datetime(2024, 5, 1, 6)),
    ("time_bucket(INTERVAL '7 days', TIMESTAMP '2024-05-03', TIMESTAMP '2024-05-02')", dt.datetime(2024, 5, 2)),
    ("now() AT TIME ZONE 'Europe/Berlin'", NOON.replace(tzinfo=None) + BERLIN),
    ("(SELECT n AT TIME ZONE 'Europe/Berlin' FROM (SELECT now() AS n))", NOON.replace(tzinfo=None) + BERLIN),
    ("current_timestamp AT TIME ZONE 'UTC'", NOON.replace(tzinfo=None)),
    ("(now() AT TIME ZONE 'Europe/Berlin')::TIME", dt.time(14)),
    ("time_bucket(INTERVAL '1 day', now(), 'Asia/Tokyo')::VARCHAR", "2024-05-02 15:00:00+00"),
    ("now()", NOON.replace(tzinfo=None)),
]


@pytest.mark.parametrize(("expression", "value"), VALUES)
async def test_a_moment_is_read_as_another_one(lake: Lake, expression: str, value: Any) -> None:
    async with engine_over(lake) as engine:
        engine._now = lambda: NOON
        assert await ask(engine, f"SELECT {expression} AS v") == [{"v": value}]


async def test_a_request_that_came_in_another_zone_has_another_now(lake: Lake) -> None:
    async with engine_over(lake) as engine:
        engine._now = lambda: NOON.astimezone(dt.timezone(dt.timedelta(hours=14)))
        assert await ask(engine, "SELECT now() AS n, current_date AS d") == [{"n": NOON.replace(tzinfo=None), "d": NOON.date()}]


async def test_a_form_has_no_place_for_a_moment_with_a_zone(engine: DuckDBEngine) -> None:
    sql = "SELECT timestamp AT TIME ZONE 'UTC' AS t, [timestamp AT TIME ZONE 'UTC'] AS l FROM silver.events ORDER BY 1 LIMIT 1"
    async with await engine.query(sql, principal=EVERYONE) as result:
        table = await result.read_all()
    assert table["t"][0].as_py() == DAY.replace(tzinfo=dt.UTC)
    for form in Form:
        assert b"2024-05-01" in table_bytes(table, form) or form in {Form.ARROW, Form.PARQUET}


def test_between_a_moment_at_a_zone_and_another_is_no_sql_of_duckdbs_either() -> None:
    """AT TIME ZONE after BETWEEN needs parentheses: what is refused there is not ours to mend."""
    with duckdb.connect() as connection, pytest.raises(duckdb.ParserException):
        connection.execute("SELECT TIMESTAMP '2024-05-02' BETWEEN TIMESTAMP '2024-05-01' AT TIME ZONE 'UTC' AND now()")
