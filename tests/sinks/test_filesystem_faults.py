"""What the filesystem sink's disk can do to it, and a kill at any moment, for both formats."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import random
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from sinks.base import SinkBatch, Unavailable
from sinks.filesystem import FilesystemConfig, FilesystemSink
from sinks.jsonl_files import Completion, JsonlFolder
from tests.services.base import wait_until
from tests.services.small_disk import remount, small_disk
from tests.sidecar.harness import event, read_lines
from tests.sinks.suite import SPOOL_ID, batch_of, by_id
from tests.sinks.test_filesystem_parquet import HOUR, as_row, complete_lines, folder_at, numbered, rows_of

FORMATS = pytest.mark.parametrize("form", ["jsonl", "parquet"])

WRITER = """
import asyncio, json, sys
from pathlib import Path
from sinks.base import SinkBatch
from sinks.filesystem import FilesystemConfig, FilesystemSink
import sinks.filesystem

folder, form, start, lines = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]).read_bytes().splitlines()
sinks.filesystem._ROTATION_TICK_SECONDS = 0.01

async def main():
    sink = FilesystemSink("files", FilesystemConfig(path=folder, format=form, rotate_size_mb=0.004, rotate_seconds=0.05))
    await sink.open()
    seq = start
    while seq <= len(lines):
        part = lines[seq - 1 : seq + 6]
        await sink.deliver(SinkBatch(part, first_seq=seq, last_seq=seq + len(part) - 1, spool_id="the-log"))
        seq += len(part)
        print(seq - 1, flush=True)
        await asyncio.sleep(0)
    await sink.close()

asyncio.run(main())
"""


def kill_while_writing(folder: Path, form: str, kills: int, seed: int) -> None:
    """Writers killed at random moments, each going on a little before where the last one was acknowledged."""
    chance = random.Random(seed)
    items = [event(timestamp=f"2026-07-01T{number % 3:02}:00:00.000001Z") for number in range(kills * 140 + 20)]
    lines = folder / "lines"
    lines.write_bytes(b"\n".join(json.dumps(item).encode() for item in items))
    out, acknowledged = folder / "out", 0
    for number in range(kills + 1):
        start = max(1, acknowledged - chance.randrange(12))
        command = [sys.executable, "-c", WRITER, str(out), form, str(start), str(lines)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            limit = chance.randrange(2, 20) if number < kills else 10**9
            for count, line in enumerate(writer.stdout):
                acknowledged = max(acknowledged, int(line))
                if count >= limit:
                    writer.kill()
                    break
            for line in writer.stdout:
                acknowledged = max(acknowledged, int(line))
        if number < kills:
            assert writer.returncode in {0, -9}
            found = read_growing(out) + read_complete(out, form)
            assert {item["event_id"] for item in items[:acknowledged]} <= {item["event_id"] for item in found}
    assert (writer.returncode, acknowledged) == (0, len(items))
    assert by_id(read_complete(out, form)) == by_id([stored(item, form) for item in items])
    assert read_growing(out) == []


def stored(item: dict[str, Any], form: str) -> dict[str, Any]:
    return item if form == "jsonl" else as_row(item)


def read_complete(folder: Path, form: str) -> list[dict[str, Any]]:
    return read_lines(complete_lines(folder)) if form == "jsonl" else rows_of(folder)


def read_growing(folder: Path) -> list[dict[str, Any]]:
    found = []
    for file in folder.glob("date=*/hour=*/*.jsonl.open"):
        for line in file.read_bytes().splitlines():
            with contextlib.suppress(ValueError):  # a torn line was not acknowledged
                found.append(json.loads(line))
    return found


def sink_at(folder: Path, form: str, **settings: Any) -> FilesystemSink:
    return FilesystemSink("files", FilesystemConfig(path=folder, format=form, **settings))  # type: ignore[arg-type]


@FORMATS
def test_kill_loses_or_doubles_events(tmp_path: Path, form: str) -> None:
    kill_while_writing(tmp_path, form, kills=3, seed=1)


@pytest.mark.full
@FORMATS
@pytest.mark.parametrize("seed", [2, 3, 4])
def test_many_kills_lose_or_double_events(tmp_path: Path, form: str, seed: int) -> None:
    kill_while_writing(tmp_path, form, kills=25, seed=seed)


async def fill(sink: FilesystemSink, items: list[dict[str, Any]]) -> tuple[int, str]:
    """Deliver until the disk takes no more: how many events were acknowledged, and what was said."""
    for first in range(1, len(items), 20):
        try:
            await sink.deliver(batch_of(items[first - 1 : first + 19], first))
        except Unavailable as error:
            return first - 1, str(error)
    return len(items), ""


@FORMATS
async def test_full_disk_loses_or_doubles_events_or_is_not_named(tmp_path: Path, form: str) -> None:
    disk = tmp_path / "disk"
    with small_disk(disk, "1m") as can_mount:
        if not can_mount:
            assert os.geteuid() != 0, "root can mount a small disk"
            return
        items = [event(message="x" * 4000, metrics={"n": number}) for number in range(600)]
        sink = sink_at(disk / "out", form, rotate_size_mb=0.2)
        await sink.open()
        taken, message = await fill(sink, items)
        assert "disk is full" in message
        assert str(disk) in message
        assert 0 < taken < len(items)
        found = read_growing(disk / "out") + read_complete(disk / "out", form)
        assert {item["event_id"] for item in items[:taken]} <= {item["event_id"] for item in found}
        remount(disk, "size=20m")
        await sink.deliver(batch_of(items))
        await sink.close()
        assert by_id(read_complete(disk / "out", form)) == by_id([stored(item, form) for item in items])


def test_disk_full_of_lines_can_not_be_made_into_rows_later(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    items = [event(message=os.urandom(3000).hex()) for _ in range(150)]  # what does not compress needs room twice
    with small_disk(disk, "1m") as can_mount:
        if not can_mount:
            assert os.geteuid() != 0, "root can mount a small disk"
            return
        folder = folder_at(disk)
        folder.append({HOUR: numbered(items)}, 1, len(items), now=0.0)
        with pytest.raises(OSError, match="No space left") as error:
            folder.rotate(0.0, everything=True)
        assert error.value.errno == errno.ENOSPC
        assert sorted(path.suffix for path in (disk / HOUR).iterdir()) == [".open"]
        remount(disk, "size=4m")
        folder.rotate(0.0, everything=True)
        assert by_id(rows_of(disk)) == by_id([as_row(item) for item in items])


@FORMATS
async def test_read_only_disk_is_not_named(tmp_path: Path, form: str) -> None:
    disk = tmp_path / "disk"
    items = [event() for _ in range(6)]
    with small_disk(disk, "4m") as can_mount:
        if not can_mount:
            assert os.geteuid() != 0, "root can mount a small disk"
            return
        sink = sink_at(disk / "out", form)
        await sink.open()
        remount(disk, "ro")
        with pytest.raises(Unavailable, match="read-only"):
            await sink.deliver(batch_of(items))
        assert "read-only" in (await sink.check()).detail
        remount(disk, "rw")
        await sink.deliver(batch_of(items))
        await sink.close()
        assert by_id(read_complete(disk / "out", form)) == by_id([stored(item, form) for item in items])


@FORMATS
@pytest.mark.parametrize("what", ["all", "hour", "file"])
async def test_removed_folder_stops_the_sink_for_good(tmp_path: Path, form: str, what: str) -> None:
    """What was acknowledged before is gone with the folder; what comes later must not be."""
    folder = tmp_path / "out"
    items = [event() for _ in range(9)]
    sink = sink_at(folder, form)
    await sink.open()
    await sink.deliver(batch_of(items[:3]))
    (growing,) = folder.glob("date=*/hour=*/*.open")
    match what:
        case "all":
            shutil.rmtree(folder)
        case "hour":
            shutil.rmtree(growing.parent)
        case _:
            growing.unlink()
    for _ in range(3):
        with contextlib.suppress(Unavailable):
            await sink.deliver(batch_of(items[3:], 4))
            break
    else:
        pytest.fail("the sink never recovers")
    await sink.close()
    assert by_id(read_complete(folder, form)) == by_id([stored(item, form) for item in items[3:]])


async def test_wrong_user_is_not_told_what_to_do(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        path = Path("/proc/1/nothing-can-be-made-here")
    else:
        path = tmp_path / "closed" / "out"
        path.parent.mkdir(mode=0o500)
    with pytest.raises(Unavailable, match=str(path)):
        await sink_at(path, "jsonl").open()


async def test_spool_id_of_another_log_is_overwritten(tmp_path: Path) -> None:
    items = [event() for _ in range(4)]
    sink = sink_at(tmp_path, "parquet")
    await sink.open()
    for spool_id, part in ((SPOOL_ID, items[:2]), ("another", items[2:])):
        await sink.deliver(SinkBatch([json.dumps(i).encode() for i in part], first_seq=1, last_seq=2, spool_id=spool_id))
    await sink.close()
    assert by_id(rows_of(tmp_path)) == by_id([as_row(item) for item in items])


async def test_fault_that_nobody_thought_of_ends_all_rotation_by_age(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rotate, faults = JsonlFolder.rotate, ["nobody thought of it"]

    def trip(folder: JsonlFolder, now: float, *, everything: bool = False) -> None:
        if faults:
            raise RuntimeError(faults.pop())
        rotate(folder, now, everything=everything)

    monkeypatch.setattr(JsonlFolder, "rotate", trip)
    sink = FilesystemSink("files", FilesystemConfig(path=tmp_path, rotate_seconds=0.001))
    await sink.open()
    await sink.deliver(batch_of([event()]))
    await asyncio.to_thread(lambda: wait_until(lambda: complete_lines(tmp_path), seconds=60, what="the complete file"))
    await sink.close()
    assert [record.error for record in caplog.records] == ["RuntimeError: nobody thought of it"]  # type: ignore[attr-defined]


async def test_closing_that_takes_too_long_loses_what_the_next_sink_takes(tmp_path: Path) -> None:
    """A reload begins the changed backend when the old one's closing is given up; the old one's thread goes on."""
    read, may_end = threading.Event(), threading.Event()

    def complete_slowly(growing: Path, final: Path) -> None:
        content = growing.read_bytes()
        read.set()
        may_end.wait(60)
        final.write_bytes(content)

    items = [event() for _ in range(6)]
    old = FilesystemSink("files", FilesystemConfig(path=tmp_path, rotate_seconds=600))
    old._completion = Completion(".jsonl", lambda: contextlib.nullcontext(complete_slowly), at_once=False)
    await old.open()
    await old.deliver(batch_of(items[:3]))
    closing = asyncio.create_task(old.close())
    assert await asyncio.to_thread(read.wait, 60)
    closing.cancel()
    await asyncio.gather(closing, return_exceptions=True)
    new = FilesystemSink("files", FilesystemConfig(path=tmp_path))
    await new.open()
    delivering = asyncio.create_task(new.deliver(batch_of(items[3:], 4)))
    await asyncio.wait([delivering], timeout=1)
    may_end.set()
    assert (await delivering).delivered == 3
    await new.close()
    assert by_id(read_lines(complete_lines(tmp_path))) == by_id(items)
