"""Custody: what is lost is named, what is only on its way is not, and what the SDK owned up to is explained."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from contract.ids import uuid7
from lakehouse import bronze, custody, silver
from lakehouse.lake import Lake
from tests.lakehouse.lakes import EPOCH, an_event, local_lake, read, records

DAY = EPOCH.date()
LATER = EPOCH + timedelta(days=1)
EMITTER = uuid7(int(EPOCH.timestamp() * 1000))


def numbered(*numbers: int, emitter: str = EMITTER, **fields: Any) -> list[dict[str, Any]]:
    return [an_event(EPOCH + timedelta(seconds=n), emitter={"id": emitter, "seq": n}, **fields) for n in numbers]


def fill(lake: Lake, events: list[dict[str, Any]], spool: str = "s") -> None:
    bronze.append_spool(lake, spool, records(events, first=1 + bronze.spool_cursor(lake, spool)))
    silver.refresh_events(lake)


def rows(lake: Lake, *, now: datetime = LATER, outside: tuple[custody.Outside, ...] = ()) -> list[dict[str, Any]]:
    # The events were ingested by the machine's clock, so "long ago" is told by a settling time below zero.
    custody.refresh_custody(lake, [DAY], outside=outside, now=now, settle=-timedelta(days=36_500))
    return read(lake, "gold.custody", "SELECT * FROM rows ORDER BY emitter_id, hour")


def test_a_gap_is_not_named_or_named_wrongly(tmp_path):
    lake = local_lake(tmp_path)
    fill(lake, numbered(3, 4, 6, 9))
    (row,) = rows(lake)
    assert (row["gaps"], row["missing"], row["numbered"]) == ("1-2, 5, 7-8", 5, 7)
    report = custody.check(lake)
    assert report.ok
    assert (report.emitters, report.missing, report.unexplained) == (1, 5, 5)
    assert report.findings[0].gaps == "1-2, 5, 7-8"


def test_a_number_still_on_its_way_is_called_missing(tmp_path):
    lake = local_lake(tmp_path)
    fill(lake, numbered(1, 3))
    custody.refresh_custody(lake, [DAY])
    assert custody.check(lake).missing == 0


def test_the_numbers_of_an_emitter_born_before_the_days_looked_at_are_called_missing(tmp_path):
    lake = local_lake(tmp_path)
    fill(lake, numbered(1000, 1001, emitter=uuid7(int((EPOCH - timedelta(days=9)).timestamp() * 1000))))
    assert rows(lake)[0]["missing"] == 0


def test_a_gap_between_two_days_is_overlooked(tmp_path):
    lake = local_lake(tmp_path)
    fill(lake, [*numbered(1, 2), an_event(LATER, emitter={"id": EMITTER, "seq": 5})])
    custody.refresh_custody(lake, [LATER.date()], settle=-timedelta(days=36_500))
    assert [row["gaps"] for row in read(lake, "gold.custody")] == ["3-4"]


def test_losses_that_the_sdk_reported_stay_unexplained(tmp_path):
    lake = local_lake(tmp_path)
    dropped = {"name": "sdk.dropped", "kind": "metric", "metrics": {"queue_full": 2}}
    fill(lake, [*numbered(1, 4), *numbered(5, **dropped)])
    rows(lake)
    report = custody.check(lake)
    assert (report.missing, report.dropped, report.unexplained) == (2, 2, 0)


def test_an_event_that_silver_lost_passes_the_check(tmp_path):
    lake = local_lake(tmp_path)
    fill(lake, numbered(1, 2, 3))
    lake.table("silver.events").delete("emitter_seq = 2")
    (row,) = rows(lake)
    assert (row["in_bronze"], row["in_silver"], row["acknowledged_missing"]) == (3, 2, 1)
    assert not custody.check(lake).ok


def test_an_event_that_silver_has_not_read_yet_fails_the_check(tmp_path):
    lake = local_lake(tmp_path)
    fill(lake, numbered(1, 2))
    bronze.append_spool(lake, "s", records(numbered(3), first=3))
    rows(lake)
    assert custody.check(lake).ok


@pytest.mark.parametrize(("present", "missing"), [(3, 0), (4, 1)])
def test_what_the_hot_store_has_and_bronze_lacks_passes_the_check(tmp_path, present, missing):
    lake = local_lake(tmp_path)
    events = numbered(1, 2, 3)
    fill(lake, events)
    hour = EPOCH.replace(tzinfo=None, minute=0, second=0)
    counts = pa.table({"emitter_id": [EMITTER], "hour": [hour], "events": [present]}, schema=custody.COUNTS)
    assert rows(lake, outside=(custody.Outside("spool", "s", counts),))[0]["acknowledged_missing"] == missing


def test_a_spool_s_own_copy_is_counted_beyond_what_the_lake_has_taken(tmp_path):
    lake = local_lake(tmp_path)
    taken, later = numbered(1, 2), numbered(3, 4)
    bronze.append_spool(lake, "s", records(taken, size=2))
    silver.refresh_events(lake)
    outside = custody.spool_counts(lake, "s", records([*taken, *later], size=2))
    assert outside.counts["events"].to_pylist() == [2]
    assert rows(lake, outside=(outside,))[0]["in_spool"] == 2
    assert custody.check(lake).ok
