"""Rates and places: what is over is refused with the time to wait, and what ends gives its place back."""

from __future__ import annotations

import pytest

from federation.limits import IDLE_SECONDS, Gate, Limiter, RequestLimits, TooMany


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_more_than_the_burst_is_refused_until_the_rate_has_refilled_it():
    clock = Clock()
    limiter = Limiter(RequestLimits(rate=2, burst=3, concurrent=10), clock)
    for _ in range(3):
        with limiter.admit("a"):
            pass
    with pytest.raises(TooMany) as refused, limiter.admit("a"):
        pass
    assert refused.value.retry_after == pytest.approx(0.5)
    with limiter.admit("b"):
        pass
    clock.seconds = 0.5
    with limiter.admit("a"):
        pass


def test_places_are_given_back_even_after_an_error():
    limiter = Limiter(RequestLimits(rate=100, burst=100, concurrent=1), Clock())
    with pytest.raises(ZeroDivisionError), limiter.admit("a"):
        raise ZeroDivisionError
    with limiter.admit("a"), pytest.raises(TooMany) as refused, limiter.admit("a"):
        pass
    assert refused.value.code == "too_many_at_once"
    gate = Gate("ingest", 1)
    with gate.enter(), pytest.raises(TooMany), gate.enter():
        pass
    with gate.enter():
        pass


def test_callers_that_are_gone_are_forgotten():
    clock = Clock()
    limiter = Limiter(RequestLimits(), clock)
    for number in range(100):
        with limiter.admit(f"t{number}"):
            pass
    clock.seconds = 2 * IDLE_SECONDS + 1
    with limiter.admit("now"):
        pass
    assert len(limiter._counters) == 1
