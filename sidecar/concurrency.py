"""How many calls a backend gets at once: found out from its latency, as TCP finds out the width of a line.

The limit starts at 1. After each round (as many full batches as the limit) it grows by one while the mean latency stays near the
best one seen and all of the limit was used; it shrinks by a quarter when the latency has doubled, because the calls then only
queue over there, and is halved when a call fails or is throttled. Calls that were under way when it was halved don't halve it
again. Batches that are not full are quicker for another reason and tell nothing.
"""

from __future__ import annotations

from typing import Final

NEAR: Final = 1.5
"""Up to this multiple of the best latency one more call at once is tried."""

RISEN: Final = 2.0
"""From this multiple on there are too many."""

SHRINK: Final = 0.75
DRIFT: Final = 0.02
"""The part of the distance by which the best latency follows a slower round, so that a system that has changed is judged anew."""


class Concurrency:
    """The limit of one backend and what is used of it. `maximum` is what its sink allows; `fixed` switches the adapting off."""

    def __init__(self, maximum: int, fixed: int | None = None) -> None:
        self.maximum = maximum if fixed is None else min(fixed, maximum)
        self.adaptive = fixed is None and maximum > 1
        self.limit = 1 if fixed is None else self.maximum
        self.in_flight = 0
        """Calls under way."""
        self._best: float | None = None
        self._round: list[float] = []
        self._reached = False
        self._era = 0

    def began(self) -> int:
        """A call begins; give the number back when it fails."""
        self.in_flight += 1
        self._reached |= self.in_flight >= self.limit
        return self._era

    def ended(self) -> None:
        """A call is over, whatever came of it."""
        self.in_flight -= 1

    def succeeded(self, seconds: float, *, full: bool) -> None:
        """A batch was taken within `seconds`; `full` when it held as much as a batch may."""
        if not self.adaptive or not full:
            return
        self._round.append(seconds)
        if len(self._round) >= self.limit:
            self._judge(sum(self._round) / len(self._round))
            self._begin_round()

    def failed(self, era: int) -> None:
        """The call that began with `era` failed or was throttled."""
        if self.adaptive and era == self._era:
            self.limit = max(1, self.limit // 2)
            self._era += 1
            self._begin_round()

    def _judge(self, mean: float) -> None:
        if self._best is None or mean < self._best:
            self._best = mean
        else:
            self._best += (mean - self._best) * DRIFT
        if mean >= self._best * RISEN:
            self.limit = max(1, int(self.limit * SHRINK))
        elif mean <= self._best * NEAR and self._reached:
            self.limit = min(self.limit + 1, self.maximum)

    def _begin_round(self) -> None:
        self._round.clear()
        self._reached = False
