"""The reading half: a spool's segments as plain files, from any process, with no writer needed.

    reader = SpoolReader("/var/lib/trackmate/spool")
    after = load_checkpoint(reader.folder, "lake")
    for record in reader.read(after, max_events=50_000, max_bytes=64 * 1024 * 1024):
        deliver(record.ndjson())
        store_checkpoint(reader.folder, "lake", record.last_seq)

Records come in the order of their sequence numbers, each once. A damaged stretch is stepped over, kept aside in `corrupt/` and
counted with the events that the numbering says are missing. Segments may be deleted under a reader only past its declared
checkpoint; one that vanishes between listing and opening is looked up again.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple
from uuid import UUID

from sidecar.spool.checkpoint import load_checkpoint, store_checkpoint
from sidecar.spool.damage import Damage, DamageLedger
from sidecar.spool.errors import SpoolError
from sidecar.spool.filesystem import DISK, Filesystem
from sidecar.spool.format import SEGMENT_HEADER_BYTES, Record, RecordHeader, SegmentHeader, segment_seed
from sidecar.spool.identity import read_spool_id
from sidecar.spool.scan import Broken, Found, Window, scan
from sidecar.spool.segments import (
    LiveEnd,
    SegmentFile,
    SegmentInfo,
    list_segments,
    read_segment_header,
    segment_path,
    start_index,
    successor,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

__all__ = ["Record", "SegmentInfo", "SpoolReader", "load_checkpoint", "store_checkpoint"]

BEFORE_ALL: Final = -1
"""Offset of the damage that segments are gone which a reader had not read; beside a running sidecar it may have passed them."""

_MAX_CURSORS: Final = 128
_MAX_LISTINGS: Final = 3


class _Cursor(NamedTuple):
    """Where reading on after an event starts."""

    segment: int
    offset: int


class _Seed(NamedTuple):
    """Where a segment's checksums start, and what is wrong with its header."""

    seed: int
    problem: str | None
    misnamed: bool = False


class SpoolReader:
    """Reads one spool folder; cheap to make, safe to keep, for use in one thread at a time.

    `live_end` comes from the writer in the same process (`SpoolLog.reader()`), so that the open segment is read exactly as far
    as it is durable. Without it `closed_only=False` shows what happens to stand in the file, which may not be acknowledged yet:
    good for looking, never for moving a checkpoint. `ledger` counts damage; by default one that keeps copies in `corrupt/`.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        filesystem: Filesystem = DISK,
        live_end: Callable[[], LiveEnd] | None = None,
        ledger: DamageLedger | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.ledger = ledger if ledger is not None else DamageLedger(self.folder, filesystem)
        self._filesystem = filesystem
        self._live_end = live_end
        self._spool_id: str | None = None
        self._cursors: OrderedDict[int, _Cursor] = OrderedDict()

    @property
    def spool_id(self) -> str:
        """The spool's UUID. Raises SpoolError when there is no spool here (yet)."""
        if self._spool_id is None:
            self._spool_id = read_spool_id(self.folder, self._filesystem)
        if self._spool_id is None:
            message = f"no spool in {self.folder}: no readable spool.json; has the sidecar ever started with this spool.dir?"
            raise SpoolError(message)
        return self._spool_id

    def segments(self) -> list[SegmentInfo]:
        """Every segment, oldest first, the open one last. Reads names, and the headers of the records in the newest only."""
        files = list_segments(self._filesystem, self.folder)
        infos = self._closed(files)
        if len(infos) < len(files):
            newest = files[-1]
            live = self._live_end() if self._live_end else None
            end = max(live.next_seq if live else self._end_of(newest), newest.first_seq)
            infos.append(SegmentInfo(newest.path, newest.first_seq, end - 1, newest.size, closed=False))
        return infos

    def closed_segments(self) -> list[SegmentInfo]:
        """The segments that will never grow, oldest first."""
        return self._closed(list_segments(self._filesystem, self.folder))

    def read(
        self, after_seq: int, max_events: int = 5_000, max_bytes: int = 8 * 1024 * 1024, closed_only: bool = True
    ) -> Iterator[Record]:
        """The records that hold events after `after_seq`, in order, whole; at least one if there is any, however large.

        Stops before the record that would exceed `max_events` or `max_bytes` (of bodies as stored). A record whose first events
        were delivered already comes whole: its `seq` tells which. Holds one record in memory. Raises OSError.
        """
        events = size = 0
        for record in self._records(after_seq, closed_only):
            if events and (events + record.count > max_events or size + len(record.payload) > max_bytes):
                return
            events += record.count
            size += len(record.payload)
            yield record

    def skip_lost(self, after_seq: int, closed_only: bool = True) -> int:
        """Where to go on when `read` gives nothing after `after_seq`: past events that are known to be lost.

        That is `after_seq` itself unless damage reaches up to the end of what can be read. Raises OSError.
        """
        records = self._records(after_seq, closed_only)
        try:
            next(records)
        except StopIteration as end:
            return max(int(end.value) - 1, after_seq)
        records.close()
        return after_seq

    # ------------------------------------------------------------------------------------------------- from segment to segment

    def _records(self, after_seq: int, closed_only: bool) -> Generator[Record, None, int]:
        """The records from there on; returns the number expected next, past what is known to be lost."""
        expected = max(after_seq, 0) + 1
        for _ in range(_MAX_LISTINGS):
            files, live = self._look(expected)
            if not files:
                return expected
            if expected < files[0].first_seq:
                if expected > 1:
                    missing = files[0].first_seq - expected
                    self._note(files[0], BEFORE_ALL, 0, expected, missing, "segments before this one are gone", None)
                expected = files[0].first_seq
            start = start_index(files, expected)
            while start > 0 and self._misnamed(files[start]):
                start -= 1
            for index in range(start, len(files)):
                bound = self._bound(files, index, live)
                closed = bound is not None or files[index].has_closed_name
                if closed_only and not closed:
                    return expected
                if live is not None:
                    bound = live.next_seq if bound is None else min(bound, live.next_seq)
                try:
                    fd = self._open(files[index])
                except FileNotFoundError:
                    break  # deleted since it was listed
                try:
                    expected = yield from self._segment(files[index], fd, expected, bound, live)
                finally:
                    self._filesystem.close(fd)
            else:
                break
        return expected

    def _look(self, expected: int) -> tuple[list[SegmentFile], LiveEnd | None]:
        """The segments, and then up to where they are durable; nothing is listed for who follows the open one."""
        cursor = self._cursors.get(expected - 1)
        if cursor is not None and self._live_end is not None:
            live = self._live_end()
            if cursor.segment == live.open_seq:
                path = segment_path(self.folder, cursor.segment, closed=False)
                return [SegmentFile(path, cursor.segment, live.offset)], live
        return list_segments(self._filesystem, self.folder), self._live_end() if self._live_end else None

    def _bound(self, files: list[SegmentFile], index: int, live: LiveEnd | None) -> int | None:
        """First sequence that the segment can't hold: where the next one starts. None for the newest."""
        first = files[index].first_seq
        for file in files[index + 1 :]:
            if file.first_seq != first and not self._misnamed(file):
                return file.first_seq
        return live.open_seq if live and live.open_seq is not None and live.open_seq > first else None

    def _misnamed(self, file: SegmentFile) -> bool:
        """Whether a file's own header names another place: a copy under a wrong name must not cut its neighbour short."""
        try:
            fd = self._open(file)
        except FileNotFoundError:
            return False
        try:
            header = read_segment_header(self._filesystem, fd)
        finally:
            self._filesystem.close(fd)
        return isinstance(header, SegmentHeader) and header.first_seq != file.first_seq

    def _open(self, file: SegmentFile) -> int:
        try:
            return self._filesystem.open(file.path, os.O_RDONLY)
        except FileNotFoundError:
            return self._filesystem.open(segment_path(self.folder, file.first_seq, closed=True), os.O_RDONLY)

    def _closed(self, files: list[SegmentFile]) -> list[SegmentInfo]:
        infos = []
        for index, file in enumerate(files):
            end = successor(files, index)
            if end is None and file.has_closed_name:
                end = self._end_of(file)
            if end is not None:
                infos.append(SegmentInfo(file.path, file.first_seq, max(end, file.first_seq) - 1, file.size))
        return infos

    def _end_of(self, file: SegmentFile) -> int:
        """The number after a segment's last whole record, from the records' headers."""
        end = file.first_seq
        try:
            fd = self._open(file)
        except FileNotFoundError:
            return end
        try:
            size = self._filesystem.size(fd)
            seed = self._seed(file, fd).seed
            for item in scan(Window(self._filesystem, fd, size), SEGMENT_HEADER_BYTES, seed, check_from=size):
                if isinstance(item, Found):
                    end = max(end, item.header.last_seq + 1)
        finally:
            self._filesystem.close(fd)
        return end

    # --------------------------------------------------------------------------------------------------------- in one segment

    def _segment(
        self, file: SegmentFile, fd: int, expected: int, bound: int | None, live: LiveEnd | None
    ) -> Generator[Record, None, int]:
        """The segment's records from `expected` on; returns the number expected next."""
        is_open = live is not None and live.open_seq == file.first_seq
        size = self._filesystem.size(fd)
        if live is not None and is_open:
            size = min(size, live.offset)
        growing = bound is None and not file.has_closed_name
        header = self._seed(file, fd)
        if header.problem and not growing:
            self._note(file, 0, SEGMENT_HEADER_BYTES, file.first_seq, 0, header.problem, fd)
        cursor = self._cursors.get(expected - 1)
        offset = cursor.offset if cursor and cursor.segment == file.first_seq else SEGMENT_HEADER_BYTES
        broken: list[Broken] = []
        for item in scan(Window(self._filesystem, fd, size), offset, header.seed, skip_through=expected - 1):
            if isinstance(item, Broken):
                broken.append(item)
                continue
            if bound is not None and item.header.seq >= bound:
                break  # never acknowledged: see the format
            if item.payload is None or item.header.last_seq < expected:
                broken.clear()
                continue
            self._note_gap(file, fd, broken, item.offset, expected, max(item.header.seq - expected, 0))
            expected = item.header.last_seq + 1
            self._remember(expected - 1, _Cursor(file.first_seq, item.end))
            yield _record(item.header, item.payload)
        if header.misnamed or growing:
            return expected
        missing = 0 if bound is None else max(bound - expected, 0)
        self._note_gap(file, fd, broken, size, expected, missing)
        return expected + missing

    def _seed(self, file: SegmentFile, fd: int) -> _Seed:
        header = read_segment_header(self._filesystem, fd)
        if isinstance(header, SegmentHeader):
            if header.first_seq == file.first_seq:
                return _Seed(header.seed, None)
            return _Seed(header.seed, f"wrong name: its header says that it starts at event {header.first_seq}", misnamed=True)
        return _Seed(segment_seed(UUID(self.spool_id), file.first_seq), header)

    def _remember(self, after_seq: int, cursor: _Cursor) -> None:
        self._cursors[after_seq] = cursor
        self._cursors.move_to_end(after_seq)
        if len(self._cursors) > _MAX_CURSORS:
            self._cursors.popitem(last=False)

    def _note_gap(self, file: SegmentFile, fd: int, broken: list[Broken], offset: int, first_seq: int, missing: int) -> None:
        """Account for the events that should have stood before `offset`; every broken stretch gets its share of them."""
        for index, item in enumerate(broken):
            share = missing if index == len(broken) - 1 else min(item.events, missing)
            self._note(file, item.offset, item.end - item.offset, first_seq, share, item.reason, fd)
            first_seq += share
            missing -= share
        if missing and not broken:
            self._note(file, offset, 0, first_seq, missing, "events are missing though nothing is damaged: a file is gone", None)
        broken.clear()

    def _note(self, file: SegmentFile, offset: int, size: int, first_seq: int, events: int, reason: str, fd: int | None) -> None:
        self.ledger.record(Damage(file.path.name, offset, size, first_seq, events, reason), fd)


def _record(header: RecordHeader, payload: bytes) -> Record:
    return Record(header.seq, header.events, header.flags, payload, header.received_at)
