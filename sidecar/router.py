"""Carries the log to every backend: one `Delivery` each, the fallbacks' standby, and changes of configuration while running."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from sidecar.batching import Source
from sidecar.config import BackendSettings
from sidecar.dead_letters import DeadLetters
from sidecar.delivery import Delivery, Log
from sidecar.ledger import Ledger
from sidecar.metrics import Metrics
from sidecar.priority import PriorityGate
from sidecar.spool.checkpoint import load_checkpoint
from sinks import registry
from sinks.base import Sink

LEDGER_SECONDS = 1.0

logger = logging.getLogger(__name__)


def open_sink(settings: BackendSettings) -> Sink:
    """The sink of a backend, not yet open."""
    return registry.sink_class(settings.type)(settings.name, settings.config)


class Router:
    """The deliveries of one spool.

    `new_source` makes a reader of the log (one a backend), `new_sink` a sink; `load_position` tells where a backend stood last.
    """

    def __init__(
        self,
        spool: Path,
        log: Log,
        metrics: Metrics,
        *,
        new_source: Callable[[], Source],
        new_sink: Callable[[BackendSettings], Sink] = open_sink,
        load_position: Callable[[str], int] | None = None,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self._spool = spool
        self._log = log
        self._metrics = metrics
        self._new_source = new_source
        self._new_sink = new_sink
        self._load_position = load_position or (lambda name: load_checkpoint(spool, name))
        self._clock = clock
        self._rng = rng
        self._gate = PriorityGate()
        self._ledger = Ledger(spool)
        self._deliveries: dict[str, Delivery] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._bookkeeping: asyncio.Task[None] | None = None

    @property
    def deliveries(self) -> list[Delivery]:
        """All of them, best priority first."""
        return sorted(self._deliveries.values(), key=lambda d: (d.settings.priority, d.settings.name))

    @property
    def ledger(self) -> Ledger:
        """What fallbacks took and their primaries lack."""
        return self._ledger

    def primaries_of(self, fallback: BackendSettings) -> list[Delivery]:
        """The deliveries that a fallback stands in for."""
        return [self._deliveries[name] for name in fallback.stands_in_for if name in self._deliveries]

    def start(self, backends: Sequence[BackendSettings]) -> None:
        """Begin to deliver."""
        for backend in backends:
            self._begin(backend, self._new_sink(backend))
        self._bookkeeping = asyncio.create_task(self._settle_ledger(), name="fallback ledger")

    async def reload(self, backends: Sequence[BackendSettings], grace: float) -> None:
        """Take new settings: what is unchanged goes on, the rest ends after the calls under way (at most `grace` seconds).

        A sink that can't be made raises TrackMateError, and nothing is changed.
        """
        wanted = {backend.name: backend for backend in backends}
        kept = {name for name, delivery in self._deliveries.items() if wanted.get(name) == delivery.settings}
        sinks = {name: self._new_sink(backend) for name, backend in wanted.items() if name not in kept}
        for name in sinks.keys() - self._deliveries.keys():
            self._begin(wanted[name], sinks[name])
        await self._end([name for name, delivery in self._deliveries.items() if delivery.settings != wanted.get(name)], grace)
        for name in sinks.keys() - self._deliveries.keys():
            self._begin(wanted[name], sinks[name])

    async def drain(self, grace: float) -> None:
        """Wait until every backend that works has everything, at most `grace` seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await asyncio.gather(*(delivery.caught_up() for delivery in self._deliveries.values()))

    async def stop(self, grace: float) -> dict[str, int]:
        """End every delivery after the calls under way, at most `grace` seconds; what is not delivered waits in the log.

        Returns how many events wait for which backend. A fallback is owed nothing: what it doesn't take waits for its primaries.
        """
        if self._bookkeeping is not None:
            self._bookkeeping.cancel()
            await asyncio.gather(self._bookkeeping, return_exceptions=True)
            self._bookkeeping = None
        ended = self.deliveries
        await self._end(list(self._deliveries), grace)
        return {d.settings.name: d.lag_events for d in ended if d.lag_events and not d.settings.fallback}

    def states(self) -> list[dict[str, Any]]:
        """Every backend as /health shows it; no secret is in it."""
        return [self._state(delivery) for delivery in self.deliveries]

    def _state(self, delivery: Delivery) -> dict[str, Any]:
        settings, progress, concurrency = delivery.settings, delivery.progress, delivery.concurrency
        state: dict[str, Any] = {
            "name": settings.name,
            "type": settings.type,
            "priority": settings.priority,
            "delivery": "fallback" if settings.fallback else "always",
            "state": progress.state,
            "breaker": delivery.breaker.state.name.lower().replace("_", "-"),
            "position": delivery.position,
            "lag_events": delivery.lag_events,
            "lag_seconds": round(delivery.lag_seconds, 3),
            "delivered": progress.delivered,
            "refused": progress.refused,
            "delivered_at": progress.delivered_at,
            "latency_ms": None if progress.latency is None else round(progress.latency * 1000, 3),
            "retry_at": delivery.retry_at,
            "concurrency": concurrency.limit,
            "concurrency_max": concurrency.maximum,
            "in_flight": concurrency.in_flight,
            "bytes_in_flight": delivery.flights.bytes,
            "error": progress.error,
            "error_at": progress.error_at,
        }
        if settings.fallback:
            state["stands_in_for"] = list(settings.stands_in_for)
            state["owed"] = [[stretch.first, stretch.last] for stretch in self._ledger.owed(settings.name)]
        return state

    def _begin(self, backend: BackendSettings, sink: Sink) -> None:
        delivery = Delivery(
            backend,
            sink,
            log=self._log,
            source=self._new_source(),
            position=self._load_position(backend.name),
            dead=DeadLetters(self._spool, backend.name),
            metrics=self._metrics.backend(backend.name),
            gate=self._gate,
            primaries=lambda: self.primaries_of(backend),
            took_over=self._ledger.add,
            clock=self._clock,
            rng=self._rng,
        )
        self._deliveries[backend.name] = delivery
        self._tasks[backend.name] = asyncio.create_task(delivery.run(), name=f"backend {backend.name}")

    async def _end(self, names: Sequence[str], grace: float) -> None:
        tasks = [self._tasks[name] for name in names]
        for name in names:
            self._deliveries[name].stop()
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=grace)
            for task in late:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for name in names:
            del self._deliveries[name], self._tasks[name]

    async def _settle_ledger(self) -> None:
        """Strike from the ledger what the primaries have by now."""
        while True:
            await asyncio.sleep(LEDGER_SECONDS)
            for delivery in self.deliveries:
                if delivery.settings.fallback:
                    positions = [primary.position for primary in self.primaries_of(delivery.settings)]
                    if positions:
                        try:
                            await asyncio.to_thread(self._ledger.settle, delivery.settings.name, min(positions))
                        except OSError as error:
                            logger.warning("fallback ledger not stored", extra={"error": str(error)})
