"""The bounded queue between the program's threads and the worker.

Putting takes no lock: `deque.append` is atomic, so that an emit costs little, can't deadlock in a signal handler, and leaves no
lock behind in a forked child. Only taking, and whatever happens near the bound, is done under a lock.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from monitoring_sdk._batch import Batch, Entry, pack
from monitoring_sdk._config import QueueSettings
from monitoring_sdk._counts import Counts
from monitoring_sdk._results import Watches

LARGE_TEXT = 4096
"""Events with more characters than this are bounded by their sum too; smaller ones by their number alone."""

LARGE_SUM = 32 * 1024 * 1024
_FEW = 16
_POLL = 0.001
_FIRST_LOOK = 0.0002
_LAST_LOOK = 0.02
"""Pauses, in seconds, between a flush's looks at what is left."""

_PATIENCE = 1.0
"""How long, in seconds, an emit waits for the disk when the queue is full and `on_full` is `spool`."""


class Attendants(Protocol):
    """Who empties the queue."""

    def start(self) -> None:
        """Begin; called by the first event."""

    def wake(self) -> None:
        """There is a batch to send. Called from any thread and from signal handlers."""

    def hurry(self) -> None:
        """Look at all of the queue now, be it a whole batch or not."""

    def overflow(self) -> None:
        """The queue is nearly full: put some of it on disk."""

    def late(self) -> None:
        """An event came after the end: put it on disk."""


class EventQueue:
    """Entries in the order of emission, and which of them are in somebody's hands."""

    def __init__(self, settings: QueueSettings, counts: Counts, *, spooling: bool) -> None:
        self._settings = settings
        self._counts = counts
        self._on_full = "drop_oldest" if settings.on_full == "spool" and not spooling else settings.on_full
        self._entries: deque[Entry] = deque()
        self._lock = threading.RLock()
        self._large = 0
        self._taken = 0
        self._in_hand: dict[int, Batch] = {}
        self._dropping = False
        self._high_water = max(1, settings.max_events * 3 // 4)
        self._notice = 1
        self._closed = False
        self.disk_failing = False
        """Set while the spool folder can't be written: then nobody waits for it."""
        self.attendants: Attendants | None = None
        self.watches = Watches()

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, entry: Entry, large: int = 0) -> None:
        """Add an entry; `large` is the length of its text when that is over LARGE_TEXT, else 0."""
        entries = self._entries
        entries.append(entry)
        if large or len(entries) >= self._notice:
            self._attend(large)

    def begin(self) -> None:
        """Somebody attends to the queue from now on; until then each event asks for it."""
        if not self._closed:
            self._notice = min(self._settings.batch_size, self._high_water)

    def close(self) -> None:
        """Nobody attends to the queue any more: each later event does so itself."""
        self._closed = True
        self._notice = 0

    def take(self, limit: int, emitter_id: str) -> list[Batch]:
        """Up to `limit` of the oldest entries as batches, which are in the caller's hands from then on."""

        def take() -> list[Batch]:
            entries = [self._entries.popleft() for _ in range(min(limit, len(self._entries)))]
            ordinal = self._taken
            self._taken += len(entries)
            self._large -= sum(map(_large, entries)) if self._large else 0
            batches = pack(entries, emitter_id, ordinal)
            self.watches.attach(entries, batches)
            return batches

        return self.hand(take)

    def hand(self, take: Callable[[], list[Batch]]) -> list[Batch]:
        """Run `take`, and know its batches as being in somebody's hands from then on."""
        with self._lock:
            batches = take()
            self._in_hand.update((batch.ordinal, batch) for batch in batches)
            return batches

    @contextmanager
    def settling(self, batch: Batch) -> Iterator[bool]:
        """Whether the caller is the first to be done with `batch`, which is out of memory after the block.

        What the caller counts in the block is counted when a flush that waits for the batch returns.
        """
        with self._lock:
            first = not batch.settled
            batch.settled = True
        try:
            yield first
        finally:
            if first:
                with self._lock:
                    self._in_hand.pop(batch.ordinal, None)

    def replace(self, batch: Batch, parts: tuple[Batch, ...]) -> None:
        """Know `parts` in place of `batch`."""
        with self._lock:
            self._in_hand.pop(batch.ordinal, None)
            self._in_hand.update((part.ordinal, part) for part in parts)

    def in_hand(self) -> list[Batch]:
        """The batches that were taken and are not settled."""
        with self._lock:
            return [batch for batch in self._in_hand.values() if not batch.settled]

    def mark(self) -> int:
        """The ordinal after the newest event."""
        with self._lock:
            return self._taken + len(self._entries)

    def done_before(self, mark: int) -> bool:
        """Whether every event below `mark` is out of memory."""
        with self._lock:
            return min(self._in_hand, default=self._taken) >= mark

    def flush(self, timeout: float, clock: Callable[[], float], closing: threading.Event) -> bool:
        """Hurry the attendants until every event of before this call is out of memory; whether it is within `timeout` seconds."""
        mark = self.mark()
        deadline = clock() + timeout
        pause = _FIRST_LOOK
        attendants = self.attendants
        if attendants is not None:
            attendants.start()
        while not self.done_before(mark):
            if attendants is None or clock() >= deadline or closing.is_set():
                return self.done_before(mark)
            attendants.hurry()
            time.sleep(pause)
            pause = min(_LAST_LOOK, pause * 1.5)
        return True

    def excess(self) -> int:
        """How many entries to take for the queue to come down to half its bounds; large ones come down a few at a time."""
        many = len(self._entries) - self._settings.max_events // 2
        return max(many, _FEW) if many > 0 or self._large > LARGE_SUM // 2 else 0

    def depth(self) -> int:
        """Events in memory."""
        with self._lock:
            return len(self._entries) + sum(map(len, self._in_hand.values()))

    # ------------------------------------------------------------------------------------------------ near the bound

    def _attend(self, large: int) -> None:
        attendants = self.attendants
        if attendants is None:
            return
        if large:
            with self._lock:
                self._large += large
        if self._closed:
            attendants.late()
            return
        if self._notice == 1:
            attendants.start()
        waiting = len(self._entries)
        if waiting >= self._settings.batch_size or large:
            attendants.wake()
        if waiting < self._high_water and self._large < LARGE_SUM // 2:
            return
        attendants.wake()
        if self._on_full == "spool":
            attendants.overflow()
        if self._is_full():
            self._make_room()

    def _is_full(self) -> bool:
        return len(self._entries) > self._settings.max_events or self._large > LARGE_SUM

    def _make_room(self) -> None:
        if self._on_full == "drop_oldest":
            self._drop_oldest("queue_full")
            return
        patience = _PATIENCE if self._on_full == "spool" else float("inf")
        deadline = time.monotonic() + patience
        while self._is_full() and not self._closed:
            if self._on_full == "spool" and (self.disk_failing or time.monotonic() > deadline):
                self._drop_oldest("spool_failed" if self.disk_failing else "queue_full")
            else:
                time.sleep(_POLL)

    def _drop_oldest(self, reason: str) -> None:
        with self._lock:
            dropped = 0
            while self._entries and self._is_full():
                oldest = self._entries.popleft()
                self._large -= _large(oldest)
                self._taken += 1
                self.watches.lose(oldest[0])
                dropped += 1
            if dropped:
                self._counts.drop(reason, dropped)


def _large(entry: Entry) -> int:
    text = entry[4]
    return len(text) if isinstance(text, str) and len(text) > LARGE_TEXT else 0
