"""What the SDK did, counted: for `stats()`, for the last line in the log, and for the event that reports what was dropped."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from monitoring_sdk._results import BackendResult


@dataclass(frozen=True)
class Stats:
    """Events of this process since `initialize`, or since it was forked.

    Every event that was emitted is in exactly one of sent, rejected, spooled, failed, dropped and queued. `replayed` counts on
    top of that what was delivered out of the spool folder, be it this process's or a dead one's.

    In direct mode an event counts once here, by the worst that became of it at any backend; `backends` tells them apart.
    """

    emitted: int = 0
    """Taken from the program."""
    sent: int = 0
    """Acknowledged by the sidecar (in direct mode: by every backend) without a stay on disk."""
    rejected: int = 0
    """Refused by the sidecar one by one; it keeps them in quarantine with the reason."""
    spooled: int = 0
    """Written to the spool folder."""
    replayed: int = 0
    """Delivered out of the spool folder; in direct mode, an event counts once for each backend."""
    failed: int = 0
    """Refused for good (by the sidecar as a whole batch, by other backends one by one), and kept aside in the spool folder where
    there is one."""
    dropped: int = 0
    """Lost: the sum of `dropped_by_reason`."""
    queued: int = 0
    """In memory now."""
    dropped_by_reason: dict[str, int] = field(default_factory=dict)
    """`queue_full`, `spool_failed` (the spool folder can't be written) or `undeliverable` (there is no spool folder)."""
    backends: Mapping[str, BackendResult] = field(default_factory=dict)
    """By name, in order of priority; in sidecar mode the only one is `sidecar`."""


class Counts:
    """The running counters; each call is safe from any thread, and from a signal handler that interrupts another."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._numbers = dict.fromkeys(("reports", "sent", "rejected", "spooled", "replayed", "failed"), 0)
        self._dropped: dict[str, int] = {}
        self._unreported: dict[str, int] = {}

    def add(self, name: str, events: int) -> None:
        """Count `events` more under `name`."""
        with self._lock:
            self._numbers[name] += events

    def drop(self, reason: str, events: int) -> None:
        """Count lost events; they stay to be reported."""
        with self._lock:
            self._dropped[reason] = self._dropped.get(reason, 0) + events
            self.unreport({reason: events})

    @property
    def lost(self) -> int:
        """Events lost so far."""
        with self._lock:
            return sum(self._dropped.values())

    def take_unreported(self) -> dict[str, int]:
        """The drops since the last call, by reason; whoever takes them reports them, or hands them to `unreport`."""
        with self._lock:
            taken, self._unreported = self._unreported, {}
            return taken

    def unreport(self, drops: dict[str, int]) -> None:
        """Note drops whose report is not on its way."""
        with self._lock:
            for reason, events in drops.items():
                self._unreported[reason] = self._unreported.get(reason, 0) + events

    def snapshot(self, *, received: int, queued: int) -> Stats:
        """All of it now; `received` counts what came from the program, `queued` what is in memory."""
        with self._lock:
            numbers = self._numbers
            return Stats(
                emitted=received + numbers["reports"],
                sent=numbers["sent"],
                rejected=numbers["rejected"],
                spooled=numbers["spooled"],
                replayed=numbers["replayed"],
                failed=numbers["failed"],
                dropped=sum(self._dropped.values()),
                queued=queued,
                dropped_by_reason=dict(self._dropped),
            )
