"""Cuts and joins the log's records to the batches that one backend takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from contract.errors import InvalidBody
from sidecar.spool.format import Record
from sinks.base import SinkBatch, SinkLimits, StoredBody

JOINED_BYTES = 2 * 1024 * 1024
"""At about this many bytes nothing more is joined to a batch; a larger single record goes whole if the sink takes it."""


class Source(Protocol):
    """What is read from: `sidecar.spool.reader.SpoolReader`."""

    @property
    def spool_id(self) -> str:
        """The log's UUID."""

    def read(self, after_seq: int, max_events: int, max_bytes: int, closed_only: bool) -> Iterator[Record]:
        """The records that hold events after `after_seq`, whole and in order."""

    def skip_lost(self, after_seq: int, closed_only: bool) -> int:
        """Where to go on when `read` gives nothing after `after_seq`: past events that are known to be lost."""


@dataclass(frozen=True, slots=True)
class Cut:
    """The next piece of the log for one backend."""

    batch: SinkBatch
    """What the backend wants of it; may hold no event."""
    skipped: int
    """Events of the piece that the backend doesn't want."""
    oldest: datetime
    """When the first event of the piece was received."""
    unreadable: int = 0
    """Events of records that can't be opened; they are passed over."""
    full: bool = False
    """Whether the log went on when the piece was cut: it holds as much as one delivery takes."""

    @property
    def last_seq(self) -> int:
        """Where the backend stands when the piece is dealt with."""
        return self.batch.last_seq


def next_cut(
    source: Source, after_seq: int, limits: SinkLimits, wanted: Callable[[bytes], bool] | None, durable_seq: int
) -> Cut | None:
    """The events after `after_seq`, as many as one delivery takes; None when there is none. Blocking I/O.

    `durable_seq` is the last event that the log had before. A record that is whole, alone and wanted in full keeps its body as
    received. Raises OSError.
    """
    piece = _Piece(after_seq, limits, wanted)
    for record in source.read(after_seq, limits.max_events, min(JOINED_BYTES, limits.max_bytes), closed_only=False):
        if not piece.take(record):
            break
    if piece.oldest is None:
        return None
    batch = SinkBatch(
        piece.lines,
        first_seq=after_seq + 1,
        last_seq=piece.position,
        spool_id=source.spool_id,
        seqs=piece.seqs,
        stored=piece.stored,
    )
    return Cut(batch, piece.skipped, piece.oldest, piece.unreadable, full=durable_seq > piece.position)


class _Piece:
    """A batch in the making."""

    def __init__(self, after_seq: int, limits: SinkLimits, wanted: Callable[[bytes], bool] | None) -> None:
        self.position = after_seq
        self.lines: list[bytes] = []
        self.seqs: list[int] = []
        self.skipped = 0
        self.unreadable = 0
        self.oldest: datetime | None = None
        self.stored: StoredBody | None = None
        self._limits = limits
        self._wanted = wanted
        self._size = 0

    def take(self, record: Record) -> bool:
        """Take what fits of a record; False when the batch is full."""
        alone = self.oldest is None
        if not alone and self._size >= JOINED_BYTES:
            return False
        self.oldest = self.oldest or record.received_time
        body = _lines(record)
        if body is None:
            self.unreadable += record.last_seq - max(self.position, record.seq - 1)
            body = []
        first = max(0, self.position + 1 - record.seq)
        if not self._add_all(record.seq + first, body[first:]):
            for index in range(first, len(body)):
                if not self._add(record.seq + index, body[index]):
                    return False
        self.position = record.last_seq
        whole = alone and first == 0 and len(self.lines) == record.count
        self.stored = StoredBody(record.payload, record.flags.content_encoding, record.flags.format) if whole else None
        return True

    def _add_all(self, seq: int, lines: list[bytes]) -> bool:
        """Take these events, which are consecutive from `seq`; False, and none of them, unless all are wanted and fit."""
        size = self._size + sum(map(len, lines)) + len(lines)
        if self._wanted is not None or len(self.lines) + len(lines) > self._limits.max_events or size > self._limits.max_bytes:
            return False
        self.lines += lines
        self.seqs += range(seq, seq + len(lines))
        self._size = size
        return True

    def _add(self, seq: int, line: bytes) -> bool:
        if self._wanted is not None and not self._wanted(line):
            self.skipped += 1
        elif len(self.lines) >= self._limits.max_events or (self.lines and self._size + len(line) + 1 > self._limits.max_bytes):
            return False
        else:
            self.lines.append(line)
            self.seqs.append(seq)
            self._size += len(line) + 1
            self.stored = None
        self.position = seq
        return True


def _lines(record: Record) -> list[bytes] | None:
    """A record's events; None for one that was never a valid batch: its numbers are passed over."""
    try:
        return list(filter(bytes.strip, record.ndjson().split(b"\n")))
    except InvalidBody:
        return None
