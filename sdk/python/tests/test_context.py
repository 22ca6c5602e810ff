"""Runs: what `monitored_context` reports, and to which run an event belongs."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

import monitoring_sdk as m
from monitoring_sdk.testing import capture

LOG = {"kind": "log", "name": "x"}


@pytest.fixture
def recorded():
    with capture() as recorder:
        yield recorder


def test_run_is_a_start_and_a_finish_with_one_id(recorded):
    with m.monitored_context("etch", {"lot": "L1", "wafer": 7, "entities": {"robot": "R2"}, "pressure": 3.5}) as run:
        assert m.current_run() is run
    start, finish = recorded.events
    assert (start["kind"], start["name"], finish["kind"], finish["name"]) == ("start", "etch", "finish", "etch")
    assert start["run_id"] == finish["run_id"] == run.run_id
    assert start["entities"] == finish["entities"] == {"lot": "L1", "wafer": "7", "robot": "R2"}
    assert start["attributes"] == finish["attributes"] == {"pressure": 3.5}
    assert finish["status"] == "ok"
    assert finish["duration_ms"] >= 0
    assert "status" not in start
    assert "parent_run_id" not in start
    assert m.current_run() is None


def test_everything_emitted_inside_belongs_to_the_run(recorded):
    with m.monitored_context("etch", {"lot": "L1"}) as run:
        m.emit_event(LOG)
        m.emit_event({**LOG, "entities": {"tool": "E7"}})
        m.emit_event({**LOG, "attributes": {"deep": []}})
        m.emit_batch([LOG, {**LOG, "entities": {"lot": "other"}, "attributes": {"deep": []}}])
    m.emit_event(LOG)
    inside = recorded.events[1:6]
    assert {event["run_id"] for event in inside} == {run.run_id}
    expected = [{"lot": "L1"}, {"lot": "L1", "tool": "E7"}, {"lot": "L1"}, {"lot": "L1"}, {"lot": "other"}]
    assert [event["entities"] for event in inside] == expected
    assert "run_id" not in recorded.events[-1]
    assert "entities" not in recorded.events[-1]


def test_given_run_wins_over_the_active_one(recorded):
    other = "01890a5d-ac96-774b-8cce-000000000001"
    with m.monitored_context("outer"), m.monitored_context("inner"):
        m.emit_event({**LOG, "run_id": other})
    (event,) = recorded.of_kind("log")
    assert event["run_id"] == other
    assert "parent_run_id" not in event


def test_nested_runs_name_their_parents_and_inherit_entities(recorded):
    with m.monitored_context("lot", {"lot": "L1", "tool": "E7"}) as outer:
        with m.monitored_context("step", {"wafer": "3", "tool": "E8"}) as inner:
            m.emit_event(LOG)
            outer.progress(0.5)
        m.emit_event(LOG)
    inside, after = recorded.of_kind("log")
    assert (inside["run_id"], inside["parent_run_id"]) == (inner.run_id, outer.run_id)
    assert inside["entities"] == {"lot": "L1", "tool": "E8", "wafer": "3"}
    assert (after["run_id"], after["entities"]) == (outer.run_id, {"lot": "L1", "tool": "E7"})
    (progress,) = recorded.of_kind("progress")
    assert progress["run_id"] == outer.run_id
    assert "parent_run_id" not in progress


def test_exception_is_reported_and_raised_again(recorded):
    class RecipeError(Exception):
        pass

    with pytest.raises(RecipeError), m.monitored_context("etch"):
        raise RecipeError("no such recipe")
    end = recorded.events[-1]
    assert (end["kind"], end["status"]) == ("error", "failed")
    assert end["error"]["type"].endswith("RecipeError")
    assert end["error"]["message"] == "no such recipe"
    assert 'raise RecipeError("no such recipe")' in end["error"]["stack"]
    assert "severity" not in end  # error is the default on kind error


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (KeyboardInterrupt(), "aborted"),
        (SystemExit(2), "aborted"),
        (SystemExit("message"), "aborted"),
        (asyncio.CancelledError(), "aborted"),
        (GeneratorExit(), "aborted"),
        (SystemExit(0), "ok"),
        (SystemExit(None), "ok"),
    ],
    ids=repr,
)
def test_what_is_no_error_aborts(recorded, error, status):
    with pytest.raises(type(error)), m.monitored_context("etch"):
        raise error
    end = recorded.events[-1]
    assert (end["kind"], end["status"]) == ("finish", status)
    assert ("error" in end) == (status == "aborted")


def test_exception_that_can_t_be_shown_is_still_the_one_raised(recorded):
    class Hostile(Exception):
        def __str__(self):
            raise RuntimeError("no")

    with pytest.raises(Hostile), m.monitored_context("etch"):
        raise Hostile
    assert "RuntimeError" in recorded.events[-1]["error"]["message"]


def test_huge_exception_is_cut(recorded):
    with pytest.raises(ValueError), m.monitored_context("etch"):
        raise ValueError("x" * 10_000_000)
    error = recorded.events[-1]["error"]
    assert 7_000 < len(error["message"]) < 9_000
    assert len(error["stack"]) < 33_000
    assert "left out" in error["message"]


def test_set_is_reported_at_the_end_only(recorded):
    with m.monitored_context("etch", {"a": 1}) as run:
        run.set(result="good", a=2)
        run.set(depth=1.5)
    start, finish = recorded.events
    assert start["attributes"] == {"a": 1}
    assert finish["attributes"] == {"a": 2, "result": "good", "depth": 1.5}


def test_set_refuses_what_is_not_json_at_once(recorded):
    with m.monitored_context("etch") as run, pytest.raises(m.InvalidEventError, match=r"attributes\.a"):
        run.set(a=object())


def test_end_is_reported_even_when_too_much_was_set(recorded):
    with m.monitored_context("etch") as run:
        for i in range(10):
            run.set(**{f"a{i}": "x" * 50_000})
    finish = recorded.events[-1]
    assert (finish["status"], finish["attributes"]) == ("ok", {"truncated": True})


def test_progress_metric_and_log_of_a_run(recorded):
    with m.monitored_context("etch") as run:
        run.progress(0.5, "half", wafer_count=12)
        run.progress(1.0000000001)
        run.metric("temperature", 21.5)
        run.metric("chuck", bow=0.2, warp=0.3)
        run.log("careful", "warning", code=3)
        with pytest.raises(m.InvalidEventError, match="not above 1"):
            run.progress(1.1)
    _, half, whole, single, several, log, _ = recorded.events
    assert (half["progress"], half["message"], half["attributes"]) == (0.5, "half", {"wafer_count": 12})
    assert whole["progress"] == 1
    assert (single["name"], single["metrics"]) == ("temperature", {"temperature": 21.5})
    assert (several["name"], several["metrics"]) == ("chuck", {"bow": 0.2, "warp": 0.3})
    assert (log["severity"], log["message"], log["attributes"]) == ("warning", "careful", {"code": 3})
    assert len({event["run_id"] for event in recorded.events}) == 1


def test_bind_narrows_a_run_down_and_leaves_it_alone(recorded):
    with m.monitored_context("lot", {"lot": "L1"}) as run:
        wafer = run.bind(wafer="7")
        wafer.metric("t", 1)
        with wafer:
            m.emit_event(LOG)
        m.emit_event(LOG)
        wafer.set(last=7)
    _, metric, inside, outside, finish = recorded.events
    assert metric["entities"] == inside["entities"] == {"lot": "L1", "wafer": "7"}
    assert outside["entities"] == finish["entities"] == {"lot": "L1"}
    assert len({event["run_id"] for event in recorded.events}) == 1
    assert finish["attributes"] == {"last": 7}


@pytest.mark.parametrize("metadata", [[], "lot", {"lot": ""}, {"lot": None}, {"entities": 3}, {"x": object()}])
def test_wrong_metadata_is_an_error_at_once(recorded, metadata):
    with pytest.raises(m.InvalidEventError):
        m.monitored_context("etch", metadata)


def test_wrong_name_is_an_error_at_once(recorded):
    for name in ("", "n" * 257, None):
        with pytest.raises(m.InvalidEventError):
            m.monitored_context(name)


def test_context_before_initialize_is_misuse():
    with pytest.raises(m.NotInitializedError, match="monitored_context"), m.monitored_context("etch"):
        pytest.fail("the block must not run")


def test_context_that_outlives_close_doesn_t_hide_the_program_s_error(caplog):
    def fail():
        with m.monitored_context("etch"):
            m.close()
            raise ZeroDivisionError

    with capture(), pytest.raises(ZeroDivisionError):
        fail()
    assert "ended after close()" in caplog.text


def test_one_context_object_can_t_be_two_runs_at_once(recorded):
    context = m.monitored_context("etch")
    with context, pytest.raises(RuntimeError, match="in use"), context:
        pytest.fail("the block must not run")
    with context:
        pass
    assert len(recorded.of_kind("finish")) == 2


# ------------------------------------------------------------------------------------------------------------ decorators


def test_decorated_function_is_a_run_each_call(recorded):
    @m.monitored_context("etch", {"tool": "E7"})
    def etch(n, *, fail=False):
        """Etches."""
        m.emit_event(LOG)
        if fail:
            raise ValueError(n)
        return n * 2

    assert (etch.__name__, etch.__doc__) == ("etch", "Etches.")
    assert etch(4) == 8
    with pytest.raises(ValueError):
        etch(5, fail=True)
    kinds = [event["kind"] for event in recorded.events]
    assert kinds == ["start", "log", "finish", "start", "log", "error"]
    assert len({event["run_id"] for event in recorded.events}) == 2


def test_decorated_function_may_call_itself(recorded):
    @m.monitored_context("down")
    def down(n):
        return n if n == 0 else down(n - 1)

    assert down(3) == 0
    parents = [event.get("parent_run_id") for event in recorded.of_kind("start")]
    runs = [event["run_id"] for event in recorded.of_kind("start")]
    assert parents == [None, *runs[:-1]]


async def test_decorated_coroutine_and_async_with(recorded):
    @m.monitored_context("etch")
    async def etch():
        await asyncio.sleep(0)
        m.emit_event(LOG)
        return 7

    async with m.monitored_context("outer") as outer:
        assert await etch() == 7
    assert recorded.named("etch")[0]["parent_run_id"] == outer.run_id
    assert recorded.named("x")[0]["run_id"] == recorded.named("etch")[0]["run_id"]


async def test_tasks_at_the_same_time_keep_to_their_own_runs(recorded):
    async def work(n):
        async with m.monitored_context("task", {"wafer": n}):
            for _ in range(5):
                await asyncio.sleep(0)
                m.emit_event({**LOG, "attributes": {"n": n}})

    async with m.monitored_context("outer") as outer:
        await asyncio.gather(*(work(n) for n in range(10)))
        m.emit_event({"kind": "log", "name": "after"})
    for event in recorded.named("x"):
        assert event["entities"] == {"wafer": str(event["attributes"]["n"])}
        assert event["parent_run_id"] == outer.run_id
    assert recorded.named("after")[0]["run_id"] == outer.run_id
    assert len({event["run_id"] for event in recorded.of_kind("start")}) == 11


async def test_cancelled_task_is_aborted(recorded):
    async def work():
        async with m.monitored_context("task"):
            await asyncio.sleep(60)

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert recorded.events[-1]["status"] == "aborted"


def test_decorated_generator_runs_inside_and_its_caller_outside(recorded):
    @m.monitored_context("wafers")
    def wafers(n):
        for i in range(n):
            m.emit_event({**LOG, "attributes": {"i": i}})
            got = yield i
            if got:
                yield got
        return "done"

    def outer():
        result = yield from generator
        assert result == "done"

    generator = wafers(3)
    assert recorded.events == []  # nothing happens until the first value is asked for
    iterator = outer()
    assert next(iterator) == 0
    assert m.current_run() is None
    m.emit_event({"kind": "log", "name": "between"})
    assert iterator.send("echo") == "echo"
    assert list(iterator) == [1, 2]
    assert "run_id" not in recorded.named("between")[0]
    run_id = recorded.of_kind("start")[0]["run_id"]
    assert {event["run_id"] for event in recorded.named("x")} == {run_id}
    assert recorded.events[-1]["status"] == "ok"


def test_generator_takes_errors_and_may_be_left_early(recorded):
    @m.monitored_context("wafers")
    def wafers():
        try:
            yield 0
        except ValueError:
            m.emit_event(LOG)
        yield 1

    generator = wafers()
    next(generator)
    assert generator.throw(ValueError()) == 1
    generator.close()
    assert recorded.of_kind("log")[0]["run_id"] == recorded.of_kind("start")[0]["run_id"]
    assert recorded.events[-1]["status"] == "aborted"


async def test_decorated_async_generator(recorded):
    @m.monitored_context("wafers")
    async def wafers(n):
        for i in range(n):
            await asyncio.sleep(0)
            m.emit_event(LOG)
            try:
                yield i
            except ValueError:
                yield "caught"

    assert [i async for i in wafers(3)] == [0, 1, 2]
    assert recorded.events[-1]["status"] == "ok"
    left = wafers(3)
    assert await left.__anext__() == 0
    assert m.current_run() is None
    assert await left.athrow(ValueError()) == "caught"
    await left.aclose()
    assert recorded.events[-1]["status"] == "aborted"
    assert {event["run_id"] for event in recorded.named("x")} == {event["run_id"] for event in recorded.of_kind("start")}


# --------------------------------------------------------------------------------------------------------------- threads


def test_new_thread_starts_without_a_run_unless_it_is_carried(recorded):
    def work(name):
        m.emit_event({"kind": "log", "name": name})

    with m.monitored_context("etch") as run:
        with ThreadPoolExecutor(4) as pool:
            pool.submit(work, "bare").result()
            carried = m.carry(work)
            list(pool.map(carried, ["a", "b", "c", "d"]))
            pool.submit(work, "after").result()
        context = contextvars.copy_context()
        thread = threading.Thread(target=context.run, args=(work, "copied"))
        thread.start()
        thread.join()
    runs = {event["name"]: event.get("run_id") for event in recorded.of_kind("log")}
    inside = dict.fromkeys(["a", "b", "c", "d", "copied"], run.run_id)
    assert runs == {"bare": None, "after": None, **inside}
