"""Direct mode's bookkeeping: a batch on its way to several backends at once, and the parcels that each of them gets of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

from monitoring_sdk._batch import Batch
from monitoring_sdk._results import Verdict

Segment = tuple["Shipment", int, int]
"""Where consecutive lines of a parcel come from: a shipment, the first place in it, and how many."""


class Numbers:
    """Counts events in the order in which they are handed to the backends, from 1, without a gap."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a signal handler may interrupt its holder, and close
        self._next = 1

    def take(self, events: int) -> int:
        """The first of so many numbers that nobody else has."""
        with self._lock:
            first = self._next
            self._next += events
            return first


class Parcel:
    """Events for one backend, in one call: tried again, written to disk and delivered from there as the same parcel.

    `number` is that of the first event in the numbering `log`; the others follow without a gap. So a backend that names what it
    writes after log, first and last number writes a parcel twice without harm. Events of no shipment come from the disk.
    """

    __slots__ = ("attempted", "lines", "log", "number", "segments", "settled", "size")

    def __init__(self, lines: Sequence[bytes], log: str, number: int, segments: Sequence[Segment] = ()) -> None:
        self.lines = lines
        self.log = log
        self.number = number
        self.segments = segments
        self.size = sum(map(len, lines)) + len(lines)
        self.attempted = False
        self.settled = False

    def __len__(self) -> int:
        return len(self.lines)

    def batch(self) -> Batch:
        """The same as a transport takes it."""
        return Batch(self.lines, self.number, log=self.log)

    def piece(self, start: int, stop: int) -> Parcel:
        """The events from `start` up to `stop`, under their own numbers."""
        return Parcel(self.lines[start:stop], self.log, self.number + start, self._origin(range(start, stop)))

    def subset(self, places: Sequence[int], log: str, number: int) -> Parcel:
        """The events of these places, under new numbers, for what a backend has said it did not take."""
        return Parcel([self.lines[place] for place in places], log, number, self._origin(places))

    def joined(self, other: Parcel) -> Parcel:
        """This parcel and the one that follows it."""
        return Parcel([*self.lines, *other.lines], self.log, self.number, [*self.segments, *other.segments])

    def is_followed_by(self, other: Parcel) -> bool:
        """Whether the two could as well be one."""
        return other.log == self.log and other.number == self.number + len(self.lines) and not (self.attempted or other.attempted)

    def cut(self, max_events: int, max_bytes: int) -> Iterator[Parcel]:
        """The parcel in pieces within these bounds, always the same ones; a single event may be larger."""
        start = size = 0
        for place, line in enumerate(self.lines):
            if place > start and (place - start >= max_events or size + len(line) + 1 > max_bytes):
                yield self.piece(start, place)
                start, size = place, 0
            size += len(line) + 1
        yield self if start == 0 else self.piece(start, len(self.lines))

    def resolve(self, backend: str, verdict: Verdict, places: Iterable[int] | None = None) -> None:
        """The backend is done with the events of these places (None: all)."""
        for shipment, first, count in self.segments if places is None else self._origin(places):
            shipment.resolve(backend, range(first, first + count), verdict)

    def failed(self, backend: str) -> None:
        """The backend could not take the parcel now: whoever stands in for it may have it."""
        for shipment, first, count in self.segments:
            shipment.failed(backend, range(first, first + count))

    def _origin(self, places: Iterable[int]) -> list[Segment]:
        """Where these places come from; neighbours stay together."""
        sources = [(shipment, first + offset) for shipment, first, count in self.segments for offset in range(count)]
        found: list[Segment] = []
        for place in places if sources else ():
            shipment, index = sources[place]
            if found and found[-1][0] is shipment and found[-1][1] + found[-1][2] == index:
                found[-1] = (shipment, found[-1][1], found[-1][2] + 1)
            else:
                found.append((shipment, index, 1))
        return found


class Taker(Protocol):
    """A backend, as far as a shipment knows it."""

    @property
    def name(self) -> str:
        """What results call it."""

    def offer(self, parcel: Parcel) -> None:
        """Have it deliver the parcel."""


class Shipment:
    """One batch for several backends. `standbys` are the fallbacks in order of priority, each with those that it stands in for.

    `done` is called once with the shipment when no backend has to do with it any more.
    """

    def __init__(
        self,
        batch: Batch,
        log: str,
        numbers: Numbers,
        always: Sequence[Taker],
        standbys: Sequence[tuple[Taker, frozenset[str]]],
        done: Callable[[Shipment], None],
    ) -> None:
        self.batch = batch
        self._log = log
        self._numbers = numbers
        self._number = numbers.take(len(batch))
        self._always = always
        self._standbys = standbys
        self._done = done
        self._lock = threading.RLock()
        self._left = len(batch) * len(always)
        self._worst = bytearray(len(batch))
        self._failed: dict[str, set[int]] = {}
        self._offered: dict[str, set[int]] = {}

    def send(self) -> None:
        """Hand it to every backend that gets all events, in order of priority."""
        for taker in self._always:
            taker.offer(Parcel(self.batch.lines, self._log, self._number, [(self, 0, len(self.batch))]))

    def failed(self, backend: str, places: Iterable[int]) -> None:
        """A backend could not take these events now."""
        if not self._standbys:
            return
        with self._lock:
            self._failed.setdefault(backend, set()).update(places)
            orders = [order for order in map(self._order, self._standbys) if order is not None]
            for _, parcel in orders:
                self._left += len(parcel)
        for taker, parcel in orders:
            self._expect(taker.name, parcel)
            taker.offer(parcel)

    def _order(self, standby: tuple[Taker, frozenset[str]]) -> tuple[Taker, Parcel] | None:
        """What a fallback gets: the events that all those before it failed to take, once."""
        taker, primaries = standby
        offered = self._offered.setdefault(taker.name, set())
        lost = set.intersection(*(self._failed.get(name, set()) for name in primaries)) - offered
        if not lost:
            return None
        offered |= lost
        whole = Parcel(self.batch.lines, self._log, self._number, [(self, 0, len(self.batch))])
        if len(lost) == len(self.batch):
            return taker, whole
        places = sorted(lost)
        return taker, whole.subset(places, self._log, self._numbers.take(len(places)))

    def _expect(self, backend: str, parcel: Parcel) -> None:
        if self.batch.watches:
            for _, first, count in parcel.segments:
                for place in range(first, first + count):
                    watch = self.batch.watches.get(place)
                    if watch is not None:
                        watch.expect(1, backend)

    def resolve(self, backend: str, places: range, verdict: Verdict) -> None:
        """A backend is done with these events."""
        if self.batch.watches:
            self.batch.tell(backend, verdict, places)
        with self._lock:
            if verdict:
                for place in places:
                    self._worst[place] = max(self._worst[place], verdict)
            self._left -= len(places)
            finished = self._left == 0
        if finished:
            self._done(self)

    def counts(self) -> dict[Verdict, int]:
        """How many events fared how, each by the worst that any backend said."""
        return {verdict: self._worst.count(verdict) for verdict in Verdict}
