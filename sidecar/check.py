"""Tries every backend of a configuration at once: can it be reached, would it take events, and does it take one?

Works without a spool and beside a running sidecar: it uses sinks of its own and touches nothing else.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from uuid import uuid4

import msgspec

from contract.ids import uuid7
from sidecar.config import BackendSettings
from sidecar.router import open_sink
from sinks.base import Sink, SinkBatch, SinkError, describe

EVENT_NAME = "trackmate.check"
CLOSE_SECONDS = 5.0


class CheckResult(msgspec.Struct, kw_only=True):
    """What came of one backend."""

    name: str
    type: str
    priority: int
    delivery: str
    ok: bool
    latency_ms: float | None = None
    """Of the check, or of the delivery of the test event."""
    detail: str = ""
    """What was found, and what to do when it failed."""
    event_id: str | None = None
    """The test event, where one was delivered."""


async def check_all(
    backends: Sequence[BackendSettings],
    *,
    deliver: bool = False,
    new_sink: Callable[[BackendSettings], Sink] = open_sink,
    done: Callable[[CheckResult], None] = lambda _: None,
) -> list[CheckResult]:
    """Check every backend within its own `timeout`, all at once; with `deliver`, send each a test event of its own.

    `done` is told of each as it ends. The results are in the order of `backends`.
    """

    async def one(backend: BackendSettings) -> CheckResult:
        result = CheckResult(
            name=backend.name,
            type=backend.type,
            priority=backend.priority,
            delivery="fallback" if backend.fallback else "always",
            ok=False,
        )
        await _check(backend, new_sink(backend), result, deliver=deliver)
        done(result)
        return result

    return list(await asyncio.gather(*map(one, backends)))


async def _check(backend: BackendSettings, sink: Sink, result: CheckResult, *, deliver: bool) -> None:
    began = time.perf_counter()
    try:
        async with asyncio.timeout(backend.timeout):
            await sink.open()
            health = await sink.check()
            result.ok, result.detail = health.ok, health.detail
            result.latency_ms = health.latency_ms or (time.perf_counter() - began) * 1000
            if deliver and health.ok:
                await _deliver(sink, result)
    except TimeoutError:
        _failed(result, f"no answer within {backend.timeout:g} s: is it hung, or behind a firewall that drops packets?")
    except SinkError as error:
        _failed(result, str(error))
    except Exception as error:  # noqa: BLE001 - sinks of other packages may raise anything; it is what the operator wants to see
        _failed(result, describe(error))
    finally:
        await _close(sink, result)


async def _deliver(sink: Sink, result: CheckResult) -> None:
    result.event_id = uuid7()
    event = {
        "event_id": result.event_id,
        "timestamp": datetime.now(UTC).isoformat(),
        "kind": "log",
        "name": EVENT_NAME,
        "site_id": "check",
        "app": {"name": "trackmate"},
        "message": f"Test event of `trackmate sidecar check --deliver` for the backend '{result.name}'",
    }
    # A log of its own, so that its place in the log is nobody else's.
    batch = SinkBatch.from_ndjson(msgspec.json.encode(event), first_seq=1, spool_id=str(uuid4()))
    began = time.perf_counter()
    report = await sink.deliver(batch)
    result.latency_ms = (time.perf_counter() - began) * 1000
    if report.refused:
        _failed(result, f"refused the test event: {report.refused[0].reason}")
    elif report.retry:
        _failed(result, f"did not take the test event now: {report.message or 'it asks for another try'}")
    else:
        result.detail = f"took the test event {result.event_id}"


async def _close(sink: Sink, result: CheckResult) -> None:
    try:
        async with asyncio.timeout(CLOSE_SECONDS):
            await sink.close()
    except Exception as error:  # noqa: BLE001 - what is asked is whether it takes events
        result.detail += f" (closing it failed: {describe(error)})"


def _failed(result: CheckResult, detail: str) -> None:
    result.ok, result.detail, result.latency_ms = False, detail, None
