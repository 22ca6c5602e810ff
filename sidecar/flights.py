"""The pieces of the log that are on their way to one backend, and how far everything before them is dealt with."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from enum import Enum

from sidecar.batching import Cut
from sinks.base import SinkBatch


class Stage(Enum):
    """Where a piece stands."""

    READY = "ready"
    """It may be sent and waits for its turn."""
    CALLING = "calling"
    HELD = "held"
    """A try failed and the next one is not due."""
    DONE = "done"
    """Every event of it is delivered or refused."""
    GIVEN_UP = "given up"
    """This delivery sends it no further."""


class Standing(Enum):
    """What a backend has of one event of the log."""

    DEALT_WITH = "dealt with"
    UNDER_WAY = "under way"
    WAITING = "waiting"


class Flight:
    """One piece on its way; times are seconds of the delivery's clock."""

    def __init__(self, cut: Cut) -> None:
        self.first_seq = cut.batch.first_seq
        self.last_seq = cut.last_seq
        self.oldest = cut.oldest
        self.skipped = cut.skipped
        self.unreadable = cut.unreadable
        self.full = cut.full
        self.events = cut.batch.count
        self.left: SinkBatch = cut.batch
        """What is neither delivered nor refused."""
        self.bytes = sum(map(len, cut.batch.lines)) + (len(cut.batch.stored.payload) if cut.batch.stored else 0)
        self.stage = Stage.READY if self.events else Stage.DONE
        self.failures = 0
        """Tries after which something was left."""
        self.began = 0.0
        """When the call under way began."""
        self.backoff_until = 0.0
        self.asked_until = 0.0
        """The system asked for this much patience with these events."""
        self._seqs: Sequence[int] = cut.batch.seqs

    @property
    def active(self) -> bool:
        """Whether something is still to be sent."""
        return self.stage not in {Stage.DONE, Stage.GIVEN_UP}

    def land(self) -> None:
        """All is dealt with: let go of the events."""
        self.stage = Stage.DONE
        self.bytes = 0
        self._seqs = ()
        self.left = self.left.subset(())

    def deals_with(self, seq: int) -> Standing:
        """What became of an event of this piece."""
        if self.stage is Stage.DONE or (seq in self._seqs and seq not in self.left.seqs):
            return Standing.DEALT_WITH
        return Standing.UNDER_WAY


class Flights:
    """Pieces in the order of the log, without gaps; the first one begins right after the position."""

    def __init__(self) -> None:
        self._queue: deque[Flight] = deque()

    def __len__(self) -> int:
        return len(self._queue)

    def add(self, flight: Flight) -> None:
        """Put a piece behind the others."""
        self._queue.append(flight)

    @property
    def head(self) -> Flight | None:
        """The first piece."""
        return self._queue[0] if self._queue else None

    def pop(self) -> None:
        """Take the first piece away."""
        self._queue.popleft()

    def clear(self) -> None:
        """Forget all of them."""
        self._queue.clear()

    def active(self) -> list[Flight]:
        """The pieces of which something is still to be sent."""
        return [flight for flight in self._queue if flight.active]

    def at(self, *stages: Stage) -> list[Flight]:
        """The pieces in one of these stages."""
        return [flight for flight in self._queue if flight.stage in stages]

    @property
    def bytes(self) -> int:
        """Bytes of events that are held."""
        return sum(flight.bytes for flight in self._queue)

    @property
    def landed_events(self) -> int:
        """Events that are dealt with, but stand behind one that is not."""
        return sum(flight.last_seq - flight.first_seq + 1 for flight in self._queue if flight.stage is Stage.DONE)

    def standing(self, seq: int) -> Standing:
        """What became of an event behind the position."""
        for flight in self._queue:
            if flight.first_seq <= seq <= flight.last_seq:
                return flight.deals_with(seq)
        return Standing.WAITING
