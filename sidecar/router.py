"""Carries the log to every backend: one `Delivery` each, the fallbacks' standby, and changes of configuration while running."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
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
    ) -> None:
        self._spool = spool
        self._log = log
        self._metrics = metrics
        self._new_source = new_source
        self._new_sink = new_sink
        self._load_position = load_position or (lambda name: load_checkpoint(spool, name))
        self._gate = PriorityGate()
        self._ledger = Ledger(spool)
        self._deliveries: dict[str, Delivery] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._bookkeeping: asyncio.Task[None] | None = None

    @property
    def deliveries(self) -> list[Delivery]:
        """All of them, best priority first."""
        return sorted(self._deliveries.values(), key=lambda d: (d.settings.priority, d.settings.name))

    def start(self, backends: Sequence[BackendSettings]) -> None:
        """Begin to deliver."""
        for backend in backends:
            self._begin(backend)
        self._bookkeeping = asyncio.create_task(self._settle_ledger(), name="fallback ledger")

    async def reload(self, backends: Sequence[BackendSettings], grace: float) -> None:
        """Take new settings: what is unchanged goes on, the rest ends after the delivery under way (at most `grace` seconds)."""
        wanted = {backend.name: backend for backend in backends}
        ended = [name for name, delivery in self._deliveries.items() if wanted.get(name) != delivery.settings]
        await self._end(ended, grace)
        for name, backend in wanted.items():
            if name not in self._deliveries:
                self._begin(backend)

    async def drain(self, grace: float) -> bool:
        """Wait until every backend that works has everything, at most `grace` seconds; whether they have."""
        busy = [delivery.caught_up() for delivery in self._deliveries.values()]
        try:
            async with asyncio.timeout(grace):
                await asyncio.gather(*busy)
        except TimeoutError:
            return False
        return True

    async def stop(self, grace: float) -> None:
        """End every delivery after the one under way, at most `grace` seconds; what is not delivered waits in the log."""
        if self._bookkeeping is not None:
            self._bookkeeping.cancel()
            await asyncio.gather(self._bookkeeping, return_exceptions=True)
            self._bookkeeping = None
        await self._end(list(self._deliveries), grace)

    def states(self) -> list[dict[str, Any]]:
        """Every backend as /health shows it; no secret is in it."""
        return [self._state(delivery) for delivery in self.deliveries]

    def _state(self, delivery: Delivery) -> dict[str, Any]:
        settings, progress = delivery.settings, delivery.progress
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
            "error": progress.error,
            "error_at": progress.error_at,
        }
        if settings.fallback:
            state["stands_in_for"] = list(settings.stands_in_for)
            state["owed"] = [[stretch.first, stretch.last] for stretch in self._ledger.owed(settings.name)]
        return state

    def _begin(self, backend: BackendSettings) -> None:
        delivery = Delivery(
            backend,
            self._new_sink(backend),
            log=self._log,
            source=self._new_source(),
            position=self._load_position(backend.name),
            dead=DeadLetters(self._spool, backend.name),
            metrics=self._metrics.backend(backend.name),
            gate=self._gate,
            primaries=lambda: [self._deliveries[name] for name in backend.stands_in_for if name in self._deliveries],
            took_over=self._ledger.add,
        )
        self._deliveries[backend.name] = delivery
        self._tasks[backend.name] = asyncio.create_task(delivery.run(), name=f"backend {backend.name}")

    async def _end(self, names: Sequence[str], grace: float) -> None:
        tasks = [self._tasks.pop(name) for name in names]
        for name in names:
            self._deliveries[name].stop()
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=grace)
            for task in late:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for name in names:
            del self._deliveries[name]

    async def _settle_ledger(self) -> None:
        """Strike from the ledger what the primaries have by now."""
        while True:
            await asyncio.sleep(LEDGER_SECONDS)
            for delivery in self.deliveries:
                if delivery.settings.fallback:
                    primaries = [self._deliveries[n].position for n in delivery.settings.stands_in_for if n in self._deliveries]
                    if primaries:
                        try:
                            await asyncio.to_thread(self._ledger.settle, delivery.settings.name, min(primaries))
                        except OSError as error:
                            logger.warning("fallback ledger not stored", extra={"error": str(error)})
