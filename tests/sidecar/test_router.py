"""Changes of configuration while the router runs."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from contract.errors import TrackMateError
from sidecar.metrics import Metrics
from sidecar.router import Router
from tests.sidecar.memory_log import MemoryLog, ScriptedSink, backend_settings, some_events, until
from tests.sidecar.virtual_time import run


def test_backend_that_can_not_be_made_stops_the_others_at_a_reload(tmp_path: Path) -> None:
    """The router makes every new sink before it ends an old one."""

    async def scenario() -> None:
        log = MemoryLog()

        def new_sink(backend: Any) -> Any:
            if backend.name == "broken":
                raise TrackMateError("no such library")
            return ScriptedSink()

        router = Router(tmp_path, log, Metrics(), new_source=lambda: log, new_sink=new_sink)
        router.start([backend_settings("good"), backend_settings("leaving")])
        log.add(some_events(3))
        with pytest.raises(TrackMateError):
            await router.reload([backend_settings("good", timeout=9.0), backend_settings("broken")], 1.0)
        assert [delivery.settings.name for delivery in router.deliveries] == ["good", "leaving"]
        await until(lambda: not any(delivery.lag_events for delivery in router.deliveries))
        assert await router.stop(5.0) == {}

    run(scenario())


def test_reload_that_is_broken_off_leaves_deliveries_that_nobody_ends(tmp_path: Path) -> None:
    """SIGTERM may come while a reload waits for a call under way."""

    async def scenario() -> None:
        log = MemoryLog()

        def hangs(_: Any) -> Any:
            return asyncio.Event().wait()

        sinks = {"changed": ScriptedSink([hangs]), "steady": ScriptedSink()}
        router = Router(tmp_path, log, Metrics(), new_source=lambda: log, new_sink=lambda backend: sinks[backend.name])  # type: ignore[arg-type,return-value]
        router.start([backend_settings("changed", timeout=900.0), backend_settings("steady")])
        log.add(some_events(3))
        await until(lambda: sinks["changed"].batches)
        reload = asyncio.create_task(router.reload([backend_settings("changed"), backend_settings("steady")], 600.0))
        await asyncio.sleep(1)
        reload.cancel()
        await asyncio.gather(reload, return_exceptions=True)
        assert await router.stop(1.0) == {"changed": 3}
        assert [task for task in asyncio.all_tasks() if task.get_name().startswith("backend")] == []
        assert sinks["steady"].got == log.ids()

    run(scenario())
