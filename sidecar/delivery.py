"""Delivers the log to one backend: read, send, keep what was refused, move the checkpoint; nothing else moves it.

Each backend has one `Delivery`, a task of its own, so that a system that is down, hung or slow delays no other.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Protocol

from sidecar.batching import Cut, Source, next_cut
from sidecar.breaker import Breaker, BreakerState
from sidecar.config import BackendSettings
from sidecar.dead_letters import DeadLetters
from sidecar.metrics import BackendMetrics
from sidecar.priority import PriorityGate
from sidecar.spool.errors import SpoolUnavailable
from sinks.base import DeliveryReport, Sink, SinkBatch, SinkError, Throttled, Unavailable, describe

BACKOFF_BASE_SECONDS: Final = 0.2
BACKOFF_CAP_SECONDS: Final = 30.0
CHECKPOINT_SECONDS: Final = 0.5
"""A checkpoint is stored at most this often: each costs two syncs, and what a crash repeats lands once."""

STANDBY_POLL_SECONDS: Final = 0.25
TROUBLE_SECONDS: Final = 3.0
"""Pause after the agent's own disk failed."""

logger = logging.getLogger(__name__)


class Log(Protocol):
    """What a delivery needs of the log."""

    @property
    def durable_seq(self) -> int:
        """The last event that is durable."""

    async def wait_beyond(self, seq: int) -> int:
        """Return once an event after `seq` is durable."""

    async def checkpoint(self, reader: str, seq: int) -> int:
        """Note durably that `reader` has dealt with everything up to `seq`. Raises SpoolUnavailable."""


@dataclass
class Progress:
    """How a backend is doing, for /health."""

    state: str = "starting"
    """`ok`, `waiting` (a fallback on standby), `retrying`, `throttled`, `down`, `starting` or `stopped`."""
    error: str | None = None
    error_at: datetime | None = None
    delivered_at: datetime | None = None
    delivered: int = 0
    refused: int = 0
    oldest: datetime | None = None
    """When the oldest event that is not delivered was received; None when there is none."""


class Delivery:
    """One backend's way through the log.

    `primaries` gives, for a fallback, the deliveries it stands in for; `took_over` is told the window of each batch that a
    fallback delivered, before its checkpoint moves.
    """

    def __init__(
        self,
        settings: BackendSettings,
        sink: Sink,
        *,
        log: Log,
        source: Source,
        position: int,
        dead: DeadLetters,
        metrics: BackendMetrics,
        gate: PriorityGate,
        primaries: Callable[[], list[Delivery]] = list,
        took_over: Callable[[str, int, int], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self.settings = settings
        self.sink = sink
        self.progress = Progress()
        self.breaker = Breaker(probe_interval=settings.probe_interval, clock=clock)
        self.position = position
        """The last event that is dealt with."""
        self._log = log
        self._source = source
        self._stored = self.position
        self._stored_at = clock()
        self._dead = dead
        self._metrics = metrics
        self._gate = gate
        self._primaries = primaries
        self._took_over = took_over
        self._clock = clock
        self._random = rng or random.Random()  # noqa: S311 - spreads retries, hides nothing
        self._wanted = None if settings.match.everything else settings.match.compiled()
        self._stopping = asyncio.Event()
        self._moved = asyncio.Event()
        self._opened = False

    @property
    def lag_events(self) -> int:
        """Events in the log that the backend hasn't dealt with."""
        return max(0, self._log.durable_seq - self.position)

    @property
    def lag_seconds(self) -> float:
        """Age of the oldest of them."""
        if self.lag_events == 0 or self.progress.oldest is None:
            return 0.0
        return max(0.0, (datetime.now(UTC) - self.progress.oldest).total_seconds())

    async def caught_up(self) -> None:
        """Return once there is nothing more that the backend could be given now."""
        while self.lag_events and self.breaker.available and self.progress.state not in {"waiting", "stopped"}:
            self._moved.clear()
            await self._moved.wait()

    def stop(self) -> None:
        """Ask to end after the delivery under way."""
        self._stopping.set()

    async def run(self) -> None:
        """Deliver until `stop` is called or the task is cancelled; then close the sink and store the checkpoint."""
        try:
            while not self._stopping.is_set():
                try:
                    await self._step()
                except (OSError, SpoolUnavailable) as error:
                    self._failed(f"the spool or the dead letters can't be used: {describe(error)}")
                    await self._pause(TROUBLE_SECONDS)
                except Exception as error:
                    logger.exception(
                        "delivery failed unexpectedly; its events wait in the log", extra={"backend": self.settings.name}
                    )
                    self._failed(describe(error))
                    await self._pause(TROUBLE_SECONDS)
        finally:
            self.progress.state = "stopped"
            await self._close()

    async def _step(self) -> None:
        if self._on_standby():
            self.progress.state = "waiting"
            self._moved.set()
            await self._store_if_due()
            await self._pause(STANDBY_POLL_SECONDS)
            return
        if self.position >= self._log.durable_seq:
            await self._wait_for_events()
            return
        async with self._gate.turn(self.settings.priority):
            cut = await asyncio.to_thread(next_cut, self._source, self.position, self.sink.limits, self._wanted)
        if cut is None:
            # The log goes on, but what comes next in it is damaged: counted there, and not to be waited for.
            self.position = await asyncio.to_thread(self._source.skip_lost, self.position, closed_only=False)
            await self._store_if_due()
            await self._pause(STANDBY_POLL_SECONDS)
            return
        self.progress.oldest = cut.oldest
        if await self._deliver(cut):
            await self._advance(cut)

    def _on_standby(self) -> bool:
        """For a fallback: pass over what a primary has, and tell whether one of them works."""
        if not self.settings.fallback:
            return False
        primaries = self._primaries()
        ahead = max((p.position for p in primaries), default=self.position)
        if ahead > self.position:
            self._metrics.skipped.inc(ahead - self.position)
            self.position = ahead
        return any(p.breaker.available for p in primaries)

    async def _wait_for_events(self) -> None:
        if self.progress.state == "starting":
            await self._open_once()
        elif self.breaker.available:
            self.progress.state = "ok"
        waits = [asyncio.ensure_future(self._log.wait_beyond(self.position)), asyncio.ensure_future(self._stopping.wait())]
        timeout = None if self._stored == self.position else CHECKPOINT_SECONDS
        timeout = STANDBY_POLL_SECONDS if self.settings.fallback else timeout
        try:
            await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
        await self._store_if_due()

    async def _open_once(self) -> None:
        """Say early what is wrong, before the first event comes."""
        try:
            async with asyncio.timeout(self.settings.timeout):
                await self._ensure_open()
                health = await self.sink.check()
        except Exception as error:  # noqa: BLE001 - sinks of other packages may raise anything; it is told in /health
            self._failed(describe(error) if not isinstance(error, SinkError) else str(error))
            return
        if health.ok:
            self.progress.state = "ok"
        else:
            self._failed(health.detail)

    async def _deliver(self, cut: Cut) -> bool:
        """Until every event is delivered or refused; False when stopped or, as a fallback, not needed any more."""
        remaining = cut.batch
        attempt = 0
        while remaining.count:
            if self._stopping.is_set() or (attempt and self._on_standby()):
                return False
            if not self.breaker.begin():
                await self._pause(self.breaker.wait_seconds())
                continue
            wait, remaining = await self._attempt(remaining, attempt)
            if remaining.count:
                attempt += 1
                self._metrics.retried.inc(remaining.count)
                await self._pause(wait if self.breaker.available else self.breaker.wait_seconds())
        return True

    async def _attempt(self, batch: SinkBatch, attempt: int) -> tuple[float, SinkBatch]:
        """One try: how long to wait, and what is left."""
        started = self._clock()
        try:
            async with asyncio.timeout(self.settings.timeout):
                await self._ensure_open()
                report = _checked(batch, await self.sink.deliver(batch))
        except asyncio.CancelledError:
            self.breaker.abandoned()
            raise
        except Throttled as error:
            self.breaker.succeeded()
            self._failed(str(error), state="throttled")
            return self._backoff(attempt, error.retry_after), batch
        except Exception as error:  # noqa: BLE001 - any exception of a sink means: retry all
            retry_after = error.retry_after if isinstance(error, SinkError) else None
            self.breaker.failed(retry_after)
            self._failed(self._tell(error))
            return self._backoff(attempt, retry_after), batch
        finally:
            self._metrics.breaker.set(self.breaker.state.value)
            self._metrics.seconds.observe(self._clock() - started)
        self.breaker.succeeded()
        self._metrics.breaker.set(self.breaker.state.value)
        await self._settle(batch, report)
        if report.retry:
            self._failed(report.message or f"{len(report.retry)} events are to be sent again")
        return self._backoff(attempt, report.retry_after), batch.subset(report.retry)

    async def _settle(self, batch: SinkBatch, report: DeliveryReport) -> None:
        if report.refused:
            await asyncio.to_thread(self._dead.store, batch, report.refused)
            self.progress.refused += len(report.refused)
            self._metrics.refused.inc(len(report.refused))
            first = report.refused[0]
            logger.warning(
                "backend refused events for good; they are among its dead letters",
                extra={
                    "backend": self.settings.name,
                    "events": len(report.refused),
                    "event_id": first.event_id,
                    "reason": first.reason,
                },
            )
        self.progress.delivered += report.delivered
        self._metrics.delivered.inc(report.delivered)
        self.progress.delivered_at = datetime.now(UTC)
        if not report.retry:
            if self.progress.state in {"down", "retrying", "throttled"}:
                logger.info("backend takes events again", extra={"backend": self.settings.name})
            self.progress.state = "ok"
            self.progress.error = None

    async def _advance(self, cut: Cut) -> None:
        if cut.skipped:
            self._metrics.skipped.inc(cut.skipped)
        if self.settings.fallback and self._took_over is not None and cut.batch.count:
            await asyncio.to_thread(self._took_over, self.settings.name, cut.batch.first_seq, cut.last_seq)
        self.position = cut.last_seq
        self._moved.set()
        await self._store_if_due()

    async def _store_if_due(self, *, now: bool = False) -> None:
        if self._stored != self.position and (now or self._clock() - self._stored_at >= CHECKPOINT_SECONDS):
            position = self.position
            await self._log.checkpoint(self.settings.name, position)
            self._stored, self._stored_at = position, self._clock()

    async def _ensure_open(self) -> None:
        if not self._opened:
            await self.sink.open()
            self._opened = True

    async def _close(self) -> None:
        try:
            async with asyncio.timeout(self.settings.timeout):
                await self.sink.close()
        except Exception as error:  # noqa: BLE001 - the rest must still be closed; what is not delivered waits in the log
            logger.warning(
                "backend could not be closed cleanly", extra={"backend": self.settings.name, "error": self._tell(error)}
            )
        self._opened = False
        try:
            await self._store_if_due(now=True)
        except SpoolUnavailable as error:
            logger.warning(
                "checkpoint not stored: some events will be delivered again",
                extra={"backend": self.settings.name, "error": describe(error)},
            )

    def _tell(self, error: BaseException) -> str:
        if isinstance(error, TimeoutError):
            return f"backend '{self.settings.name}' did not answer within {self.settings.timeout:g} s: it is hung or overloaded"
        return str(error) if isinstance(error, SinkError) else describe(error)

    def _failed(self, message: str, state: str | None = None) -> None:
        state = state or ("retrying" if self.breaker.state is BreakerState.CLOSED else "down")
        if state != self.progress.state or message != self.progress.error:
            logger.warning(
                "backend does not take events", extra={"backend": self.settings.name, "state": state, "error": message}
            )
        self.progress.state = state
        self._moved.set()
        self.progress.error = message
        self.progress.error_at = datetime.now(UTC)

    def _backoff(self, attempt: int, retry_after: float | None) -> float:
        """Seconds: exponential with full jitter, and never sooner than the system asked for."""
        spread = self._random.uniform(0, min(BACKOFF_CAP_SECONDS, BACKOFF_BASE_SECONDS * 2 ** min(attempt, 16)))
        return spread if retry_after is None else retry_after + min(spread, 1.0)

    async def _pause(self, seconds: float) -> None:
        """Wait, but no longer than until `stop`."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return


def _checked(batch: SinkBatch, report: DeliveryReport) -> DeliveryReport:
    """A report that accounts for every event once. Raises Unavailable otherwise: then nothing of it can be trusted."""
    places = [item.index for item in report.refused] + report.retry
    if report.delivered + len(places) != batch.count or len(set(places)) != len(places):
        message = (
            f"the sink accounts for {report.delivered} delivered, {len(report.refused)} refused and {len(report.retry)} to retry "
            f"of {batch.count} events: that doesn't add up, so all are sent again"
        )
        raise Unavailable(message)
    return report
