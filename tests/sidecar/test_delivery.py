"""One backend's way through the log: against a model in which its system does anything it may do."""

from __future__ import annotations

import asyncio
import json
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.dead_letters import DeadLetters
from sidecar.delivery import PACE_SECONDS
from sidecar.match import Match
from sinks.base import DeliveryReport, Refused, SinkBatch, SinkLimits, Throttled, Unavailable
from tests.sidecar.memory_log import (
    MemoryLog,
    NoJitter,
    ScriptedSink,
    backend_settings,
    new_delivery,
    some_events,
    take_all,
    until,
)
from tests.sidecar.virtual_time import run

Step = Callable[[SinkBatch], DeliveryReport]


def fails_with(error: Exception) -> Step:
    def step(batch: SinkBatch) -> DeliveryReport:
        raise error

    return step


def splits(seed: int) -> Step:
    """Delivers some, refuses some, asks to retry some."""

    def step(batch: SinkBatch) -> DeliveryReport:
        rng = random.Random(seed)
        fates = [rng.choice("drt") for _ in range(batch.count)]
        refused = [Refused(i, json.loads(batch.lines[i])["event_id"], "never") for i, f in enumerate(fates) if f == "r"]
        return DeliveryReport(fates.count("d"), refused, [i for i, f in enumerate(fates) if f == "t"])

    return step


def lies(batch: SinkBatch) -> DeliveryReport:
    return DeliveryReport(batch.count + 1)


STEPS = st.one_of(
    st.just(take_all),
    st.just(fails_with(Unavailable("down"))),
    st.just(fails_with(Throttled("slowly", 0.0))),
    st.just(fails_with(KeyError("a sink with a mistake"))),
    st.just(lies),
    st.integers(0, 10_000).map(splits),
)


@settings(max_examples=60, deadline=None)
@given(
    records=st.lists(st.integers(1, 12), min_size=1, max_size=8),
    script=st.lists(STEPS, max_size=12),
    restarts=st.lists(st.integers(0, 6), max_size=3),
)
def test_an_event_is_neither_delivered_nor_dead(records: list[int], script: list[Any], restarts: list[int]) -> None:
    """Whatever the system answers and whenever the agent dies: in the end each event is delivered or dead, and the checkpoint
    never stands beyond one that is neither."""

    async def scenario(folder: Path) -> None:
        log = MemoryLog()
        sink = ScriptedSink(script)
        for count in records:
            log.add(some_events(count))
        ids = log.ids()

        def settled() -> set[str]:
            return set(sink.got) | {str(letter["event_id"]) for letter in dead(folder)}

        async def honest_checkpoint(reader: str, seq: int) -> int:
            assert set(ids[:seq]) <= settled()
            return await MemoryLog.checkpoint(log, reader, seq)

        log.checkpoint = honest_checkpoint  # type: ignore[method-assign]
        for calls in restarts:
            delivery = new_delivery(log, sink, folder)
            task = asyncio.create_task(delivery.run())
            before = len(sink.batches)
            await until(lambda b=before, c=calls, d=delivery: len(sink.batches) >= b + c or d.lag_events == 0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        delivery = new_delivery(log, sink, folder)
        task = asyncio.create_task(delivery.run())
        await until(lambda: delivery.lag_events == 0)
        delivery.stop()
        await task
        assert settled() == set(ids)
        assert log.checkpoints["sink"] == len(ids)
        assert all(batch.count <= sink.limits.max_events for batch in sink.batches)

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(scenario(Path(folder)))


def dead(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for file in DeadLetters(folder, "sink").files() for line in file.read_text().splitlines()]


async def run_until_caught_up(log: MemoryLog, sink: ScriptedSink, folder: Path, **fields: Any) -> None:
    delivery = new_delivery(log, sink, folder, backend_settings(**fields))
    task = asyncio.create_task(delivery.run())
    await until(lambda: delivery.lag_events == 0)
    delivery.stop()
    await task


async def test_order_is_lost(tmp_path: Path) -> None:
    log, sink = MemoryLog(), ScriptedSink([fails_with(Unavailable("down"))] * 5)
    for count in (3, 9, 1, 7, 20):
        log.add(some_events(count))
    await run_until_caught_up(log, sink, tmp_path)
    assert sink.got == log.ids()


async def test_records_are_not_joined_or_not_cut_to_the_sinks_limits(tmp_path: Path) -> None:
    log, sink = MemoryLog(), ScriptedSink()
    for count in (2, 2, 2, 2, 16):
        log.add(some_events(count))
    await run_until_caught_up(log, sink, tmp_path)
    assert [batch.count for batch in sink.batches] == [6, 2, 7, 7, 2]
    assert [(batch.first_seq, batch.last_seq) for batch in sink.batches] == [(1, 6), (7, 8), (9, 15), (16, 22), (23, 24)]


async def test_bytes_of_a_batch_exceed_the_sinks_limit(tmp_path: Path) -> None:
    log, sink = MemoryLog(), ScriptedSink()
    sink.limits = SinkLimits(100, 1000)
    log.add(some_events(30))
    await run_until_caught_up(log, sink, tmp_path)
    assert sink.got == log.ids()
    assert len(sink.batches) > 5
    assert all(len(batch.ndjson) <= 1000 for batch in sink.batches)


async def test_whole_record_is_encoded_anew(tmp_path: Path) -> None:
    log, sink = MemoryLog(), ScriptedSink()
    log.add(some_events(7))
    log.add(some_events(3))
    await run_until_caught_up(log, sink, tmp_path)
    assert sink.batches[0].stored is not None
    assert sink.batches[0].stored.payload == log.records[0].payload
    assert sink.batches[1].stored is not None


async def test_body_as_received_is_passed_on_though_the_batch_is_only_a_part_of_it(tmp_path: Path) -> None:
    log, sink = MemoryLog(), ScriptedSink()
    log.add(some_events(8))
    log.add(some_events(5))
    await run_until_caught_up(log, sink, tmp_path)
    assert [(batch.count, batch.stored is not None) for batch in sink.batches] == [(7, False), (1, False), (5, True)]


async def test_unmatched_events_are_delivered_or_hold_the_checkpoint(tmp_path: Path) -> None:
    log, sink = MemoryLog(), ScriptedSink()
    log.add(some_events(3, severity="error") + some_events(20) + some_events(1, severity="critical"))
    log.add(some_events(9))
    await run_until_caught_up(log, sink, tmp_path, match=Match(severity="error"))
    assert sink.got == [*log.ids()[:3], log.ids()[23]]
    assert log.checkpoints["sink"] == 33


def test_trickle_of_events_makes_a_call_each(tmp_path: Path) -> None:
    """A call costs more than an event, and its syncs and its share of the interpreter come before an acknowledgement."""

    async def scenario() -> None:
        log, sink, clock = MemoryLog(), ScriptedSink(), asyncio.get_running_loop().time
        sink.limits = SinkLimits(1000, 100_000)
        delivery = new_delivery(log, sink, tmp_path, clock=clock)
        task = asyncio.create_task(delivery.run())
        await asyncio.sleep(1)
        for _ in range(200):
            log.add(some_events(1))
            await asyncio.sleep(0.01)
        await until(lambda: delivery.lag_events == 0)
        assert sink.got == log.ids()
        assert 2.0 / PACE_SECONDS - 2 <= len(sink.batches) <= 2.0 / PACE_SECONDS + 2
        delivery.stop()
        await task

    run(scenario())


def test_event_after_a_pause_or_a_full_batch_waits_for_more(tmp_path: Path) -> None:
    async def scenario() -> None:
        log, sink, clock = MemoryLog(), ScriptedSink(), asyncio.get_running_loop().time
        delivery = new_delivery(log, sink, tmp_path, clock=clock)
        task = asyncio.create_task(delivery.run())
        await asyncio.sleep(1)
        for count in (1, 70):
            began = clock()
            log.add(some_events(count))
            await until(lambda: delivery.lag_events == 0)
            assert clock() - began < PACE_SECONDS / 2
            await asyncio.sleep(1)
        assert [batch.count for batch in sink.batches] == [1, *[7] * 10]
        delivery.stop()
        await task

    run(scenario())


async def test_hung_system_is_waited_for_longer_than_the_timeout(tmp_path: Path) -> None:
    def hangs(batch: SinkBatch) -> Any:
        return asyncio.Event().wait()

    log, sink = MemoryLog(), ScriptedSink([hangs, hangs])
    log.add(some_events(2))
    delivery = new_delivery(log, sink, tmp_path, backend_settings(timeout=0.05))
    task = asyncio.create_task(delivery.run())
    await until(lambda: len(sink.batches) == 2)
    assert delivery.progress.error is not None
    assert "within 0.05 s" in delivery.progress.error
    await until(lambda: delivery.lag_events == 0)
    delivery.stop()
    await task
    assert sink.got == log.ids()


async def test_sink_that_closes_slowly_costs_the_checkpoint_or_is_cut_in_the_middle(tmp_path: Path) -> None:
    class SlowToClose(ScriptedSink):
        closing, may_end = False, asyncio.Event()

        async def close(self) -> None:
            self.closing = True
            await self.may_end.wait()
            await super().close()

    log, sink = MemoryLog(), SlowToClose()
    log.add(some_events(5))
    delivery = new_delivery(log, sink, tmp_path)
    running = asyncio.create_task(delivery.run())
    await until(lambda: len(sink.got) == 5)
    delivery.stop()
    await until(lambda: sink.closing)
    assert log.checkpoints == {"sink": 5}
    running.cancel()
    await asyncio.sleep(0)
    sink.may_end.set()
    await asyncio.gather(running, return_exceptions=True)
    assert sink.closed == 1


async def test_dead_system_costs_a_try_a_batch_instead_of_one_an_interval(tmp_path: Path) -> None:
    now = 0.0
    log, sink = MemoryLog(), ScriptedSink([fails_with(Unavailable("down"))] * 1000)
    for _ in range(5):
        log.add(some_events(7))
    delivery = new_delivery(log, sink, tmp_path, backend_settings(probe_interval=3600.0), clock=lambda: now)
    task = asyncio.create_task(delivery.run())
    await until(lambda: delivery.progress.state == "down")
    for _ in range(50):
        await asyncio.sleep(0)
    assert len(sink.batches) == 3
    delivery.stop()
    await task


async def test_retry_comes_before_the_system_asked_for_it(tmp_path: Path) -> None:
    log = MemoryLog()
    delivery = new_delivery(log, ScriptedSink(), tmp_path)
    assert delivery._sender._backoff(0, 30.0) >= 30.0
    assert delivery._sender._backoff(20, None) <= 30.0
    assert all(NoJitter().uniform(0, 9) == 0 for _ in range(3))


async def test_fallback_takes_what_a_working_primary_takes(tmp_path: Path) -> None:
    log = MemoryLog()
    first, second = ScriptedSink(), ScriptedSink()
    primary = new_delivery(log, first, tmp_path, backend_settings("primary"))
    fallback = new_delivery(
        log, second, tmp_path, backend_settings("fallback", fallback=True, priority=2), primaries=lambda: [primary]
    )
    tasks = [asyncio.create_task(primary.run()), asyncio.create_task(fallback.run())]
    log.add(some_events(20))
    await until(lambda: fallback.position == 20)
    assert second.got == []
    assert first.got == log.ids()
    for delivery in (primary, fallback):
        delivery.stop()
    await asyncio.gather(*tasks)


async def test_fallback_keeps_what_the_primary_should_get_later(tmp_path: Path) -> None:
    log = MemoryLog()
    down = True

    def sometimes(batch: SinkBatch) -> DeliveryReport:
        if down:
            raise Unavailable("down")
        return DeliveryReport(batch.count)

    first, second = ScriptedSink([sometimes] * 10_000), ScriptedSink()
    took: list[tuple[str, int, int]] = []
    primary = new_delivery(log, first, tmp_path, backend_settings("primary", probe_interval=0.02))
    fallback = new_delivery(
        log,
        second,
        tmp_path,
        backend_settings("fallback", fallback=True, priority=2),
        primaries=lambda: [primary],
        took_over=lambda *stretch: took.append(stretch),
    )
    tasks = [asyncio.create_task(primary.run()), asyncio.create_task(fallback.run())]
    log.add(some_events(10))
    await until(lambda: len(second.got) == 10 and took and took[-1][2] == 10)
    assert first.got == []
    assert [stretch[0] for stretch in took] == ["fallback"] * len(took)
    assert (took[0][1], took[-1][2]) == (1, 10)
    down = False
    log.add(some_events(5))
    await until(lambda: primary.lag_events == 0)
    assert first.got == log.ids()
    assert log.ids()[:10] == second.got[:10]
    for delivery in (primary, fallback):
        delivery.stop()
    await asyncio.gather(*tasks)


@pytest.mark.parametrize("priority", [1, 2, 3])
async def test_worse_priority_goes_first_when_backends_compete(priority: int) -> None:
    from sidecar.priority import PriorityGate

    gate, order = PriorityGate(), []

    async def enter(number: int) -> None:
        async with gate.turn(number):
            order.append(number)
            await asyncio.sleep(0)

    async with gate.turn(0):
        tasks = [asyncio.create_task(enter(number)) for number in (3, 1, 2)]
        await asyncio.sleep(0)
        cancelled = asyncio.create_task(enter(priority))
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.gather(cancelled, return_exceptions=True)
    await asyncio.gather(*tasks)
    assert order == [1, 2, 3]
