"""Looking into a spool from outside, beside a running sidecar: what is there, is it whole, and the events themselves.

Nothing here writes to the spool or takes its lock.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from contract.errors import TrackMateError
from sidecar.spool.checkpoint import inspect_checkpoint, list_checkpoints
from sidecar.spool.damage import CORRUPT, Damage, DamageLedger
from sidecar.spool.filesystem import DISK
from sidecar.spool.format import RECORD_HEADER_BYTES, Record
from sidecar.spool.reader import BEFORE_ALL, SpoolReader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime
    from pathlib import Path

    from sidecar.spool.segments import SegmentInfo

UNBOUNDED: Final = 2**62
_PAGE_EVENTS: Final = 50_000

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ReaderState:
    """How far one reader has come."""

    name: str
    seq: int
    lag: int
    """Events it has yet to deliver."""
    waiting_since: datetime | None
    """When the oldest of these was received."""
    problem: str | None
    """What is wrong with its checkpoint file."""


@dataclass(frozen=True, slots=True)
class Overview:
    """A spool as its folder shows it."""

    spool_id: str
    segments: list[SegmentInfo]
    readers: list[ReaderState]
    kept_pieces: int
    """Damaged stretches that lie in `corrupt/`."""

    @property
    def bytes(self) -> int:
        """Bytes of all segments."""
        return sum(segment.bytes for segment in self.segments)

    @property
    def events(self) -> int:
        """Events numbered into the segments that are left."""
        return sum(segment.events for segment in self.segments)

    @property
    def last_seq(self) -> int:
        """Number of the newest event; 0 when there never was one."""
        return self.segments[-1].last_seq if self.segments else 0


@dataclass(slots=True)
class Verification:
    """What a walk through every record found."""

    records: int = 0
    events: int = 0
    bytes: int = 0
    problems: list[str] = field(default_factory=list)
    """Each names the segment and byte, or the record, or the checkpoint."""
    lost_events: int = 0


def quiet_reader(folder: Path, on_damage: Callable[[Damage], None] | None = None) -> SpoolReader:
    """A reader that copies nothing aside."""
    return SpoolReader(folder, ledger=DamageLedger(None, DISK, on_damage))


def _unseen(_: Damage) -> None:
    """Damage is told by `verify`."""


def overview(folder: Path) -> Overview:
    """Segments and readers of the spool in `folder`. Raises SpoolError when there is none, OSError."""
    reader = quiet_reader(folder, _unseen)
    spool_id = reader.spool_id
    segments = reader.segments()
    last = segments[-1].last_seq if segments else 0
    states = []
    for name in list_checkpoints(folder):
        seq, problem = inspect_checkpoint(folder, name, DISK)
        waiting = next(reader.read(seq, 1, 1, closed_only=False), None) if seq < last else None
        states.append(ReaderState(name, seq, max(last - seq, 0), waiting.received_time if waiting else None, problem))
    return Overview(spool_id, segments, states, len(DISK.list_folder(folder / CORRUPT)))


def verify(folder: Path, *, bodies: bool = True, progress: Callable[[int, int], None] | None = None) -> Verification:
    """Read every record there is and check it; with `bodies`, also that it opens and holds the events it claims.

    `progress` is called with the bytes and events done. Raises SpoolError when there is no spool, OSError.
    """
    result = Verification()

    def note(damage: Damage) -> None:
        if damage.offset != BEFORE_ALL:  # else: deleted by the running sidecar while we looked
            result.problems.append(str(damage))
            result.lost_events += damage.events

    reader = quiet_reader(folder, note)
    result.problems += [state.problem for state in overview(folder).readers if state.problem]
    for record in reader.read(0, UNBOUNDED, UNBOUNDED, closed_only=False):
        result.records += 1
        result.events += record.count
        result.bytes += RECORD_HEADER_BYTES + len(record.payload)
        if bodies and (problem := _body_problem(record)):
            result.problems.append(f"record {record.seq} ({record.count} events): {problem}")
        if progress is not None:
            progress(result.bytes, result.events)
    return result


def events(folder: Path, after_seq: int, limit: int | None = None) -> Iterator[tuple[int, bytes]]:
    """Number and text of each event after `after_seq`, oldest first. What can't be read is told in the log and passed over.

    Raises SpoolError when there is no spool, OSError.
    """
    reader = quiet_reader(folder)
    logger.debug("reading spool %s", reader.spool_id)
    given = 0
    while True:
        record = None
        for record in reader.read(after_seq, _PAGE_EVENTS, UNBOUNDED, closed_only=False):
            for seq, line in _lines(record):
                if seq <= after_seq:
                    continue
                if limit is not None and given >= limit:
                    return
                given += 1
                yield seq, line
            after_seq = record.last_seq
        if record is None:
            return


def _lines(record: Record) -> list[tuple[int, bytes]]:
    try:
        lines = [line for line in record.ndjson().split(b"\n") if line.strip()]
    except TrackMateError as error:
        logger.warning("record %d (%d events) can't be opened and is passed over: %s", record.seq, record.count, error)
        return []
    return [(record.seq + index, line) for index, line in enumerate(lines)]


def _body_problem(record: Record) -> str | None:
    try:
        held = sum(1 for line in record.ndjson().split(b"\n") if line.strip())
    except TrackMateError as error:
        return f"its body can't be opened: {error}"
    except ValueError as error:
        return f"its body can't be read: {error}"
    return None if held == record.count else f"its body holds {held} events"
