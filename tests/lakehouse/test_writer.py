"""Exactly once: whatever dies, repeats itself or races, the table holds every row once."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from lakehouse import bronze, silver
from lakehouse.config import LakeConfig
from lakehouse.lake import ConcurrentWrite, Lake, StaleCursor, UnknownTable
from lakehouse.writer import append_once, replace_partitions, replace_partitions_once, transaction_version
from tests.lakehouse.lakes import EPOCH, an_event, count, local_lake, read, records

DAY = date(2026, 3, 1)


def pareto(*events: int, day: date = DAY) -> pa.Table:
    return pa.table({"day": [day] * len(events), "site_id": ["fab1"] * len(events), "events": list(events)})


def values(lake: Lake) -> list[int]:
    return [row["events"] for row in read(lake, "gold.error_pareto", "SELECT events FROM rows ORDER BY 1")]


def test_a_repeated_commit_is_written_twice(tmp_path):
    lake = local_lake(tmp_path)
    assert transaction_version(lake, "gold.error_pareto", "a") is None
    first = append_once(lake, "gold.error_pareto", pareto(1, 2), "a", 10)
    assert (first.written, first.rows, first.version) == (True, 2, 1)
    assert first.bytes > 0
    for version in (10, 9):
        again = append_once(lake, "gold.error_pareto", pareto(1, 2), "a", version)
        assert (again.written, again.rows) == (False, 0)
    assert append_once(lake, "gold.error_pareto", pareto(3), "b", 1).written
    assert values(lake) == [1, 2, 3]
    assert transaction_version(lake, "gold.error_pareto", "a") == 10


def test_data_read_from_an_old_cursor_is_written(tmp_path):
    lake = local_lake(tmp_path)
    append_once(lake, "gold.error_pareto", pareto(1), "a", 5, after=None)
    with pytest.raises(StaleCursor, match="stands at 5, the data was read from None"):
        append_once(lake, "gold.error_pareto", pareto(1, 2), "a", 7, after=None)
    assert append_once(lake, "gold.error_pareto", pareto(2), "a", 7, after=5).written
    assert values(lake) == [1, 2]


def test_a_replaced_partition_keeps_old_rows_or_takes_others_along(tmp_path):
    lake = local_lake(tmp_path)
    other = DAY + timedelta(days=1)
    append_once(lake, "gold.error_pareto", pa.concat_tables([pareto(1, 2), pareto(9, day=other)]), "a", 1)
    assert replace_partitions_once(lake, "gold.error_pareto", pareto(3), [DAY], "a", 2, after=1).written
    assert values(lake) == [3, 9]
    assert not replace_partitions_once(lake, "gold.error_pareto", pareto(4), [DAY], "a", 2).written
    replace_partitions(lake, "gold.error_pareto", pareto(), [DAY, other])
    assert values(lake) == []
    assert replace_partitions_once(lake, "gold.error_pareto", pareto(), [], "a", 3).written


def test_a_replacement_made_from_an_older_version_undoes_the_newer_one(tmp_path):
    lake = local_lake(tmp_path)
    append_once(lake, "gold.error_pareto", pareto(1), "a", 1)
    with pytest.raises(ConcurrentWrite, match="made from version 0"):
        replace_partitions_once(lake, "gold.error_pareto", pareto(2), [DAY], "b", 1, snapshot=0)
    assert values(lake) == [1]


@pytest.mark.parametrize("same", [True, False])
def test_racing_writers_double_or_lose_rows(tmp_path, same):
    lake = local_lake(tmp_path)
    lake.table("gold.error_pareto")
    barrier = threading.Barrier(4)

    def write(n: int) -> bool:
        barrier.wait()
        return append_once(lake, "gold.error_pareto", pareto(0 if same else n), "a" if same else f"a{n}", 1).written

    with ThreadPoolExecutor(4) as pool:
        written = list(pool.map(write, range(4)))
    assert sum(written) == (1 if same else 4)
    assert values(lake) == ([0] if same else [0, 1, 2, 3])


def test_racing_readers_of_one_spool_double_or_lose_events(tmp_path):
    lake = local_lake(tmp_path)
    events = [an_event(EPOCH + timedelta(seconds=n)) for n in range(120)]
    lake.table("bronze.events")

    def work(seed: int) -> None:
        rng = random.Random(seed)
        while bronze.spool_cursor(lake, "s") < len(events):
            try:
                bronze.append_spool(lake, "s", records(events, size=3), max_events=rng.choice([3, 9, 30]))
            except (StaleCursor, ConcurrentWrite):
                continue

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(work, range(3)))
    assert [row["source_seq"] for row in read(lake, "bronze.events", "SELECT * FROM rows ORDER BY source_seq")] == list(
        range(1, 121)
    )


PROGRAM = """
import json, sys
from datetime import timedelta
from pathlib import Path
from lakehouse import bronze, silver
from lakehouse.lake import ConcurrentWrite, StaleCursor
from tests.lakehouse.lakes import EPOCH, local_lake, SpoolRecord

class Stored(SpoolRecord):
    pass

events = [json.loads(line) for line in open(sys.argv[2])]
lake = local_lake(Path(sys.argv[1]))
print("ready", flush=True)
while True:
    batches = (Stored(seq + 1, events[seq : seq + 5]) for seq in range(0, len(events), 5))
    result = bronze.append_spool(lake, "s", batches, max_events=5)
    silver.refresh_events(lake)
    silver.refresh_metrics(lake)
    if not result.rows:
        break
print("done", flush=True)
"""


def killed_in_a_loop(tmp_path: Path, size: int, delays: tuple[float, float]) -> tuple[Lake, int, list[dict]]:
    rng = random.Random(7)
    events = [an_event(EPOCH + timedelta(seconds=n), rng=rng, kind="metric", metrics={"t": n}) for n in range(size - 20)]
    events += rng.sample(events, 20)
    stored = tmp_path / "events.jsonl"
    stored.write_text("".join(json.dumps(event) + "\n" for event in events))
    lake = local_lake(tmp_path)
    kills = 0
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(tmp_path), str(stored)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        with process.stdout as lines:
            assert lines.readline() == "ready\n"
            try:
                process.wait(rng.uniform(*delays))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                kills += 1
                continue
            assert process.returncode == 0
            return lake, kills, events
    pytest.fail(f"after {kills} kills the work stood at event {bronze.spool_cursor(lake, 's')} of {len(events)}")


def assert_whole(lake: Lake, events: list[dict]) -> None:
    assert [row["source_seq"] for row in read(lake, "bronze.events", "SELECT * FROM rows ORDER BY source_seq")] == list(
        range(1, len(events) + 1)
    )
    ids = sorted({event["event_id"] for event in events})
    assert [row["event_id"] for row in read(lake, "silver.events", "SELECT event_id FROM rows ORDER BY 1")] == ids
    assert count(lake, "silver.metrics") == len(ids)


def test_a_process_killed_while_it_writes_loses_or_doubles_events(tmp_path):
    lake, kills, events = killed_in_a_loop(tmp_path, 90, (0.3, 1.0))
    assert kills >= 2
    assert_whole(lake, events)


@pytest.mark.full
def test_a_process_killed_very_often_while_it_writes_loses_or_doubles_events(tmp_path):
    lake, kills, events = killed_in_a_loop(tmp_path, 600, (0.2, 2.5))
    assert kills >= 20
    assert_whole(lake, events)


def test_a_torn_log_file_of_a_dead_writer_stops_the_next_one(tmp_path):
    lake = local_lake(tmp_path)
    append_once(lake, "gold.error_pareto", pareto(1), "a", 1)
    log = tmp_path / "lake/gold/error_pareto/_delta_log"
    for name in (f"{2:020d}.json#1", "_commit_4c1f.json.tmp", f"{2:020d}.json.tmp", "_last_checkpoint#1"):
        (log / name).write_text('{"add":{"path":"da')
    (tmp_path / "lake/gold/error_pareto/day=2026-03-01/part-torn.parquet").write_bytes(b"PAR1 torn")
    append_once(lake, "gold.error_pareto", pareto(2), "a", 2)
    assert values(lake) == [1, 2]


def test_empty_input_breaks_a_step_or_stops_its_cursor(tmp_path):
    lake = local_lake(tmp_path)
    lake.create_all()
    assert bronze.append_spool(lake, "s", []).rows == 0
    for refresh in (silver.refresh_events, silver.refresh_metrics, silver.refresh_runs, silver.refresh_tool_states):
        assert refresh(lake).rows == 0
    assert append_once(lake, "gold.error_pareto", pareto(), "a", 4).written
    assert transaction_version(lake, "gold.error_pareto", "a") == 4


def test_a_wrong_table_or_column_is_not_named(tmp_path):
    lake = local_lake(tmp_path)
    with pytest.raises(UnknownTable, match=r"no table 'gold.nothing'; it has bronze.events"):
        lake.table("gold.nothing")
    with pytest.raises(ValueError, match=r"gold.error_pareto has no column colour"):
        append_once(lake, "gold.error_pareto", pa.table({"colour": [1]}), "a", 1)


def test_a_lake_shows_its_keys(tmp_path):
    from contract.settings import Secret

    config = LakeConfig(root="s3://bucket/lake", storage_options={"secret_access_key": Secret("hush")})
    assert "hush" not in repr(Lake(config)) + repr(config) + str(vars(Lake(config)).get("config"))
