"""The circuit breaker against a model, step by step."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sidecar.breaker import Breaker, BreakerState

INTERVAL, THRESHOLD = 5.0, 3


class BreakerMachine(RuleBasedStateMachine):
    """Several tries at once begin and end in any way while time goes on; the model knows only what the docstrings promise."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.breaker = Breaker(probe_interval=INTERVAL, clock=lambda: self.now, failures_to_open=THRESHOLD)
        self.in_a_row = 0
        self.open_until: float | None = None
        self.probing = False
        self.tries: list[bool] = []
        """Those under way, and whether each is the probe."""

    @rule(seconds=st.floats(0, 12))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def begins(self) -> None:
        allowed = self.open_until is None or (self.now >= self.open_until and not self.probing)
        assert self.breaker.begin() is allowed
        if allowed:
            self.probing = self.open_until is not None
            self.tries.append(self.probing)

    @precondition(lambda self: self.tries)
    @rule(which=st.integers(0, 9))
    def succeeds(self, which: int) -> None:
        self.tries.pop(which % len(self.tries))
        self.breaker.succeeded()
        self.in_a_row, self.open_until, self.probing = 0, None, False
        self.tries = [False] * len(self.tries)

    @precondition(lambda self: self.tries)
    @rule(which=st.integers(0, 9), retry_after=st.none() | st.floats(0, 20))
    def fails(self, which: int, retry_after: float | None) -> None:
        probe = self.tries.pop(which % len(self.tries))
        self.breaker.failed(retry_after, probe=probe)
        self.in_a_row += 1
        asked = self.now + (retry_after or 0)
        if probe or (self.open_until is None and self.in_a_row >= THRESHOLD):
            self.open_until, self.probing = max(self.now + INTERVAL, asked), False
        elif self.open_until is not None and not self.probing:
            self.open_until = max(self.open_until, asked)

    @precondition(lambda self: self.tries)
    @rule(which=st.integers(0, 9))
    def is_abandoned(self, which: int) -> None:
        probe = self.tries.pop(which % len(self.tries))
        self.breaker.abandoned(probe=probe)
        if probe:
            self.open_until, self.probing = self.now, False

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


def test_late_failure_of_a_call_from_before_ends_the_probe() -> None:
    now = 0.0
    breaker = Breaker(probe_interval=5, clock=lambda: now)
    assert all(breaker.begin() for _ in range(4))
    for _ in range(3):
        breaker.failed(probe=False)
    now = 5.0
    assert breaker.begin()
    breaker.failed(probe=False)
    assert breaker.state is BreakerState.HALF_OPEN
    assert not breaker.begin()
    breaker.succeeded()
    assert breaker.available


def test_late_failure_puts_the_next_probe_off_unless_the_system_asks_for_it() -> None:
    now = 0.0
    breaker = Breaker(probe_interval=5, clock=lambda: now)
    for _ in range(3):
        breaker.failed(probe=False)
    now = 4.0
    breaker.failed(probe=False)
    assert breaker.wait_seconds() == 1.0
    breaker.failed(20.0, probe=False)
    assert breaker.wait_seconds() == 20.0
