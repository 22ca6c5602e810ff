"""A log in memory and a sink that does as it is told: for what a real system can't be made to do on command."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from contract.framing import BodyFormat
from sidecar.config import BackendSettings
from sidecar.dead_letters import DeadLetters
from sidecar.delivery import Delivery
from sidecar.match import Match
from sidecar.metrics import Metrics
from sidecar.priority import PriorityGate
from sidecar.spool.format import Flags, Record
from sinks.base import DeliveryReport, Health, SinkBatch, SinkLimits
from tests.sidecar.harness import event, ndjson

SPOOL_ID = "11111111-2222-4333-8444-555555555555"


class MemoryLog:
    """Log, source and checkpoints at once."""

    spool_id = SPOOL_ID

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.checkpoints: dict[str, int] = {}
        self._grown = asyncio.Event()

    @property
    def durable_seq(self) -> int:
        return self.records[-1].last_seq if self.records else 0

    def add(self, items: Sequence[dict[str, Any]]) -> None:
        record = Record(self.durable_seq + 1, len(items), Flags.of(None, BodyFormat.NDJSON), ndjson(items), 1_780_000_000_000_000)
        self.records.append(record)
        self._grown.set()
        self._grown = asyncio.Event()

    async def wait_beyond(self, seq: int) -> int:
        while self.durable_seq <= seq:
            await self._grown.wait()
        return self.durable_seq

    async def checkpoint(self, reader: str, seq: int) -> int:
        assert seq >= self.checkpoints.get(reader, 0)
        self.checkpoints[reader] = seq
        return seq

    def skip_lost(self, after_seq: int, closed_only: bool) -> int:
        return after_seq

    def read(self, after_seq: int, max_events: int, max_bytes: int, closed_only: bool) -> Iterator[Record]:
        events = size = 0
        for record in self.records:
            if record.last_seq <= after_seq:
                continue
            if events and (events + record.count > max_events or size + len(record.payload) > max_bytes):
                return
            events += record.count
            size += len(record.payload)
            yield record

    def ids(self) -> list[str]:
        return [json.loads(line)["event_id"] for record in self.records for line in record.ndjson().splitlines()]


class ScriptedSink:
    """Answers each delivery with the next step of `script`, and takes everything when the script is over."""

    Config: ClassVar[type[msgspec.Struct]] = msgspec.Struct
    limits: SinkLimits = SinkLimits(7, 100_000)

    def __init__(self, script: Sequence[Callable[[SinkBatch], DeliveryReport]] = ()) -> None:
        self.script = list(script)
        self.got: list[str] = []
        self.batches: list[SinkBatch] = []
        self.opened = 0
        self.closed = 0

    async def open(self) -> None:
        self.opened += 1

    async def deliver(self, batch: SinkBatch) -> DeliveryReport:
        self.batches.append(batch)
        step = self.script.pop(0) if self.script else take_all
        report = step(batch)
        if asyncio.iscoroutine(report):
            report = await report
        gone = {item.index for item in report.refused} | set(report.retry)
        self.got += [json.loads(line)["event_id"] for index, line in enumerate(batch.lines) if index not in gone]
        return report

    async def check(self) -> Health:
        return Health(True, "works")

    async def close(self) -> None:
        self.closed += 1


def take_all(batch: SinkBatch) -> DeliveryReport:
    return DeliveryReport(batch.count)


class NoJitter(random.Random):
    def uniform(self, a: float, b: float) -> float:
        return 0.0


def backend_settings(name: str = "sink", **fields: Any) -> BackendSettings:
    values: dict[str, Any] = {
        "name": name,
        "type": "scripted",
        "priority": 1,
        "fallback": False,
        "match": Match(),
        "timeout": 5.0,
        "probe_interval": 0.0,
        "config": msgspec.Struct(),
        **fields,
    }
    return BackendSettings(**values)


def new_delivery(
    log: MemoryLog, sink: ScriptedSink, folder: Path, settings: BackendSettings | None = None, **options: Any
) -> Delivery:
    settings = settings or backend_settings()
    return Delivery(
        settings,
        sink,  # type: ignore[arg-type]
        log=log,
        source=log,
        position=log.checkpoints.get(settings.name, 0),
        dead=DeadLetters(folder, settings.name),
        metrics=Metrics().backend(settings.name),
        gate=PriorityGate(),
        **{"rng": NoJitter(), **options},
    )


async def until(condition: Callable[[], Any], seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - a test waits for any condition
            await asyncio.sleep(0.002)


def some_events(count: int, **fields: Any) -> list[dict[str, Any]]:
    return [event(**fields) for _ in range(count)]
