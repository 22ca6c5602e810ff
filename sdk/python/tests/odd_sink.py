"""A sink of a third party, for the tests: writes events to a file, and behaves as its config says."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import msgspec
from contract.settings import Secret
from sinks.base import DeliveryReport, Health, Refused, SinkBatch, SinkLimits, Throttled


class OddConfig(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The `config` block of an `odd` backend."""

    path: Path
    """Where every call of `deliver` leaves a line: first and last number, log, and the events taken."""
    behaviour: str = ""
    token: Secret = Secret("")


class OddSink:
    """Takes at most seven events in a call."""

    Config: ClassVar[type[msgspec.Struct]] = OddConfig
    limits: ClassVar[SinkLimits] = SinkLimits(max_events=7)

    def __init__(self, name: str, config: OddConfig) -> None:
        self.name = name
        self._config = config
        self._running = 0

    async def open(self) -> None:
        """Nothing to open."""

    async def deliver(self, batch: SinkBatch) -> DeliveryReport:
        """Do as the config says; a file beside `path` with the suffix `.mended` makes it behave."""
        behaviour = "" if self._config.path.with_suffix(".mended").exists() else self._config.behaviour
        self._running += 1
        try:
            return await self._deliver(batch, behaviour)
        finally:
            self._running -= 1

    async def _deliver(self, batch: SinkBatch, behaviour: str) -> DeliveryReport:
        if behaviour == "block":
            time.sleep(30)  # noqa: ASYNC251 - this is what it is for
        if behaviour == "deaf":
            await self._ignore_being_cancelled()
        if behaviour == "never":
            await asyncio.Event().wait()
        if behaviour == "executor":
            await asyncio.to_thread(time.sleep, 30)
        if behaviour == "executor-once":
            with ThreadPoolExecutor(1) as pool:
                await asyncio.get_running_loop().run_in_executor(pool, time.sleep, 0.01)
        if behaviour == "throttle":
            message = "too many requests"
            raise Throttled(message, 0.2)
        if behaviour == "crash":
            message = "a mistake"
            raise ZeroDivisionError(message)
        if behaviour == "lie":
            return DeliveryReport(batch.count + 1)
        if behaviour == "refuse-third":
            refused = [Refused(place, None, "a third one") for place in range(2, batch.count, 3)]
            self._note(batch, [place for place in range(batch.count) if place % 3 != 2])
            return DeliveryReport(batch.count - len(refused), refused)
        if behaviour == "retry-odd":
            taken = [place for place in range(batch.count) if place % 2 == 0]
            self._note(batch, taken)
            return DeliveryReport(len(taken), retry=[place for place in range(batch.count) if place % 2], message="busy")
        self._note(batch, list(range(batch.count)))
        return DeliveryReport(batch.count)

    async def _ignore_being_cancelled(self) -> None:
        until = time.monotonic() + 30
        while time.monotonic() < until:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(1)

    def _note(self, batch: SinkBatch, taken: list[int]) -> None:
        note: dict[str, Any] = {
            "first": batch.first_seq,
            "last": batch.last_seq,
            "log": batch.spool_id,
            "running": self._running,
            "events": [json.loads(batch.lines[place]) for place in taken],
        }
        with self._config.path.open("a") as file:
            file.write(json.dumps(note) + "\n")

    async def check(self) -> Health:
        """It is always well."""
        return Health(True, "fine")

    async def close(self) -> None:
        """Say so."""
        self._config.path.with_suffix(".closed").touch()
