"""Names, order and ends of the segment files: what can be known of a spool without reading it.

A segment is named by the sequence number of its first event, in 20 digits, so that the names sort; `.open` is being written,
`.seg` is closed. The next segment's name tells where one ends, so a segment counts as closed as soon as it has a
successor, whatever its suffix says (a crash may come before the rename).
"""

from __future__ import annotations

import errno
import re
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from sidecar.spool.format import SEGMENT_HEADER_BYTES, SegmentHeader, unpack_segment_header

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from sidecar.spool.filesystem import Filesystem

SEGMENTS: Final = "segments"
OPEN_SUFFIX: Final = ".open"
CLOSED_SUFFIX: Final = ".seg"
_DIGITS: Final = 20
_NAME: Final = re.compile(r"([0-9]{20})\.(open|seg)")


@dataclass(frozen=True, slots=True)
class SegmentFile:
    """One segment file as its name and size tell."""

    path: Path
    first_seq: int
    size: int

    @property
    def has_closed_name(self) -> bool:
        """Whether the writer has renamed it for good."""
        return self.path.suffix == CLOSED_SUFFIX


@dataclass(frozen=True, slots=True)
class SegmentInfo:
    """A segment and the events that are numbered into it."""

    path: Path
    first_seq: int
    last_seq: int
    """Sequence number of its last event; `first_seq - 1` when it is empty."""
    bytes: int
    closed: bool = True

    @property
    def events(self) -> int:
        """How many events are numbered into the segment; damage inside it is found only by reading."""
        return self.last_seq - self.first_seq + 1


class LiveEnd(NamedTuple):
    """Up to where a log is durable, as its writer tells readers in the same process."""

    next_seq: int
    """Number of the next event to be acknowledged: nothing from here on may be read."""
    open_seq: int | None
    """First sequence of the open segment; None while there is none."""
    offset: int
    """Durable bytes of the open segment."""


def segment_path(folder: Path, first_seq: int, *, closed: bool) -> Path:
    """Where a segment of the spool in `folder` lies."""
    return folder / SEGMENTS / f"{first_seq:020d}{CLOSED_SUFFIX if closed else OPEN_SUFFIX}"


def list_segments(filesystem: Filesystem, folder: Path) -> list[SegmentFile]:
    """Every segment file of the spool in `folder`, oldest first; other files are passed over. Raises OSError.

    A file that is renamed while a folder is listed may be missed under both names, which would look like lost events. As a
    segment is renamed only once, two listings together miss none.
    """
    segments = folder / SEGMENTS
    earlier, later = filesystem.list_folder(segments), filesystem.list_folder(segments)
    numbers = {name[:_DIGITS] for name, _ in later}
    listed = later + [file for file in earlier if file[0][:_DIGITS] not in numbers]
    found = []
    for name, size in listed:
        match = _NAME.fullmatch(name)
        if match:
            found.append(SegmentFile(segments / name, int(match[1]), size))
    # Of two files with one number the closed one comes first: it is the more complete.
    found.sort(key=lambda segment: (segment.first_seq, not segment.has_closed_name))
    return found


def start_index(files: Sequence[SegmentFile], seq: int) -> int:
    """Index of the first file that may hold the event `seq`, or the one where reading on from there begins."""
    index = bisect_right(files, seq, key=lambda file: file.first_seq) - 1
    while index > 0 and files[index - 1].first_seq == files[index].first_seq:
        index -= 1
    return max(index, 0)


def successor(files: Sequence[SegmentFile], index: int) -> int | None:
    """First sequence of the next segment after `files[index]`, which is where that one ends; None for the newest."""
    first = files[index].first_seq
    return next((file.first_seq for file in files[index + 1 :] if file.first_seq != first), None)


def read_segment_header(filesystem: Filesystem, fd: int) -> SegmentHeader | str:
    """The header of an open segment file, or what is wrong with it, an unreadable sector included. Raises other OSErrors."""
    try:
        return unpack_segment_header(filesystem.read_at(fd, SEGMENT_HEADER_BYTES, 0))
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return f"segment header can't be read: {error.strerror}"
