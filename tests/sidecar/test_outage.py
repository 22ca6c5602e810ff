"""A system that answers 500 for an hour and then works again: nothing is given up, nothing is refused, nothing piles up."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from sinks.base import DeliveryReport, SinkBatch, SinkLimits, Unavailable
from tests.services.base import wait_until
from tests.services.scripted_http import Asked, ScriptedHttp, Step, json_reply
from tests.sidecar.harness import RunningSidecar, events, files_backend
from tests.sidecar.memory_log import MemoryLog, ScriptedSink, backend_settings, new_delivery, some_events, take_all, until
from tests.sidecar.test_running import ids
from tests.sidecar.virtual_time import run
from tests.sinks.test_elk_answers import PRODUCT, takes_all

HOUR = 3600.0
INTERVAL = 5.0
"""The default of `probe_interval`: an hour has 720 of them."""

FEW_FILES = 10
"""Connections and files that a sidecar may have open more at one time than at another."""


class LongestPauses(random.Random):
    def uniform(self, a: float, b: float) -> float:
        return b


@pytest.mark.parametrize("calls", [1, 4])
def test_outage_of_an_hour_costs_more_than_a_try_an_interval_or_loses_events(tmp_path: Path, calls: int) -> None:
    """The whole hour with the defaults, in virtual time; events come all the while."""

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        tries: list[float] = []
        down = True

        def fails_for_an_hour(batch: SinkBatch) -> DeliveryReport:
            if down:
                tries.append(loop.time())
                raise Unavailable("status 500")
            return take_all(batch)

        log, sink = MemoryLog(), ScriptedSink([fails_for_an_hour] * 2000)
        sink.limits = SinkLimits(7, 100_000, calls)
        for _ in range(10):
            log.add(some_events(7))
        settings = backend_settings(timeout=30.0, probe_interval=INTERVAL)
        delivery = new_delivery(log, sink, tmp_path, settings, clock=loop.time, rng=LongestPauses())
        task = asyncio.create_task(delivery.run())
        for _ in range(60):
            log.add(some_events(5))
            await asyncio.sleep(HOUR / 60)
        assert (delivery.position, log.checkpoints, sink.got) == (0, {}, [])
        assert delivery.lag_events == 370
        assert 0.95 * HOUR / INTERVAL <= len(tries) <= HOUR / INTERVAL + 2 + calls
        down = False
        await until(lambda: delivery.lag_events == 0, seconds=2 * INTERVAL)
        assert Counter(sink.got) == Counter(log.ids())
        assert calls > 1 or sink.got == log.ids()
        assert (delivery.progress.state, delivery.progress.refused) == ("ok", 0)
        delivery.stop()
        await task
        assert log.checkpoints == {"sink": 370}

    run(scenario())


@pytest.mark.parametrize("tries", [60, pytest.param(round(HOUR / INTERVAL), marks=pytest.mark.full)])
def test_tries_of_an_outage_pile_up_in_the_agent_or_make_dead_letters(
    new_sidecar: Callable[..., RunningSidecar], tries: int
) -> None:
    """A real agent that is refused as often as in five minutes (in a long run: as in an hour), at a shorter interval."""
    trouble = {"error": {"type": "internal", "reason": "oops"}, "status": 500}
    with ScriptedHttp(json_reply(trouble, 500, **PRODUCT)) as server:
        config = {"url": server.url, "index": "monitoring", "manage_template": False}
        elk = {"name": "elk", "type": "elk", "probe_interval": "20ms", "config": config}
        sidecar = new_sidecar(backends=[elk, files_backend()]).start()
        assert sidecar.process is not None
        agent = psutil.Process(sidecar.process.pid)
        sent: list[dict[str, Any]] = []

        def post_until_tried(count: int) -> None:
            def tried() -> bool:
                sent.extend(events(2))
                assert sidecar.post(sent[-2:]).status_code == 202
                return len(server.asked) >= count

            wait_until(tried, seconds=300, what=f"{count} tries", interval=0.02)

        post_until_tried(20)
        before = agent.num_fds()
        post_until_tried(tries)
        assert agent.num_fds() <= before + FEW_FILES
        state = sidecar.wait_for_backend("elk", seconds=60, state="down")
        assert "500" in state["error"]
        assert (state["lag_events"], state["refused"]) == (len(sent), 0)
        stored: list[str] = []

        def takes(asked: Asked) -> Step:
            stored.extend(item["event_id"] for item in asked.lines[1::2])
            return takes_all(asked)

        server.script = takes
        sidecar.wait_for_backend("elk", seconds=60, lag_events=0, state="ok", breaker="closed")
        assert Counter(stored) == Counter(ids(sent))
        assert sidecar.dead("elk") == []
        sidecar.wait_for_backend("files", seconds=60, position=len(sent))
