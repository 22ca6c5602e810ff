"""What every tool of the simulated fab will do and when, from a seed alone: the same seed always gives the same plan."""

from __future__ import annotations

import heapq
import random
from collections import deque
from dataclasses import dataclass, field

from trackmate.fab.layout import OPERATORS, PRODUCTS, TOOLS, WAFERS_A_LOT, ToolSpec

_LOTS_WAITING = 2
"""Lots in front of each tool when the shift begins."""
_HANDLING = 0.15
_IDLE = 0.2
"""A tool that waits longer than this for its next lot is on standby."""
_REPAIR = (0.8, 2.5)
_DOWN_SHARE = 0.5
"""Share of the faults that stop the tool until it is repaired."""
_MAINTENANCE_AFTER = 12
_MAINTENANCE = 1.5
_LATE_EVERY = 9
_DUPLICATE_EVERY = 7
_PROGRESS_SECONDS = 0.1


@dataclass(frozen=True)
class Fault:
    """What goes wrong in a step."""

    type: str
    message: str
    stops_tool: bool


@dataclass(frozen=True)
class StepPlan:
    """One step of one wafer: when it begins (seconds after the shift's start), how long it takes, what is measured."""

    name: str
    at: float
    seconds: float
    metrics: dict[str, float]
    progress: bool
    fault: Fault | None


@dataclass(frozen=True)
class WaferPlan:
    """One wafer in one chamber; `late_hours` > 0 asks for an offline measurement that belongs to the past."""

    wafer: int
    chamber: str
    at: float
    steps: tuple[StepPlan, ...]
    late_hours: float = 0.0
    late_value: float = 0.0
    duplicate: bool = False
    """Whether what is reported beside the steps is sent twice, as by a sender that never saw the acknowledgement."""


@dataclass(frozen=True)
class StateChange:
    """The tool's E10 state changes."""

    at: float
    before: str
    after: str
    reason: str


@dataclass(frozen=True)
class LotPlan:
    """A lot at one tool."""

    lot: str
    product: str
    operator: str
    at: float
    wafers: tuple[WaferPlan, ...]
    states: tuple[StateChange, ...]


@dataclass(frozen=True)
class ToolPlan:
    """All that one tool does in the shift."""

    tool: ToolSpec
    lots: tuple[LotPlan, ...]
    final: StateChange

    def events(self) -> int:
        """How many distinct events the tool will emit."""
        return 1 + sum(2 + len(lot.states) + sum(wafer_events(wafer) for wafer in lot.wafers) for lot in self.lots)


def wafer_events(wafer: WaferPlan) -> int:
    """How many distinct events come of one wafer: start and end of wafer and steps, progress, measurements, and the rest."""
    steps = sum(2 + bool(step.progress) + bool(step.metrics) for step in wafer.steps)
    return 2 + steps + (wafer.late_hours > 0) + wafer.duplicate


def plan_fab(seed: int, seconds: float, tools: tuple[ToolSpec, ...] = TOOLS) -> tuple[ToolPlan, ...]:
    """The shift of every tool: lots walk from tool to tool, wait while one is down, and stop at its end."""
    return _Shift(seed, seconds, tools).run()


@dataclass
class _Bench:
    """A tool while its plan is made."""

    spec: ToolSpec
    random: random.Random
    waiting: deque[tuple[str, str]] = field(default_factory=deque)
    busy: bool = False
    state: str = "standby"
    wafers: int = 0
    since_maintenance: int = 0
    idle_since: float = 0.0
    lots: list[LotPlan] = field(default_factory=list)


class _Shift:
    def __init__(self, seed: int, seconds: float, tools: tuple[ToolSpec, ...]) -> None:
        self._seconds = seconds
        self._random = random.Random(f"{seed}/fab")  # noqa: S311 - a simulation
        self._benches = [_Bench(spec, random.Random(f"{seed}/{spec.name}")) for spec in tools]  # noqa: S311 - a simulation
        self._lots = 0
        self._agenda: list[tuple[float, int, int, tuple[str, str]]] = []
        self._order = 0

    def run(self) -> tuple[ToolPlan, ...]:
        for place in range(len(self._benches)):
            for _ in range(_LOTS_WAITING):
                self._arrive(0.0, place, self._new_lot())
        released = 0.0
        while released < self._seconds:
            released += self._random.uniform(2.0, 4.0)
            self._arrive(released, 0, self._new_lot())
        while self._agenda:
            now, _, place, lot = heapq.heappop(self._agenda)
            bench = self._benches[place]
            if lot[0]:
                bench.waiting.append(lot)
            else:
                bench.busy = False
            if not bench.busy and bench.waiting and now < self._seconds:
                self._process(bench, place, now)
        return tuple(self._finish(bench) for bench in self._benches)

    def _new_lot(self) -> tuple[str, str]:
        self._lots += 1
        return f"L{self._lots:05d}", self._random.choice(PRODUCTS)

    def _arrive(self, at: float, place: int, lot: tuple[str, str]) -> None:
        self._order += 1
        heapq.heappush(self._agenda, (at, self._order, place, lot))

    def _process(self, bench: _Bench, place: int, now: float) -> None:
        lot, product = bench.waiting.popleft()
        states: list[StateChange] = []
        begin = now
        if bench.state == "productive" and now - bench.idle_since > _IDLE:
            states.append(self._state(bench, bench.idle_since, "standby", "no lot waits"))
        if bench.since_maintenance >= _MAINTENANCE_AFTER:
            bench.since_maintenance = 0
            states.append(self._state(bench, now, "scheduled_down", "preventive maintenance"))
            states.append(self._state(bench, now + _MAINTENANCE * 0.7, "engineering", "qualification after maintenance"))
            begin += _MAINTENANCE
        if bench.state != "productive":
            states.append(self._state(bench, begin, "productive", f"lot {lot}"))
        free = dict.fromkeys(bench.spec.chambers, begin)
        wafers: list[WaferPlan] = []
        for number in range(1, WAFERS_A_LOT + 1):
            chamber = min(free, key=lambda name: (free[name], name))
            wafer, end = self._wafer(bench, chamber, number, free[chamber])
            if end > self._seconds:
                break
            wafers.append(wafer)
            free[chamber] = end + 0.01
            fault = wafer.steps[-1].fault
            if fault is not None and fault.stops_tool:
                repaired = max(end, *free.values()) + bench.random.uniform(*_REPAIR)
                states.append(self._state(bench, max(end, *free.values()), "unscheduled_down", fault.type))
                states.append(self._state(bench, repaired, "productive", "repaired"))
                free = dict.fromkeys(free, repaired)
        end = max(free.values()) + _HANDLING
        states = [change for change in states if change.at <= self._seconds]
        if wafers:
            bench.since_maintenance += 1
            operator = bench.random.choice(OPERATORS)
            bench.lots.append(LotPlan(lot, product, operator, begin, tuple(wafers), tuple(states)))
        bench.busy = True
        bench.idle_since = end
        self._arrive(end, place, ("", ""))
        if place + 1 < len(self._benches) and end < self._seconds:
            self._arrive(end + _HANDLING, place + 1, (lot, product))

    @staticmethod
    def _state(bench: _Bench, at: float, after: str, reason: str) -> StateChange:
        change = StateChange(round(at, 4), bench.state, after, reason)
        bench.state = after
        return change

    def _wafer(self, bench: _Bench, chamber: str, number: int, at: float) -> tuple[WaferPlan, float]:
        chance = bench.random
        bench.wafers += 1
        fault = self._fault(bench)
        breaks_at = chance.randrange(len(bench.spec.steps)) if fault else len(bench.spec.steps)
        steps: list[StepPlan] = []
        now = at
        for place, step in enumerate(bench.spec.steps):
            slow = 1.35 if chamber == bench.spec.slow_chamber else 1.0
            seconds = round(step.seconds * slow * chance.uniform(0.85, 1.2), 4)
            metrics = {
                sensor.name: round(chance.gauss(sensor.target + sensor.drift * now / 60, sensor.noise), 4)
                for sensor in step.sensors
            }
            broken = fault if place == breaks_at else None
            steps.append(StepPlan(step.name, round(now, 4), seconds, metrics, seconds > _PROGRESS_SECONDS, broken))
            now += seconds
            if broken:
                break
        late = round(chance.uniform(1.0, 60.0), 3) if bench.wafers % _LATE_EVERY == 0 else 0.0
        value = round(chance.gauss(0.02, 0.004), 5)
        duplicate = bench.wafers % _DUPLICATE_EVERY == 0
        return WaferPlan(number, chamber, round(at, 4), tuple(steps), late, value, duplicate), now

    @staticmethod
    def _fault(bench: _Bench) -> Fault | None:
        faults, chance = bench.spec.faults, bench.random
        if bench.wafers == bench.spec.sure_fault_at:
            return Fault(faults[0][0], faults[0][1], stops_tool=True)
        hit = next(((kind, text) for kind, text, probability in faults if chance.random() < probability), None)
        return Fault(*hit, stops_tool=chance.random() < _DOWN_SHARE) if hit else None

    def _finish(self, bench: _Bench) -> ToolPlan:
        last = StateChange(self._seconds, bench.state, "non_scheduled", "end of the shift")
        return ToolPlan(bench.spec, tuple(bench.lots), last)
