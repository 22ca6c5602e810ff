"""The filesystem sink: the suite, and what only files can do wrong."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import random
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sinks.base import SinkBatch, Unavailable
from sinks.filesystem import FilesystemConfig, FilesystemSink, partition_of
from sinks.jsonl_files import Intervals, JsonlFolder
from tests.sidecar.harness import delivered_files, event, read_lines
from tests.sinks.suite import SPOOL_ID, SinkSuite, batch_of, by_id, golden_events


class FolderTarget:
    """A folder; it is "down" while a file stands in its place."""

    refuses_events = False
    has_credential = False
    has_server = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "out"
        self._aside = folder / "aside"

    def sink(self, *, credential: str | None = None) -> FilesystemSink:
        return FilesystemSink("files", FilesystemConfig(path=self.folder))

    async def read_back(self) -> list[dict[str, Any]]:
        return read_lines(delivered_files(self.folder))

    def refuse(self, items: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        raise NotImplementedError

    def as_stored(self, item: dict[str, Any]) -> dict[str, Any]:
        return item

    def stop(self) -> None:
        self.folder.rename(self._aside)
        self.folder.touch()

    def start(self) -> None:
        self.folder.unlink()
        self._aside.rename(self.folder)

    def hang(self) -> None:
        raise NotImplementedError


class TestFilesystem(SinkSuite):
    @pytest.fixture
    def target(self, tmp_path: Path) -> FolderTarget:
        return FolderTarget(tmp_path)


def sink_at(folder: Path, **settings: Any) -> FilesystemSink:
    return FilesystemSink("files", FilesystemConfig(path=folder, **settings))


async def test_event_lands_in_the_folder_of_another_hour(tmp_path: Path) -> None:
    items = [
        event(timestamp="2026-07-01T09:59:59.999999Z"),
        event(timestamp="2026-07-01T10:00:00Z"),
        event(timestamp="2026-07-01T01:30:00+02:00"),
    ]
    sink = sink_at(tmp_path)
    await sink.open()
    await sink.deliver(batch_of(items))
    await sink.close()
    found = {str(file.parent.relative_to(tmp_path)): read_lines([file]) for file in delivered_files(tmp_path)}
    assert found == {
        "date=2026-07-01/hour=09": items[:1],
        "date=2026-07-01/hour=10": items[1:2],
        "date=2026-06-30/hour=23": items[2:],
    }


async def test_file_name_does_not_tell_what_is_inside(tmp_path: Path) -> None:
    sink = sink_at(tmp_path)
    await sink.open()
    await sink.deliver(batch_of([event() for _ in range(5)], 17))
    await sink.deliver(batch_of([event() for _ in range(5)], 22))
    await sink.close()
    (file,) = delivered_files(tmp_path)
    assert file.name == f"{SPOOL_ID}-{17:020}-{26:020}.jsonl"


async def test_file_grows_beyond_its_size(tmp_path: Path) -> None:
    sink = sink_at(tmp_path, rotate_size_mb=0.001)
    await sink.open()
    for number in range(10):
        await sink.deliver(batch_of([event() for _ in range(3)], number * 3 + 1))
    await sink.close()
    files = delivered_files(tmp_path)
    assert len(files) > 2
    assert all(file.suffix == ".jsonl" for file in files)
    assert len(by_id(read_lines(files))) == 30


def test_file_stays_open_beyond_its_age(tmp_path: Path) -> None:
    folder = JsonlFolder(tmp_path, SPOOL_ID, rotate_bytes=10**9, rotate_seconds=60)
    folder.append({"date=2026-07-01/hour=09": [(1, b"{}")]}, 1, 1, now=1000.0)
    folder.rotate(1059.0)
    assert not folder.idle()
    folder.rotate(1060.0)
    assert folder.idle()
    (file,) = delivered_files(tmp_path)
    assert file.name.endswith(".jsonl")


async def test_half_written_batch_stays_after_a_crash(tmp_path: Path) -> None:
    first = sink_at(tmp_path)
    await first.open()
    items = [event() for _ in range(6)]
    await first.deliver(batch_of(items[:3]))
    (growing,) = delivered_files(tmp_path)
    with growing.open("ab") as handle:  # what a crash leaves: bytes that the state doesn't know
        handle.write(b'{"event_id": "torn')
    stray = growing.with_name(f"{SPOOL_ID}-{99:020}.jsonl.open")
    stray.write_bytes(b"{}\n")
    second = sink_at(tmp_path)
    await second.open()
    await second.deliver(batch_of(items))
    await second.close()
    assert by_id(read_lines(delivered_files(tmp_path))) == by_id(items)


def test_rotation_cut_by_a_crash_loses_the_file(tmp_path: Path) -> None:
    def folder() -> JsonlFolder:
        return JsonlFolder(tmp_path, SPOOL_ID, rotate_bytes=10**9, rotate_seconds=60)

    one = folder()
    one.append({"date=2026-07-01/hour=09": [(1, b'{"n":1}'), (2, b'{"n":2}')]}, 1, 2, now=0.0)
    (growing,) = delivered_files(tmp_path)
    growing.rename(growing.with_name(f"{SPOOL_ID}-{1:020}-{2:020}.jsonl"))  # renamed, but the state was not stored any more
    two = folder()
    two.append({"date=2026-07-01/hour=09": [(1, b'{"n":1}'), (2, b'{"n":2}'), (3, b'{"n":3}')]}, 1, 3, now=1.0)
    two.rotate(1.0, everything=True)
    assert sorted(line["n"] for line in read_lines(delivered_files(tmp_path))) == [1, 2, 3]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
async def test_failing_disk_leaves_half_a_batch_or_no_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    items = [event() for _ in range(8)]
    sink = sink_at(tmp_path)
    await sink.open()
    await sink.deliver(batch_of(items[:4]))
    real, failing = os.fsync, True

    def fsync(descriptor: int) -> None:
        if failing:
            raise OSError(code, os.strerror(code))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    for _ in range(3):
        with pytest.raises(Unavailable) as error:
            await sink.deliver(batch_of(items[4:], 5))
        assert str(tmp_path) in str(error.value)
        assert any(word in str(error.value) for word in ("full", "read-only", "check the disk"))
    failing = False
    await sink.deliver(batch_of(items[4:], 5))
    await sink.close()
    assert by_id(read_lines(delivered_files(tmp_path))) == by_id(items)


async def test_hung_disk_holds_up_others_or_writes_a_batch_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    items = [event() for _ in range(8)]
    sink = sink_at(tmp_path)
    await sink.open()
    real, awake = os.fsync, threading.Event()

    def fsync(descriptor: int) -> None:
        awake.wait(30)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    for _ in range(12):  # more tries than the event loop's own threads
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await sink.deliver(batch_of(items[:4]))
    assert await asyncio.wait_for(asyncio.to_thread(lambda: "free"), 5) == "free"
    awake.set()
    await sink.deliver(batch_of(items))
    await sink.close()
    assert by_id(read_lines(delivered_files(tmp_path))) == by_id(items)


async def test_two_logs_in_one_folder_overwrite_each_other(tmp_path: Path) -> None:
    items = [event() for _ in range(6)]
    sink = sink_at(tmp_path)
    await sink.open()
    for spool, part in (("one", items[:3]), ("two", items[3:])):
        lines = [json.dumps(item).encode() for item in part]
        await sink.deliver(SinkBatch(lines, first_seq=1, last_seq=3, spool_id=spool))
    await sink.close()
    assert by_id(read_lines(delivered_files(tmp_path))) == by_id(items)


async def test_events_out_of_order_are_taken_for_repeated(tmp_path: Path) -> None:
    items = [event() for _ in range(9)]
    sink = sink_at(tmp_path)
    await sink.open()
    for start in (6, 0, 3, 0, 6):
        await sink.deliver(batch_of(items[start : start + 3], start + 1))
    await sink.close()
    assert by_id(read_lines(delivered_files(tmp_path))) == by_id(items)


def test_partition_of_an_offset_is_local() -> None:
    line = json.dumps(event(timestamp="2026-01-01T00:30:00-02:00")).encode()
    assert partition_of(line) == "date=2026-01-01/hour=02"


def test_golden_vectors_have_no_partition() -> None:
    assert all(partition_of(json.dumps(item).encode()).startswith("date=") for item in golden_events())


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 9)), max_size=25), st.integers(0, 80), st.integers(0, 12))
def test_intervals_differ_from_a_set(ranges: list[tuple[int, int]], start: int, length: int) -> None:
    intervals, model = Intervals(), set()
    for first, extent in ranges:
        intervals.add(first, first + extent - 1)
        model |= set(range(first, first + extent))
    assert {number for number in range(100) if number in intervals} == model
    assert intervals.covers(start, start + length) is (set(range(start, start + length + 1)) <= model)
    assert all(a[1] + 1 < b[0] for a, b in zip(intervals.ranges, intervals.ranges[1:], strict=False))
    random.shuffle(ranges)
    again = Intervals((first, first + extent - 1) for first, extent in ranges)
    assert again.ranges == intervals.ranges
