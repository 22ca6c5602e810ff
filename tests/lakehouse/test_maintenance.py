"""Maintenance must change nothing that anyone sees, and followers must come through it whole."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from lakehouse import bronze, lake, maintenance, silver, tables
from lakehouse.files import active_files
from lakehouse.lake import LakeError
from lakehouse.tables import STRING, Column
from tests.lakehouse.lakes import EPOCH, an_event, count, local_lake, read, records

FAR = datetime(2100, 1, 1, tzinfo=UTC)


def trickle(a_lake, commits, first=1):
    rng = random.Random(commits)
    for n in range(first, first + commits):
        event = an_event(EPOCH + timedelta(seconds=n), rng=rng, metrics={"t": n}, kind="metric", emitter={"id": "e", "seq": n})
        bronze.append_spool(a_lake, "s", records([event], first=n))


def files(a_lake, name):
    return active_files(a_lake, name, a_lake.table(name))


def test_compaction_hides_rows_from_a_follower_or_shows_them_twice(tmp_path):
    a_lake = local_lake(tmp_path)
    trickle(a_lake, 10)
    silver.refresh_events(a_lake, max_rows=4)
    assert maintenance.compact(a_lake, "bronze.events").partitions_compacted == 1
    assert len(files(a_lake, "bronze.events")) == 1
    trickle(a_lake, 3, first=11)
    while silver.refresh_events(a_lake, max_rows=4).more:
        pass
    assert count(a_lake, "silver.events") == 13
    silver.refresh_metrics(a_lake)
    maintenance.compact(a_lake, "silver.events", min_files=2)
    trickle(a_lake, 2, first=14)
    silver.refresh_events(a_lake)
    silver.refresh_metrics(a_lake)
    assert sorted(row["value"] for row in read(a_lake, "silver.metrics")) == list(range(1, 16))


def test_a_follower_that_lags_loses_what_clean_up_deleted(tmp_path):
    a_lake = local_lake(tmp_path)
    trickle(a_lake, 10)
    silver.refresh_events(a_lake, max_rows=4)
    maintenance.compact(a_lake, "bronze.events")
    assert maintenance.clean_up(a_lake, "bronze.events", keep=timedelta(0)).files_deleted == 10
    while silver.refresh_events(a_lake, max_rows=4).more:
        pass
    assert count(a_lake, "silver.events") == 10


def test_a_follower_whose_log_entries_are_gone_stops_for_ever(tmp_path):
    a_lake = local_lake(tmp_path)
    trickle(a_lake, 6)
    silver.refresh_events(a_lake, max_rows=2)
    a_lake.table("bronze.events").create_checkpoint()
    for version in range(6):
        (tmp_path / f"lake/bronze/events/_delta_log/{version:020d}.json").unlink()
    silver.refresh_events(a_lake)
    assert count(a_lake, "silver.events") == 6


def test_a_cursor_is_forgotten_with_the_log_entry_that_set_it(tmp_path):
    a_lake = local_lake(tmp_path)
    trickle(a_lake, 3)
    log = tmp_path / "lake/bronze/events/_delta_log"
    a_lake.table("bronze.events").create_checkpoint()
    for entry in log.glob("*.json"):
        if not entry.name.endswith("3.json"):
            entry.unlink()
    trickle(a_lake, 3)
    assert count(a_lake, "bronze.events") == 3


def test_clustering_changes_rows_or_runs_again_on_what_it_has_done(tmp_path):
    a_lake = local_lake(tmp_path)
    trickle(a_lake, 4)
    before = read(a_lake, "bronze.events", "SELECT * FROM rows ORDER BY event_id")
    assert maintenance.cluster(a_lake, "bronze.events").partitions_clustered == 0
    assert maintenance.cluster(a_lake, "bronze.events", now=FAR).partitions_clustered == 1
    assert maintenance.cluster(a_lake, "bronze.events", now=FAR).partitions_clustered == 0
    assert read(a_lake, "bronze.events", "SELECT * FROM rows ORDER BY event_id") == before
    trickle(a_lake, 1, first=5)
    assert maintenance.cluster(a_lake, "bronze.events", now=FAR).partitions_clustered == 1


def test_statistics_are_lost_in_compaction_so_that_every_file_is_read(tmp_path):
    a_lake = local_lake(tmp_path)
    trickle(a_lake, 8)
    maintenance.compact(a_lake, "bronze.events")
    (file,) = files(a_lake, "bronze.events")
    assert {"event_id", "timestamp", "source_seq"} <= file.minimum.keys() & file.maximum.keys()
    assert not file.may_hold("source_seq", 9, None)


def test_expiry_drops_what_is_young_or_keeps_what_is_old(tmp_path):
    a_lake = local_lake(tmp_path)
    bronze.append_spool(a_lake, "s", records([an_event(EPOCH + timedelta(days=n)) for n in range(5)]))
    silver.refresh_events(a_lake)
    assert maintenance.expire(a_lake, "silver.events", now=EPOCH).files_removed == 0
    maintenance.expire(a_lake, "silver.events", now=EPOCH + timedelta(days=5), keep=timedelta(days=3))
    assert count(a_lake, "silver.events") == 3


def test_a_declared_column_that_is_new_breaks_reading_or_writing(tmp_path, monkeypatch):
    a_lake = local_lake(tmp_path)
    trickle(a_lake, 2)
    silver.refresh_events(a_lake)
    for name in ("bronze.events", "silver.events"):
        old = tables.TABLES[name]
        grown = replace(old, columns=(*old.columns, Column("shift", STRING, "The shift")))
        monkeypatch.setitem(tables.TABLES, name, grown)
        monkeypatch.setitem(lake.TABLES, name, grown)
    assert maintenance.add_columns(a_lake, "bronze.events").columns_added == ("shift",)
    assert maintenance.add_columns(a_lake, "bronze.events").columns_added == ()
    trickle(a_lake, 2, first=3)
    silver.refresh_events(a_lake)
    assert [row["shift"] for row in read(a_lake, "silver.events")] == [None] * 4
    assert {row["shift"] for row in read(a_lake, "bronze.events")} == {None}


def test_as_of_gives_another_version_than_the_one_of_that_moment(tmp_path):
    a_lake = local_lake(tmp_path)
    with pytest.raises(LakeError, match="no version is as old"):
        maintenance.version_at(a_lake, "bronze.events", EPOCH - timedelta(days=20_000))
    trickle(a_lake, 1)
    moment = datetime.fromtimestamp(a_lake.table("bronze.events").history(1)[0]["timestamp"] / 1000, UTC)
    assert maintenance.version_at(a_lake, "bronze.events", moment) == 1
    assert maintenance.version_at(a_lake, "bronze.events", FAR) == 1
    with pytest.raises(LakeError, match="has no zone"):
        maintenance.version_at(a_lake, "bronze.events", moment.replace(tzinfo=None))


def test_the_whole_of_maintenance_loses_a_row(tmp_path):
    a_lake = local_lake(tmp_path)
    trickle(a_lake, 9)
    silver.refresh_events(a_lake)
    results = {each.table: each for each in maintenance.maintain(a_lake, ["bronze.events", "silver.events"])}
    assert results["bronze.events"].partitions_compacted == 1
    assert count(a_lake, "bronze.events") == count(a_lake, "silver.events") == 9


def test_the_log_s_cut_off_of_timestamps_hides_a_file(tmp_path):
    a_lake = local_lake(tmp_path)
    bronze.append_spool(a_lake, "s", records([an_event(EPOCH + timedelta(microseconds=1999))]))
    (file,) = files(a_lake, "bronze.events")
    assert file.may_hold("timestamp", EPOCH.replace(tzinfo=None) + timedelta(microseconds=1500), None)


def test_an_empty_table_breaks_maintenance(tmp_path):
    a_lake = local_lake(tmp_path)
    a_lake.create_all()
    assert {each.table for each in maintenance.maintain(a_lake)} == set(tables.TABLES)
    assert pa.schema(a_lake.table("gold.custody").schema().to_arrow()).names == list(tables.GOLD_CUSTODY.names)
