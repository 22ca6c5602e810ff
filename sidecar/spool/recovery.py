"""What happens at start-up: the newest segment is made fit to be continued, or left to the readers and followed by a new one.

Only names, the headers of the records in the newest segment and the bodies in its last `TAIL_BYTES` are read: whatever a crash
tore lies there, because at most one group of records is ever on its way to the disk.
"""

from __future__ import annotations

import contextlib
import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from uuid import UUID

from sidecar.spool.damage import CORRUPT, Damage
from sidecar.spool.filesystem import Filesystem
from sidecar.spool.format import MAX_RECORD_BYTES, SEGMENT_HEADER_BYTES, SegmentHeader, segment_seed
from sidecar.spool.scan import Broken, Window, scan
from sidecar.spool.segments import SegmentFile, list_segments, read_segment_header, segment_path

if TYPE_CHECKING:
    from pathlib import Path

    from sidecar.spool.damage import DamageLedger

GROUP_BYTES: Final = 8 * 1024 * 1024
"""Records that share one write hold at most this much, unless a single one is larger."""

TAIL_BYTES: Final = GROUP_BYTES + 2 * MAX_RECORD_BYTES

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Recovered:
    """A spool folder as it was found."""

    files: list[SegmentFile]
    """Every segment, oldest first, with the one to continue as the last."""
    next_seq: int
    resume_at: int | None
    """Offset at which the newest segment can be continued; None when a new one must be started."""


@dataclass(frozen=True, slots=True)
class _Newest:
    next_seq: int
    end: int
    header_is_good: bool
    tail: Broken | None


def recover(folder: Path, spool_id: UUID, floor: int, filesystem: Filesystem, ledger: DamageLedger) -> Recovered:
    """Look at the spool in `folder`; no event gets a number below `floor` (what readers say that they have seen, plus 1).

    Damage is counted, never raised. Raises OSError when the disk can't be read at all.
    """
    files = _without_misnamed(folder, list_segments(filesystem, folder), filesystem)
    for index, file in enumerate(files[:-1]):
        if not file.has_closed_name:
            files[index] = close_name(folder, file, filesystem)
    if not files:
        return Recovered([], max(1, floor), None)
    newest = files[-1]
    fd = filesystem.open(newest.path, os.O_RDONLY if newest.has_closed_name else os.O_RDWR)
    try:
        found = _examine(newest, fd, spool_id, filesystem)
        next_seq = max(found.next_seq, floor)
        continues = found.header_is_good and not newest.has_closed_name and next_seq == found.next_seq
        resume_at = found.end if continues and _settle(newest, fd, found, filesystem, ledger) else None
    finally:
        filesystem.close(fd)
    if resume_at is not None:
        files[-1] = SegmentFile(newest.path, newest.first_seq, resume_at)
    return Recovered(files, next_seq, resume_at)


def close_name(folder: Path, file: SegmentFile, filesystem: Filesystem) -> SegmentFile:
    """Give a segment that has a successor its closed name; as it is when that fails or would replace another file."""
    target = segment_path(folder, file.first_seq, closed=True)
    try:
        if any(name == target.name for name, _ in filesystem.list_folder(target.parent)):
            return file
        filesystem.rename(file.path, target)
    except OSError as error:
        logger.warning("segment %s keeps its open name for now: %s", file.path.name, error)
        return file
    return SegmentFile(target, file.first_seq, file.size)


def _without_misnamed(folder: Path, files: list[SegmentFile], filesystem: Filesystem) -> list[SegmentFile]:
    """Put aside newest files that are copies of other segments under a wrong name: they would set the numbering wrong."""
    while files:
        newest = files[-1]
        fd = filesystem.open(newest.path, os.O_RDONLY)
        try:
            header = read_segment_header(filesystem, fd)
        finally:
            filesystem.close(fd)
        if not isinstance(header, SegmentHeader) or header.first_seq == newest.first_seq:
            break
        files = files[:-1]
        aside = folder / CORRUPT / newest.path.name
        logger.warning("segment %s says that it starts at event %d: put aside as %s", newest.path, header.first_seq, aside)
        with contextlib.suppress(OSError):
            filesystem.make_folder(aside.parent)
            filesystem.rename(newest.path, aside)
    return files


def _examine(file: SegmentFile, fd: int, spool_id: UUID, filesystem: Filesystem) -> _Newest:
    size = filesystem.size(fd)
    header = read_segment_header(filesystem, fd)
    good = isinstance(header, SegmentHeader) and header.spool_id == spool_id
    seed = header.seed if isinstance(header, SegmentHeader) else segment_seed(spool_id, file.first_seq)
    next_seq, end = file.first_seq, SEGMENT_HEADER_BYTES
    tail: Broken | None = None
    for item in scan(Window(filesystem, fd, size), end, seed, check_from=size - TAIL_BYTES):
        if isinstance(item, Broken):
            tail = item
        else:
            tail, next_seq, end = None, max(next_seq, item.header.last_seq + 1), item.end
    return _Newest(next_seq, end, good, tail)


def _settle(file: SegmentFile, fd: int, found: _Newest, filesystem: Filesystem, ledger: DamageLedger) -> bool:
    """Cut off a torn tail and make durable what stays; False when the disk refuses, so that a new segment must be started."""
    if found.tail is not None:
        events = 0 if found.tail.reason.startswith("torn") else found.tail.events
        reason = f"{found.tail.reason} (end of the open segment)"
        ledger.record(Damage(file.path.name, found.end, found.tail.end - found.end, found.next_seq, events, reason), fd)
    try:
        filesystem.truncate(fd, found.end)
        filesystem.fdatasync(fd)
    except OSError as error:
        logger.warning("segment %s is not continued: %s", file.path.name, error)
        return False
    return True
