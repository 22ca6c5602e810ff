"""What one backend of direct mode has still to get, in memory: the parcels that wait, and those that are in somebody's hands."""

from __future__ import annotations

import threading
from collections import deque

from monitoring_sdk._queue import LARGE_SUM
from monitoring_sdk._shipments import Parcel


class Backlog:
    """Parcels in order, bounded by `max_events` and by their bytes. Every call is safe from any thread."""

    def __init__(self, max_events: int) -> None:
        self.lock = threading.RLock()
        self._max_events = max_events
        self._waiting: deque[Parcel] = deque()
        self._in_hand: dict[int, Parcel] = {}
        self._events = 0
        self._bytes = 0

    def __bool__(self) -> bool:
        return bool(self._waiting)

    @property
    def is_full(self) -> bool:
        """Whether more waits than should."""
        return self._events > self._max_events or self._bytes > LARGE_SUM

    @property
    def is_half_full(self) -> bool:
        """Whether more waits than half of what should."""
        return self._events > self._max_events // 2 or self._bytes > LARGE_SUM // 2

    @property
    def depth(self) -> int:
        """Events in memory."""
        with self.lock:
            held = {id(parcel): parcel for parcel in (*self._waiting, *self._in_hand.values()) if not parcel.settled}
            return sum(map(len, held.values()))

    def waiting(self) -> list[Parcel]:
        """What waits now, oldest first."""
        with self.lock:
            return list(self._waiting)

    def append(self, parcel: Parcel) -> None:
        """Have a parcel wait."""
        with self.lock:
            self._waiting.append(parcel)
            self._count(parcel, 1)

    def pop(self, max_events: int, max_bytes: int) -> Parcel | None:
        """The oldest parcel, joined with those that follow it within these bounds; from now on it is in hand."""
        with self.lock:
            parcel: Parcel | None = None
            while self._waiting:
                following = self._waiting[0]
                if not following.settled and parcel is not None:
                    fits = len(parcel) + len(following) <= max_events and parcel.size + following.size <= max_bytes
                    if not (fits and parcel.is_followed_by(following)):
                        break
                self._count(self._waiting.popleft(), -1)
                if not following.settled:
                    parcel = following if parcel is None else parcel.joined(following)
            if parcel is not None:
                self.hand(parcel)
            return parcel

    def hand(self, parcel: Parcel) -> None:
        """Know a parcel as being in somebody's hands."""
        with self.lock:
            self._in_hand[id(parcel)] = parcel

    def put_back(self, parcel: Parcel) -> None:
        """Have a parcel that was in hand wait again, before all others, and as it is."""
        with self.lock:
            self._in_hand.pop(id(parcel), None)
            parcel.attempted = True
            self._waiting.appendleft(parcel)
            self._count(parcel, 1)

    def settle(self, parcel: Parcel) -> bool:
        """Whether the caller is the first to be done with the parcel, which is then out of memory."""
        with self.lock:
            self._in_hand.pop(id(parcel), None)
            if parcel.settled:
                return False
            parcel.settled = True
            return True

    def strand(self) -> list[Parcel]:
        """All that is in memory; nothing waits any more."""
        with self.lock:
            left = [*self._in_hand.values(), *self._waiting]
            self._waiting.clear()
            self._events = self._bytes = 0
            return left

    def _count(self, parcel: Parcel, sign: int) -> None:
        self._events += sign * len(parcel)
        self._bytes += sign * parcel.size
