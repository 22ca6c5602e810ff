"""The writing half for asyncio: `append` returns once the batch is durable, and those who wait share one write and one sync.

All disk work happens in one thread. While it syncs one group, the next gathers; when it is idle, a lone batch goes to disk at
once, so nobody ever waits for company. Batches that are handed in during one turn of the event loop go together.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sidecar.spool.admission import Admission, SpoolConfig
from sidecar.spool.checkpoint import CHECKPOINTS, inspect_checkpoint, list_checkpoints, load_checkpoint, store_checkpoint
from sidecar.spool.damage import DamageLedger
from sidecar.spool.errors import SpoolBusy, SpoolUnavailable
from sidecar.spool.filesystem import DISK, Filesystem
from sidecar.spool.format import MAX_RECORD_BYTES, RECORD_HEADER_BYTES, Flags, ShedClass
from sidecar.spool.identity import identify
from sidecar.spool.journal import Entry, Journal
from sidecar.spool.lock import take_lock
from sidecar.spool.reader import SpoolReader
from sidecar.spool.recovery import GROUP_BYTES, recover
from sidecar.spool.segments import SEGMENTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["Flags", "SpoolConfig", "SpoolLog", "SpoolStats"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SpoolStats:
    """A spool at one moment, for health pages and metrics."""

    spool_id: str
    bytes: int
    max_bytes: int
    pending_bytes: int
    segments: int
    oldest_seq: int
    durable_seq: int
    checkpoints: dict[str, int]
    """Declared readers and the last event that each has delivered."""
    busy: bool
    failing: str | None
    """Why nothing can be made durable now."""
    appended_records: int
    appended_events: int
    syncs: int
    refused_batches: int
    shed_events: int
    damaged_pieces: int
    damaged_events: int

    @property
    def lag(self) -> dict[str, int]:
        """Events that each declared reader has yet to deliver."""
        return {reader: max(self.durable_seq - seq, 0) for reader, seq in self.checkpoints.items()}


@dataclass(slots=True)
class _Pending(Entry):
    """A batch and who waits for it."""

    future: asyncio.Future[int]


class SpoolLog:
    """The one writer of a spool folder. `append`, `wait_beyond` and `checkpoint` belong to one event loop."""

    def __init__(
        self,
        config: SpoolConfig,
        journal: Journal,
        *,
        spool_id: str,
        ledger: DamageLedger,
        lock_fd: int,
        filesystem: Filesystem,
        wall: Callable[[], float],
    ) -> None:
        self.config = config
        self.spool_id = spool_id
        self.ledger = ledger
        """Damage found by this log's readers and at start-up."""
        self._journal = journal
        self._lock_fd = lock_fd
        self._wall = wall
        self._filesystem = filesystem
        self._admission = Admission(config)
        self._readers = tuple(dict.fromkeys(config.readers))
        self._checkpoints = {reader: load_checkpoint(config.dir, reader, filesystem=filesystem) for reader in self._readers}
        self._checkpoint_locks: dict[str, asyncio.Lock] = {}
        self._gathering: list[_Pending] = []
        self._backlog: list[_Pending] = []
        self._dead: str | None = None
        self._pending_bytes = 0
        self._waiters: list[asyncio.Future[None]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        self._failed_at = float("-inf")
        self._appended_records = 0
        self._appended_events = 0
        self._queue: queue.SimpleQueue[list[_Pending] | Callable[[], bool]] = queue.SimpleQueue()
        self._next_tick = time.monotonic() + config.tick_interval
        self._thread = threading.Thread(target=self._run, name="spool-writer", daemon=True)
        self._thread.start()

    @classmethod
    def open(
        cls,
        config: SpoolConfig,
        *,
        filesystem: Filesystem = DISK,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> SpoolLog:
        """Take the folder, which is made if needed, and go on where the last writer stopped.

        Reads names, checkpoints and the newest segment's tail, not the backlog. A full disk doesn't stop it: then `append` is
        refused until there is room, and readers work. Raises SpoolLocked when another process holds the folder, SpoolUnavailable
        when the disk can't be used at all.
        """
        folder = config.dir
        try:
            for sub in (SEGMENTS, CHECKPOINTS):
                filesystem.make_folder(folder / sub)
            lock_fd = take_lock(folder, filesystem)
        except OSError as error:
            raise SpoolUnavailable(
                f"{folder}: {error.strerror or error}; check that the folder exists, is writable and has room"
            ) from error
        try:
            spool_id = identify(folder, filesystem)
            ledger = DamageLedger(folder, filesystem)
            floor = max(list_checkpoints(folder, filesystem=filesystem).values(), default=0) + 1
            recovered = recover(folder, uuid.UUID(spool_id), floor, filesystem, ledger)
            journal = Journal(
                folder,
                uuid.UUID(spool_id),
                recovered,
                segment_bytes=config.effective_segment_bytes,
                segment_age=config.segment_age,
                filesystem=filesystem,
                wall=wall,
                monotonic=monotonic,
            )
            journal.begin()
            return cls(config, journal, spool_id=spool_id, ledger=ledger, lock_fd=lock_fd, filesystem=filesystem, wall=wall)
        except OSError as error:
            filesystem.close(lock_fd)
            raise SpoolUnavailable(f"{folder}: {error.strerror or error}") from error
        except BaseException:
            filesystem.close(lock_fd)
            raise

    # ---------------------------------------------------------------------------------------------------------------- appending

    async def append(self, payload: bytes, count: int, flags: Flags = Flags()) -> int:  # noqa: B008 - an immutable tuple
        """Store a batch of `count` events and return the sequence number of its first once it is durable.

        Raises SpoolBusy above the high-water mark, SpoolUnavailable when full, failing or closed: then it is not acknowledged,
        though after a failure it may still turn up, which its events' ids make harmless. Cancelling the wait doesn't take a
        batch back.
        """
        if count < 1 or len(payload) > MAX_RECORD_BYTES:
            message = (
                f"a record has at least 1 event and at most {MAX_RECORD_BYTES} bytes, got {count} events, {len(payload)} bytes"
            )
            raise ValueError(message)
        size = len(payload) + RECORD_HEADER_BYTES
        self._admit(size, count, flags.shed)
        loop = asyncio.get_running_loop()
        pending = _Pending(bytes(payload), count, flags, int(self._wall() * 1_000_000), loop.create_future())
        self._pending_bytes += size
        self._gathering.append(pending)
        if len(self._gathering) == 1:
            self._loop = loop
            loop.call_soon(self._hand_over)
        return await pending.future

    def check(self, size: int = 0, shed: ShedClass = ShedClass.NORMAL) -> None:
        """Raise what `append` would raise now for a batch of `size` bytes: for readiness, and before a body is read."""
        self._admit(size, 0, shed)

    def _admit(self, size: int, count: int, shed: ShedClass) -> None:
        if self._closed:
            raise SpoolUnavailable("the sidecar is stopping")
        if self._dead is not None:
            raise SpoolUnavailable(self._dead)
        failing = self._journal.failing
        if failing is not None and time.monotonic() - self._failed_at < self.config.retry_pause:
            raise SpoolUnavailable(failing, self.config.retry_after)
        if self._pending_bytes + size > self.config.max_pending_bytes and self._pending_bytes:
            raise SpoolBusy(self.config.retry_after, "the disk is slower than what comes in: too much waits for it already")
        self._admission.judge(self._journal.bytes + self._pending_bytes, size, count, shed)

    def _hand_over(self) -> None:
        batch, self._gathering = self._gathering, []
        self._queue.put(batch)

    def _finish(self, group: list[_Pending], seqs: list[int], error: SpoolUnavailable | None) -> None:
        """In the event loop: answer those whose group is done, and wake readers."""
        for index, pending in enumerate(group):
            self._pending_bytes -= len(pending.payload) + RECORD_HEADER_BYTES
            if error is None:
                self._appended_records += 1
                self._appended_events += pending.count
            if pending.future.done():
                continue
            if error is None:
                pending.future.set_result(seqs[index])
            else:
                pending.future.set_exception(SpoolUnavailable(error.reason, error.retry_after))
        self._wake()

    # ------------------------------------------------------------------------------------------------------------------ reading

    @property
    def durable_seq(self) -> int:
        """Number of the last event that is durable; 0 when there never was one."""
        return self._journal.live.next_seq - 1

    async def wait_beyond(self, seq: int) -> int:
        """Return `durable_seq` once it is beyond `seq`. Raises SpoolUnavailable when the log is closed before."""
        while self.durable_seq <= seq:
            if self._closed:
                raise SpoolUnavailable("the sidecar is stopping")
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            finally:
                with contextlib.suppress(ValueError):
                    self._waiters.remove(waiter)
        return self.durable_seq

    def reader(self, ledger: DamageLedger | None = None) -> SpoolReader:
        """A reader of this log that with `closed_only=False` sees all that is durable, the open segment included.

        `ledger` is where it counts damage, in place of the log's own.
        """
        return SpoolReader(
            self.config.dir,
            filesystem=self._filesystem,
            live_end=lambda: self._journal.live,
            ledger=self.ledger if ledger is None else ledger,
        )

    async def checkpoint(self, reader: str, seq: int) -> int:
        """Note durably that `reader` has delivered everything up to `seq`; returns its checkpoint, which never moves back.

        Raises SpoolUnavailable when it can't be stored: then go on, and store the next one.
        """
        lock = self._checkpoint_locks.setdefault(reader, asyncio.Lock())
        async with lock:
            known = self._checkpoints.get(reader)
            if known is not None and known >= seq:
                return known
            try:
                stored = await asyncio.to_thread(store_checkpoint, self.config.dir, reader, seq, filesystem=self._filesystem)
            except OSError as error:
                raise SpoolUnavailable(f"checkpoint of '{reader}': {error.strerror or error}") from error
            if reader in self._readers:
                self._checkpoints[reader] = stored
                self._queue.put(self._collect)
        return stored

    def set_readers(self, readers: Iterable[str]) -> None:
        """Declare other readers: a new one starts at the oldest event there is, one that is gone holds nothing back any more."""
        self._readers = tuple(dict.fromkeys(readers))
        self._checkpoints = {
            reader: self._checkpoints[reader]
            if reader in self._checkpoints
            else load_checkpoint(self.config.dir, reader, filesystem=self._filesystem)
            for reader in self._readers
        }
        self._queue.put(self._collect)

    # ---------------------------------------------------------------------------------------------------------------- tending

    async def tick(self) -> None:
        """Close an old segment, delete what every reader has passed, see whether a failing disk works again.

        The log does so by itself every `tick_interval`; this is for those who can't wait.
        """
        if self._closed or self._dead is not None:
            return
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def job() -> bool:
            try:
                self._tend()
            finally:
                loop.call_soon_threadsafe(_resolve, done)
            return True

        self._queue.put(job)
        await done

    async def close(self) -> None:
        """Finish what was handed in, close the open segment and let the folder go."""
        if self._closed:
            return
        self._closed = True
        if self._gathering:
            self._hand_over()
        self._queue.put(self._stop)
        await asyncio.to_thread(self._thread.join)
        self._wake()
        self._filesystem.close(self._lock_fd)

    def stats(self) -> SpoolStats:
        """The spool at this moment."""
        journal = self._journal
        return SpoolStats(
            spool_id=self.spool_id,
            bytes=journal.bytes,
            max_bytes=self.config.max_bytes,
            pending_bytes=self._pending_bytes,
            segments=journal.segments,
            oldest_seq=journal.oldest_seq,
            durable_seq=self.durable_seq,
            checkpoints=dict(self._checkpoints),
            busy=self._admission.busy,
            failing=self._dead or journal.failing,
            appended_records=self._appended_records,
            appended_events=self._appended_events,
            syncs=journal.syncs,
            refused_batches=self._admission.refused,
            shed_events=self._admission.shed_events,
            damaged_pieces=self.ledger.pieces,
            damaged_events=self.ledger.events,
        )

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    # ---------------------------------------------------------------------------------------------------------- the disk's thread

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:
            self._dead = f"internal error, see the log and restart the sidecar: {error!r}"
            backlog = self._backlog + [pending for job in self._jobs(wait=False) if isinstance(job, list) for pending in job]
            self._call(self._finish, backlog, [], SpoolUnavailable(self._dead))
            raise

    def _work(self) -> None:
        going = True
        while going or self._backlog:
            for job in self._jobs(wait=not self._backlog):
                if isinstance(job, list):
                    self._backlog += job
                else:
                    going = job() and going
            if self._backlog:
                self._commit_group()
            if time.monotonic() >= self._next_tick:
                self._tend()
        self._journal.close()

    def _jobs(self, *, wait: bool) -> Iterator[list[_Pending] | Callable[[], bool]]:
        """Everything that was handed in; with `wait`, at least one thing unless it is time to tick."""
        with contextlib.suppress(queue.Empty):
            if wait:
                yield self._queue.get(timeout=max(self._next_tick - time.monotonic(), 0.0))
            while True:
                yield self._queue.get_nowait()

    def _commit_group(self) -> None:
        """Write as many of the waiting batches as share one write."""
        limit = min(GROUP_BYTES, max(self._journal.room(), 1))
        size = taken = 0
        for pending in self._backlog:
            size += len(pending.payload) + RECORD_HEADER_BYTES
            if taken and size > limit:
                break
            taken += 1
        group = self._backlog[:taken]
        seqs: list[int] = []
        failure: SpoolUnavailable | None = None
        try:
            seqs = self._journal.commit(group)
        except SpoolUnavailable as error:
            self._failed_at = time.monotonic()
            failure = error
        del self._backlog[:taken]
        self._call(self._finish, group, seqs, failure)

    def _call(self, callback: Callable[..., None], *args: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the event loop is closed: nobody waits any more
            if self._loop is not None:
                self._loop.call_soon_threadsafe(callback, *args)

    def _tend(self) -> None:
        self._next_tick = time.monotonic() + self.config.tick_interval
        self._journal.mend()
        self._journal.rotate_if_old()
        self._journal.close_names()
        self._collect()

    def _collect(self) -> bool:
        """Delete what every declared reader has passed; other processes' checkpoints are looked up on disk."""
        checkpoints = self._checkpoints
        for reader in self._readers:
            seq, _ = inspect_checkpoint(self.config.dir, reader, self._filesystem)
            checkpoints[reader] = max(seq, checkpoints.get(reader, 0))
        if self._readers:
            passed = min(checkpoints.get(reader, 0) for reader in self._readers)
            if self._admission.busy and passed >= self.durable_seq:
                self._journal.rotate()
            self._journal.delete_through(passed)
        return True

    def _stop(self) -> bool:
        return False


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
