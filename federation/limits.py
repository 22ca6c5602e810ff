"""How much one token, and all together, may ask of the gateway: a token bucket for the rate, a count for what runs at once."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from contract.errors import TrackMateError

IDLE_SECONDS: Final = 600.0
"""After this long without a request a principal's counters are forgotten, so that memory is bounded by who is active."""


class TooMany(TrackMateError):
    """A limit is reached; `retry_after` is in seconds, `code` says which limit."""

    def __init__(self, code: str, message: str, retry_after: float) -> None:
        self.code = code
        self.retry_after = retry_after
        super().__init__(message)


@dataclass(frozen=True)
class RequestLimits:
    """What one token may ask: `rate` requests a second on average, `burst` at once, `concurrent` in progress."""

    rate: float = 500.0
    burst: int = 1_000
    concurrent: int = 64


@dataclass
class _Counters:
    tokens: float
    refilled: float
    running: int = 0


@dataclass
class Limiter:
    """The counters of every principal that has asked lately."""

    limits: RequestLimits
    clock: Callable[[], float] = time.monotonic
    _counters: dict[str, _Counters] = field(default_factory=dict, init=False)
    _swept: float = field(default=0.0, init=False)

    @contextlib.contextmanager
    def admit(self, token_id: str) -> Iterator[None]:
        """Hold one place for a request of `token_id`; raises `TooMany` when its rate or its places are used up."""
        now = self.clock()
        self._sweep(now)
        counters = self._counters.setdefault(token_id, _Counters(float(self.limits.burst), now))
        counters.tokens = min(float(self.limits.burst), counters.tokens + (now - counters.refilled) * self.limits.rate)
        counters.refilled = now
        if counters.tokens < 1:
            raise TooMany(
                "rate_limited",
                f"token {token_id} sends more than {self.limits.rate:g} requests a second",
                (1 - counters.tokens) / self.limits.rate,
            )
        if counters.running >= self.limits.concurrent:
            raise TooMany(
                "too_many_at_once",
                f"token {token_id} has {counters.running} requests in progress, the most it may have",
                1.0,
            )
        counters.tokens -= 1
        counters.running += 1
        try:
            yield
        finally:
            counters.running -= 1

    def _sweep(self, now: float) -> None:
        if now - self._swept < IDLE_SECONDS:
            return
        self._swept = now
        idle = [name for name, seen in self._counters.items() if not seen.running and now - seen.refilled > IDLE_SECONDS]
        for name in idle:
            del self._counters[name]


@dataclass
class Gate:
    """How many of one kind of request run at once over all principals.

    With all `places` taken the caller gets `TooMany` at once: the backpressure that clients act on.
    """

    name: str
    places: int
    running: int = field(default=0, init=False)

    @contextlib.contextmanager
    def enter(self) -> Iterator[None]:
        """Hold one place; raises `TooMany` when all are taken."""
        if self.running >= self.places:
            raise TooMany("overloaded", f"{self.running} {self.name} requests are in progress, the most that may be", 1.0)
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1
