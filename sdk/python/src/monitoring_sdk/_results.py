"""What became of events, for each backend: what `flush`, `emit_batch` and `stats` answer."""

from __future__ import annotations

import enum
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from monitoring_sdk._batch import Batch, Entry


class Verdict(enum.IntEnum):
    """What became of an event at one backend; of several backends, the greatest counts."""

    DELIVERED = 0
    SPOOLED = 1
    REJECTED = 2
    """Refused by a sidecar, which keeps it in quarantine."""
    FAILED = 3
    """Refused for good, and kept aside."""
    DROPPED = 4


@dataclass(frozen=True)
class BackendResult:
    """Events meant for one backend: each is in exactly one of delivered, spooled, failed, dropped and waiting."""

    delivered: int = 0
    """Acknowledged without a stay on disk."""
    spooled: int = 0
    """Written to disk, because the backend did not take them in time; delivered from there later."""
    failed: int = 0
    """Refused by the backend for good, and kept aside with the reason."""
    dropped: int = 0
    """Lost."""
    waiting: int = 0
    """In memory now."""
    replayed: int = 0
    """On top of these: delivered from disk, be it this process's or a dead one's."""
    error: str | None = None
    """Why the backend does not take events now; None when it does."""


@dataclass(frozen=True)
class FlushResult:
    """Whether all that was emitted before is safe (delivered, on disk, or kept aside), as its truth; and how each backend is."""

    safe: bool
    backends: Mapping[str, BackendResult] = field(default_factory=dict)
    """By name, counted since `initialize`."""

    def __bool__(self) -> bool:
        return self.safe


class EmitResult(list[str]):
    """The ids of the events of one `emit_batch`, in their order; and what became of them, as of the moment of asking."""

    def __init__(self, event_ids: Iterable[str], watch: Watch, flush: Callable[[float], FlushResult]) -> None:
        super().__init__(event_ids)
        self._watch = watch
        self._flush = flush

    @property
    def backends(self) -> dict[str, BackendResult]:
        """How these events stand with each backend; a fallback that was not needed is left out."""
        return self._watch.results()

    def wait(self, timeout: float) -> bool:
        """Wait for every backend to have said what became of these events; whether that came about within `timeout` seconds."""
        return self._watch.wait(timeout)

    def flush(self, timeout: float = 5.0) -> FlushResult:
        """Wait until these events are safe, at most `timeout` seconds."""
        return FlushResult(self._flush(timeout).safe and self._watch.is_complete, self.backends)


class Watch:
    """Hears what becomes of some events. `always` are the backends that are meant to get all of them."""

    def __init__(self, always: Iterable[str], errors: Callable[[str], str | None]) -> None:
        self._lock = threading.RLock()
        self._errors = errors
        self._expected = dict.fromkeys(always, 0)
        self._heard: dict[str, list[int]] = {name: [0] * len(Verdict) for name in self._expected}
        self._complete = threading.Event()
        self._sealed = False

    def expect(self, events: int, backend: str = "") -> None:
        """So many more events are meant for `backend`, or (without a name) for all that get every event."""
        with self._lock:
            for name in (backend,) if backend else tuple(self._expected):
                self._expected[name] = self._expected.get(name, 0) + events
                self._heard.setdefault(name, [0] * len(Verdict))

    def seal(self) -> None:
        """All of the events are known."""
        with self._lock:
            self._sealed = True
            self._look()

    def hear(self, backend: str, verdict: Verdict, events: int = 1) -> None:
        """So many events got this verdict of `backend` (empty: of all that were expected)."""
        with self._lock:
            for name in (backend,) if backend else tuple(self._heard):
                self._heard[name][verdict] += events
            self._look()

    def _look(self) -> None:
        if self._sealed and all(sum(self._heard[name]) >= count for name, count in self._expected.items()):
            self._complete.set()

    @property
    def is_complete(self) -> bool:
        """Whether every backend that an event was meant for has given its verdict, and none was that it is lost."""
        with self._lock:
            return self._complete.is_set() and not any(heard[Verdict.DROPPED] for heard in self._heard.values())

    def wait(self, timeout: float) -> bool:
        """Wait for all verdicts; whether they came within `timeout` seconds."""
        return self._complete.wait(timeout)

    def results(self) -> dict[str, BackendResult]:
        """How the events stand now."""
        with self._lock:
            return {
                name: BackendResult(
                    delivered=heard[Verdict.DELIVERED],
                    spooled=heard[Verdict.SPOOLED],
                    failed=heard[Verdict.FAILED] + heard[Verdict.REJECTED],
                    dropped=heard[Verdict.DROPPED],
                    waiting=self._expected[name] - sum(heard),
                    error=self._errors(name),
                )
                for name, heard in self._heard.items()
            }


class Watches:
    """Which events somebody wants to hear about, by their numbers, until they are in a batch."""

    def __init__(self) -> None:
        self._by_seq: dict[int, Watch] = {}

    def add(self, seq: int, watch: Watch) -> None:
        """Watch the event of this number, which is not in the queue yet."""
        self._by_seq[seq] = watch

    def attach(self, entries: Sequence[Entry], batches: Iterable[Batch]) -> None:
        """Let the batches that were made of these entries know who watches them."""
        if not self._by_seq:
            return
        start = 0
        for batch in batches:
            for index in range(len(batch)):
                watch = self._by_seq.pop(entries[start + index][0], None)
                if watch is not None:
                    batch.watches[index] = watch
            start += len(batch)

    def lose(self, seq: int) -> None:
        """The event of this number is lost."""
        watch = self._by_seq.pop(seq, None) if self._by_seq else None
        if watch is not None:
            watch.hear("", Verdict.DROPPED)
