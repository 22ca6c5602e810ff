"""A circuit breaker: a system that is down costs one try an interval instead of a timeout a batch.

closed ──(failures in a row reach the threshold)──▶ open ──(interval over)──▶ half-open ──(the probe succeeds)──▶ closed
                                                     ▲                           │
                                                     └──────(the probe fails)────┘
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Final

FAILURES_TO_OPEN: Final = 3


class BreakerState(Enum):
    """What a breaker lets through: everything, one probe, or nothing. The values are what /metrics shows."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


class Breaker:
    """The breaker of one backend; `clock` gives seconds that never go back."""

    def __init__(self, *, probe_interval: float, clock: Callable[[], float], failures_to_open: int = FAILURES_TO_OPEN) -> None:
        self._probe_interval = probe_interval
        self._clock = clock
        self._failures_to_open = failures_to_open
        self._failures = 0
        self._probe_at = 0.0
        self.state = BreakerState.CLOSED

    @property
    def available(self) -> bool:
        """Whether the system counts as working."""
        return self.state is BreakerState.CLOSED

    def wait_seconds(self) -> float:
        """How long to wait before the next try may begin; 0 when it may begin now, or when a probe's end decides."""
        if self.state is BreakerState.OPEN:
            return max(0.0, self._probe_at - self._clock())
        return 0.0

    def begin(self) -> bool:
        """Ask to make a try; False while the breaker is open and its interval runs, or while a probe is under way."""
        if self.state is BreakerState.CLOSED:
            return True
        if self.state is BreakerState.OPEN and self._clock() >= self._probe_at:
            self.state = BreakerState.HALF_OPEN
            return True
        return False

    def succeeded(self) -> None:
        """A try went through."""
        self._failures = 0
        self.state = BreakerState.CLOSED

    def failed(self, retry_after: float | None = None, *, probe: bool = True) -> None:
        """A try failed; `retry_after` seconds is what the system itself asked for.

        `probe` tells whether the try began as one. One that began earlier, among others at once, tells nothing new about a
        system that is being probed, and doesn't put off the next probe unless the system asks for it.
        """
        self._failures += 1
        asked = self._clock() + (retry_after or 0.0)
        if self.state is BreakerState.CLOSED:
            if self._failures >= self._failures_to_open:
                self._open(asked)
        elif self.state is BreakerState.OPEN:
            self._probe_at = max(self._probe_at, asked)
        elif probe:
            self._open(asked)

    def abandoned(self, *, probe: bool = True) -> None:
        """A try ended without an answer of the system (such as at shutdown): a probe may be made again at once."""
        if probe and self.state is BreakerState.HALF_OPEN:
            self.state = BreakerState.OPEN
            self._probe_at = self._clock()

    def _open(self, asked: float) -> None:
        self.state = BreakerState.OPEN
        self._probe_at = max(self._clock() + self._probe_interval, asked)
