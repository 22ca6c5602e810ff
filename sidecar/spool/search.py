"""Finds one event in a spool by its id, within bounds of time and bytes; nothing is kept for it while events come in.

A UUIDv7 tells when the event was made, which is when it was received unless it waited somewhere. So the segment that was being
written then is searched first, then the later ones in order (the event waited in an SDK's spool), then the earlier ones, the
latest first (a clock over there was ahead).
"""

from __future__ import annotations

import os
import time
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from contract.compression import decompress
from contract.errors import InvalidBody
from contract.ids import uuid7_millis
from sidecar.spool.filesystem import DISK, Filesystem
from sidecar.spool.format import Record, SegmentHeader
from sidecar.spool.reader import SpoolReader
from sidecar.spool.segments import SegmentInfo, read_segment_header
from sinks.base import event_id_of

UNBOUNDED: Final = 2**62
CLOCK_SLACK_MICROS: Final = 2_000_000
"""A sender's clock may be ahead by this much without making the search begin in the wrong place."""


@dataclass
class Budget:
    """What a search may use up; the bytes and segments that it did."""

    deadline: float
    """By `time.monotonic`."""
    max_bytes: int
    bytes: int = 0
    segments: int = 0
    ended_early: str | None = None
    """Why not everything was searched."""

    def spend(self, size: int) -> bool:
        """Count bytes looked at; False when it is enough."""
        self.bytes += size
        if self.bytes > self.max_bytes:
            self.ended_early = f"it may look at {self.max_bytes} bytes"
        elif time.monotonic() > self.deadline:
            self.ended_early = "its time was over"
        return self.ended_early is None


@dataclass(frozen=True, slots=True)
class Place:
    """Where an event stands."""

    segment: str
    """File name."""
    seq: int
    received_at: datetime
    line: bytes
    """The event's own text."""


def find_event(reader: SpoolReader, event_id: str, budget: Budget, *, filesystem: Filesystem = DISK) -> Place | None:
    """The first copy that is come across; None when there is none in what was searched. Blocking I/O. Raises OSError."""
    segments = reader.segments()
    wanted = event_id.encode()
    for segment in _in_order(segments, uuid7_millis(event_id), filesystem):
        budget.segments += 1
        for record in reader.read(segment.first_seq - 1, UNBOUNDED, UNBOUNDED, closed_only=False):
            if record.seq > segment.last_seq:
                break
            found = _in_record(record, wanted)
            if found is not None:
                return Place(segment.path.name, record.seq + found[0], record.received_time, found[1])
            if not budget.spend(len(record.payload)):
                return None
            time.sleep(0)  # let go of the interpreter: events come in meanwhile
    return None


def _in_order(segments: Sequence[SegmentInfo], made_millis: int | None, filesystem: Filesystem) -> list[SegmentInfo]:
    """The likely ones first."""
    if made_millis is None:
        return list(reversed(segments))
    made = made_millis * 1000 - CLOCK_SLACK_MICROS
    starts = [_created_at(segment, filesystem) for segment in segments]
    # One whose header can't be read began at some time after the one before it.
    for index, start in enumerate(starts):
        starts[index] = max(start, starts[index - 1] if index else 0)
    first = max(bisect_right(starts, made) - 1, 0)
    return [*segments[first:], *reversed(segments[:first])]


def _created_at(segment: SegmentInfo, filesystem: Filesystem) -> int:
    try:
        descriptor = filesystem.open(segment.path, os.O_RDONLY)
    except FileNotFoundError:
        return 0  # deleted or renamed since it was listed
    try:
        header = read_segment_header(filesystem, descriptor)
    finally:
        filesystem.close(descriptor)
    return header.created_at if isinstance(header, SegmentHeader) else 0


def _in_record(record: Record, wanted: bytes) -> tuple[int, bytes] | None:
    """Place in the record and text of the event."""
    try:
        if wanted not in decompress(record.payload, record.flags.content_encoding):
            return None
        lines = [line for line in record.ndjson().split(b"\n") if line.strip()]
    except InvalidBody:
        return None
    text = wanted.decode()
    return next(((index, line) for index, line in enumerate(lines) if wanted in line and event_id_of(line) == text), None)
