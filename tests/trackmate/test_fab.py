"""The simulated fab: the same seed gives the same shift, and what it emits is what its plan says."""

from __future__ import annotations

import itertools

import pytest

from tests.services.base import wait_until
from tests.trackmate.conftest import SidecarService
from trackmate.fab.layout import TOOLS, WAFERS_A_LOT
from trackmate.fab.plan import ToolPlan, plan_fab
from trackmate.fab.reckoning import Place, Reckoning, look_at
from trackmate.fab.shift import ShiftOrders, shift
from trackmate.gateway_api import Answer


def test_the_same_seed_gives_the_same_shift_and_another_seed_another():
    assert plan_fab(7, 20) == plan_fab(7, 20)
    assert plan_fab(7, 20) != plan_fab(8, 20)


@pytest.fixture(scope="module")
def minute() -> tuple[ToolPlan, ...]:
    return plan_fab(3, 60)


def test_a_minute_has_all_that_a_demo_should_show(minute: tuple[ToolPlan, ...]):
    wafers = [wafer for tool in minute for lot in tool.lots for wafer in lot.wafers]
    states = {change.after for tool in minute for lot in tool.lots for change in lot.states}
    assert len(minute) == len(TOOLS)
    assert 150 * 60 < sum(tool.events() for tool in minute) < 900 * 60
    assert any(len(lot.wafers) == WAFERS_A_LOT for tool in minute for lot in tool.lots)
    assert states == {"productive", "standby", "scheduled_down", "unscheduled_down", "engineering"}
    assert any(wafer.steps[-1].fault for wafer in wafers)
    assert any(wafer.late_hours for wafer in wafers)
    assert any(wafer.duplicate for wafer in wafers)


def test_no_chamber_does_two_things_at_once(minute: tuple[ToolPlan, ...]):
    for tool in minute:
        for chamber in tool.tool.chambers:
            steps = [step for lot in tool.lots for wafer in lot.wafers if wafer.chamber == chamber for step in wafer.steps]
            for one, next_one in itertools.pairwise(steps):
                assert one.at + one.seconds <= next_one.at + 1e-3


def test_a_tools_states_follow_each_other_without_a_jump(minute: tuple[ToolPlan, ...]):
    for tool in minute:
        changes = [*(change for lot in tool.lots for change in lot.states), tool.final]
        for one, next_one in itertools.pairwise(changes):
            assert one.after == next_one.before
            assert one.at <= next_one.at


def test_a_shift_emits_exactly_its_plan_nested_and_with_every_second_sending_under_one_id(sidecar: SidecarService, roomy):
    config = roomy / "monitoring-config.yaml"
    config.write_text(
        f"sdk: {{sidecar: {{url: '{sidecar.url}', spool_dir: '{roomy / 'sdk'}'}}, app: {{name: x, version: '1', site_id: x}}}}\n"
    )
    orders = ShiftOrders(11, 3.0, "fab7", "shift-1", sidecar.url, config, roomy / "shift")
    with shift(orders) as going:
        wait_until(lambda: not going.going_on(), seconds=90, what="the end of the shift")
        ledgers = going.ledgers()
    planned = sum(tool.events() for tool in plan_fab(11, 3.0))
    events = sidecar.events()
    by_id = {event["event_id"]: event for event in events}
    assert len(by_id) == planned == sum(ledger.emitted for ledger in ledgers) == sum(ledger.acknowledged for ledger in ledgers)
    assert len(events) - len(by_id) == sum(ledger.legacy for ledger in ledgers) > 0
    assert {i for ledger in ledgers for i in ledger.event_ids} <= by_id.keys()
    assert {event["site_id"] for event in events} == {"fab7"}
    runs = {event["run_id"]: event for event in events if event["kind"] == "start"}
    step = next(event for event in runs.values() if event["name"] == "expose")
    wafer = runs[step["parent_run_id"]]
    lot = runs[wafer["parent_run_id"]]
    assert (wafer["name"], lot["name"]) == ("wafer", "lot")
    assert step["entities"].items() >= {**lot["entities"], **wafer["entities"], "step": "expose"}.items()


def answer(*rows: list[object]) -> Answer:
    return Answer([], [list(row) for row in rows])


def test_a_missing_number_of_an_emitter_is_named():
    replies = iter([answer([9, 9]), answer(["etcher", 9, 1, 10])])
    place = look_at(lambda _sql: next(replies), "silver.events", "it's", {"etcher": 10})
    assert place.gaps == ["etcher numbered its events 1 to 10; here are 9 of them"]


def test_counts_agree_only_when_every_place_has_every_event_once():
    def places(silver_rows: int = 10, silver: int = 10) -> list[Place]:
        return [
            Place("hot.events", 10, 10, []),
            Place("bronze.events", 20, 10, []),
            Place("silver.events", silver_rows, silver, []),
        ]

    assert Reckoning(10, 10, 10, 1, 0, 0, places()).differences() == []
    assert Reckoning(10, 10, 10, 1, 0, 0, places(silver=9, silver_rows=9)).differences() == ["silver.events has 9 of 10 events"]
    assert Reckoning(10, 10, 10, 1, 0, 0, places(silver_rows=11)).differences() == ["silver.events has 1 events twice"]
    assert "9 of 10 events were acknowledged" in Reckoning(10, 10, 9, 1, 1, 0, places()).differences()[0]
    assert "was planned" not in " ".join(Reckoning(11, 10, 10, 0, 0, 0, places()).differences())
    assert len(Reckoning(11, 10, 10, 0, 0, 2, places()).differences()) == 2
