"""What was found damaged in a spool: counted once with its events, and kept aside for whoever wants to look at it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sidecar.spool.filesystem import replace_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sidecar.spool.filesystem import Filesystem

CORRUPT: Final = "corrupt"
MAX_KEPT_BYTES: Final = 256 * 1024 * 1024
"""What is kept aside in all; further damage is counted but not copied."""

MAX_KEPT_PIECE: Final = 32 * 1024 * 1024
_MAX_REMEMBERED: Final = 10_000

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Damage:
    """One stretch of a segment that can't be read, or events that the numbering says are missing."""

    segment: str
    """File name of the segment."""
    offset: int
    bytes: int
    first_seq: int
    """Sequence number of the first event concerned."""
    events: int
    """How many events are gone; 0 when nothing that was numbered is missing."""
    reason: str

    def __str__(self) -> str:
        span = f"events {self.first_seq} to {self.first_seq + self.events - 1}" if self.events else "no numbered event"
        return f"{self.segment} at byte {self.offset}: {self.reason} ({self.bytes} bytes, {span})"


class DamageLedger:
    """Damage seen so far in one process, each piece counted once however many readers come across it.

    `folder` is the spool's; None keeps no copies. `on_damage` is called for each new piece instead of
    a warning in the log.
    """

    def __init__(self, folder: Path | None, filesystem: Filesystem, on_damage: Callable[[Damage], None] | None = None) -> None:
        self._folder = folder
        self._filesystem = filesystem
        self._on_damage = on_damage
        self._seen: dict[tuple[str, int], int] = {}
        self.pieces = 0
        self.events = 0
        """Events lost to damage."""
        self.kept_bytes = 0

    def record(self, damage: Damage, fd: int | None) -> None:
        """Count a piece of damage and copy its bytes aside from the open segment `fd`, if any; never raises OSError."""
        key = (damage.segment.partition(".")[0], damage.offset)
        known = self._seen.get(key)
        if known is not None and known >= damage.events:
            return
        self._seen.pop(key, None)
        if len(self._seen) >= _MAX_REMEMBERED:
            self._seen.pop(next(iter(self._seen)))
        self._seen[key] = damage.events
        self.events += damage.events - (known or 0)
        if known is None:
            self.pieces += 1
            if self._on_damage is None:
                logger.warning("spool damage: %s", damage)
            if fd is not None and damage.bytes:
                self._keep(damage, fd)
        if self._on_damage is not None:
            self._on_damage(damage)

    def _keep(self, damage: Damage, fd: int) -> None:
        if self._folder is None:
            return
        corrupt = self._folder / CORRUPT
        name = f"{damage.segment.partition('.')[0]}-{damage.offset:010d}.bin"
        try:
            self._filesystem.make_folder(corrupt)
            there = self._filesystem.list_folder(corrupt)
            if any(existing == name for existing, _ in there):
                return
            length = min(damage.bytes, MAX_KEPT_PIECE)
            if sum(size for _, size in there) + length > MAX_KEPT_BYTES:
                logger.warning(
                    "spool damage not kept aside: %s holds %d bytes already; look at it and empty it", corrupt, MAX_KEPT_BYTES
                )
                return
            content = self._filesystem.read_at(fd, length, damage.offset)
            replace_file(self._filesystem, corrupt / name, content)
            self.kept_bytes += len(content)
        except OSError as error:
            logger.warning("spool damage not kept aside: %s: %s", corrupt / name, error)
