"""The filesystem sink's Parquet files: the suite, their types, another reader, and crashes in the middle of making one."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contract import codec
from contract.columns import COLUMNS, NAMES, flatten, unflatten
from contract.errors import TrackMateError
from sinks import parquet_files, registry
from sinks.base import Unavailable
from sinks.filesystem import FilesystemConfig, FilesystemSink
from sinks.jsonl_files import COMPLETE_SUFFIXES, Completion, JsonlFolder
from sinks.parquet_completion import IN_OWN_PROCESS, IN_THIS_PROCESS, in_own_process
from sinks.parquet_files import ROW_GROUP_ROWS
from tests.services.base import wait_until
from tests.sidecar.harness import event, read_lines
from tests.sinks.documented import documented_backend
from tests.sinks.suite import SPOOL_ID, SinkSuite, batch_of, by_id, golden_events
from tests.sinks.test_filesystem import FolderTarget

HOUR = "date=2026-07-01/hour=09"


def parquet_files_below(folder: Path) -> list[Path]:
    return sorted(folder.glob("date=*/hour=*/*.parquet"))


def complete_lines(folder: Path) -> list[Path]:
    return sorted(folder.glob("date=*/hour=*/*.jsonl"))


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [unflatten(row) for file in parquet_files_below(folder) for row in pq.ParquetFile(file).read().to_pylist()]


def as_row(item: dict[str, Any]) -> dict[str, Any]:
    (decoded,) = codec.decode_batch(json.dumps(item).encode(), "application/x-ndjson").events
    return unflatten(dict(zip(NAMES, flatten(decoded), strict=True)))


def parquet_processes(parent: int | None = None) -> list[psutil.Process]:
    return [process for process in psutil.Process(parent).children() if "sinks.parquet_process" in process.cmdline()]


class ParquetTarget(FolderTarget):
    def sink(self, *, credential: str | None = None) -> FilesystemSink:
        return FilesystemSink("files", FilesystemConfig(path=self.folder, format="parquet"))

    async def read_back(self) -> list[dict[str, Any]]:
        growing = read_lines(sorted(self.folder.glob("date=*/hour=*/*.jsonl*")))
        return rows_of(self.folder) + [as_row(item) for item in growing]

    def as_stored(self, item: dict[str, Any]) -> dict[str, Any]:
        return as_row(item)


class TestParquet(SinkSuite):
    @pytest.fixture
    def target(self, tmp_path: Path) -> ParquetTarget:
        return ParquetTarget(tmp_path)


def sink_at(folder: Path, **settings: Any) -> FilesystemSink:
    return FilesystemSink("files", FilesystemConfig(path=folder, format="parquet", **settings))


async def write(folder: Path, items: Sequence[dict[str, Any]], first: int = 1, **settings: Any) -> None:
    sink = sink_at(folder, **settings)
    await sink.open()
    await sink.deliver(batch_of(items, first))
    await sink.close()


def folder_at(root: Path, completion: Completion = IN_THIS_PROCESS) -> JsonlFolder:
    return JsonlFolder(root, SPOOL_ID, rotate_bytes=10**9, rotate_seconds=60, completion=completion)


def numbered(items: Sequence[dict[str, Any]], first: int = 1) -> list[tuple[int, bytes]]:
    return [(first + place, json.dumps(item).encode()) for place, item in enumerate(items)]


async def test_column_has_another_type(tmp_path: Path) -> None:
    await write(tmp_path, golden_events())
    wanted = {
        "string": pa.string(),
        "json": pa.string(),
        "int64": pa.int64(),
        "float64": pa.float64(),
        "timestamp": pa.timestamp("us"),
    }
    for file in parquet_files_below(tmp_path):
        schema = pq.ParquetFile(file).schema_arrow
        assert schema.names == list(NAMES)
        assert schema.types == [wanted[column.type] for column in COLUMNS]
        assert [field.nullable for field in schema] == [column.nullable for column in COLUMNS]


async def test_duckdb_reads_something_else(tmp_path: Path) -> None:
    items = [
        event(
            kind="metric",
            name="etch",
            timestamp=f"2026-07-01T{hour:02}:00:00.000001Z",
            metrics={"depth": hour / 2},
            entities={"tool": "T1"},
        )
        for hour in range(24)
    ]
    await write(tmp_path, items)
    query = f"""
        SELECT date, hour, timestamp, tool, CAST(metrics ->> '$.depth' AS DOUBLE) AS depth
        FROM read_parquet('{tmp_path}/date=*/hour=*/*.parquet', hive_partitioning = true)
        WHERE date = '2026-07-01' AND hour >= '22' ORDER BY timestamp
    """
    with duckdb.connect(config={"autoinstall_known_extensions": "false"}) as connection:
        rows = connection.execute(query).fetchall()
    assert [(str(date), int(hour), *rest) for date, hour, *rest in rows] == [
        ("2026-07-01", hour, datetime(2026, 7, 1, hour, 0, 0, 1, tzinfo=UTC).replace(tzinfo=None), "T1", hour / 2)
        for hour in (22, 23)
    ]


async def test_growing_file_is_taken_for_a_complete_one(tmp_path: Path) -> None:
    items = [event() for _ in range(3)]
    sink = sink_at(tmp_path)
    await sink.open()
    await sink.deliver(batch_of(items))
    assert parquet_files_below(tmp_path) == []
    await sink.close()
    (file,) = parquet_files_below(tmp_path)
    assert file.name == f"{SPOOL_ID}-{1:020}-{3:020}.parquet"
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    assert by_id(rows_of(tmp_path)) == by_id([as_row(item) for item in items])


def test_file_becomes_parquet_at_the_wrong_size_or_age(tmp_path: Path) -> None:
    folder = JsonlFolder(tmp_path, SPOOL_ID, rotate_bytes=1000, rotate_seconds=60, completion=IN_THIS_PROCESS)
    folder.append({HOUR: numbered([event()])}, 1, 1, now=1000.0)
    folder.rotate(1059.0)
    assert parquet_files_below(tmp_path) == []
    folder.rotate(1060.0)
    assert len(parquet_files_below(tmp_path)) == 1
    folder.append({HOUR: numbered([event() for _ in range(9)], 2)}, 2, 10, now=1061.0)
    assert len(parquet_files_below(tmp_path)) == 1, "acknowledging waits for rows to be made"
    folder.rotate(1062.0)
    assert len(parquet_files_below(tmp_path)) == 2


def test_large_file_is_one_row_group_or_loses_rows(tmp_path: Path) -> None:
    items = [event() for _ in range(100)]
    text = b"".join(line + b"\n" for _, line in numbered(items))
    (tmp_path / "growing").write_bytes(text * (ROW_GROUP_ROWS // 50))
    parquet_files.write_parquet(tmp_path / "growing", tmp_path / "made")
    made = pq.ParquetFile(tmp_path / "made")
    assert made.metadata.num_rows == 100 * (ROW_GROUP_ROWS // 50)
    assert made.metadata.num_row_groups == 2
    assert made.metadata.row_group(0).num_rows < ROW_GROUP_ROWS * 2


@pytest.mark.parametrize("moment", ["before the rename", "after the rename", "after the state"])
def test_crash_while_rows_are_made_loses_or_doubles_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    class Crash(BaseException):
        pass

    def crash(*_: object, **__: object) -> None:
        raise Crash

    items = [event() for _ in range(6)]
    folder = folder_at(tmp_path)
    folder.append({HOUR: numbered(items[:4])}, 1, 4, now=0.0)
    with monkeypatch.context() as patched:
        match moment:
            case "before the rename":
                patched.setattr(Path, "replace", crash)
            case "after the rename":
                patched.setattr(JsonlFolder, "_forget", crash)
            case _:
                patched.setattr(Path, "unlink", crash)
        with pytest.raises(Crash):
            folder.rotate(0.0, everything=True)
    again = folder_at(tmp_path)
    again.append({HOUR: numbered(items)}, 1, 6, now=1.0)
    again.rotate(1.0, everything=True)
    assert by_id(rows_of(tmp_path)) == by_id([as_row(item) for item in items])
    assert all(path.suffix == ".parquet" for path in (tmp_path / HOUR).iterdir())


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
async def test_disk_that_fails_while_rows_are_made_loses_events(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    items = [event() for _ in range(6)]
    sink = sink_at(tmp_path, own_process=False)
    await sink.open()
    await sink.deliver(batch_of(items[:3]))

    class FailingWriter:
        def __init__(self, *_: object, **__: object) -> None:
            raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patched:
        patched.setattr(pq, "ParquetWriter", FailingWriter)
        with pytest.raises(Unavailable, match="full" if code == errno.ENOSPC else "check the disk"):
            await sink.close()
    assert sorted(path.suffix for path in (tmp_path / HOUR).iterdir()) == [".open"]
    await write(tmp_path, items)
    assert by_id(rows_of(tmp_path)) == by_id([as_row(item) for item in items])


async def test_end_of_the_process_that_makes_rows_loses_or_doubles_events(tmp_path: Path) -> None:
    items = [event() for _ in range(600)]
    sink = sink_at(tmp_path)
    await sink.open()
    for first in range(0, 300, 100):
        await sink.deliver(batch_of(items[first : first + 100], first + 1))
    closing = asyncio.create_task(sink.close())
    (process,) = await asyncio.to_thread(lambda: wait_until(parquet_processes, seconds=10, what="the process", interval=0.001))
    process.kill()
    with pytest.raises(Unavailable, match="ended with code -9"):
        await closing
    assert sorted(path.suffix for path in (tmp_path / HOUR).iterdir()) == [".open"]
    await write(tmp_path, items)
    assert by_id(rows_of(tmp_path)) == by_id([as_row(item) for item in items])
    assert parquet_processes() == []


def test_process_that_makes_rows_outlives_a_killed_agent() -> None:
    program = (
        "import time; from sinks.parquet_completion import in_own_process\n"
        "with in_own_process(): print('in', flush=True); time.sleep(60)"
    )
    agent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert agent.stdout is not None
    with agent.stdout:
        assert agent.stdout.readline() == b"in\n"
        (process,) = parquet_processes(agent.pid)
        agent.kill()
        agent.wait()
        process.wait(10)


async def test_file_that_could_not_be_completed_is_not_tried_again(tmp_path: Path) -> None:
    items = [event() for _ in range(3)]
    sink = sink_at(tmp_path, rotate_seconds=0.001)
    await sink.open()
    await sink.deliver(batch_of(items))
    (process,) = await asyncio.to_thread(lambda: wait_until(parquet_processes, seconds=30, what="the process", interval=0.001))
    process.kill()
    await asyncio.to_thread(lambda: wait_until(lambda: parquet_files_below(tmp_path), seconds=60, what="the Parquet file"))
    await sink.close()
    assert by_id(rows_of(tmp_path)) == by_id([as_row(item) for item in items])


def test_process_that_hangs_holds_up_deliveries_for_ever(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    items = [event(), event()]
    for place, item in enumerate(items):
        (tmp_path / f"{place}.growing").write_bytes(json.dumps(item).encode() + b"\n")
    with in_own_process(patience=1.0) as complete:
        (process,) = parquet_processes()
        process.suspend()
        for place in range(2):
            complete(tmp_path / f"{place}.growing", tmp_path / f"{place}.parquet")
    assert [message for message in caplog.messages if "too busy" in message] == [caplog.messages[0]]
    made = [pq.ParquetFile(tmp_path / f"{place}.parquet").read().to_pylist() for place in range(2)]
    assert [unflatten(row) for rows in made for row in rows] == [as_row(item) for item in items]
    assert parquet_processes() == []


def test_signal_to_all_of_a_service_ends_the_process_before_its_work(tmp_path: Path) -> None:
    def ignores_sigterm() -> bool:
        status = Path(f"/proc/{process.pid}/status").read_text()
        ignored = next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigIgn"))
        return bool(ignored & 1 << (signal.SIGTERM - 1))

    (tmp_path / "growing").write_bytes(json.dumps(event()).encode() + b"\n")
    with in_own_process() as complete:
        (process,) = parquet_processes()
        assert os.getpgid(process.pid) != os.getpgid(0), "a terminal's Ctrl-C reaches it"
        wait_until(ignores_sigterm, seconds=30, what="the process to be up")
        process.terminate()
        complete(tmp_path / "growing", tmp_path / "made.parquet")
    assert pq.ParquetFile(tmp_path / "made.parquet").metadata.num_rows == 1


async def test_python_that_was_moved_is_told_as_a_folder_that_was_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = sink_at(tmp_path)
    await sink.open()
    await sink.deliver(batch_of([event()]))
    with monkeypatch.context() as patched:
        patched.setattr(sys, "executable", str(tmp_path / "python"))
        with pytest.raises(Unavailable, match=r"can't be started .*/python: No such file .*own_process: false"):
            await sink.close()
    await sink.close()
    await sink.open()
    await sink.close()
    assert len(parquet_files_below(tmp_path)) == 1


def test_file_that_can_not_be_completed_holds_up_the_others(tmp_path: Path) -> None:
    def complete(growing: Path, final: Path) -> None:
        if "hour=09" in str(growing):
            raise OSError(errno.EIO, "bad block")
        growing.rename(final)

    folder = folder_at(tmp_path, Completion(".parquet", lambda: contextlib.nullcontext(complete), at_once=False))
    hours = [HOUR, "date=2026-07-01/hour=10"]
    folder.append({hour: numbered([event()], seq) for seq, hour in enumerate(hours, 1)}, 1, 2, now=0.0)
    with pytest.raises(OSError, match="bad block"):
        folder.rotate(0.0, everything=True)
    assert [file.parent.name for file in parquet_files_below(tmp_path)] == ["hour=10"]
    assert [file.parent.name for file in tmp_path.glob("date=*/hour=*/*.open")] == ["hour=09"]
    assert not folder.idle()


@pytest.mark.parametrize("completion", [IN_THIS_PROCESS, IN_OWN_PROCESS], ids=["this", "own"])
def test_line_that_is_no_event_holds_up_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, completion: Completion
) -> None:
    folder = folder_at(tmp_path, completion)
    folder.append({HOUR: [(1, b'{"not": "an event"}'), *numbered([event()], 2)]}, 1, 2, now=0.0)
    folder.append({"date=2026-07-01/hour=10": numbered([event()], 3)}, 3, 3, now=0.0)
    with caplog.at_level(logging.WARNING):
        folder.rotate(0.0, everything=True)
    assert folder.idle()
    assert "no events" in caplog.text
    assert len(parquet_files_below(tmp_path)) == 1
    (kept,) = tmp_path.glob("date=*/hour=*/*.jsonl")
    assert len(read_lines([kept])) == 2


def test_file_of_nothing_but_garbage_is_tried_for_ever(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = folder_at(tmp_path)
    folder.append({HOUR: [(1, b"\x00garbage")]}, 1, 1, now=0.0)
    with caplog.at_level(logging.WARNING):
        folder.rotate(0.0, everything=True)
    assert folder.idle()
    assert "no events" in caplog.text
    assert [path.read_bytes() for path in complete_lines(tmp_path)] == [b"\x00garbage\n"]


async def test_change_of_format_loses_or_doubles_events(tmp_path: Path) -> None:
    items = [event() for _ in range(9)]
    first = FilesystemSink("files", FilesystemConfig(path=tmp_path))
    await first.open()
    await first.deliver(batch_of(items[:3]))
    await first.close()
    await first.open()
    await first.deliver(batch_of(items[3:6], 4))  # and ends without a close
    await write(tmp_path, items[2:], 3)
    found = rows_of(tmp_path) + [as_row(item) for item in read_lines(complete_lines(tmp_path))]
    assert by_id(found) == by_id([as_row(item) for item in items])
    assert {path.suffix for path in (tmp_path / HOUR).iterdir()} == set(COMPLETE_SUFFIXES)
    await first._on_disk(lambda: None)
    assert first._rotation is not None
    first._rotation.cancel()
    first._disk.shutdown()  # type: ignore[union-attr]


def test_parquet_without_its_library_gives_no_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sinks.filesystem.find_spec", lambda _: None)
    with pytest.raises(TrackMateError, match=r"pip install 'trackmate\[filesystem\]'"):
        sink_at(tmp_path)
    FilesystemSink("files", FilesystemConfig(path=tmp_path))


def test_documented_or_published_block_does_not_work() -> None:
    published = {"path": "/data/monitoring", "format": "jsonl", "rotate_size_mb": 100}
    for config in (documented_backend("filesystem"), published):
        registry.make_sink("filesystem", "files", config)
