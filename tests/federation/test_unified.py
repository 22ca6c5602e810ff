"""Unified answers from sources that hang, fail, differ in what they can do, and change."""

from __future__ import annotations

import asyncio
import datetime as dt

import msgspec
import pytest

from contract.request import EventRequest
from federation.adapters.base import FILTERS, SourceError
from federation.auth import LOOPBACK, Principal
from federation.unified import NoAnswer, Question, Unified, UnknownSource, cursor_of
from tests.federation.gateway_service import events
from tests.federation.memory import MemorySource

START = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)
NOW = START + dt.timedelta(days=1)
REQUEST = EventRequest(start=START, end=START + dt.timedelta(hours=1))


def unified(*sources: MemorySource, timeout: float = 5.0) -> Unified:
    return Unified(sources, timeout, now=lambda: NOW)


def ask(request: EventRequest = REQUEST, **more: object) -> Question:
    return Question(request, (request.start, request.end), **more)  # type: ignore[arg-type]


async def test_sources_are_ranked_managed_before_lake_before_others_however_they_are_given():
    batch = events(1, START)
    asked = unified(
        MemorySource("elk", batch), MemorySource("lake", batch, kind="lake"), MemorySource("managed", batch, kind="managed")
    )
    answer = await asked.ask(ask(), LOOPBACK)
    assert answer.table["sources"].to_pylist() == [["managed", "lake", "elk"]]


async def test_a_source_that_hangs_is_left_out_at_its_deadline_and_stopped():
    slow, good = MemorySource("slow", events(2, START), seconds=60), MemorySource("good", events(3, START))
    answer = await unified(slow, good, timeout=0.1).ask(ask(), LOOPBACK)
    assert answer.partial
    assert answer.table.num_rows == 3
    reports = {report.name: report for report in answer.reports}
    assert "0.1 s" in str(reports["slow"].error)
    assert reports["good"].error is None
    assert slow.cancelled == 1


@pytest.mark.parametrize("error", [SourceError("the index is gone"), RuntimeError("secret=hunter2"), OSError("broken pipe")])
async def test_a_source_that_fails_never_blanks_the_answer_and_tells_no_secret(error: Exception):
    answer = await unified(MemorySource("bad", error=error), MemorySource("good", events(3, START))).ask(ask(), LOOPBACK)
    assert (answer.partial, answer.table.num_rows) == (True, 3)
    assert "hunter2" not in str(answer.reports)


async def test_when_every_source_fails_there_is_an_error_and_not_an_empty_answer():
    with pytest.raises(NoAnswer, match="gone"):
        await unified(MemorySource("bad", error=SourceError("gone"))).ask(ask(), LOOPBACK)


async def test_a_partial_answer_is_not_kept():
    flaky = MemorySource("flaky", events(2, START), error=SourceError("gone"))
    asked = unified(flaky, MemorySource("good", events(3, START)))
    assert (await asked.ask(ask(), LOOPBACK)).partial
    flaky.error = None
    answer = await asked.ask(ask(), LOOPBACK)
    assert (answer.partial, answer.table.num_rows, answer.cache) == (False, 5, "miss")


async def test_an_unknown_source_is_named():
    with pytest.raises(UnknownSource, match="nobody"):
        await unified(MemorySource("good")).ask(ask(sources=("nobody",)), LOOPBACK)


@pytest.mark.parametrize(
    "missing", [frozenset({each}) for each in (*FILTERS, "order", "limit")] + [frozenset((*FILTERS, "order", "limit"))]
)
async def test_what_a_source_does_not_push_down_is_applied_all_the_same(missing: frozenset[str]):
    batch = [
        each
        | {
            "kind": "error" if index % 4 == 0 else "log",
            "name": f"n{index % 3}",
            "site_id": f"fab{index % 2}",
            "message": f"Line {index}",
            "entities": {"lot": f"L{index % 2}", "own": str(index % 3)},
            "run_id": f"01890a5d-ac96-774b-bcce-{index % 2:012x}",
            "trace_id": f"{index % 2:032x}",
        }
        for index, each in enumerate(events(60, START, dt.timedelta(seconds=30)))
    ]
    requests = [
        REQUEST,
        msgspec.structs.replace(REQUEST, end=START + dt.timedelta(minutes=10), limit=7),
        msgspec.structs.replace(REQUEST, order="desc", limit=11),
        msgspec.structs.replace(REQUEST, sites=frozenset({"fab1"}), kinds=frozenset({"log"}), names=frozenset({"n1", "n2"})),
        msgspec.structs.replace(REQUEST, entities={"lot": "L0", "own": "1"}, text="lINE 1"),
        msgspec.structs.replace(REQUEST, run_id=batch[0]["run_id"], trace_id=batch[0]["trace_id"], severity_min="warning"),
    ]
    whole = MemorySource("s", batch)
    part = MemorySource("s", batch, pushes_down=whole.pushes_down - missing)
    for request in requests:
        expected = await unified(whole).ask(ask(request), LOOPBACK)
        got = await unified(part).ask(ask(request), LOOPBACK)
        assert got.table.equals(expected.table)
        assert got.after == expected.after
        if expected.after is not None:
            following = msgspec.structs.replace(request, after=cursor_of(expected.after))
            assert (await unified(part).ask(ask(following), LOOPBACK)).table.equals(
                (await unified(whole).ask(ask(following), LOOPBACK)).table
            )


async def test_a_source_that_cannot_order_is_not_read_without_bound(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("federation.adapters.base.MAX_UNORDERED_ROWS", 20)
    wild = MemorySource("wild", events(50, START), pushes_down=frozenset({"time"}))
    with pytest.raises(NoAnswer, match="shorter time range"):
        await unified(wild).ask(ask(), LOOPBACK)


async def test_the_sites_of_the_caller_bound_what_is_asked_of_every_source():
    source = MemorySource("s", events(3, START, site_id="fab1") + events(2, START, site_id="fab2"))
    asked = unified(source)
    fab1 = Principal("t", frozenset({"query"}), frozenset({"fab1"}))
    assert (await asked.ask(ask(), fab1)).table.num_rows == 3
    both = msgspec.structs.replace(REQUEST, sites=frozenset({"fab1", "fab2"}))
    assert (await asked.ask(ask(both), fab1)).table.num_rows == 3
    assert (await asked.ask(ask(msgspec.structs.replace(REQUEST, sites=frozenset({"fab2"}))), fab1)).table.num_rows == 0
    assert (await asked.ask(ask(), Principal("t", frozenset({"query"}), frozenset()))).table.num_rows == 0
    assert all(request.sites is not None and request.sites <= {"fab1"} for request in source.asked)


async def test_a_kept_answer_goes_to_callers_with_the_same_sites_and_scopes_only():
    source = MemorySource("s", events(3, START))
    asked = unified(source)
    callers = [
        LOOPBACK,
        Principal("a", frozenset({"query"})),
        Principal("b", frozenset({"query"}), frozenset({"fab1"})),
        Principal("c", frozenset({"query"}), frozenset({"fab1", "fab2"})),
    ]
    assert [(await asked.ask(ask(), caller)).cache for caller in callers] == ["miss"] * 4
    assert [(await asked.ask(ask(), caller)).cache for caller in callers] == ["hit"] * 4
    assert (await asked.ask(ask(), Principal("other", frozenset({"query"})))).cache == "hit"


async def test_a_new_version_of_a_source_ends_what_was_kept_of_a_closed_range():
    source = MemorySource("s", events(3, START))
    asked = unified(source)
    await asked.ask(ask(), LOOPBACK)
    source.current = "2"
    assert (await asked.ask(ask(), LOOPBACK)).cache == "miss"


async def test_callers_with_the_same_question_at_once_cost_one_query():
    source = MemorySource("s", events(3, START), seconds=0.05)
    asked = unified(source)
    answers = await asyncio.gather(*(asked.ask(ask(), LOOPBACK) for _ in range(10)))
    assert len(source.asked) == 1
    assert sorted(answer.cache for answer in answers) == ["miss"] + ["shared"] * 9


async def test_a_caller_that_leaves_does_not_take_the_answer_from_the_others():
    source = MemorySource("s", events(3, START), seconds=0.1)
    asked = unified(source)
    first = asyncio.create_task(asked.ask(ask(), LOOPBACK))
    second = asyncio.create_task(asked.ask(ask(), LOOPBACK))
    await asyncio.sleep(0.02)
    first.cancel()
    assert (await second).table.num_rows == 3


async def test_a_growing_range_is_asked_again_after_seconds_but_not_at_once():
    source = MemorySource("s", events(3, START))
    asked = unified(source)
    growing = Question(msgspec.structs.replace(REQUEST, end=NOW), ("-1d", "now"))
    later = Question(msgspec.structs.replace(REQUEST, end=NOW + dt.timedelta(seconds=1)), ("-1d", "now"))
    assert (await asked.ask(growing, LOOPBACK)).cache == "miss"
    assert (await asked.ask(later, LOOPBACK)).cache == "hit"
    assert (await asked.ask(Question(later.request, later.range_key, max_staleness=0), LOOPBACK)).cache == "miss"
