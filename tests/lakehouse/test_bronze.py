"""Bronze: from spools, the hot store and quarantine files, each thing once and nothing passed over."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import msgspec
import psycopg
import pyarrow as pa
import pytest
from deltalake.exceptions import CommitFailedError

from contract.columns import NAMES
from contract.event import Event
from contract.settings import Secret
from lakehouse import bronze, silver, writer
from lakehouse.config import HotConfig
from lakehouse.hot import ahead, reader
from lakehouse.hot.errors import HotStoreTimeout
from lakehouse.hot.writer import HotWriter
from lakehouse.lake import StaleCursor
from tests.lakehouse.lakes import EPOCH, SpoolRecord, an_event, count, local_lake, read, records


def events(count: int, first: int = 0) -> list[dict[str, Any]]:
    return [an_event(EPOCH + timedelta(seconds=first + n), metrics={"t": n}, kind="metric") for n in range(count)]


def test_a_page_holds_more_than_it_may_or_ends_the_reading(tmp_path):
    lake = local_lake(tmp_path)
    stream = events(25)
    step = bronze.append_spool(lake, "s", records(stream, size=5), max_events=12)
    assert (step.rows, step.from_seq, step.to_seq, step.more) == (10, None, 10, True)
    step = bronze.append_spool(lake, "s", records(stream, size=5), max_bytes=1)
    assert (step.rows, step.from_seq, step.to_seq, step.more) == (5, 10, 15, True)
    step = bronze.append_spool(lake, "s", records(stream, size=5))
    assert (step.rows, step.to_seq, step.more) == (10, 25, False)
    assert bronze.spool_cursor(lake, "s") == 25
    assert bronze.spool_cursor(lake, "t") == 0


def test_a_record_larger_than_a_page_blocks_the_spool(tmp_path):
    lake = local_lake(tmp_path)
    assert bronze.append_spool(lake, "s", records(events(9), size=9), max_events=2).to_seq == 9


def test_lines_that_are_no_events_are_lost_or_stop_the_spool(tmp_path):
    lake = local_lake(tmp_path)
    good = events(2)
    record = SpoolRecord(11, [good[0], b"garbage\n", good[1], b'{"event_id": "half"'])
    step = bronze.append_spool(lake, "s", [record])
    assert (step.rows, step.quarantined, step.to_seq) == (2, 2, 14)
    assert [row["source_seq"] for row in read(lake, "bronze.events", "SELECT * FROM rows ORDER BY source_seq")] == [11, 13]
    kept = read(lake, "bronze.quarantine", 'SELECT * FROM rows ORDER BY "index"')
    assert [(row["index"], row["event"], row["source_id"]) for row in kept] == [
        (12, "garbage", "s"),
        (14, '{"event_id": "half"', "s"),
    ]


def test_a_run_that_died_between_its_two_commits_quarantines_its_lines_again(tmp_path, monkeypatch):
    lake = local_lake(tmp_path)
    first, second = SpoolRecord(1, [events(1)[0], b"garbage\n"]), SpoolRecord(3, [b"more garbage\n", events(1, 9)[0]])
    append = bronze.append_once

    def dies(lake, name, *args, **options):
        if name == "bronze.events":
            raise KeyboardInterrupt
        return append(lake, name, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(bronze, "append_once", dies)
        with pytest.raises(KeyboardInterrupt):
            bronze.append_spool(lake, "s", [first])
    bronze.append_spool(lake, "s", [first, second])  # the spool has grown meanwhile
    assert sorted(row["index"] for row in read(lake, "bronze.quarantine")) == [2, 3]
    assert sorted(row["source_seq"] for row in read(lake, "bronze.events")) == [1, 4]


def test_a_record_with_more_lines_than_it_counts_shifts_the_numbers_of_the_next(tmp_path):
    class Damaged(SpoolRecord):
        count = 2

    lake = local_lake(tmp_path)
    bronze.append_spool(lake, "s", [Damaged(1, events(3)), SpoolRecord(3, events(1, 9))])
    assert [row["source_seq"] for row in read(lake, "bronze.events", "SELECT * FROM rows ORDER BY source_seq")] == [1, 2, 2, 3]


def test_a_growing_quarantine_file_is_read_twice_or_torn(tmp_path):
    lake = local_lake(tmp_path)
    refusal = {
        "quarantined_at": "2026-03-01T12:00:00.5+01:00", "source": "sidecar", "index": 3, "event_id": None, "path": "app.name",
        "error": "missing", "event": '{"kind": "log"}',
    }  # fmt: skip
    file = tmp_path / "q.ndjson"
    line = json.dumps(refusal)
    file.write_text(line + "\n" + line[:40])
    assert bronze.append_quarantine(lake, "s", [file]).rows == 1
    assert bronze.append_quarantine(lake, "s", [file]).rows == 0
    file.write_text(line + "\n" + line + "\nnot json\n\n")
    assert bronze.append_quarantine(lake, "s", [file]).rows == 2
    rows = read(lake, "bronze.quarantine", "SELECT * FROM rows ORDER BY error")
    assert [row["error"] for row in rows] == ["missing", "missing", "the quarantine's own line can't be read"]
    assert rows[0]["quarantined_at"].isoformat() == "2026-03-01T11:00:00.500000"
    assert (rows[0]["path"], rows[0]["index"], rows[0]["event"]) == ("app.name", 3, '{"kind": "log"}')


def test_another_source_s_events_are_appended_twice_or_from_an_old_watermark(tmp_path):
    from lakehouse.arrow_events import from_ndjson

    lake = local_lake(tmp_path)
    table = from_ndjson([json.dumps(event).encode() + b"\n" for event in events(3)])
    bronze.append_events(lake, table, source="elk", source_id="plant", version=5)
    assert not bronze.append_events(lake, table, source="elk", source_id="plant", version=5, after=None).written
    with pytest.raises(StaleCursor):
        bronze.append_events(lake, table, source="elk", source_id="plant", version=6, after=4)
    assert count(lake, "bronze.events") == 3


def store(dsn: str, batch: list[dict[str, Any]]) -> None:
    async def write() -> None:
        async with await HotWriter.open(HotConfig(dsn=Secret(dsn))) as hot:
            await hot.write([msgspec.json.decode(json.dumps(event).encode(), type=Event) for event in batch])

    asyncio.run(write())


def test_the_hot_store_s_events_are_passed_over_doubled_or_never_confirmed(tmp_path, embedded_postgres):
    dsn = embedded_postgres.fresh_store()
    lake = local_lake(tmp_path)
    stream = events(30)
    for start in range(0, 20, 5):
        store(dsn, stream[start : start + 5])
    first = bronze.append_hot(lake, dsn, max_rows=10, pages=1)
    assert (first.rows, first.more) == (10, True)
    assert bronze.append_hot(lake, dsn, max_rows=10).rows == 10
    assert reader.confirmations(dsn)[bronze.HOT_READER] == bronze.append_hot(lake, dsn).to_seq
    # Events that also came through a spool are in bronze twice and in silver once.
    bronze.append_spool(lake, "s", records(stream))
    store(dsn, stream[20:])
    assert bronze.append_hot(lake, dsn).rows == 10
    assert count(lake, "bronze.events") == 60
    while silver.refresh_events(lake, max_rows=17).more:
        pass
    assert sorted(row["event_id"] for row in read(lake, "silver.events")) == sorted(event["event_id"] for event in stream)
    by_way: dict[str, dict[str, Any]] = {"hot": {}, "spool": {}}
    for row in read(lake, "bronze.events"):
        flat = {name: json.loads(row[name]) if name == "metrics" else row[name] for name in NAMES}
        by_way[row["source"]][row["event_id"]] = flat
    assert by_way["hot"] == by_way["spool"]


def test_a_run_that_died_before_its_confirmation_is_never_confirmed(tmp_path, embedded_postgres):
    dsn = embedded_postgres.fresh_store()
    lake = local_lake(tmp_path)
    store(dsn, events(3))
    xid = bronze.append_hot(lake, dsn).to_seq
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("DELETE FROM trackmate.replication")
    assert bronze.append_hot(lake, dsn).rows == 0
    assert reader.confirmations(dsn)[bronze.HOT_READER] == xid


@pytest.mark.parametrize("good", [0, 1])
def test_a_page_that_breaks_off_is_committed_in_part_or_its_reason_is_lost(tmp_path, embedded_postgres, monkeypatch, good):
    dsn = embedded_postgres.fresh_store()
    lake = local_lake(tmp_path)
    store(dsn, events(20))
    whole = reader.follow

    def broken(*arguments: Any) -> reader.Stream:
        stream = whole(*arguments)

        def batches() -> Iterator[pa.RecordBatch]:
            for batch in itertools.islice(stream.batches, good):
                yield batch.slice(0, 7)
            message = "the hot store did not answer"
            raise HotStoreTimeout(message)

        return replace(stream, batches=batches())

    monkeypatch.setattr(ahead, "follow", broken)
    with pytest.raises(HotStoreTimeout, match="the hot store did not answer"):
        bronze.append_hot(lake, dsn)
    assert count(lake, "bronze.events") == 0
    assert reader.confirmations(dsn).get(bronze.HOT_READER) is None
    monkeypatch.undo()
    assert bronze.append_hot(lake, dsn).rows == 20
    assert count(lake, "bronze.events") == 20


def test_a_lost_race_loses_the_rows_that_the_first_attempt_had_taken(tmp_path, embedded_postgres, monkeypatch):
    dsn = embedded_postgres.fresh_store()
    lake = local_lake(tmp_path)
    store(dsn, events(20))
    real, taken = writer.write_deltalake, []

    def beaten_once(table: Any, data: pa.RecordBatchReader, **options: Any) -> None:
        if not taken:
            taken.append(data.read_all().num_rows)
            message = "another writer was faster"
            raise CommitFailedError(message)
        real(table, data, **options)

    monkeypatch.setattr(writer, "write_deltalake", beaten_once)
    assert bronze.append_hot(lake, dsn).rows == 20
    assert taken == [20]
    assert count(lake, "bronze.events") == 20
