"""Aggregates, retention and partitions: late events count, and nothing goes before its readers have it."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from lakehouse.config import HotConfig
from lakehouse.hot import aggregates, partitions, reader, retention
from lakehouse.hot.connect import connect
from lakehouse.hot.errors import NotMigrated
from lakehouse.hot.levels import recorded
from lakehouse.hot.maintenance import maintain
from lakehouse.hot.writer import HotWriter, WriteResult
from tests.lakehouse.hot.events import NOW, event, many, stored, value

LATER = NOW + timedelta(days=100)


def counted(dsn: str, table: str, column: str = "events") -> Any:
    return value(dsn, f"SELECT coalesce(sum({column}), 0)::float8 FROM trackmate.{table}")


# ------------------------------------------------------------------------------------------------------------ aggregates


async def test_an_aggregate_differs_from_its_events(writer: HotWriter, dsn: str) -> None:
    ends = [event(kind="finish", status=status, duration_ms=ms) for status, ms in (("ok", 10), ("failed", 30), ("aborted", 2))]
    points = [
        event(kind="metric", timestamp=NOW + timedelta(seconds=seconds), metrics={"temp": temp}, entities={"tool": "T1"})
        for seconds, temp in ((0, 1.5), (30, 2.5), (90, -4.0), (3600, 8.0))
    ]
    await writer.write(ends + points)
    aggregates.refresh(dsn, NOW)
    with psycopg.connect(dsn) as connection:
        finished = connection.execute(
            "SELECT bucket, events, failed, aborted, duration_count, duration_sum, duration_max FROM trackmate.events_1m"
            " WHERE kind = 'finish' AND tool = ''"
        ).fetchall()
        minutes = connection.execute(
            "SELECT bucket, count, min, max, sum, sum_squares FROM trackmate.metrics_1m WHERE tool = 'T1' ORDER BY 1"
        ).fetchall()
        hours = connection.execute(
            "SELECT count, min, max, sum FROM trackmate.metrics_1h WHERE name = 'temp' ORDER BY bucket"
        ).fetchall()
    noon = NOW.replace(tzinfo=None)
    assert finished == [(noon, 3, 1, 1, 3, 42.0, 30.0)]
    assert minutes == [
        (noon, 2, 1.5, 2.5, 4.0, 8.5),
        (noon + timedelta(minutes=1), 1, -4.0, -4.0, -4.0, 16.0),
        (noon + timedelta(hours=1), 1, 8.0, 8.0, 8.0, 64.0),
    ]
    assert hours == [(3, -4.0, 2.5, 0.0), (1, 8.0, 8.0, 8.0)]


async def test_a_late_or_repeated_event_is_missed_or_counted_twice(writer: HotWriter, dsn: str) -> None:
    batch = many(20, kind="metric", metrics={"a": 2.0})
    await writer.write(batch)
    aggregates.refresh(dsn, NOW)
    aggregates.refresh(dsn, NOW)
    await writer.write(batch)
    await writer.write(many(3, NOW - timedelta(days=60), kind="metric", metrics={"a": 2.0}))
    aggregates.refresh(dsn, NOW)
    for unit in ("1m", "1h"):
        assert counted(dsn, f"events_{unit}") == 23
        assert counted(dsn, f"metrics_{unit}", "sum") == 46


async def test_two_refreshes_at_once_count_twice(writer: HotWriter, dsn: str) -> None:
    for _ in range(6):
        await writer.write(many(10))
    runs = [threading.Thread(target=aggregates.refresh, args=(dsn, NOW), kwargs={"max_rows": 10}) for _ in range(3)]
    for run in runs:
        run.start()
    for run in runs:
        run.join(60)
    assert counted(dsn, "events_1m") == counted(dsn, "events_1h") == 60


async def test_values_at_the_ends_of_the_range_stop_the_job_for_ever(writer: HotWriter, dsn: str) -> None:
    metrics = {"a": 1e308, "b": -1e308, "c": 5e-324, "d": 1e-200}
    await writer.write(
        [event(kind="metric", metrics=metrics) for _ in range(5)] + [event(kind="finish", duration_ms=1e308) for _ in range(5)]
    )
    aggregates.refresh(dsn, NOW)
    with psycopg.connect(dsn) as connection:
        found = connection.execute(
            "SELECT name, count, sum_count, min, max, sum FROM trackmate.metrics_1h ORDER BY name"
        ).fetchall()
    assert found[0] == ("a", 5, 0, 1e308, 1e308, 0.0)
    assert found[1] == ("b", 5, 0, -1e308, -1e308, 0.0)
    assert [row[1:4] for row in found[2:]] == [(5, 5, 5e-324), (5, 5, 1e-200)]
    assert counted(dsn, "events_1m") == 10


def test_a_commit_out_of_order_is_never_counted(dsn: str) -> None:
    insert = "INSERT INTO trackmate.events (event_id, timestamp, kind, name, site_id, app_name, severity)"
    insert += " VALUES (gen_random_uuid(), %s, 'log', 'x', 'fab1', 'a', 'info')"
    moment = [NOW.replace(tzinfo=None)]
    options = "-c statement_timeout=10s"
    with psycopg.connect(dsn, options=options) as early, psycopg.connect(dsn, options=options) as late:
        late.execute(insert, moment)
        late.commit()
        early.execute(insert, moment)
        late.execute(insert, moment)
        late.commit()
        aggregates.refresh(dsn, NOW)
        early.commit()
    aggregates.refresh(dsn, NOW)
    assert counted(dsn, "events_1m") == 3


# ------------------------------------------------------------------------------------------------------------- retention


async def test_days_go_before_the_lake_has_them(writer: HotWriter, dsn: str, config: HotConfig) -> None:
    old = many(5, kind="metric", metrics={"a": 1.0})
    await writer.write(old)
    place = reader.read_since(dsn, 0, 100).last_xid
    await writer.write(many(2, NOW + timedelta(days=1)))
    aggregates.refresh(dsn, LATER)
    # The lake never said anything, then lags by one transaction, then has the first day, then all.
    assert retention.enforce(config, LATER).dropped == []
    reader.confirm(dsn, "lake", place - 1)
    waiting = retention.enforce(config, LATER)
    assert waiting.dropped == []
    assert "not confirmed by lake" in waiting.waiting[NOW.date()]
    assert len(stored(dsn)) == 7
    reader.confirm(dsn, "lake", place)
    assert NOW.date() in retention.enforce(config, LATER).dropped
    assert len(stored(dsn)) == 2
    assert value(dsn, "SELECT count(*) FROM trackmate.metrics") == 0
    reader.confirm(dsn, "lake", place + 1000)
    retention.enforce(config, LATER)
    assert stored(dsn) == []


async def test_a_day_within_retention_goes(writer: HotWriter, dsn: str, config: HotConfig) -> None:
    await writer.write(many(2))
    reader.confirm(dsn, "lake", 2**40)
    aggregates.refresh(dsn, NOW)
    end = NOW.replace(hour=0) + timedelta(days=1) + config.retention
    assert retention.enforce(config, end - timedelta(seconds=1)).dropped == []
    assert retention.enforce(config, end).dropped == [NOW.date()]


async def test_the_job_of_the_aggregates_is_no_reader(writer: HotWriter, dsn: str, config: HotConfig) -> None:
    await writer.write(many(2))
    reader.confirm(dsn, "lake", 2**40)
    assert "aggregates" in retention.enforce(config, LATER).waiting[NOW.date()]
    maintain(config, LATER)
    assert stored(dsn) == []
    assert counted(dsn, "events_1m") == 2


async def test_a_late_event_empties_an_aggregate_of_dropped_events(writer: HotWriter, dsn: str, config: HotConfig) -> None:
    await writer.write(many(5, kind="metric", metrics={"a": 1.0}))
    maintain(config, NOW)
    reader.confirm(dsn, "lake", reader.read_since(dsn, 0, 100).last_xid)
    maintain(config, LATER)
    assert stored(dsn) == []
    # It comes to a day that is dropped, to the same minute.
    late = many(1, kind="metric", metrics={"a": 1.0})
    assert await writer.write(late) == WriteResult(inserted=1)
    maintain(config, LATER)
    assert counted(dsn, "events_1m") == counted(dsn, "metrics_1h", "count") == 6
    # And it stays until the lake has it too.
    assert stored(dsn) == [late[0].event_id]
    reader.confirm(dsn, "lake", reader.read_since(dsn, 0, 100).last_xid)
    done = maintain(config, LATER)
    assert stored(dsn) == []
    assert value(dsn, "SELECT count(*) FROM trackmate.metrics") == 0, done


async def test_retention_waits_for_ever_behind_somebody_who_reads(writer: HotWriter, dsn: str, config: HotConfig) -> None:
    await writer.write(many(1))
    aggregates.refresh(dsn, LATER)
    reader.confirm(dsn, "lake", 2**40)
    with psycopg.connect(dsn) as open_one:
        open_one.execute("SELECT FROM trackmate.events")
        assert "could not lock" in retention.enforce(config, LATER).waiting[NOW.date()]
    assert retention.enforce(config, LATER).dropped == [NOW.date()]


async def test_rows_of_the_aggregates_stay_for_ever(writer: HotWriter, dsn: str, config: HotConfig) -> None:
    await writer.write(many(1) + many(1, NOW + timedelta(days=5)))
    maintain(config, NOW)
    retention.enforce(replace(config, aggregate_retention=timedelta(days=10)), NOW + timedelta(days=13))
    assert counted(dsn, "events_1m") == counted(dsn, "events_1h") == 1


# ------------------------------------------------------------------------------------------------------------ partitions


async def test_events_that_came_before_their_partition_are_stranded(writer: HotWriter, dsn: str) -> None:
    far = NOW + timedelta(days=30)
    batch = many(3, far, kind="metric", metrics={"a": 1.0})
    await writer.write(batch)
    with connect(dsn) as connection:
        if not recorded(connection).hypertables:
            assert value(dsn, "SELECT count(*) FROM trackmate.events_default") == 3
            partitions.ensure(connection, [far.date()])
            assert value(dsn, "SELECT count(*) FROM trackmate.events_default") == 0
            assert value(dsn, "SELECT count(*) FROM trackmate.metrics_default") == 0
            assert partitions.ensure(connection, [far.date()]) == []
    assert stored(dsn) == sorted(each.event_id for each in batch)
    assert await writer.write(batch) == WriteResult(duplicates=3)
    assert value(dsn, "SELECT count(*) FROM trackmate.metrics") == 3


async def test_a_moved_event_looks_new_to_readers(writer: HotWriter, dsn: str) -> None:
    far = NOW + timedelta(days=30)
    await writer.write(many(3, far))
    place = reader.read_since(dsn, 0, 10).last_xid
    with connect(dsn) as connection:
        if not recorded(connection).hypertables:
            partitions.ensure(connection, [far.date()])
    assert reader.read_since(dsn, place, 10).table.num_rows == 0


def test_maintenance_run_twice_at_once_fails(dsn: str, config: HotConfig) -> None:
    failures: list[BaseException] = []

    def run() -> None:
        try:
            maintain(config, NOW)
        except BaseException as error:  # noqa: BLE001 - shown by the assertion below
            failures.append(error)

    runs = [threading.Thread(target=run) for _ in range(3)]
    for each in runs:
        each.start()
    for each in runs:
        each.join(60)
    assert failures == []
    assert maintain(dsn, NOW).made == []


def test_maintenance_of_an_empty_database_is_an_odd_error(server: Any) -> None:
    empty = server.fresh_database()
    with pytest.raises(NotMigrated, match="trackmate migrate"):
        maintain(empty, NOW)
    server.drop(empty)
