"""One segment file, record by record: steps over whatever is damaged to the next record that is whole."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sidecar.spool.format import RECORD_HEADER_BYTES, RECORD_MAGIC, RecordHeader, unpack_record_header

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidecar.spool.filesystem import Filesystem

READ_AHEAD: Final = 256 * 1024
_BLOCK: Final = 4096


@dataclass(frozen=True, slots=True)
class Found:
    """A whole record; `payload` is None where only headers were asked for."""

    offset: int
    header: RecordHeader
    payload: bytes | None

    @property
    def end(self) -> int:
        """Offset of what comes after it."""
        return self.offset + RECORD_HEADER_BYTES + self.header.length


@dataclass(frozen=True, slots=True)
class Broken:
    """Bytes from `offset` to `end` that no whole record could be made of."""

    offset: int
    end: int
    reason: str
    events: int
    """Events that the headers still readable in there name; what the numbering says is more exact."""


class Window:
    """A file seen through one read-ahead buffer, so that memory stays bounded however large the file is.

    A block that the disk can't read is seen as zeros: the checksum then finds it and the scan steps over it.
    """

    def __init__(self, filesystem: Filesystem, fd: int, end: int) -> None:
        self._filesystem = filesystem
        self._fd = fd
        self.end = end
        self._start = 0
        self._buffer = b""

    def get(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset`, fewer only at the end."""
        length = min(length, self.end - offset)
        if length <= 0:
            return b""
        inside = offset - self._start
        if inside < 0 or inside + length > len(self._buffer):
            self._start = offset
            self._buffer = self._read(offset, min(max(length, READ_AHEAD), self.end - offset))
            inside = 0
        return self._buffer[inside : inside + length]

    def _read(self, offset: int, length: int) -> bytes:
        try:
            return self._filesystem.read_at(self._fd, length, offset)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
        blocks = []
        for start in range(offset, offset + length, _BLOCK):
            size = min(_BLOCK, offset + length - start)
            try:
                blocks.append(self._filesystem.read_at(self._fd, size, start))
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
                blocks.append(bytes(size))
        return b"".join(blocks)


def scan(window: Window, offset: int, seed: int, *, skip_through: int = 0, check_from: int = 0) -> Iterator[Found | Broken]:
    """What stands in a segment from `offset` on.

    Bodies are neither read nor checked for records up to the event `skip_through` and for those that end at or before offset
    `check_from`. Raises OSError, except where single blocks can't be read.
    """
    while offset < window.end:
        head = window.get(offset, RECORD_HEADER_BYTES)
        header = unpack_record_header(head, seed)
        if header is not None:
            end = offset + RECORD_HEADER_BYTES + header.length
            if end <= window.end:
                if header.last_seq <= skip_through or end <= check_from:
                    yield Found(offset, header, None)
                    offset = end
                    continue
                payload = window.get(offset + RECORD_HEADER_BYTES, header.length)
                if header.matches(payload, seed):
                    yield Found(offset, header, payload)
                    offset = end
                    continue
        reason = _reason(head, header, window, offset)
        resumed = _resynchronise(window, offset + 1, seed)
        yield Broken(offset, resumed, reason, header.events if header else 0)
        offset = resumed


def _reason(head: bytes, header: RecordHeader | None, window: Window, offset: int) -> str:
    if header is not None:
        if offset + RECORD_HEADER_BYTES + header.length > window.end:
            return "torn record: the file ends inside its body"
        return "record body fails its checksum"
    if len(head) < RECORD_HEADER_BYTES:
        return "torn record: the file ends inside its header"
    if not head.strip(b"\0"):
        return "zeros where a record should start"
    return "record header fails its checksum" if head.startswith(RECORD_MAGIC) else "garbage where a record should start"


def _resynchronise(window: Window, offset: int, seed: int) -> int:
    """Offset of the next record header that can be trusted, or the end."""
    while offset < window.end:
        chunk = window.get(offset, READ_AHEAD)
        found = chunk.find(RECORD_MAGIC)
        while found >= 0:
            if unpack_record_header(window.get(offset + found, RECORD_HEADER_BYTES), seed) is not None:
                return offset + found
            found = chunk.find(RECORD_MAGIC, found + 1)
        if offset + len(chunk) >= window.end:
            break
        offset += len(chunk) - len(RECORD_MAGIC) + 1
    return window.end
