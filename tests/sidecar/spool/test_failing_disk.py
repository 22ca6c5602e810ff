"""A disk that is full or fails: never an acknowledgement that isn't true, and the log goes on by itself afterwards."""

from __future__ import annotations

import asyncio
import errno
import random
import subprocess
import sys
from pathlib import Path

import pytest

from sidecar.spool.admission import SpoolConfig
from sidecar.spool.errors import SpoolUnavailable
from sidecar.spool.log import SpoolLog
from sidecar.spool.reader import SpoolReader
from tests.services.small_disk import small_disk
from tests.sidecar.spool.memory_disk import MemoryDisk

FOLDER = Path("/spool")


def open_on(disk: MemoryDisk, **settings: object) -> SpoolLog:
    defaults: dict[str, object] = {"dir": FOLDER, "tick_interval": 3600.0, "retry_pause": 0.0}
    return SpoolLog.open(SpoolConfig(**(defaults | settings)), filesystem=disk.mount())  # type: ignore[arg-type]


def bodies(log: SpoolLog) -> list[bytes]:
    return [record.payload for record in log.reader().read(0, max_events=10**6, max_bytes=10**9, closed_only=False)]


async def refused(log: SpoolLog, *payloads: bytes) -> str:
    """Hand the batches in as one group, which must be refused as a whole; returns the reason."""
    results = await asyncio.gather(*(log.append(payload, 5) for payload in payloads), return_exceptions=True)
    assert all(isinstance(result, SpoolUnavailable) for result in results), results
    reason = log.stats().failing
    assert reason is not None
    return reason


async def restarted(log: SpoolLog, disk: MemoryDisk, *, power_cut: bool) -> SpoolLog:
    if power_cut:
        chooser = random.Random(7)
        await log.close()
        disk.power_cut(lambda most: chooser.randint(0, most))
    else:
        await log.close()
    return open_on(disk)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
async def test_a_failed_write_leaves_records_behind(error: int) -> None:
    disk = MemoryDisk()
    log = open_on(disk)
    await log.append(b"first", 1)
    # The group is written but for its last byte, and the next one is shorter: what is left over would be whole records.
    disk.fail("write_at", short=3 * 240 + 239)
    disk.fail("write_at", error)
    reason = await refused(log, *((b"refused %d" % index).ljust(200, b".") for index in range(4)))
    assert "write failed" in reason
    assert bodies(log) == [b"first"]
    assert await log.append(b"second", 1) == 2
    assert log.stats().failing is None
    files_before = {name: len(inode.content) for name, inode in disk.names.items() if name.parent.name == "segments"}
    assert max(files_before.values()) < 240
    log = await restarted(log, disk, power_cut=False)
    assert bodies(log) == [b"first", b"second"]
    assert log.ledger.pieces == 0
    await log.close()


async def test_a_sync_that_failed_is_tried_again_and_believed() -> None:
    """The kernel drops the pages of a failed fdatasync and reports success the next time."""
    disk = MemoryDisk()
    log = open_on(disk)
    await log.append(b"first", 1)
    disk.fail("fdatasync", errno.EIO)
    assert "sync failed" in await refused(log, b"refused")
    assert await log.append(b"second", 1) == 2
    segments = [name.name for name in disk.names if name.parent.name == "segments"]
    assert len(segments) == 2, "what follows a failed sync goes into another file"
    chooser = random.Random(1)
    await log.close()
    disk.power_cut(lambda most: chooser.randint(0, most))
    log = open_on(disk)
    assert bodies(log) == [b"first", b"second"]
    await log.close()


@pytest.mark.parametrize("power_cut", [False, True])
async def test_a_segment_that_cant_be_cut_back_brings_refused_records_back(power_cut: bool) -> None:
    disk = MemoryDisk()
    log = open_on(disk)
    await log.append(b"first", 1)
    disk.fail("fdatasync", errno.EIO)
    disk.fail("truncate", errno.EIO)
    await refused(log, b"refused 1", b"refused 2")
    assert bodies(log) == [b"first"]
    assert await log.append(b"second", 2) == 2
    assert bodies(log) == [b"first", b"second"]
    second_process = SpoolReader(FOLDER, filesystem=disk.mounted)
    assert [record.payload for record in second_process.read(0)] == [b"first"]
    log = await restarted(log, disk, power_cut=power_cut)
    assert bodies(log) == [b"first", b"second"]
    await log.close()


async def test_a_first_group_that_fails_leaves_no_way_to_start_its_segment_again() -> None:
    disk = MemoryDisk()
    log = open_on(disk)
    for error in (errno.EIO, errno.ENOSPC):
        disk.fail("fdatasync", error)
        disk.fail("truncate", error)
        await refused(log, b"refused")
    assert await log.append(b"first", 1) == 1
    assert bodies(log) == [b"first"]
    await log.close()


async def test_a_segment_that_could_not_be_started_hides_what_goes_into_the_old_one() -> None:
    """Its name may stay behind, and a segment ends where the next name begins."""
    disk = MemoryDisk()
    log = open_on(disk, segment_bytes=300)
    disk.fail("write_at", errno.ENOSPC, skip=1)
    disk.fail("unlink", errno.EIO, times=2)
    await log.append(bytes(400), 1)
    disk.heal()
    for index in range(3):
        await log.append(b"%d" % index, 1)
    assert bodies(log) == [bytes(400), b"0", b"1", b"2"]
    log = await restarted(log, disk, power_cut=True)
    assert bodies(log) == [bytes(400), b"0", b"1", b"2"]
    assert log.ledger.pieces == 0
    await log.close()


@pytest.mark.parametrize("operation", ["create", "write_at", "sync_folder", "rename"])
async def test_a_rotation_that_fails_fails_the_batch_before_it(operation: str) -> None:
    disk = MemoryDisk()
    log = open_on(disk, segment_bytes=300)
    disk.fail(operation, errno.ENOSPC, skip=1 if operation == "write_at" else 0)
    assert await log.append(bytes(400), 1) == 1
    assert await log.append(bytes(400), 1) == 2
    await log.tick()
    assert bodies(log) == [bytes(400)] * 2
    assert [info.path.suffix for info in log.reader().closed_segments()] == [".seg"] * len(log.reader().closed_segments())
    await log.close()


async def test_a_full_disk_stops_the_start_and_so_the_draining() -> None:
    disk = MemoryDisk()
    log = open_on(disk, readers=("backend",))
    await log.append(b"first", 1)
    await log.close()
    for operation in ("create", "write_at"):
        disk.fail(operation, errno.ENOSPC, skip=operation == "create", times=1000)
    log = open_on(disk, readers=("backend",))
    assert bodies(log) == [b"first"]
    await refused(log, b"refused")
    disk.heal()
    assert await log.append(b"second", 1) == 2
    await log.close()


async def test_a_disk_that_works_again_needs_a_restart_or_an_unlucky_request() -> None:
    disk = MemoryDisk()
    log = open_on(disk, retry_pause=3600.0)
    disk.fail("fdatasync", errno.EIO, times=3)
    await refused(log, b"refused")
    writes = disk.calls["write_at"]
    with pytest.raises(SpoolUnavailable):
        await log.append(b"refused at once", 1)
    with pytest.raises(SpoolUnavailable):
        log.check()
    assert disk.calls["write_at"] == writes, "a failing disk is left alone for a while"
    await log.tick()
    assert log.stats().failing is not None, "the probe failed as well"
    disk.heal()
    await log.tick()
    assert log.stats().failing is None
    log.check()
    assert await log.append(b"first", 1) == 1
    await log.close()


async def test_a_deletion_that_fails_stops_the_log() -> None:
    disk = MemoryDisk()
    log = open_on(disk, segment_bytes=300, readers=("only",))
    for _ in range(4):
        await log.append(bytes(400), 1)
    disk.fail("unlink", errno.EIO)
    await log.checkpoint("only", 4)
    await log.tick()
    assert await log.append(bytes(400), 1) == 5
    await log.tick()
    assert log.stats().oldest_seq == 5
    await log.close()


async def test_a_checkpoint_that_cant_be_stored_counts() -> None:
    disk = MemoryDisk()
    log = open_on(disk, segment_bytes=300, readers=("only",))
    for _ in range(4):
        await log.append(bytes(400), 1)
    disk.fail("fdatasync", errno.ENOSPC)
    with pytest.raises(SpoolUnavailable, match="checkpoint of 'only'"):
        await log.checkpoint("only", 4)
    await log.tick()
    assert log.stats().oldest_seq == 1
    assert await log.checkpoint("only", 4) == 4
    await log.close()


async def test_a_bug_in_the_writers_thread_leaves_senders_waiting_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = MemoryDisk()
    log = open_on(disk)
    unraisable: list[object] = []
    monkeypatch.setattr("threading.excepthook", unraisable.append)
    monkeypatch.setattr(log._journal, "commit", lambda group: 1 / 0)
    async with asyncio.timeout(10):
        with pytest.raises(SpoolUnavailable, match="internal error"):
            await log.append(b"x", 1)
        with pytest.raises(SpoolUnavailable, match="internal error"):
            await log.append(b"x", 1)
        assert "internal error" in str(log.stats().failing)
        await log.close()
    assert len(unraisable) == 1


# ------------------------------------------------------------------------------------------------------------ a real full disk

FULL_DISK = """
import asyncio, os, resource, signal, sys
from pathlib import Path
from sidecar.spool.errors import SpoolUnavailable
from sidecar.spool.log import SpoolConfig, SpoolLog

mode, folder = sys.argv[1], Path(sys.argv[2])
ballast = folder / "ballast"
if mode == "tmpfs":
    ballast.write_bytes(bytes(300_000))
else:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))

async def main():
    log = SpoolLog.open(SpoolConfig(dir=folder / "spool", readers=("backend",), retry_pause=0.0))
    acknowledged = []
    try:
        for index in range(10_000):
            body = (b"%d " % index).ljust(7_000, b".")
            acknowledged.append((await log.append(body, 3), body))
    except SpoolUnavailable as error:
        assert log.stats().failing, error
    else:
        raise AssertionError("the disk never filled up")
    assert len(acknowledged) > 10
    reader = log.reader()
    assert [(r.seq, r.payload) for r in reader.read(0, 10**9, 10**9, closed_only=False)] == acknowledged
    # The backlog can be read and passed on a full disk; then there is room again.
    if mode == "tmpfs":
        ballast.unlink()
    else:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await log.tick()
    assert log.stats().failing is None
    acknowledged.append((await log.append(b"after", 1), b"after"))
    assert acknowledged[-1][0] == acknowledged[-2][0] + 3
    await log.close()
    log = SpoolLog.open(SpoolConfig(dir=folder / "spool"))
    assert [(r.seq, r.payload) for r in log.reader().read(0, 10**9, 10**9, closed_only=False)] == acknowledged
    assert log.ledger.pieces == 0
    await log.close()

asyncio.run(main())
print("survived")
"""


def run_on(mode: str, folder: Path) -> str:
    done = subprocess.run([sys.executable, "-c", FULL_DISK, mode, str(folder)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_full_disk_loses_acknowledged_events(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "1m") as mounted:
        assert run_on("tmpfs" if mounted else "limit", tmp_path / "disk") == "survived\n"


def test_a_limit_on_file_sizes_loses_acknowledged_events(tmp_path: Path) -> None:
    assert run_on("limit", tmp_path) == "survived\n"
