"""The seam between the queue and whoever takes the events: the sidecar, a backend of direct mode, or a recorder in tests."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any, Protocol

from monitoring_sdk._batch import Batch
from monitoring_sdk._limits import MAX_BATCH_BYTES, MAX_BATCH_EVENTS


class Outcome(enum.Enum):
    """What became of a batch."""

    ACCEPTED = "accepted"
    """It is durable there, except for what `Answer.rejected` names."""
    RETRY = "retry"
    """Not now: the same batch may be taken later."""
    KEEP = "keep"
    """Not as things are configured (a wrong token, a wrong address): keep it, tell the operator, try seldom."""
    REFUSED = "refused"
    """Never: sending it again can't help."""
    TOO_LARGE = "too large"
    """Send it in smaller pieces."""


@dataclass(frozen=True)
class Rejection:
    """One event of an accepted batch that will never be taken: its place in the batch, and why."""

    index: int
    path: str
    error: str


@dataclass(frozen=True)
class Answer:
    """What a transport has to say about a batch; `retry_after` is in seconds."""

    outcome: Outcome
    detail: str = ""
    retry_after: float | None = None
    rejected: tuple[Rejection, ...] = ()
    retry: tuple[int, ...] = ()
    """Places in an accepted batch of events that were not taken now, and may be later."""
    alive: bool = False
    """Of an answer to retry: whether the backend works, and only asks for patience."""

    @classmethod
    def of_rejections(cls, rejected: list[dict[str, Any]]) -> Answer:
        """An accepted batch, with the rejections as the wire has them."""
        return cls(
            Outcome.ACCEPTED,
            rejected=tuple(
                Rejection(int(entry.get("index", -1)), str(entry.get("path", "")), str(entry.get("error", "")))
                for entry in rejected
            ),
        )


class Transport(Protocol):
    """Takes batches, one at a time, from one thread."""

    def send(self, batch: Batch, timeout: float) -> Answer:
        """Hand over a batch within `timeout` seconds. Never raises for trouble with delivery: the answer tells."""

    def interrupt(self) -> None:
        """Make a `send` that is under way in another thread return soon; nothing is sent after this."""

    def close(self) -> None:
        """Let go of connections. Calling it twice does no harm."""


@dataclass(frozen=True)
class Bounds:
    """The most that a backend takes in one call; bytes are of NDJSON, each event with its line feed."""

    max_events: int = MAX_BATCH_EVENTS
    max_bytes: int = MAX_BATCH_BYTES

    def __post_init__(self) -> None:
        object.__setattr__(self, "max_events", min(self.max_events, MAX_BATCH_EVENTS))
        object.__setattr__(self, "max_bytes", min(self.max_bytes, MAX_BATCH_BYTES))


class Backend(Transport, Protocol):
    """A transport with what direct mode asks beyond it. All calls but `interrupt` come from one thread."""

    bounds: Bounds
    keeps_rejected: bool
    """Whether the events that it rejects are kept over there."""
    outlives_executors: bool
    """Whether it still works when the interpreter, ending, has shut its executors down."""

    def tick(self) -> None:
        """Called every now and then, also when there is nothing to send. Never raises for trouble with the destination."""

    def forget(self) -> None:
        """Let go, in a forked child, of what belongs to the parent, without touching it."""


class Plain:
    """Any transport as a backend."""

    bounds = Bounds()
    keeps_rejected = True
    outlives_executors = True

    def __init__(self, transport: Transport) -> None:
        self.send = transport.send
        self.interrupt = transport.interrupt
        self.close = transport.close

    def tick(self) -> None:
        """Nothing to do."""

    def forget(self) -> None:
        """The transport notices by itself."""
