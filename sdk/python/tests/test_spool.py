"""The spool folder: who may take which file, and what a crash at each step leaves."""

from __future__ import annotations

import fcntl
import json
import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from monitoring_sdk._batch import Batch
from monitoring_sdk._ids import uuid7
from monitoring_sdk._spool import Spool

LINES = [b'{"name":"a"}', b'{"name":"b"}']


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "deep" / "spool"


def new_spool(folder):
    return Spool(folder, uuid7())


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def dead_process():
    """The id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_file_is_complete_named_and_locked_as_documented(folder):
    emitter = uuid7()
    spool = Spool(folder, emitter)
    spool.write(Batch(LINES, 42))
    base = f"{emitter}.{os.getpid()}"
    assert names(folder) == [f"{base}.00000000000000000042.jsonl", f"{base}.lock"]
    assert (folder / f"{base}.00000000000000000042.jsonl").read_bytes() == b"\n".join(LINES) + b"\n"
    with (folder / f"{base}.lock").open() as handle, pytest.raises(BlockingIOError):
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    spool.close()
    assert names(folder) == [f"{base}.00000000000000000042.jsonl"]


def test_nothing_is_made_before_it_is_needed(folder):
    spool = new_spool(folder)
    assert spool.orphans() == []
    assert spool.own() == []
    spool.close()
    assert not folder.exists()


def test_file_is_synced_before_it_gets_its_name(folder, monkeypatch):
    steps = []
    real_fsync, real_rename = os.fsync, Path.rename

    def fsync(fd):
        steps.append("sync folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "sync file")
        real_fsync(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "rename", lambda *names: (steps.append("rename"), real_rename(*names)))
    new_spool(folder).write(Batch(LINES, 1))
    assert steps == ["sync file", "rename", "sync folder"]


def test_failed_write_leaves_nothing_behind(folder, monkeypatch):
    spool = new_spool(folder)
    spool.write(Batch(LINES, 1))
    before = names(folder)

    def fail(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        spool.write(Batch(LINES, 2))
    assert names(folder) == before
    assert len(spool.own()) == 1


def test_folder_that_was_swept_away_is_made_anew(folder):
    spool = new_spool(folder)
    spool.write(Batch(LINES, 1))
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    spool.write(Batch(LINES, 2))
    assert [name.endswith(".lock") for name in names(folder)] == [False, True]
    with (folder / names(folder)[1]).open() as handle, pytest.raises(BlockingIOError):
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_planted_link_is_not_followed(folder, tmp_path):
    spool = new_spool(folder)
    spool.write(Batch(LINES, 1))
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (target,) = spool.own()
    planted = target.with_name(target.name.replace("00000000000000000001", "00000000000000000002"))
    planted.with_name(planted.name + ".tmp").symlink_to(victim)
    spool.write(Batch(LINES, 2))
    assert victim.read_text() == "precious"
    assert not planted.is_symlink()


def test_own_files_are_claimed_replayed_and_deleted(folder):
    spool = new_spool(folder)
    spool.write(Batch(LINES, 1))
    (path,) = spool.own()
    claim = spool.claim(path)
    assert claim.path.name == f"{path.name}.claimed-{os.getpid()}"
    assert not path.exists()
    assert [batch.lines for batch in claim.batches] == [LINES]
    claim.done()
    assert names(folder) == [name for name in names(folder) if name.endswith(".lock")]
    assert spool.own() == []


def test_claim_that_is_given_back_waits_again(folder):
    spool = new_spool(folder)
    spool.write(Batch(LINES, 1))
    (path,) = spool.own()
    spool.returned(spool.claim(path))
    assert spool.own() == [path]
    assert path.exists()
    spool.claim(path).refuse()
    assert path.with_name(path.name + ".refused").exists()
    assert new_spool(folder).orphans() == []


def test_only_one_of_many_wins_a_file(folder):
    writer = new_spool(folder)
    writer.write(Batch(LINES, 1))
    (path,) = writer.own()
    writer.close()
    spools = [new_spool(folder) for _ in range(8)]
    start = threading.Barrier(8)
    claims = []

    def work(spool):
        start.wait()
        claims.append(spool.claim(path))

    threads = [threading.Thread(target=work, args=(spool,)) for spool in spools]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([claim for claim in claims if claim is not None]) == 1


def test_files_of_the_living_are_left_alone_and_those_of_the_dead_are_not(folder):
    alive, dead, reader = new_spool(folder), new_spool(folder), new_spool(folder)
    alive.write(Batch(LINES, 1))
    dead.write(Batch(LINES, 1))
    (left,) = dead.own()
    os.close(dead._lock_fd)  # as the kernel does when a process is killed: the lock file stays, the lock does not
    assert reader.orphans() == [left]
    alive.close()  # a clean end takes the lock file away
    assert set(reader.orphans()) == {left, *folder.glob("*.jsonl")}


def test_locks_of_the_dead_are_tidied_away_once_nothing_of_theirs_is_left(folder):
    dead, reader = new_spool(folder), new_spool(folder)
    dead.write(Batch(LINES, 1))
    os.close(dead._lock_fd)
    (path,) = reader.orphans()
    assert any(name.endswith(".lock") for name in names(folder))
    reader.claim(path).done()
    assert reader.orphans() == []
    assert names(folder) == []


def claimed_file(folder, pid, age=0.0):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{uuid7()}.1.{1:020d}.jsonl.claimed-{pid}"
    path.write_bytes(b"\n".join(LINES) + b"\n")
    return path


def test_claim_of_a_dead_process_is_taken_over(folder):
    path = claimed_file(folder, dead_process())
    spool = new_spool(folder)
    assert spool.orphans() == [path]
    claim = spool.claim(path)
    assert claim.path.name.endswith(f".claimed-{os.getpid()}")
    assert claim.batches[0].lines == LINES


def test_claim_of_a_living_process_is_respected(folder):
    path = claimed_file(folder, os.getppid())
    assert new_spool(folder).orphans() == []
    assert path.exists()


def test_claim_of_our_process_id_from_before_is_taken_over(folder):
    """A container that starts again has the same process ids."""
    path = claimed_file(folder, os.getpid())
    claim = new_spool(folder).claim(path)
    assert claim is not None
    claim.done()
    assert names(folder) == []


def test_claim_that_is_held_is_respected_whatever_its_process_id_says(folder):
    path = claimed_file(folder, dead_process())
    first, second = new_spool(folder), new_spool(folder)
    claim = first.claim(path)
    assert second.claim(claim.path) is None
    claim.give_back()
    assert second.claim(folder / path.name.partition(".claimed-")[0]) is not None


def test_old_claim_is_taken_over_though_its_process_id_is_in_use(folder, monkeypatch):
    path = claimed_file(folder, os.getppid())
    later = time.time() + 7200
    monkeypatch.setattr(time, "time", lambda: later)
    assert new_spool(folder).orphans() == [path]


def test_torn_file_of_the_dead_gives_its_whole_lines(folder):
    folder.mkdir(parents=True)
    torn = folder / f"{uuid7()}.1.{1:020d}.jsonl.tmp"
    torn.write_bytes(LINES[0] + b"\n" + LINES[1] + b"\n" + b'{"name":"to')
    spool = new_spool(folder)
    (path,) = spool.orphans()
    claim = spool.claim(path)
    assert claim.batches[0].lines == LINES
    claim.done()
    assert names(folder) == []


def test_file_being_written_by_the_living_is_left_alone(folder):
    writer = new_spool(folder)
    writer.write(Batch(LINES, 1))
    (path,) = writer.own()
    path.rename(path.with_name(path.name + ".tmp"))
    assert new_spool(folder).orphans() == []


def test_what_is_no_spool_file_is_never_touched(folder):
    folder.mkdir(parents=True)
    others = ["notes.txt", "x.jsonl", "x.lock", f"{uuid7()}.jsonl", f"{uuid7()}.1.{1:020d}.jsonl.refused"]
    for name in others:
        (folder / name).write_text("mine")
    (folder / f"{uuid7()}.1.{1:020d}.jsonl").mkdir()
    spool = new_spool(folder)
    assert spool.orphans() == []
    assert set(others) < set(names(folder))


def test_file_beyond_the_limits_of_a_request_is_sent_in_parts(folder):
    folder.mkdir(parents=True)
    path = folder / f"{uuid7()}.1.{1:020d}.jsonl"
    line = json.dumps({"text": "x" * 1000}).encode()
    path.write_bytes((line + b"\n") * 6000)
    claim = new_spool(folder).claim(path)
    assert sum(map(len, claim.batches)) == 6000
    assert max(len(batch.body()) for batch in claim.batches) < 1024 * 1024
