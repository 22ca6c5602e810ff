"""When to try again: backoff with full jitter, what `Retry-After` says, and a circuit breaker."""

from __future__ import annotations

import random
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime

FIRST_DELAY = 0.1
LONGEST_DELAY = 5.0
LONGEST_RETRY_AFTER = 3600.0
FIRST_COOLDOWN = 0.5
LONGEST_COOLDOWN = 15.0


def backoff(attempt: int, rng: random.Random) -> float:
    """Seconds to wait after the failed attempt number `attempt` (from 0): full jitter below an exponential bound."""
    bound = min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** min(attempt, 16))
    return bound / 2 + rng.random() * bound / 2


def retry_after(header: str | None, now: datetime | None = None) -> float | None:
    """Seconds that a `Retry-After` header asks for, as a number or as an HTTP date; None when it says nothing readable."""
    if header is None:
        return None
    text = header.strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:9]), LONGEST_RETRY_AFTER)
    try:
        moment = parsedate_to_datetime(text)
    except (TypeError, ValueError, IndexError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    seconds = (moment - (now or datetime.now(timezone.utc))).total_seconds()
    return min(max(0.0, seconds), LONGEST_RETRY_AFTER)


class Breaker:
    """Keeps a dead sidecar from costing more than a probe now and then. Times are seconds of a monotonic clock."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._failures = 0
        self._open_until = 0.0

    @property
    def is_closed(self) -> bool:
        """Whether the last attempt succeeded (or there was none)."""
        return self._failures == 0

    def allows(self, now: float) -> bool:
        """Whether to try: always while closed, else one probe when the pause is over."""
        return self._failures == 0 or now >= self._open_until

    def succeeded(self) -> bool:
        """Close; whether it was open."""
        was_open, self._failures = self._failures > 0, 0
        return was_open

    def failed(self, now: float, at_least: float = 0.0) -> bool:
        """Open for longer than last time, and for `at_least` seconds; whether it was closed."""
        was_closed = self._failures == 0
        pause = min(LONGEST_COOLDOWN, FIRST_COOLDOWN * 2.0 ** min(self._failures, 16))
        self._failures += 1
        self._open_until = now + max(at_least, pause * (0.75 + self._rng.random() / 2))
        return was_closed
