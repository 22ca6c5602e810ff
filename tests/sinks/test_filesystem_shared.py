"""Several at one log's files: processes that replay a dead one's events, and those that complete what it left growing."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from sinks import jsonl_files
from sinks.base import Unavailable
from sinks.filesystem import FilesystemConfig, FilesystemSink
from sinks.jsonl_files import RENAMED, Completion, JsonlFolder
from sinks.left_behind import GRACE_SECONDS, LeftBehind
from sinks.log_lock import turn
from sinks.parquet_completion import IN_THIS_PROCESS
from tests.services.base import wait_until
from tests.sidecar.harness import delivered_files, event, read_lines
from tests.sinks.suite import SPOOL_ID, batch_of, by_id

HOUR = "date=2026-07-01/hour=09"


def folder_at(root: Path, completion: Completion = RENAMED) -> JsonlFolder:
    return JsonlFolder(root, SPOOL_ID, rotate_bytes=10**9, rotate_seconds=60, completion=completion)


def put(folder: JsonlFolder, first: int, last: int) -> int:
    lines = [(seq, json.dumps({"n": seq}).encode()) for seq in range(first, last + 1)]
    return folder.append({HOUR: lines}, first, last, now=1000.0)


def stand(root: Path) -> list[int]:
    return sorted(line["n"] for line in read_lines(delivered_files(root)))


def test_two_that_write_one_log_lose_each_other_s_events(tmp_path: Path) -> None:
    one, two = folder_at(tmp_path), folder_at(tmp_path)
    put(one, 1, 10)
    put(two, 11, 20)
    put(one, 21, 30)
    assert stand(tmp_path) == list(range(1, 31))
    assert put(two, 21, 30) == 0, "one has it already"
    three = folder_at(tmp_path)  # as after a crash of both
    assert stand(tmp_path) == list(range(1, 31))
    three.rotate(1000.0, everything=True)
    one.rotate(1000.0, everything=True)
    put(two, 31, 40)
    two.rotate(1000.0, everything=True)
    assert stand(tmp_path) == list(range(1, 41))
    assert [file.suffix for file in delivered_files(tmp_path)] == [".jsonl", ".jsonl"]


def test_processes_that_write_one_log_at_once_lose_events(tmp_path: Path) -> None:
    program = textwrap.dedent(
        """
        import json, sys, time
        from pathlib import Path
        from sinks.jsonl_files import JsonlFolder
        root, own = Path(sys.argv[1]), int(sys.argv[2])
        for number in range(own, 400, 4):
            if number % 40 == own:  # as a process that begins now
                folder = JsonlFolder(root, "shared", rotate_bytes=700, rotate_seconds=60)
            seqs = range(number * 5 + 1, number * 5 + 6)
            lines = [(seq, json.dumps({"n": seq}).encode()) for seq in seqs]
            folder.append({f"date=2026-07-01/hour={seqs[0] % 3:02}": lines}, seqs[0], seqs[-1], time.time())
        folder.rotate(time.time(), everything=True)
        """
    )
    processes = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path), str(number)]) for number in range(4)]
    assert [process.wait(120) for process in processes] == [0, 0, 0, 0]
    assert stand(tmp_path) == list(range(1, 2001))


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
async def test_file_of_a_killed_process_grows_for_ever(form: str, tmp_path: Path) -> None:
    completion = RENAMED if form == "jsonl" else IN_THIS_PROCESS
    left = JsonlFolder(tmp_path, "killed", rotate_bytes=10**9, rotate_seconds=60, completion=completion)
    item = event(timestamp="2026-07-01T09:00:00Z")
    left.append({HOUR: [(1, json.dumps(item).encode())]}, 1, 1, now=1000.0)
    config = FilesystemConfig(path=tmp_path, format="parquet" if form == "parquet" else "jsonl", own_process=False)
    sink = FilesystemSink("files", config, clock=lambda: 1060.0 + GRACE_SECONDS)
    await sink.open()
    final = tmp_path / HOUR / f"killed-{1:020}-{1:020}.{form}"
    await asyncio.to_thread(lambda: wait_until(final.exists, seconds=60, what="the complete file"))
    await sink.close()
    assert list((tmp_path / HOUR).iterdir()) == [final]


def test_file_that_its_writer_may_still_complete_is_taken_away(tmp_path: Path) -> None:
    put(folder_at(tmp_path), 1, 2)
    left = LeftBehind(tmp_path)
    assert left.logs(1059.0 + GRACE_SECONDS) == []
    assert left.logs(1060.0 + GRACE_SECONDS) == [SPOOL_ID]
    folder_at(tmp_path).rotate(1060.0, everything=True)
    assert left.logs(1060.0 + GRACE_SECONDS) == []


def test_state_that_nobody_can_read_ends_the_search(tmp_path: Path) -> None:
    put(folder_at(tmp_path), 1, 2)
    (tmp_path / ".state" / "torn.json").write_text("{")
    assert LeftBehind(tmp_path).logs(2000.0) == [SPOOL_ID]
    assert LeftBehind(tmp_path / "nothing").logs(2000.0) == []


async def test_log_whose_writer_hangs_holds_up_those_behind_it(tmp_path: Path) -> None:
    for name in ("a-hangs", "b-left", "c-hangs"):
        log = JsonlFolder(tmp_path, name, rotate_bytes=10**9, rotate_seconds=60)
        log.append({HOUR: [(1, json.dumps(event()).encode())]}, 1, 1, now=1000.0)
    sink = FilesystemSink("files", FilesystemConfig(path=tmp_path), clock=lambda: 2000.0)
    state = tmp_path / ".state"
    with turn(state / "a-hangs.lock", seconds=0), turn(state / "c-hangs.lock", seconds=0):
        await sink.open()
        final = tmp_path / HOUR / f"b-left-{1:020}-{1:020}.jsonl"
        await asyncio.to_thread(lambda: wait_until(final.exists, seconds=60, what="the complete file"))
        assert (await sink.deliver(batch_of([event()]))).delivered == 1
        assert sum(file.name.endswith(".open") for file in delivered_files(tmp_path)) == 3
    await sink.close()


def test_second_waits_for_its_turn_or_goes_without(tmp_path: Path) -> None:
    path, order = tmp_path / "lock", []

    def second() -> None:
        with turn(path, seconds=30) as is_ours:
            order.append(("second", is_ours))

    thread = threading.Thread(target=second)
    with turn(path, seconds=0) as is_ours:
        thread.start()
        with turn(path, seconds=0) as another:
            order.append(("without waiting", another))
        order.append(("first", is_ours))
    thread.join(30)
    assert order == [("without waiting", False), ("first", True), ("second", True)]


def test_child_that_was_forked_in_between_keeps_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with turn(path, seconds=0):
        child = os.fork()
        if child == 0:
            signal.pause()
            os._exit(0)
    try:
        with turn(path, seconds=0) as is_ours:
            assert is_ours
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOTSUP])
async def test_file_system_without_locks_takes_no_events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    items = [event() for _ in range(3)]
    sink = FilesystemSink("files", FilesystemConfig(path=tmp_path))
    await sink.open()
    await sink.deliver(batch_of(items))
    await sink.close()
    assert by_id(read_lines(delivered_files(tmp_path))) == by_id(items)


def test_state_that_a_person_removed_is_not_written_anew(tmp_path: Path) -> None:
    folder = folder_at(tmp_path)
    put(folder, 1, 3)
    (tmp_path / ".state" / f"{SPOOL_ID}.json").unlink()
    put(folder, 4, 6)
    assert stand(tmp_path) == [1, 2, 3, 4, 5, 6]
    assert (tmp_path / ".state" / f"{SPOOL_ID}.json").exists()


def test_file_of_a_program_that_keeps_no_state_is_removed(tmp_path: Path) -> None:
    """Such as one of Java that was killed, whose events on disk another language's SDK delivers."""
    growing = tmp_path / HOUR / f"{SPOOL_ID}-{1:020}.jsonl.open"
    growing.parent.mkdir(parents=True)
    growing.write_text('{"n": 1}\n')
    put(folder_at(tmp_path), 2, 3)
    assert stand(tmp_path) == [1, 2, 3]


async def test_process_that_hangs_at_the_files_makes_another_wait_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jsonl_files, "TURN_SECONDS", 0.05)
    sink = FilesystemSink("files", FilesystemConfig(path=tmp_path))
    await sink.open()
    items = [event() for _ in range(2)]
    await sink.deliver(batch_of(items[:1]))
    lock = tmp_path / ".state" / f"{SPOOL_ID}.lock"
    with turn(lock, seconds=0), pytest.raises(Unavailable, match="another process does not let go of this log's files"):
        await sink.deliver(batch_of(items[1:], 2))
    assert (await sink.deliver(batch_of(items[1:], 2))).delivered == 1
    await sink.close()
    assert by_id(read_lines(delivered_files(tmp_path))) == by_id(items)
