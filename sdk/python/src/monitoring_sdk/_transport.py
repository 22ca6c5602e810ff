"""The seam between the queue and whoever takes the events: the sidecar, or a recorder in tests."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any, Protocol

from monitoring_sdk._batch import Batch


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
    """One event of an accepted batch that was not taken: its place in the batch, and why."""

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
