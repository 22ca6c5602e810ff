"""The router against a model: random events, systems with every fault, crashes, reloads and stops, in virtual time.

What must hold at every moment is asserted where it shows: in `System.begins` (patience, breaker, fallback, concurrency, order)
and in `HonestLog.checkpoint` (nothing is passed that isn't dealt with). At the end all systems are well again, and everything
must have come to everyone.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from sidecar.config import BackendSettings
from sidecar.match import Match
from sidecar.metrics import Metrics
from sidecar.router import Router
from tests.sidecar.harness import event
from tests.sidecar.router_model import HonestLog, ModelSink, System, model_backend
from tests.sidecar.virtual_time import VirtualTimeLoop

NAMES = ("main", "other", "alarms", "backup")
MODES = ("up", "down", "busy", "hung", "broken", "forgetful", "lying", "partial")
RECORDS = st.lists(st.lists(st.sampled_from(["info", "error", "poison"]), min_size=1, max_size=12), min_size=1, max_size=6)
SECONDS = st.sampled_from([0.05, 0.3, 1.0, 5.0, 20.0])
Fault = tuple[str, float, float | None, int]
FAULTS = st.tuples(
    st.sampled_from(MODES), st.sampled_from([0.01, 0.2, 3.0]), st.sampled_from([None, 0.0, 2.0, 40.0]), st.integers(0, 1000)
)
"""Mode, seconds that a call takes, Retry-After in seconds, seed."""

MEMORY = Path("/dev/shm")
LONG_SECONDS = 3000


class RouterMachine(RuleBasedStateMachine):
    """`main` and `other` get everything, `alarms` errors only, `backup` stands in for `main` and `other`."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualTimeLoop()
        self.folder = Path(tempfile.mkdtemp(prefix="router-model-", dir=MEMORY if MEMORY.is_dir() else None))
        self.log = HonestLog(self.folder)
        self.failures: list[str] = []
        self.loop.set_exception_handler(lambda _, context: self.failures.append(str(context)))
        self.numbers = 0
        self.started = False

    def do(self, work: Any) -> Any:
        result = self.loop.run_until_complete(work)
        assert self.failures == []
        self.assert_no_broken_promise()
        return result

    def assert_no_broken_promise(self) -> None:
        assert [promise for system in self.log.systems.values() for promise in system.broken_promises] == []
        for delivery in self.router.deliveries:
            assert "Assertion" not in (delivery.progress.error or "")

    # ------------------------------------------------------------------------------------------------------------ what happens

    @initialize(
        calls=st.lists(st.integers(1, 4), min_size=4, max_size=4),
        fixed=st.lists(st.booleans(), min_size=4, max_size=4),
        priorities=st.permutations([1, 2, 3]),
    )
    def starts(self, calls: list[int], fixed: list[bool], priorities: list[int]) -> None:
        for name, most in zip(NAMES, calls, strict=True):
            self.log.systems[name] = System(name, self.loop.time, most, strict_order=most == 1)
            self.log.systems[name].limit = lambda name=name: self.router._deliveries[name].concurrency.limit  # type: ignore[misc]
            self.log.wants[name] = (lambda item: item["severity"] == "error") if name == "alarms" else (lambda item: True)
        self.systems = self.log.systems
        self.systems["backup"].primaries = [self.systems["main"], self.systems["other"]]
        numbers = {name: most if given else None for name, most, given in zip(NAMES, calls, fixed, strict=True)}
        self.backends: dict[str, BackendSettings] = {
            name: model_backend(name, priority=priority, concurrency=numbers[name])
            for name, priority in zip(NAMES, priorities, strict=False)
        }
        self.backends["alarms"] = replace(self.backends["alarms"], match=Match(severity="error"))
        self.backends["backup"] = model_backend(
            "backup", priority=9, fallback=True, stands_in_for=("main", "other"), concurrency=numbers["backup"]
        )
        self.begin()

    def begin(self) -> None:
        for system in self.systems.values():
            system.forget()
        self.router = Router(
            self.folder,
            self.log,
            Metrics(),
            new_source=lambda: self.log,
            new_sink=lambda backend: ModelSink(self.systems[backend.name], backend.timeout),  # type: ignore[arg-type,return-value]
            load_position=lambda name: self.log.checkpoints.get(name, 0),
            clock=self.loop.time,
            rng=random.Random(1),
        )

        async def start() -> None:
            self.router.start(list(self.backends.values()))

        self.do(start())

    @rule(records=RECORDS)
    def events_come(self, records: list[list[str]]) -> None:
        for kinds in records:
            items = []
            for kind in kinds:
                self.numbers += 1
                severity = "info" if kind == "info" else "error"
                items.append(event(severity=severity, attributes={"number": self.numbers, "poison": kind == "poison"}))
            self.log.append(items)
        self.do(asyncio.sleep(0))

    @rule(seconds=SECONDS)
    def time_passes(self, seconds: float) -> None:
        self.do(asyncio.sleep(seconds))

    @rule(name=st.sampled_from(NAMES), how=FAULTS)
    def system_changes(self, name: str, how: Fault) -> None:
        system = self.systems[name]
        system.mode, system.latency, system.retry_after, system.seed = how

    @rule(name=st.sampled_from(NAMES), how=FAULTS, records=RECORDS, seconds=SECONDS, well_again=st.booleans())
    def system_has_trouble_while_events_come(
        self, name: str, how: Fault, records: list[list[str]], seconds: float, well_again: bool
    ) -> None:
        self.system_changes(name, how)
        self.events_come(records)
        self.time_passes(seconds)
        if well_again:
            self.system_is_well_again(name)

    @rule(how=FAULTS, records=RECORDS, seconds=SECONDS)
    def fallback_has_to_take_over(self, how: Fault, records: list[list[str]], seconds: float) -> None:
        for name in ("main", "other"):
            self.system_changes(name, ("down", 0.01, None, 0))
        self.events_come(records)
        self.time_passes(5.0)
        self.system_changes("backup", how)
        self.events_come(records)
        self.time_passes(seconds)

    @rule(name=st.sampled_from(NAMES))
    def system_is_well_again(self, name: str) -> None:
        self.systems[name].heal()

    @rule(hard=st.booleans(), grace=st.sampled_from([0.0, 0.5, 10.0]))
    def agent_ends_and_starts_again(self, hard: bool, grace: float) -> None:
        self.end(hard=hard, grace=grace)
        self.begin()

    @precondition(lambda self: "alarms" in self.backends)
    @rule(name=st.sampled_from(NAMES), grace=st.sampled_from([0.0, 0.5, 10.0]))
    def backend_gets_another_timeout(self, name: str, grace: float) -> None:
        changed = replace(self.backends[name], timeout=self.backends[name].timeout + 1)
        self.reload({**self.backends, name: changed}, grace, {name})

    @precondition(lambda self: "alarms" in self.backends)
    @rule(grace=st.sampled_from([0.0, 10.0]))
    def backend_is_taken_out(self, grace: float) -> None:
        self.parked = self.backends["alarms"]
        self.reload({name: backend for name, backend in self.backends.items() if name != "alarms"}, grace, {"alarms"})

    @precondition(lambda self: "alarms" not in self.backends)
    @rule()
    def backend_is_put_in(self) -> None:
        self.reload({**self.backends, "alarms": self.parked}, 0.0, {"alarms"})

    def reload(self, backends: dict[str, BackendSettings], grace: float, changed: set[str]) -> None:
        async def change() -> None:
            begin = self.router._begin

            def begin_anew(backend: BackendSettings, sink: Any) -> None:
                self.systems[backend.name].forget()
                begin(backend, sink)

            self.router._begin = begin_anew  # type: ignore[method-assign]
            await self.router.reload(list(backends.values()), grace)

        self.do(change())
        self.backends = backends

    def end(self, *, hard: bool, grace: float) -> None:
        if hard:
            self.log.power = False
        else:
            self.do(self.router.drain(grace))
        self.do(self.router.stop(0.0 if hard else 0.5))
        self.log.power = True
        assert all(system.in_call == 0 for system in self.systems.values())

    # -------------------------------------------------------------------------------------------------------------- in the end

    def teardown(self) -> None:
        try:
            if self.log.systems:
                self.everything_comes_to_everyone()
        finally:
            if self.log.systems:
                self.loop.run_until_complete(self.router.stop(0.0))
            self.loop.close()
            shutil.rmtree(self.folder)

    def everything_comes_to_everyone(self) -> None:
        if "alarms" not in self.backends:
            self.backend_is_put_in()
        for system in self.systems.values():
            system.heal()

        def left() -> int:
            return sum(d.lag_events for d in self.router.deliveries) + sum(
                stretch.last - stretch.first + 1 for stretch in self.router.ledger.owed("backup")
            )

        waited = 0
        while left() and waited < LONG_SECONDS:
            self.do(asyncio.sleep(5))
            waited += 5
        assert left() == 0, f"{left()} events still wait"
        for name in ("main", "other", "alarms"):
            wanted = {item["event_id"]: item for item in self.log.items if self.log.wants[name](item)}
            poison = {event_id for event_id, item in wanted.items() if item["attributes"]["poison"]}
            assert self.systems[name].stored.keys() == wanted.keys() - poison
            assert self.log.dead(name) == poison
        self.end(hard=False, grace=10)
        for name in NAMES:
            assert self.log.checkpoints.get(name, 0) == len(self.log.items)


SUPPRESSED = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]


class TestRouter(RouterMachine.TestCase):
    settings = settings(max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=SUPPRESSED)


@pytest.mark.full
@pytest.mark.timeout(3600)
class TestRouterForLong(RouterMachine.TestCase):
    settings = settings(max_examples=2000, stateful_step_count=60, deadline=None, suppress_health_check=SUPPRESSED)
