"""The writing half's core, without threads: groups of records into segments, rotation, failing disks, deletion.

A group is acknowledged only after its bytes are written and synced. After a failed write the segment is cut back to its last
durable byte and continued. After a failed sync, or when cutting fails, its file descriptor is never trusted again: the kernel
may have dropped the pages and report success the next time (the fsync lesson of PostgreSQL, 2018). The segment is given up as
it is and a new file is started at the same sequence number; as a segment ends where the next one begins, whatever the old
one holds beyond is never read.
"""

from __future__ import annotations

import contextlib
import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sidecar.spool.errors import SpoolUnavailable
from sidecar.spool.filesystem import Filesystem, write_all
from sidecar.spool.format import SEGMENT_HEADER_BYTES, Flags, SegmentHeader, pack_record_header, pack_segment_header
from sidecar.spool.recovery import close_name
from sidecar.spool.segments import SEGMENTS, LiveEnd, SegmentFile, segment_path

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from uuid import UUID

    from sidecar.spool.recovery import Recovered

PROBE: Final = "spool.probe"
_PROBE_BYTES: Final = 4096

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Entry:
    """One batch on its way into the log."""

    payload: bytes
    count: int
    flags: Flags
    received_at: int
    """Microseconds since 1970, UTC."""


@dataclass(slots=True)
class _Open:
    """The segment being written."""

    fd: int
    first_seq: int
    seed: int
    offset: int
    first_write: float | None
    """Monotonic time of its first record."""


class Journal:
    """The segments of one spool as their single writer sees them; every method belongs to one thread.

    `live` alone may be read from others: it is replaced as a whole.
    """

    def __init__(
        self,
        folder: Path,
        spool_id: UUID,
        recovered: Recovered,
        *,
        segment_bytes: int,
        segment_age: float,
        filesystem: Filesystem,
        wall: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._folder = folder
        self._spool_id = spool_id
        self._segment_bytes = segment_bytes
        self._segment_age = segment_age
        self._filesystem = filesystem
        self._wall = wall
        self._monotonic = monotonic
        self._next_seq = recovered.next_seq
        self._closed = list(recovered.files)
        self._closed_bytes = 0
        self._open: _Open | None = None
        self.failing: str | None = None
        """Why the last write or sync failed; None while the disk is well."""
        self.syncs = 0
        if recovered.resume_at is not None:
            self._resume(self._closed.pop(), recovered.resume_at)
        self._publish()

    # ------------------------------------------------------------------------------------------------------------ what is there

    @property
    def bytes(self) -> int:
        """Bytes of all segments."""
        return self._closed_bytes + self.live.offset

    @property
    def segments(self) -> int:
        """How many segment files there are."""
        return len(self._closed) + (self._open is not None)

    @property
    def oldest_seq(self) -> int:
        """Number of the oldest event still there; the next one's when the log is empty."""
        return self._closed[0].first_seq if self._closed else self._open.first_seq if self._open else self._next_seq

    def room(self) -> int:
        """Bytes that the open segment may still take before it is closed for its size."""
        return max(self._segment_bytes - (self._open.offset if self._open else SEGMENT_HEADER_BYTES), 0)

    # ------------------------------------------------------------------------------------------------------------------ writing

    def begin(self) -> None:
        """Start a segment unless one is continued; a disk that refuses leaves the journal failing, to be mended later."""
        if self._open is None:
            try:
                self._start()
            except OSError as error:
                self._failed("can't start a segment", error)

    def commit(self, entries: Sequence[Entry]) -> list[int]:
        """Make a group of batches durable with one write and one sync; returns the number of each one's first event.

        Raises SpoolUnavailable when it didn't happen: then none of them is acknowledged, nor ever read twice.
        """
        try:
            segment = self._open or self._start()
        except OSError as error:
            raise self._failed("can't start a segment", error) from error
        seqs = []
        buffers: list[bytes] = []
        seq = self._next_seq
        for entry in entries:
            seqs.append(seq)
            head = pack_record_header(entry.payload, seq, entry.count, entry.flags.to_int(), entry.received_at, segment.seed)
            buffers += (head, entry.payload)
            seq += entry.count
        try:
            written = write_all(self._filesystem, segment.fd, buffers, segment.offset)
        except OSError as error:
            self._cut_back(segment)
            raise self._failed("write failed", error) from error
        try:
            self.syncs += 1
            self._filesystem.fdatasync(segment.fd)
        except OSError as error:
            self._give_up(segment)
            raise self._failed("sync failed", error) from error
        segment.offset += written
        if segment.first_write is None:
            segment.first_write = self._monotonic()
        self._next_seq = seq
        self._recovered()
        self._publish()
        if segment.offset >= self._segment_bytes:
            self.rotate()
        return seqs

    def rotate(self) -> bool:
        """Close the open segment if it holds anything and start the next; when the disk refuses, the open one goes on."""
        segment = self._open
        if segment is None or segment.offset <= SEGMENT_HEADER_BYTES:
            return False
        try:
            self._open = self._create(self._next_seq)
        except OSError as error:
            logger.warning("segment %020d is not followed yet: the next one can't be started: %s", segment.first_seq, error)
            if self._nothing_left_of(self._next_seq):
                return False
            # A name that may stand there ends the old segment for every reader, now or after a crash: no more goes into it.
            self._open = None
        self._retire(segment)
        self._publish()
        return self._open is not None

    def rotate_if_old(self) -> bool:
        """Close the open segment when its first record is older than the configured age."""
        segment = self._open
        if segment is None or segment.first_write is None or self._monotonic() - segment.first_write < self._segment_age:
            return False
        return self.rotate()

    def mend(self) -> None:
        """Look whether a failing disk works again, by a write and a sync of its own, and go on if so."""
        if self.failing is None:
            return
        try:
            self._probe()
            if self._open is None:
                self._start()
        except OSError as error:
            self.failing = _describe("the disk still fails", error)
            return
        self._recovered()

    def delete_through(self, seq: int) -> int:
        """Delete closed segments all of whose events are numbered up to `seq`; returns how many went. Raises nothing."""
        gone = 0
        while self._closed:
            following = self._closed[1].first_seq if len(self._closed) > 1 else self._open.first_seq if self._open else None
            if following is None or following - 1 > seq:
                break
            oldest = self._closed[0]
            try:
                self._filesystem.unlink(oldest.path)
            except FileNotFoundError:
                logger.warning("segment %s was deleted by someone else", oldest.path)
            except OSError as error:
                logger.warning("segment %s can't be deleted yet: %s", oldest.path, error)
                break
            del self._closed[0]
            gone += 1
        if gone:
            self._publish()
            with contextlib.suppress(OSError):  # a name that comes back after a crash is deleted again
                self._filesystem.sync_folder(self._folder / SEGMENTS)
        return gone

    def close_names(self) -> None:
        """Retry the renames of closed segments that a failing disk refused."""
        for index, file in enumerate(self._closed[:-1] if self._open is None else self._closed):
            if not file.has_closed_name:
                self._closed[index] = close_name(self._folder, file, self._filesystem)

    def close(self) -> None:
        """Close the open segment, so that readers of closed segments see all; an empty successor keeps the numbering."""
        self.rotate()
        if self._open is not None:
            self._filesystem.close(self._open.fd)
            self._open = None

    # ----------------------------------------------------------------------------------------------------------------- segments

    def _resume(self, file: SegmentFile, offset: int) -> None:
        fd = self._filesystem.open(file.path, os.O_RDWR)
        header = SegmentHeader(self._spool_id, file.first_seq, 0)
        first_write = self._monotonic() if offset > SEGMENT_HEADER_BYTES else None
        self._open = _Open(fd, file.first_seq, header.seed, offset, first_write)

    def _start(self) -> _Open:
        segment = self._open = self._create(self._next_seq)
        self.close_names()
        self._publish()
        return segment

    def _create(self, first_seq: int) -> _Open:
        """A new segment file whose name is durable; its header is so with the first records, which are nothing without it.

        Raises OSError, and may leave an empty file behind.
        """
        path = segment_path(self._folder, first_seq, closed=False)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
        try:
            fd = self._filesystem.open(path, flags)
        except FileExistsError:
            # Given up before its first event was acknowledged: nothing in it counts.
            self._filesystem.unlink(path)
            self._closed = [file for file in self._closed if file.path != path]
            fd = self._filesystem.open(path, flags)
        header = SegmentHeader(self._spool_id, first_seq, int(self._wall() * 1_000_000))
        try:
            write_all(self._filesystem, fd, [pack_segment_header(header)], 0)
            self._filesystem.sync_folder(path.parent)
        except OSError:
            with contextlib.suppress(OSError):
                self._filesystem.close(fd)
            raise
        return _Open(fd, first_seq, header.seed, SEGMENT_HEADER_BYTES, None)

    def _nothing_left_of(self, first_seq: int) -> bool:
        """Remove what a failed start of a segment left behind, durably; False when it may still be there."""
        path = segment_path(self._folder, first_seq, closed=False)
        try:
            self._filesystem.unlink(path)
        except FileNotFoundError:
            return True
        except OSError:
            return False
        try:
            self._filesystem.sync_folder(path.parent)
        except OSError:
            return False
        return True

    def _retire(self, segment: _Open) -> None:
        """Let go of a segment that nothing is added to any more."""
        with contextlib.suppress(OSError):
            self._filesystem.close(segment.fd)
        file = SegmentFile(segment_path(self._folder, segment.first_seq, closed=False), segment.first_seq, segment.offset)
        self._closed.append(close_name(self._folder, file, self._filesystem) if self._open is not None else file)

    def _cut_back(self, segment: _Open) -> None:
        """Remove what a failed write left behind the last durable byte; a segment that can't be cut is given up."""
        try:
            self._filesystem.truncate(segment.fd, segment.offset)
        except OSError:
            self._give_up(segment)

    def _give_up(self, segment: _Open) -> None:
        """Never write to this segment again; its durable part stays readable and ends where the next segment begins."""
        with contextlib.suppress(OSError):
            self._filesystem.truncate(segment.fd, segment.offset)
        self._open = None
        self._retire(segment)
        self._publish()

    def _probe(self) -> None:
        path = self._folder / PROBE
        fd = self._filesystem.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        try:
            write_all(self._filesystem, fd, [bytes(_PROBE_BYTES)], 0)
            self._filesystem.fdatasync(fd)
        finally:
            self._filesystem.close(fd)
            with contextlib.suppress(OSError):
                self._filesystem.unlink(path)

    # -------------------------------------------------------------------------------------------------------------------- state

    def _publish(self) -> None:
        segment = self._open
        self._closed_bytes = sum(file.size for file in self._closed)
        self.live = LiveEnd(self._next_seq, segment.first_seq if segment else None, segment.offset if segment else 0)

    def _failed(self, what: str, error: OSError) -> SpoolUnavailable:
        reason = _describe(what, error)
        if self.failing is None:
            logger.error("spool %s takes no events: %s; it goes on by itself once the disk works", self._folder, reason)
        self.failing = reason
        return SpoolUnavailable(reason)

    def _recovered(self) -> None:
        if self.failing is not None:
            logger.warning("spool %s takes events again (was: %s)", self._folder, self.failing)
            self.failing = None


def _describe(what: str, error: OSError) -> str:
    return f"{what}: {error.strerror or error}"
