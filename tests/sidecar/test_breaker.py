"""The circuit breaker against a model, step by step."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sidecar.breaker import Breaker, BreakerState

INTERVAL, THRESHOLD = 5.0, 3


class BreakerMachine(RuleBasedStateMachine):
    """Tries begin and end in any way while time goes on; the model knows only what the docstring promises."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.breaker = Breaker(probe_interval=INTERVAL, clock=lambda: self.now, failures_to_open=THRESHOLD)
        self.in_a_row = 0
        self.open_until: float | None = None
        self.probing = False
        self.trying = False

    @rule(seconds=st.floats(0, 12))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: not self.trying)
    @rule()
    def begins(self) -> None:
        allowed = self.open_until is None or self.now >= self.open_until
        assert self.breaker.begin() is allowed
        if allowed:
            self.trying = True
            self.probing = self.open_until is not None

    @precondition(lambda self: self.trying and self.probing)
    @rule()
    def a_second_probe_is_let_through(self) -> None:
        assert not self.breaker.begin()

    @precondition(lambda self: self.trying)
    @rule()
    def succeeds(self) -> None:
        self.breaker.succeeded()
        self.in_a_row, self.open_until, self.trying, self.probing = 0, None, False, False

    @precondition(lambda self: self.trying)
    @rule(retry_after=st.none() | st.floats(0, 20))
    def fails(self, retry_after: float | None) -> None:
        self.breaker.failed(retry_after)
        self.in_a_row += 1
        if self.probing or self.in_a_row >= THRESHOLD:
            self.open_until = self.now + max(INTERVAL, retry_after or 0)
        self.trying, self.probing = False, False

    @precondition(lambda self: self.trying)
    @rule()
    def is_abandoned(self) -> None:
        self.breaker.abandoned()
        if self.probing:
            self.open_until = self.now
        self.trying, self.probing = False, False

    @invariant()
    def state_and_wait_fit(self) -> None:
        expected = (
            BreakerState.HALF_OPEN if self.probing else BreakerState.CLOSED if self.open_until is None else BreakerState.OPEN
        )
        assert self.breaker.state is expected
        assert self.breaker.available is (expected is BreakerState.CLOSED)
        wait = max(0.0, self.open_until - self.now) if expected is BreakerState.OPEN and self.open_until else 0.0
        assert self.breaker.wait_seconds() == wait


TestBreaker = BreakerMachine.TestCase


def test_two_failures_open_it() -> None:
    breaker = Breaker(probe_interval=1, clock=lambda: 0.0)
    for _ in range(2):
        assert breaker.begin()
        breaker.failed()
    assert breaker.available


def test_success_between_failures_does_not_count() -> None:
    breaker = Breaker(probe_interval=1, clock=lambda: 0.0)
    for _ in range(10):
        breaker.failed()
        breaker.failed()
        breaker.succeeded()
    assert breaker.available
