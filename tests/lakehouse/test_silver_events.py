"""silver.events holds every event once, and looks for repeated ones in few files."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from lakehouse import bronze, silver
from lakehouse.files import DataFile, active_files
from lakehouse.lake import ConcurrentWrite, Lake, StaleCursor
from lakehouse.silver import step
from tests.lakehouse.lakes import EPOCH, an_event, count, local_lake, read, records


def feed(lake: Lake, *batches: list[dict], spool: str = "s") -> None:
    for batch in batches:
        bronze.append_spool(lake, spool, records(batch, first=1 + bronze.spool_cursor(lake, spool)))


@pytest.mark.parametrize("foreign", [False, True])
def test_an_event_that_comes_again_is_there_twice(tmp_path, foreign):
    rng = random.Random(3)
    lake = local_lake(tmp_path)
    events = [an_event(EPOCH + timedelta(hours=n), rng=rng, foreign=foreign) for n in range(60)]
    feed(lake, events[:40], events[20:50])
    silver.refresh_events(lake)
    feed(lake, events, events, spool="again")
    again = silver.refresh_events(lake)
    assert (again.read_rows, again.rows) == (120, 10)
    assert sorted(row["event_id"] for row in read(lake, "silver.events")) == sorted(event["event_id"] for event in events)


def test_an_event_sent_with_two_timestamps_is_there_twice(tmp_path):
    lake = local_lake(tmp_path)
    event = an_event()
    feed(lake, [event], [event | {"timestamp": "2026-05-01T00:00:00Z"}])
    silver.refresh_events(lake)
    feed(lake, [event | {"timestamp": "2026-06-01T00:00:00Z"}])
    silver.refresh_events(lake)
    (row,) = read(lake, "silver.events")
    assert row["timestamp"] == EPOCH.replace(tzinfo=None)


def test_the_source_by_which_an_event_came_first_is_another(tmp_path):
    from lakehouse.arrow_events import from_ndjson

    lake = local_lake(tmp_path)
    (record,) = records([an_event()])
    bronze.append_events(lake, from_ndjson([record.ndjson()]), source="archive", source_id="a", version=1)
    bronze.append_spool(lake, "s", [record])
    silver.refresh_events(lake)
    assert [row["first_source"] for row in read(lake, "silver.events")] == ["archive"]


def test_every_file_of_silver_is_read_for_a_few_new_events(tmp_path, monkeypatch):
    lake = local_lake(tmp_path)
    rng = random.Random(1)
    for day in range(6):
        feed(lake, [an_event(EPOCH + timedelta(days=day, seconds=n), rng=rng) for n in range(5)])
        silver.refresh_events(lake)
    files = active_files(lake, "silver.events", lake.table("silver.events"))
    with lake.connect() as connection:
        key = f"SELECT '{an_event(EPOCH + timedelta(days=2, seconds=3), rng=rng)['event_id']}' AS key"
        assert len(step.overlapping(connection, files, "event_id", key)) == 1
        assert len(files) == 6


def test_a_file_without_statistics_is_passed_over(tmp_path):
    blind = DataFile("u", "p", 1, 5, None, {}, {}, {})
    empty = DataFile("u", "p", 1, 5, None, {}, {}, {"event_id": 5})
    with local_lake(tmp_path).connect() as connection:
        assert step.overlapping(connection, [blind, empty], "event_id", "SELECT 'x' AS key") == [blind]
    assert blind.may_hold("event_id", "a", "b")
    assert not empty.may_hold("event_id", "a", "b")


def test_two_runs_at_once_bring_an_event_twice(tmp_path):
    lake = local_lake(tmp_path)
    lake.create_all()
    feed(lake, *[[an_event(EPOCH + timedelta(seconds=n))] for n in range(20)])

    def work(_: int) -> None:
        for _attempt in range(200):
            try:
                if not silver.refresh_events(lake, max_rows=3).more:
                    return
            except (StaleCursor, ConcurrentWrite):
                continue

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(work, range(3)))
    assert count(lake, "silver.events") == 20


def test_a_metric_is_lost_doubled_or_not_a_number(tmp_path):
    lake = local_lake(tmp_path)
    twice = b'{"event_id":"01890a5d-ac96-774b-8cce-00000000000b","timestamp":"2026-01-31T12:00:00Z","kind":"metric","name":"n",'
    twice += b'"site_id":"f","app":{"name":"a"},"metrics":{"a":1,"b.c \\"d\\"":2.5,"a":3}}\n'
    plain = an_event(kind="metric", metrics={"temp": 9007199254740993, "é": -1e-300}, entities={"tool": "T"})
    feed(lake, [plain, an_event(metrics={}), an_event()])
    silver.refresh_events(lake)
    silver.refresh_metrics(lake)
    feed(lake, [twice], spool="t")
    silver.refresh_events(lake)
    silver.refresh_metrics(lake)
    assert silver.refresh_metrics(lake).rows == 0
    rows = {(row["metric"], row["value"], row["tool"]) for row in read(lake, "silver.metrics")}
    assert rows == {("temp", 9007199254740992.0, "T"), ("é", -1e-300, "T"), ("a", 3.0, None), ('b.c "d"', 2.5, None)}
    assert count(lake, "silver.metrics") == 4
