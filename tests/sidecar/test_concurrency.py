"""Several calls at once: as many as pay, never more than the sink allows, and the position behind the first unfinished one."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from sidecar.concurrency import Concurrency
from sidecar.delivery import HELD_BYTES, Delivery
from sidecar.flights import Standing
from sinks.base import DeliveryReport, SinkBatch, SinkLimits, Throttled, Unavailable
from tests.sidecar.memory_log import MemoryLog, ScriptedSink, backend_settings, new_delivery, some_events
from tests.sidecar.virtual_time import run

Behaviour = Callable[[SinkBatch], Awaitable[DeliveryReport]]


class TimedSink(ScriptedSink):
    """Does what `behaviour` says and knows how many calls there were at once."""

    def __init__(self, behaviour: Behaviour, *, concurrency: int, events: int = 5, size: int = 10**9) -> None:
        super().__init__()
        self.limits = SinkLimits(events, size, concurrency)
        self.behaviour = behaviour
        self.now = 0
        self.most = 0
        self.held = 0

    async def deliver(self, batch: SinkBatch) -> DeliveryReport:
        self.now += 1
        self.most = max(self.most, self.now)
        self.script = [lambda _: self.behaviour(batch)]
        try:
            return await super().deliver(batch)
        finally:
            self.now -= 1


def takes(seconds: float) -> Behaviour:
    async def deliver(batch: SinkBatch) -> DeliveryReport:
        await asyncio.sleep(seconds)
        return DeliveryReport(batch.count)

    return deliver


def start(log: MemoryLog, sink: ScriptedSink, folder: Path, **fields: Any) -> tuple[Delivery, asyncio.Task[None]]:
    loop = asyncio.get_running_loop()
    delivery = new_delivery(log, sink, folder, backend_settings(**fields), clock=loop.time, rng=random.Random(7))
    return delivery, asyncio.create_task(delivery.run())


async def end(delivery: Delivery, task: asyncio.Task[None]) -> None:
    delivery.stop()
    await task


async def until(condition: Callable[[], Any], seconds: float = 3600) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - a test waits for any condition
            await asyncio.sleep(0.01)


def full_batches(log: MemoryLog, count: int, size: int = 5) -> None:
    for _ in range(count):
        log.add(some_events(size))


def test_system_that_works_in_parallel_gets_one_call_at_a_time(tmp_path: Path) -> None:
    async def scenario() -> None:
        log, sink = MemoryLog(), TimedSink(takes(0.1), concurrency=8)
        full_batches(log, 200)
        delivery, task = start(log, sink, tmp_path)
        await until(lambda: delivery.lag_events == 0)
        assert delivery.concurrency.limit == 8
        assert sink.most == 8
        assert sorted(sink.got) == sorted(log.ids())
        await end(delivery, task)
        assert log.checkpoints["sink"] == 1000

    run(scenario())


def test_system_that_works_off_a_queue_is_given_all_that_the_sink_allows(tmp_path: Path) -> None:
    async def scenario() -> None:
        turn = asyncio.Lock()

        async def one_at_a_time(batch: SinkBatch) -> DeliveryReport:
            async with turn:
                await asyncio.sleep(0.1)
            return DeliveryReport(batch.count)

        log, sink = MemoryLog(), TimedSink(one_at_a_time, concurrency=32)
        full_batches(log, 300)
        delivery, task = start(log, sink, tmp_path)
        await until(lambda: delivery.lag_events == 0)
        assert sink.most <= 4
        await end(delivery, task)

    run(scenario())


def test_throttling_leaves_the_concurrency_as_it_was(tmp_path: Path) -> None:
    async def scenario() -> None:
        angry = False

        async def sometimes(batch: SinkBatch) -> DeliveryReport:
            await asyncio.sleep(0.1)
            if angry:
                raise Throttled("slowly")
            return DeliveryReport(batch.count)

        log, sink = MemoryLog(), TimedSink(sometimes, concurrency=8)
        full_batches(log, 500)
        delivery, task = start(log, sink, tmp_path)
        await until(lambda: delivery.concurrency.limit == 8)
        angry = True
        await until(lambda: delivery.progress.state == "throttled")
        assert delivery.concurrency.limit == 4
        angry = False
        await until(lambda: delivery.lag_events == 0)
        assert delivery.concurrency.limit == 8
        await end(delivery, task)

    run(scenario())


def test_one_disturbance_halves_the_limit_once_for_each_call_under_way() -> None:
    limit = Concurrency(16)
    limit.limit = 16
    eras = [limit.began() for _ in range(16)]
    for era in eras:
        limit.ended()
        limit.failed(era)
    assert limit.limit == 8


def test_small_quick_batches_make_the_full_ones_look_slow() -> None:
    limit = Concurrency(4)
    for _ in range(20):
        limit.began()
        limit.ended()
        limit.succeeded(0.001, full=False)
    for _ in range(100):
        started = [limit.began() for _ in range(limit.limit)]
        for _ in started:
            limit.ended()
            limit.succeeded(0.2, full=True)
    assert limit.limit == 4


def test_number_in_the_configuration_is_not_kept_to(tmp_path: Path) -> None:
    async def scenario() -> None:
        log, sink = MemoryLog(), TimedSink(takes(0.1), concurrency=8)
        full_batches(log, 50)
        delivery, task = start(log, sink, tmp_path, concurrency=3)
        await until(lambda: delivery.lag_events == 0)
        assert sink.most == 3
        await end(delivery, task)

    run(scenario())


def test_sink_that_stands_one_call_gets_two(tmp_path: Path) -> None:
    async def scenario() -> None:
        log, sink = MemoryLog(), TimedSink(takes(0.1), concurrency=1)
        full_batches(log, 30)
        delivery, task = start(log, sink, tmp_path)
        await until(lambda: delivery.lag_events == 0)
        assert sink.most == 1
        assert sink.got == log.ids()
        await end(delivery, task)

    run(scenario())


def test_batch_that_is_retried_holds_up_the_others_or_is_passed_by_the_checkpoint(tmp_path: Path) -> None:
    async def scenario() -> None:
        stuck = True

        async def first_one_is_stuck(batch: SinkBatch) -> DeliveryReport:
            await asyncio.sleep(0.1)
            if batch.seqs[0] <= 5 and stuck:
                return DeliveryReport(batch.count - 1, retry=[batch.count - 1])
            return DeliveryReport(batch.count)

        log, sink = MemoryLog(), TimedSink(first_one_is_stuck, concurrency=4)
        full_batches(log, 20)
        delivery, task = start(log, sink, tmp_path)
        await until(lambda: len(sink.got) >= 99)
        assert delivery.position == 0
        assert log.checkpoints.get("sink", 0) == 0
        assert delivery.lag_events == 5
        assert delivery.standing(1) is Standing.DEALT_WITH
        assert delivery.standing(5) is Standing.UNDER_WAY
        assert delivery.standing(6) is Standing.DEALT_WITH
        assert delivery.standing(101) is Standing.WAITING
        assert delivery.retry_at is not None
        stuck = False
        await until(lambda: delivery.lag_events == 0)
        await end(delivery, task)
        assert log.checkpoints["sink"] == 100
        assert sorted(sink.got) == sorted(log.ids())

    run(scenario())


def test_agent_holds_more_bytes_than_it_may(tmp_path: Path) -> None:
    async def scenario() -> None:
        log = MemoryLog()
        sink = TimedSink(takes(10), concurrency=64, events=1)
        for _ in range(30):
            log.add(some_events(1, message="x" * 1_500_000))
        delivery, task = start(log, sink, tmp_path, concurrency=64, timeout=60.0)
        most = 0

        def watched() -> bool:
            nonlocal most
            most = max(most, delivery.flights.bytes)
            return delivery.lag_events == 0

        await until(watched)
        assert HELD_BYTES / 2 < most < HELD_BYTES + 4_000_000
        await end(delivery, task)

    run(scenario())


def test_trickle_of_events_makes_a_call_each(tmp_path: Path) -> None:
    async def scenario() -> None:
        log, sink = MemoryLog(), TimedSink(takes(0.2), concurrency=8, events=1000)
        delivery, task = start(log, sink, tmp_path, concurrency=8)
        for _ in range(400):
            log.add(some_events(1))
            await asyncio.sleep(0.01)
        await until(lambda: delivery.lag_events == 0)
        assert len(sink.batches) < 40
        await end(delivery, task)

    run(scenario())


def test_hung_call_holds_up_a_trickle_though_more_calls_are_allowed(tmp_path: Path) -> None:
    async def scenario() -> None:
        async def first_hangs(batch: SinkBatch) -> DeliveryReport:
            await asyncio.sleep(1000 if batch.first_seq == 1 else 0.01)
            return DeliveryReport(batch.count)

        log, sink = MemoryLog(), TimedSink(first_hangs, concurrency=4, events=1000)
        delivery, task = start(log, sink, tmp_path, concurrency=4, timeout=2000.0)
        log.add(some_events(1))
        await until(lambda: sink.now == 1)
        log.add(some_events(1))
        await until(lambda: len(sink.got) == 1, seconds=5)
        assert sink.got == log.ids()[1:]
        await until(lambda: delivery.lag_events == 0)
        await end(delivery, task)

    run(scenario())


def test_stop_leaves_out_what_was_finished_or_stores_what_was_not(tmp_path: Path) -> None:
    async def scenario() -> None:
        async def third_is_slow(batch: SinkBatch) -> DeliveryReport:
            await asyncio.sleep(100 if batch.first_seq == 11 else 0.1)
            return DeliveryReport(batch.count)

        log, sink = MemoryLog(), TimedSink(third_is_slow, concurrency=4)
        full_batches(log, 6)
        delivery, task = start(log, sink, tmp_path, concurrency=4, timeout=500.0)
        await until(lambda: len(sink.got) == 25)
        delivery.stop()
        await asyncio.wait([task], timeout=1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert log.checkpoints["sink"] == 10
        assert sink.closed == 1
        assert sink.now == 0

        again, task = start(log, sink, tmp_path, concurrency=4)
        sink.behaviour = takes(0.1)
        await until(lambda: again.lag_events == 0)
        await end(again, task)
        assert set(sink.got) == set(log.ids())

    run(scenario())


def test_several_calls_probe_a_dead_system_at_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        calls: list[float] = []

        async def dead(batch: SinkBatch) -> DeliveryReport:
            calls.append(asyncio.get_running_loop().time())
            await asyncio.sleep(0.1)
            raise Unavailable("down")

        log, sink = MemoryLog(), TimedSink(dead, concurrency=8)
        full_batches(log, 50)
        delivery, task = start(log, sink, tmp_path, concurrency=8, probe_interval=10.0)
        await asyncio.sleep(200)
        probes = [moment for moment in calls if moment > 5]
        assert 15 <= len(probes) <= 20
        assert all(later - earlier >= 10 for earlier, later in pairwise(probes))
        await end(delivery, task)

    run(scenario())


def test_others_call_while_the_system_asked_for_patience(tmp_path: Path) -> None:
    async def scenario() -> None:
        calls: list[float] = []

        async def busy(batch: SinkBatch) -> DeliveryReport:
            calls.append(asyncio.get_running_loop().time())
            await asyncio.sleep(0.1)
            if len(calls) == 3:
                raise Throttled("slowly", 60.0)
            return DeliveryReport(batch.count)

        log, sink = MemoryLog(), TimedSink(busy, concurrency=4)
        full_batches(log, 50)
        delivery, task = start(log, sink, tmp_path)
        await until(lambda: delivery.lag_events == 0)
        asked = calls[2] + 0.1
        assert not [moment for moment in calls if asked < moment < asked + 60]
        await end(delivery, task)

    run(scenario())
