"""When to try again."""

from __future__ import annotations

import random
from datetime import datetime, timezone

import pytest

from monitoring_sdk._retry import LONGEST_COOLDOWN, LONGEST_DELAY, Breaker, backoff, retry_after

NOW = datetime(2026, 1, 31, 12, 0, 0, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("0", 0),
        ("120", 120),
        (" 7 ", 7),
        ("99999999999999999999", 3600),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
        ("٣", None),
        ("Sat, 31 Jan 2026 12:00:30 GMT", 30),
        ("Saturday, 31-Jan-26 12:00:30 GMT", 30),
        ("Sat Jan 31 12:00:30 2026", 30),
        ("Sat, 31 Jan 2026 11:00:00 GMT", 0),
        ("Sat, 31 Jan 2099 12:00:00 GMT", 3600),
        ("Sat, 99 Jan 2026 12:00:00 GMT", None),
    ],
)
def test_retry_after_is_read_in_both_forms_and_bounded(header, seconds):
    assert retry_after(header, NOW) == seconds


def test_backoff_grows_is_jittered_and_bounded():
    rng = random.Random(1)
    for attempt in range(100):
        waits = {backoff(attempt, rng) for _ in range(20)}
        bound = min(LONGEST_DELAY, 0.1 * 2.0 ** min(attempt, 50))
        assert len(waits) == 20
        assert bound / 2 <= min(waits) <= max(waits) <= bound


def test_breaker_opens_allows_one_probe_and_waits_longer_each_time():
    breaker = Breaker(random.Random(1))
    assert breaker.allows(0)
    assert breaker.failed(0)
    pauses = []
    now = 0.0
    for _ in range(12):
        start = now
        while not breaker.allows(now):
            now += 0.01
        pauses.append(now - start)
        assert not breaker.failed(now)
    assert pauses[0] < 1
    assert pauses[-1] > 5
    assert max(pauses) < LONGEST_COOLDOWN * 1.3
    assert breaker.succeeded()
    assert breaker.is_closed
    assert not breaker.succeeded()


def test_breaker_waits_at_least_as_long_as_it_was_asked_to():
    breaker = Breaker(random.Random(1))
    breaker.failed(0, at_least=100)
    assert not breaker.allows(99.9)
    assert breaker.allows(100.1)
