"""The writing half: durable when it returns, shared syncs, bounds, closing, deleting, notifying."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from contract.framing import BodyFormat
from sidecar.spool.admission import SpoolConfig
from sidecar.spool.checkpoint import load_checkpoint, store_checkpoint
from sidecar.spool.errors import SpoolBusy, SpoolLocked, SpoolShed, SpoolUnavailable
from sidecar.spool.filesystem import Filesystem
from sidecar.spool.format import MAX_RECORD_BYTES, Encoding, Flags, ShedClass
from sidecar.spool.log import SpoolLog
from sidecar.spool.reader import SpoolReader
from tests.sidecar.spool.conftest import OpenLog, fill

DEADLINE = 10.0


class SlowDisk(Filesystem):
    """Counts syncs of segments and holds them up while `gate` is closed."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.syncs = 0
        self.syncing = threading.Event()

    def fdatasync(self, fd: int) -> None:
        self.syncs += 1
        self.syncing.set()
        assert self.gate.wait(DEADLINE)
        super().fdatasync(fd)


def bodies(log: SpoolLog, after: int = 0) -> list[bytes]:
    return [record.payload for record in log.reader().read(after, max_events=10**6, max_bytes=10**9, closed_only=False)]


async def until_waiting(log: SpoolLog, size: int) -> None:
    async with asyncio.timeout(DEADLINE):
        while log.stats().pending_bytes < size:  # noqa: ASYNC110 - the log offers no event for it, and needs none
            await asyncio.sleep(0)


async def test_what_was_appended_comes_back_changed(open_log: OpenLog) -> None:
    log = open_log()
    first = await log.append(b'[{"a": 1}, {"b": 2}]', 2, Flags.of(None, BodyFormat.ARRAY))
    second = await log.append(b"gz", 3, Flags.of("gzip", BodyFormat.NDJSON, ShedClass.VITAL))
    assert (first, second) == (1, 3)
    one, two = log.reader().read(0, closed_only=False)
    assert one.ndjson() == b'{"a": 1}\n{"b": 2}\n'
    assert (two.seq, two.last_seq, two.payload) == (3, 5, b"gz")
    assert two.flags == Flags(Encoding.GZIP, BodyFormat.NDJSON, ShedClass.VITAL)
    assert two.received_at >= one.received_at > 1_700_000_000_000_000


async def test_batches_that_wait_pay_a_sync_each(open_log: OpenLog) -> None:
    disk = SlowDisk()
    log = open_log(filesystem=disk)
    disk.gate.clear()
    before = disk.syncs
    disk.syncing.clear()
    first = asyncio.create_task(log.append(b"first", 1))
    await asyncio.to_thread(disk.syncing.wait, DEADLINE)
    rest = [asyncio.create_task(log.append(b"%d" % index, 1)) for index in range(100)]
    await until_waiting(log, 100)
    disk.gate.set()
    assert await first == 1
    assert await asyncio.gather(*rest) == list(range(2, 102))
    assert disk.syncs - before == 2


async def test_a_batch_is_acknowledged_before_its_sync(open_log: OpenLog) -> None:
    disk = SlowDisk()
    log = open_log(filesystem=disk)
    disk.gate.clear()
    disk.syncing.clear()
    append = asyncio.create_task(log.append(b"x", 1))
    await asyncio.to_thread(disk.syncing.wait, DEADLINE)
    await asyncio.sleep(0)
    assert not append.done()
    assert bodies(log) == []
    assert log.durable_seq == 0
    disk.gate.set()
    await append
    assert bodies(log) == [b"x"]


async def test_a_lone_batch_waits_for_company(open_log: OpenLog) -> None:
    log = open_log()
    async with asyncio.timeout(DEADLINE):
        assert await log.append(b"alone", 1) == 1


async def test_a_sender_that_hangs_up_breaks_the_group(open_log: OpenLog) -> None:
    disk = SlowDisk()
    log = open_log(filesystem=disk)
    disk.gate.clear()
    tasks = [asyncio.create_task(log.append(b"%d" % index, 1)) for index in range(3)]
    await until_waiting(log, 3)
    tasks[1].cancel()
    disk.gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert results[0] == 1
    assert isinstance(results[1], asyncio.CancelledError)
    assert results[2] == 3
    assert bodies(log) == [b"0", b"1", b"2"]
    assert log.stats().pending_bytes == 0


@pytest.mark.parametrize(("payload", "count"), [(b"x", 0), (bytes(MAX_RECORD_BYTES + 1), 1)], ids=["no events", "too long"])
async def test_a_record_that_no_reader_could_take_is_written(open_log: OpenLog, payload: bytes, count: int) -> None:
    log = open_log()
    with pytest.raises(ValueError, match="a record has"):
        await log.append(payload, count)


async def test_the_largest_record_is_refused(open_log: OpenLog) -> None:
    log = open_log(segment_bytes=1000)
    payload = bytes(MAX_RECORD_BYTES)
    await log.append(payload, 5_000)
    await log.append(b"next", 1)
    assert bodies(log) == [payload, b"next"]
    assert [record.payload for record in log.reader().read(0, max_events=1, max_bytes=1, closed_only=False)] == [payload]


# ----------------------------------------------------------------------------------------------- segments and their readers


async def test_a_segment_outgrows_its_size(open_log: OpenLog) -> None:
    log = open_log(segment_bytes=1000)
    await asyncio.gather(*(log.append(bytes(100), 1) for _ in range(100)))
    sizes = [info.bytes for info in log.reader().closed_segments()]
    assert len(sizes) > 10
    assert max(sizes) < 1000 + 100 + 40
    assert log.stats().durable_seq == 100


async def test_an_idle_segment_stays_open_for_ever(open_log: OpenLog) -> None:
    now = 0.0
    log = open_log(monotonic=lambda: now, segment_age=30.0)
    await log.tick()
    await log.append(b"x", 1)
    await log.tick()
    assert log.reader().closed_segments() == []
    now = 31.0
    await log.tick()
    (closed,) = log.reader().closed_segments()
    assert (closed.first_seq, closed.last_seq, closed.events) == (1, 1, 1)
    now = 100.0
    await log.tick()
    assert len(log.reader().segments()) == 2, "an empty segment is not closed"


async def test_age_is_forgotten_under_traffic(open_log: OpenLog) -> None:
    log = open_log(segment_age=0.0, tick_interval=0.01)
    async with asyncio.timeout(DEADLINE):
        while len(log.reader().closed_segments()) < 3:
            await log.append(b"x", 1)


async def test_stopping_hides_the_last_events_from_readers_of_closed_segments(open_log: OpenLog, tmp_path: Path) -> None:
    log = open_log()
    await fill(log, 3)
    await log.close()
    reader = SpoolReader(tmp_path / "spool")
    assert len(list(reader.read(0))) == 3
    with pytest.raises(SpoolUnavailable, match="stopping"):
        await log.append(b"x", 1)


async def test_a_segment_is_deleted_before_the_slowest_reader_has_passed(open_log: OpenLog) -> None:
    log = open_log(readers=("fast", "slow", "lake"), segment_bytes=500)
    written = await fill(log, 12, size=100, events=2)
    await log.checkpoint("fast", 24)
    await log.checkpoint("lake", 24)
    await log.checkpoint("slow", written[4][0])
    await log.tick()
    left = log.reader().segments()
    assert left[0].first_seq <= written[4][0] + 1 <= left[0].last_seq
    assert bodies(log, after=written[4][0])[0] == written[4][1], "a record of which half is delivered comes whole"
    await log.checkpoint("slow", 24)
    await log.tick()
    assert [info.closed for info in log.reader().segments()] == [False]


async def test_without_readers_everything_is_deleted(open_log: OpenLog) -> None:
    log = open_log(segment_bytes=500)
    await fill(log, 12)
    await log.tick()
    assert log.stats().oldest_seq == 1


async def test_a_checkpoint_of_another_process_goes_unseen(open_log: OpenLog, tmp_path: Path) -> None:
    log = open_log(readers=("lake",), segment_bytes=500)
    await fill(log, 12, events=1)
    store_checkpoint(tmp_path / "spool", "lake", 12)
    await log.tick()
    assert log.stats().checkpoints == {"lake": 12}
    assert log.stats().lag == {"lake": 0}
    assert log.stats().segments == 1


async def test_a_new_reader_is_told_that_events_are_missing(open_log: OpenLog) -> None:
    log = open_log(readers=("old",), segment_bytes=500)
    await fill(log, 12, events=1)
    await log.checkpoint("old", 12)
    log.set_readers(["old", "new"])
    await log.tick()
    written = await fill(log, 6, events=1)
    assert bodies(log)[-6:] == [body for _, body in written]
    assert log.stats().damaged_events == 0
    await log.checkpoint("old", 18)
    await log.tick()
    assert log.stats().oldest_seq <= 13, "kept for the new reader"
    log.set_readers(["old"])
    await log.tick()
    assert log.stats().segments == 1


async def test_reading_on_starts_from_the_segments_beginning(open_log: OpenLog) -> None:
    """Or: a reader that follows the tail costs time that grows with the square of the segment."""

    class Counting(Filesystem):
        read_bytes = 0

        def read_at(self, fd: int, length: int, offset: int) -> bytes:
            data = super().read_at(fd, length, offset)
            self.read_bytes += len(data)
            return data

    disk = Counting()
    log = open_log(filesystem=disk)
    reader = log.reader()
    after = 0
    for index in range(300):
        await log.append(bytes(1000), 1)
        (record,) = reader.read(after, closed_only=False)
        after = record.last_seq
        assert after == index + 1
    assert disk.read_bytes < 300 * 3000


async def test_a_reader_holds_the_backlog_in_memory(open_log: OpenLog) -> None:
    log = open_log()
    await fill(log, 10, size=1000, events=10)
    reader = log.reader()
    assert [len(list(reader.read(0, max_events=limit, closed_only=False))) for limit in (1, 25, 1000)] == [1, 2, 10]
    assert [len(list(reader.read(0, max_bytes=limit, closed_only=False))) for limit in (1, 2500, 10**6)] == [1, 2, 10]


async def test_new_events_wake_nobody(open_log: OpenLog) -> None:
    log = open_log()
    waiter = asyncio.create_task(log.wait_beyond(1))
    await log.append(b"x", 1)
    assert not waiter.done()
    await log.append(b"y", 4)
    async with asyncio.timeout(DEADLINE):
        assert await waiter == 5
    assert await log.wait_beyond(0) == 5


async def test_stopping_leaves_waiting_readers_behind(open_log: OpenLog) -> None:
    log = open_log()
    waiter = asyncio.create_task(log.wait_beyond(0))
    await asyncio.sleep(0)
    await log.close()
    with pytest.raises(SpoolUnavailable):
        await asyncio.wait_for(waiter, DEADLINE)


async def test_another_process_sees_other_records(open_log: OpenLog, tmp_path: Path) -> None:
    log = open_log(readers=("lake",), segment_bytes=500)
    written = await fill(log, 12, events=1)
    program = """
import sys
from sidecar.spool.reader import SpoolReader, load_checkpoint, store_checkpoint
reader = SpoolReader(sys.argv[1])
after = load_checkpoint(reader.folder, "lake")
for record in reader.read(after):
    print(record.seq, record.payload.decode())
    after = record.last_seq
store_checkpoint(reader.folder, "lake", after)
"""
    command = [sys.executable, "-c", program, str(tmp_path / "spool")]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=True)
    last = log.reader().closed_segments()[-1].last_seq
    assert done.stdout == "".join(f"{seq} {body.decode()}\n" for seq, body in written if seq <= last)
    assert load_checkpoint(tmp_path / "spool", "lake") == last


async def test_a_reader_follows_while_segments_are_rotated_and_deleted_under_it(open_log: OpenLog, tmp_path: Path) -> None:
    log = open_log(readers=("lake",), segment_bytes=700)
    reader = SpoolReader(tmp_path / "spool")
    seen: list[int] = []

    async def write() -> None:
        for _ in range(300):
            await log.append(bytes(100), 1)
            await log.tick()
        await log.close()

    def follow() -> None:
        while not writer.done() or reader.closed_segments()[-1].last_seq > (seen[-1] if seen else 0):
            for record in reader.read(seen[-1] if seen else 0, max_events=7):
                seen.append(record.seq)  # noqa: PERF401 - what was seen so far is what is read on from
            if seen:
                store_checkpoint(reader.folder, "lake", seen[-1])

    writer = asyncio.create_task(write())
    async with asyncio.timeout(60):
        await asyncio.to_thread(follow)
        await writer
    assert seen == list(range(1, 301))
    assert reader.ledger.pieces == 0


# ------------------------------------------------------------------------------------------------------------------- bounds


async def fill_until_refused(log: SpoolLog, flags: Flags = Flags()) -> SpoolBusy:  # noqa: B008 - an immutable tuple
    for _ in range(10_000):
        try:
            await log.append(bytes(1000), 1, flags)
        except SpoolBusy as error:
            return error
    raise AssertionError("never refused")


async def test_the_high_water_mark_flutters(open_log: OpenLog) -> None:
    log = open_log(readers=("slow",), max_bytes=100_000, segment_bytes=3000, high_water=0.5, retry_after=7.0)
    refusal = await fill_until_refused(log)
    assert refusal.retry_after == 7.0
    full = log.stats()
    assert full.busy
    assert full.bytes >= 50_000
    # One segment less is still above the low-water mark: refused as before.
    first, second = log.reader().closed_segments()[:2]
    assert full.bytes - first.bytes > 45_000
    await log.checkpoint("slow", first.last_seq)
    await log.tick()
    assert log.stats().bytes < 50_000
    with pytest.raises(SpoolBusy):
        await log.append(b"x", 1)
    await log.checkpoint("slow", second.last_seq)
    await log.tick()
    assert log.stats().bytes < 45_000
    await log.append(b"x", 1)
    assert not log.stats().busy


async def test_a_spool_that_is_read_empty_stays_busy(open_log: OpenLog) -> None:
    """The open segment alone may hold more than the low-water mark."""
    log = open_log(readers=("slow",), max_bytes=3000, high_water=0.3)
    await log.append(bytes(950), 1)
    await fill_until_refused(log)
    await log.checkpoint("slow", log.durable_seq)
    await log.tick()
    await log.append(b"x", 1)


async def test_the_hard_bound_is_passed(open_log: OpenLog) -> None:
    log = open_log(max_bytes=20_000, high_water=1.0)
    with pytest.raises(SpoolUnavailable, match="it is full"):
        await fill_until_refused(log)
    assert log.stats().bytes <= 20_000 + 40 * 20


async def test_checking_lets_through_what_append_refuses(open_log: OpenLog) -> None:
    log = open_log(readers=("slow",), max_bytes=20_000)
    log.check(1000)
    await fill_until_refused(log)
    with pytest.raises(SpoolBusy):
        log.check()


async def test_debug_is_shed_after_the_rest(open_log: OpenLog) -> None:
    log = open_log(readers=("slow",), max_bytes=100_000, high_water=0.5, shed="debug")
    debug, vital = Flags(shed=ShedClass.DEBUG), Flags(shed=ShedClass.VITAL)
    assert isinstance(await fill_until_refused(log, debug), SpoolShed)
    await log.append(bytes(1000), 1)
    refusal = await fill_until_refused(log)
    assert not isinstance(refusal, SpoolShed)
    await log.append(b"a finish", 1, vital)
    with pytest.raises(SpoolUnavailable):
        await fill_until_refused(log, vital)
    assert log.stats().shed_events == 1


async def test_debug_is_shed_unasked(open_log: OpenLog) -> None:
    log = open_log(readers=("slow",), max_bytes=100_000, high_water=0.5)
    refusal = await fill_until_refused(log, Flags(shed=ShedClass.DEBUG))
    assert not isinstance(refusal, SpoolShed)
    with pytest.raises(SpoolBusy):
        await log.append(b"a finish", 1, Flags(shed=ShedClass.VITAL))


async def test_a_slow_disk_fills_the_memory(open_log: OpenLog) -> None:
    disk = SlowDisk()
    log = open_log(filesystem=disk, max_pending_bytes=10_000)
    disk.gate.clear()
    tasks = [asyncio.create_task(log.append(bytes(1000), 1)) for _ in range(9)]
    await until_waiting(log, 9000)
    with pytest.raises(SpoolBusy, match="slower than what comes in"):
        await log.append(bytes(1000), 1)
    disk.gate.set()
    await asyncio.gather(*tasks)
    await log.append(bytes(1000), 1)


# --------------------------------------------------------------------------------------------------------------- the folder


async def test_two_processes_write_one_spool(open_log: OpenLog, tmp_path: Path) -> None:
    log = open_log()
    program = (
        "import sys; from sidecar.spool.log import *; from pathlib import Path; SpoolLog.open(SpoolConfig(dir=Path(sys.argv[1])))"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "spool")]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True)
    assert done.returncode == 1
    assert f"is held by process {os.getpid()}: one spool folder serves one sidecar" in done.stderr
    await log.append(b"x", 1)


async def test_the_lock_outlives_its_owner(open_log: OpenLog) -> None:
    await open_log().close()
    log = open_log()
    with pytest.raises(SpoolLocked):
        SpoolLog.open(SpoolConfig(dir=log.config.dir))
    await log.append(b"x", 1)


async def test_a_restart_changes_the_id_or_the_numbering(open_log: OpenLog, tmp_path: Path) -> None:
    log = open_log()
    await fill(log, 3, events=3)
    await log.close()
    again = open_log()
    assert again.spool_id == log.spool_id == SpoolReader(tmp_path / "spool").spool_id
    assert await again.append(b"next", 1) == 10


async def test_events_deleted_everywhere_get_their_numbers_again(open_log: OpenLog) -> None:
    log = open_log(readers=("only",))
    await fill(log, 3, events=3)
    await log.checkpoint("only", 9)
    await log.close()
    again = open_log(readers=("only",))
    await again.tick()
    assert again.stats().bytes == 64
    await again.close()
    assert await open_log(readers=("only",)).append(b"next", 1) == 10


async def test_a_folder_that_cant_be_made_gives_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SpoolUnavailable, match="check that the folder exists, is writable and has room"):
        SpoolLog.open(SpoolConfig(dir=tmp_path / "file" / "spool"))
