"""Systems that do whatever a real one may do, and what each of them knows the router has promised; for `test_router_model`."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from sidecar.dead_letters import DeadLetters
from sidecar.spool.errors import SpoolUnavailable
from sinks.base import DeliveryReport, Health, Refused, SinkBatch, SinkLimits, Throttled, Unavailable
from tests.sidecar.memory_log import MemoryLog, backend_settings

EVENTS_A_BATCH = 5
FAILURES_TO_OPEN = 3
PROBE_INTERVAL = 5.0
TIMEOUT = 4.0
EPSILON = 1e-4


@dataclass
class System:
    """The far side of one backend. It outlives the agent; what it was promised (`forget`) does not outlive a delivery."""

    name: str
    clock: Any
    most_calls: int
    primaries: list[System] = field(default_factory=list)
    mode: str = "up"
    latency: float = 0.1
    retry_after: float | None = None
    seed: int = 0
    broken_promises: list[str] = field(default_factory=list)
    """What must not have happened; the router would take an exception here for a fault of the system."""
    stored: dict[str, int] = field(default_factory=dict)
    """Events by id: how often each came."""
    in_call: int = 0
    limit: Callable[[], int] = lambda: 1
    """How many calls the router means to make at most, now."""
    strict_order: bool = False
    last_seq: int = 0
    patience: float = 0.0
    """Nothing may come before this moment."""
    patience_with: dict[str, float] = field(default_factory=dict)
    failures: int = 0
    open_until: float | None = None
    """As the breaker must see this system: closed (None), or no call before then."""
    probing: bool = False

    def forget(self) -> None:
        """Another delivery begins, which knows nothing of what was before."""
        self.patience, self.failures, self.open_until, self.probing, self.last_seq = 0.0, 0, None, False, 0
        self.patience_with.clear()

    def heal(self) -> None:
        self.mode, self.latency, self.retry_after = "up", 0.1, None

    # ------------------------------------------------------------------------------------------------------------- the breaker

    def demand(self, kept: bool, promise: str) -> None:
        if not kept:
            self.broken_promises.append(f"{self.name} at {self.clock():.3f}: {promise}")

    def begins(self, ids: list[str], seqs: list[int]) -> bool:
        """A call comes in: is it allowed to? Whether it is a probe."""
        now = self.clock() + EPSILON
        self.demand(seqs == sorted(seqs), "the order within a batch is lost")
        self.demand(len(ids) <= EVENTS_A_BATCH, "more events than a batch takes")
        self.demand(self.in_call < self.most_calls, "more calls at once than the sink allows")
        self.demand(self.in_call < self.limit(), "more calls at once than the router's own limit")
        self.demand(now >= self.patience, f"called, though it asked for patience until {self.patience}")
        for event_id in ids:
            self.demand(now >= self.patience_with.get(event_id, 0.0), "an event came before its time")
        if self.strict_order:
            self.demand(seqs[0] > self.last_seq, f"event {seqs[0]} comes after {self.last_seq}")
        for primary in self.primaries:
            self.demand(primary.open_until is not None, f"called while {primary.name} works")
        if self.open_until is None:
            return False
        self.demand(now >= self.open_until, f"called, though it is down and the next probe is due at {self.open_until}")
        self.demand(not self.probing, "two probes at once")
        self.probing = True
        return True

    def answered(self) -> None:
        self.failures, self.open_until, self.probing = 0, None, False

    def failed(self, retry_after: float | None, *, probe: bool) -> None:
        self.failures += 1
        asked = self.clock() + (retry_after or 0.0)
        if self.open_until is None:
            if self.failures >= FAILURES_TO_OPEN:
                self.open_until = max(self.clock() + PROBE_INTERVAL, asked)
        elif probe:
            self.open_until, self.probing = max(self.clock() + PROBE_INTERVAL, asked), False
        elif not self.probing:
            self.open_until = max(self.open_until, asked)
        if retry_after is not None:
            self.patience = max(self.patience, asked)


class ModelSink:
    """One connection to a system."""

    Config: ClassVar[type[msgspec.Struct]] = msgspec.Struct

    def __init__(self, system: System, timeout: float) -> None:
        self._system = system
        self._timeout = timeout
        self._open = False
        self.limits = SinkLimits(EVENTS_A_BATCH, 10**9, system.most_calls)

    async def open(self) -> None:
        self._system.demand(not self._open, "opened twice")
        self._open = True

    async def check(self) -> Health:
        return Health(True, "works")

    async def close(self) -> None:
        self._open = False

    async def deliver(self, batch: SinkBatch) -> DeliveryReport:
        system = self._system
        system.demand(self._open, "called before it was opened")
        items = [json.loads(line) for line in batch.lines]
        ids = [item["event_id"] for item in items]
        probe = system.begins(ids, list(batch.seqs))
        system.in_call += 1
        began = system.clock()
        try:
            report = await self._answer(batch, items)
        except asyncio.CancelledError:
            if system.clock() - began >= self._timeout - EPSILON:
                system.failed(None, probe=probe)
            else:
                system.probing = system.probing and not probe
            raise
        except Throttled as error:
            system.answered()
            if error.retry_after is not None:
                system.patience = max(system.patience, system.clock() + error.retry_after)
            raise
        except Exception as error:
            system.failed(getattr(error, "retry_after", None), probe=probe)
            raise
        finally:
            system.in_call -= 1
        if report.delivered > batch.count:
            system.failed(None, probe=probe)
            return report
        system.answered()
        for index in report.retry:
            system.patience_with[ids[index]] = system.clock() + (report.retry_after or 0.0)
        if not report.retry:
            system.last_seq = batch.seqs[-1]
        return report

    async def _answer(self, batch: SinkBatch, items: list[dict[str, Any]]) -> DeliveryReport:
        system = self._system
        await asyncio.sleep(system.latency)
        match system.mode:
            case "down":
                raise Unavailable("down", system.retry_after)
            case "busy":
                raise Throttled("slowly", system.retry_after)
            case "hung":
                await asyncio.Event().wait()
            case "broken":
                raise KeyError("a sink with a mistake")
            case "forgetful":
                self._store(items)
                raise Unavailable("took it, and the answer got lost")
            case "lying":
                return DeliveryReport(batch.count + 1)
            case "partial":
                system.seed += 1
                rng = random.Random(system.seed)
                share = rng.choice([0.0, 0.5])
                retry = [i for i, item in enumerate(items) if rng.random() < share and not item["attributes"]["poison"]]
                return self._take(items, retry)
        return self._take(items, [])

    def _take(self, items: list[dict[str, Any]], retry: list[int]) -> DeliveryReport:
        refused = [Refused(i, item["event_id"], "never") for i, item in enumerate(items) if item["attributes"]["poison"]]
        gone = {item.index for item in refused}.union(retry)
        self._store([item for index, item in enumerate(items) if index not in gone])
        return DeliveryReport(len(items) - len(gone), refused, retry, self._system.retry_after if retry else None)

    def _store(self, items: list[dict[str, Any]]) -> None:
        for item in items:
            if not item["attributes"]["poison"]:
                self._system.stored[item["event_id"]] = self._system.stored.get(item["event_id"], 0) + 1


class HonestLog(MemoryLog):
    """Refuses to be told that a backend has what it doesn't have; `power` off, nothing reaches the disk any more."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.power = True
        self.items: list[dict[str, Any]] = []
        self.systems: dict[str, System] = {}
        self.wants: dict[str, Any] = {}

    def append(self, items: list[dict[str, Any]]) -> None:
        self.items += items
        self.add(items)

    def dead(self, backend: str) -> set[str]:
        return {letter.event_id or "" for letters in DeadLetters(self.folder, backend).peek() for letter in letters}

    def has(self, backend: str) -> set[str]:
        """What the backend has dealt with for certain."""
        return self.systems[backend].stored.keys() | self.dead(backend)

    async def checkpoint(self, reader: str, seq: int) -> int:
        if not self.power:
            raise SpoolUnavailable("the power is off")
        settled = self.has(reader)
        for primary in self.systems[reader].primaries:
            settled = settled | self.has(primary.name)
        for item in self.items[:seq]:
            if self.wants[reader](item):
                self.systems[reader].demand(item["event_id"] in settled, "the checkpoint stands beyond an event that it lacks")
        self.systems[reader].demand(seq >= self.checkpoints.get(reader, 0), "the checkpoint goes back")
        self.checkpoints[reader] = seq
        return seq


def model_backend(name: str, **fields: Any) -> Any:
    return backend_settings(name, probe_interval=PROBE_INTERVAL, timeout=TIMEOUT, **fields)
