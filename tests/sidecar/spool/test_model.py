"""The whole spool against a model of a few lines, on a disk that fails and loses power at any moment.

The promise: what was acknowledged is read exactly once, in order, byte for byte, until every declared reader has passed it;
nothing is read that was never handed in.
"""

from __future__ import annotations

import asyncio
import errno
import random
import threading
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from sidecar.spool.admission import SpoolConfig
from sidecar.spool.checkpoint import load_checkpoint
from sidecar.spool.errors import SpoolUnavailable
from sidecar.spool.format import Flags, Record
from sidecar.spool.log import SpoolLog
from sidecar.spool.reader import SpoolReader
from tests.sidecar.spool.memory_disk import MemoryDisk

FOLDER = Path("/spool")
READERS = ("first", "second")
FAULTY = st.sampled_from(["write_at", "fdatasync", "create", "open", "rename", "unlink", "truncate", "sync_folder", "read_at"])
ERRORS = st.sampled_from([errno.ENOSPC, errno.EIO])
BATCHES = st.lists(st.tuples(st.integers(1, 5), st.integers(0, 400)), min_size=1, max_size=5)


class SpoolModel(RuleBasedStateMachine):
    """Appends, reads, checkpoints, faults, power cuts and restarts in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.disk = MemoryDisk()
        self.loop = asyncio.new_event_loop()
        self.now = 0.0
        self.log: SpoolLog | None = None
        self.opened_well = True
        self.submitted: dict[bytes, int] = {}
        self.acknowledged: list[Record] = []
        self.read_before: dict[int, bytes] = {}
        """What a reader has seen, by number: it may have delivered it, so the number may never mean another event."""
        self.least = dict.fromkeys(READERS, 0)
        """Checkpoints that were acknowledged."""
        self.most = dict.fromkeys(READERS, 0)
        """Checkpoints that were asked for, which a crash may have let through or not."""

    @initialize()
    def start(self) -> None:
        self.log = self.open()

    def open(self) -> SpoolLog:
        config = SpoolConfig(
            dir=FOLDER, readers=READERS, segment_bytes=600, segment_age=10.0, max_bytes=10**9, tick_interval=1e6, retry_pause=0.0
        )
        self.opened_well = not self.disk.faults and self.disk.power_off_after is None
        return SpoolLog.open(config, filesystem=self.disk.mount(), monotonic=lambda: self.now)

    @property
    def synced(self) -> bool:
        """Whether the disk holds, or will hold at the next sync, all that it shows."""
        return not any(inode.dropped for inode in self.disk.names.values())

    def stop(self) -> None:
        if self.log is not None:
            self.loop.run_until_complete(self.log.close())
            self.log = None

    def wait_for_writer(self) -> None:
        """Let the writer's thread finish what a checkpoint set off, so that the same example always does the same."""
        assert self.log is not None
        idle = threading.Event()
        self.log._queue.put(lambda: idle.set() or True)
        assert idle.wait(10), "the writer's thread is dead"

    # ------------------------------------------------------------------------------------------------------------- the disk

    @rule(operation=FAULTY, error=ERRORS, skip=st.integers(0, 3), times=st.integers(1, 3))
    def break_a_call(self, operation: str, error: int, skip: int, times: int) -> None:
        self.disk.fail(operation, error, skip=skip, times=times)

    @rule(short=st.integers(0, 200), full=st.booleans())
    def cut_a_write_short(self, short: int, full: bool) -> None:
        self.disk.fail("write_at", short=short)
        if full:
            self.disk.fail("write_at", errno.ENOSPC)

    @rule()
    def mend_the_disk(self) -> None:
        self.disk.heal()

    @rule(after=st.integers(0, 12))
    def let_the_power_go_soon(self, after: int) -> None:
        self.disk.power_off_after = after

    @rule(seed=st.integers(0, 2**32))
    def lose_power(self, seed: int) -> None:
        self.disk.power_off_after = 0
        self.disk.fault("power")
        self.stop()
        chooser = random.Random(seed)
        self.disk.power_cut(lambda most: chooser.randint(0, most))
        self.log = self.open()

    @rule(mended=st.booleans(), seed=st.integers(0, 2**32))
    def restart(self, mended: bool, seed: int) -> None:
        """Stop and start as a service manager does, on a disk that may be broken still."""
        self.stop()
        if mended:
            self.disk.heal()
        assert self.disk.mounted is not None
        if not self.disk.mounted.alive:
            self.lose_power(seed)
            return
        try:
            self.log = self.open()
        except SpoolUnavailable:
            self.lose_power(seed)

    # -------------------------------------------------------------------------------------------------------------- the spool

    @rule(batches=BATCHES)
    def append(self, batches: list[tuple[int, int]]) -> None:
        log = self.log
        assert log is not None
        bodies = []
        for count, size in batches:
            body = b"%d:" % len(self.submitted) + b"x" * size
            self.submitted[body] = count
            bodies.append((body, count))

        async def together() -> list[int | BaseException]:
            return await asyncio.gather(*(log.append(body, count) for body, count in bodies), return_exceptions=True)

        for (body, count), seq in zip(bodies, self.loop.run_until_complete(together()), strict=True):
            if isinstance(seq, int):
                self.acknowledged.append(Record(seq, count, Flags(), body, 0))
            else:
                assert isinstance(seq, SpoolUnavailable), seq

    @rule(reader=st.sampled_from(READERS), events=st.integers(1, 30))
    def deliver(self, reader: str, events: int) -> None:
        """Read on from the checkpoint and move it, as the router does."""
        assert self.log is not None
        after = self.log.stats().checkpoints[reader]
        try:
            records = list(self.log.reader().read(after, max_events=events, closed_only=False))
        except OSError:
            return
        if records:
            self.most[reader] = max(self.most[reader], records[-1].last_seq)
            try:
                self.loop.run_until_complete(self.log.checkpoint(reader, records[-1].last_seq))
            except SpoolUnavailable:
                return
            finally:
                self.wait_for_writer()
            self.least[reader] = max(self.least[reader], records[-1].last_seq)

    @rule(seconds=st.sampled_from([0.0, 11.0]))
    def tick(self, seconds: float) -> None:
        assert self.log is not None
        self.now += seconds
        self.loop.run_until_complete(self.log.tick())

    # ------------------------------------------------------------------------------------------------------------ the promise

    @property
    def healthy(self) -> bool:
        return (
            not self.disk.faults
            and self.disk.power_off_after is None
            and self.disk.mounted is not None
            and self.disk.mounted.alive
        )

    @invariant()
    @precondition(lambda self: self.log is not None and self.healthy)
    def everything_acknowledged_is_readable_once_in_order(self) -> None:
        assert self.log is not None
        assert self.disk.mounted is not None
        deleted_through = min(self.most.values())
        readers = {
            "live": (self.log.reader(), False),
            "second process": (SpoolReader(FOLDER, filesystem=self.disk.mounted), True),
        }
        for who, (reader, closed_only) in readers.items():
            records = list(reader.read(0, max_events=10**9, max_bytes=10**9, closed_only=closed_only))
            seen = [(record.seq, record.count, record.payload) for record in records]
            assert all(self.submitted.get(record.payload) == record.count for record in records), f"{who}: read what nobody wrote"
            assert len({payload for _, _, payload in seen}) == len(seen), f"{who}: read twice"
            for record in records:
                assert self.read_before.get(record.seq, record.payload) == record.payload, f"{who}: {record.seq} is another now"
                if self.opened_well and self.synced:
                    self.read_before[record.seq] = record.payload
            ends = [0, *(record.last_seq for record in records)]
            assert all(end < record.seq for end, record in zip(ends, records, strict=False)), f"{who}: out of order"
            last = records[-1].last_seq if records else 0
            if not closed_only:
                unseen = self.read_before.keys() - {record.seq for record in records}
                assert not [seq for seq in unseen if seq > deleted_through], f"{who}: read once and gone now"
            for record in self.acknowledged:
                if record.last_seq > deleted_through and (not closed_only or record.last_seq <= last):
                    assert (record.seq, record.count, record.payload) in seen, f"{who}: lost {record.seq}"

    @invariant()
    @precondition(lambda self: self.log is not None and self.healthy)
    def checkpoints_survive(self) -> None:
        assert self.disk.mounted is not None
        for reader in READERS:
            assert self.least[reader] <= load_checkpoint(FOLDER, reader, filesystem=self.disk.mounted) <= self.most[reader]

    @invariant()
    @precondition(lambda self: self.log is not None and self.healthy)
    def a_mended_disk_takes_events_again(self) -> None:
        assert self.log is not None
        self.loop.run_until_complete(self.log.tick())
        assert self.log.stats().failing is None

    def teardown(self) -> None:
        self.stop()
        self.loop.close()


QUICK = settings(max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
FULL = settings(QUICK, max_examples=3000, stateful_step_count=80)


@pytest.mark.timeout(900)
def test_a_fault_or_power_cut_loses_or_invents_an_acknowledged_record() -> None:
    run_state_machine_as_test(SpoolModel, settings=QUICK)


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_a_rare_sequence_of_faults_loses_or_invents_an_acknowledged_record() -> None:
    run_state_machine_as_test(SpoolModel, settings=FULL)
