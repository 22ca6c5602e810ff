"""Gets pieces of the log to one backend: a call, what its answer says of each event, and when the next try is due.

One `Sender` a backend holds what all its pieces share: the sink, the breaker, the concurrency and the patience asked for.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Final

from sidecar.breaker import Breaker, BreakerState
from sidecar.concurrency import Concurrency
from sidecar.config import BackendSettings
from sidecar.dead_letters import DeadLetters
from sidecar.flights import Flight, Stage
from sidecar.metrics import BackendMetrics
from sidecar.progress import Progress
from sidecar.spool.errors import SpoolUnavailable
from sinks.base import DeliveryReport, Sink, SinkBatch, SinkError, Throttled, Unavailable, describe

BACKOFF_BASE_SECONDS: Final = 0.2
BACKOFF_CAP_SECONDS: Final = 30.0
TROUBLE_SECONDS: Final = 3.0
"""Pause after the agent's own disk failed."""

CLOSE_SECONDS: Final = 5.0
"""What closing a sink may take."""

logger = logging.getLogger(__name__)


class Change:
    """Wakes all who wait for something to change."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def notify(self) -> None:
        """Something has changed."""
        self._event.set()
        self._event = asyncio.Event()

    def next(self) -> asyncio.Event:
        """What is set at the next change from now on."""
        return self._event


class Stop:
    """Asked for once; `pause` ends early then."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    @property
    def wanted(self) -> bool:
        """Whether it was asked for."""
        return self._event.is_set()

    def ask(self) -> None:
        """Ask for it."""
        self._event.set()

    async def pause(self, seconds: float) -> None:
        """Wait, but no longer than until the stop."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        try:
            async with asyncio.timeout(seconds):
                await self._event.wait()
        except TimeoutError:
            return


class Sender:
    """One backend as its pieces see it; `needed` tells whether this backend is to be given anything now."""

    def __init__(
        self,
        settings: BackendSettings,
        sink: Sink,
        *,
        dead: DeadLetters,
        metrics: BackendMetrics,
        change: Change,
        stop: Stop,
        needed: Callable[[], bool],
        clock: Callable[[], float],
        rng: random.Random,
    ) -> None:
        self.breaker = Breaker(probe_interval=settings.probe_interval, clock=clock)
        self.concurrency = Concurrency(sink.limits.max_concurrency, settings.concurrency)
        self.progress = Progress(settings.name)
        self.asked_until = 0.0
        """The system asked for this much patience with everything."""
        self._settings = settings
        self._sink = sink
        self._dead = dead
        self._metrics = metrics
        self._change = change
        self._stop = stop
        self._needed = needed
        self._clock = clock
        self._random = rng
        self._troubled: set[Flight] = set()
        """Pieces whose last try failed."""
        self._opening = asyncio.Lock()
        self._opened = False

    async def send(self, flight: Flight) -> None:
        """Until every event of the piece is delivered or refused, or it is given up: when stopped, or not needed any more."""
        while flight.left.count:
            if self._stop.wanted or not self._needed():
                flight.stage = Stage.GIVEN_UP
                break
            wait = self.wait_seconds(flight)
            if wait > 0:
                flight.stage = Stage.HELD
                await self._stop.pause(wait)
                continue
            flight.stage = Stage.READY
            if self.concurrency.in_flight >= self.concurrency.limit or not self.breaker.begin():
                await self._change.next().wait()
                continue
            try:
                await self._attempt(flight)
            except Exception as error:  # noqa: BLE001 - such as a disk that takes no dead letters: sent again later
                self.trouble(error)
                flight.backoff_until = self._clock() + TROUBLE_SECONDS
        else:
            flight.land()
        self._troubled.discard(flight)
        self._change.notify()

    def wait_seconds(self, flight: Flight) -> float:
        """How long a piece has to wait: what the system asked for, and the breaker's interval or else the piece's own backoff."""
        now = self._clock()
        asked = max(self.asked_until, flight.asked_until) - now
        return max(asked, flight.backoff_until - now if self.breaker.available else self.breaker.wait_seconds(), 0.0)

    async def _attempt(self, flight: Flight) -> None:
        """One call, and what follows from its answer. Raises OSError when refused events can't be kept: all are sent again."""
        probe = not self.breaker.available
        batch, full = flight.left, flight.full and not flight.failures
        era = self.concurrency.began()
        flight.stage, flight.began = Stage.CALLING, self._clock()
        try:
            async with asyncio.timeout(self._settings.timeout):
                await self._ensure_open()
                report = checked(batch, await self._sink.deliver(batch))
        except asyncio.CancelledError:
            self.breaker.abandoned(probe=probe)
            raise
        except Exception as error:  # noqa: BLE001 - any exception of a sink means: retry all
            self.concurrency.failed(era)
            self._put_off(flight, error, probe=probe)
            return
        finally:
            self.concurrency.ended()
            self.progress.latency = self._clock() - flight.began
            self._metrics.seconds.observe(self.progress.latency)
            self._change.notify()
        self.breaker.succeeded()
        if probe:
            self._works_again()
        self.concurrency.succeeded(self._clock() - flight.began, full=full and not report.retry)
        await self._settle(flight, batch, report)

    def _works_again(self) -> None:
        """What was put off because the system was down is due now; what the system itself asked for still holds."""
        for flight in self._troubled:
            flight.backoff_until = 0.0

    def _put_off(self, flight: Flight, error: Exception, *, probe: bool) -> None:
        """All of a batch is tried again later, and the others too if the system asked for patience."""
        retry_after = error.retry_after if isinstance(error, SinkError) else None
        wait = self._backoff(flight.failures, retry_after)
        if isinstance(error, Throttled):
            self.breaker.succeeded()
            self._failed(self._tell(error), state="throttled")
        else:
            self.breaker.failed(retry_after, probe=probe)
            self._failed(self._tell(error))
        if retry_after is not None or isinstance(error, Throttled):
            self.asked_until = max(self.asked_until, self._clock() + (wait if retry_after is None else retry_after))
        self._retry(flight, wait)

    def _retry(self, flight: Flight, wait: float) -> None:
        flight.failures += 1
        self._troubled.add(flight)
        flight.backoff_until = self._clock() + wait
        flight.stage = Stage.HELD
        self._metrics.retried.inc(flight.left.count)

    async def _settle(self, flight: Flight, batch: SinkBatch, report: DeliveryReport) -> None:
        """Take a report for what it says of each event."""
        if report.refused:
            await asyncio.to_thread(self._dead.store, batch, report.refused)
            self.progress.refused += len(report.refused)
            self._metrics.refused.inc(len(report.refused))
            first = report.refused[0]
            logger.warning(
                "backend refused events for good; they are among its dead letters",
                extra={
                    "backend": self._settings.name,
                    "events": len(report.refused),
                    "event_id": first.event_id,
                    "reason": first.reason,
                },
            )
        self.progress.took(report.delivered)
        self._metrics.delivered.inc(report.delivered)
        kept = [item.index for item in report.refused] + report.retry
        self._metrics.bytes.inc(sum(map(len, batch.lines)) + batch.count - sum(len(batch.lines[index]) + 1 for index in kept))
        flight.left = batch.subset(report.retry)
        if report.retry:
            self._failed(report.message or f"{len(report.retry)} events are to be sent again")
            flight.asked_until = self._clock() + (report.retry_after or 0.0)
            self._retry(flight, self._backoff(flight.failures, report.retry_after))
            return
        self._troubled.discard(flight)
        if not self._troubled:
            self.progress.works()

    def _backoff(self, failures: int, retry_after: float | None) -> float:
        """Seconds: exponential with full jitter, and never sooner than the system asked for."""
        spread = self._random.uniform(0, min(BACKOFF_CAP_SECONDS, BACKOFF_BASE_SECONDS * 2 ** min(failures, 16)))
        return spread if retry_after is None else retry_after + min(spread, 1.0)

    async def try_out(self) -> None:
        """Open the sink and ask whether a batch would be taken: says early what is wrong, before the next event comes."""
        try:
            async with asyncio.timeout(self._settings.timeout):
                await self._ensure_open()
                health = await self._sink.check()
        except Exception as error:  # noqa: BLE001 - sinks of other packages may raise anything; it is told in /health
            self._failed(self._tell(error))
            return
        if health.ok:
            self.progress.works()
        else:
            self._failed(health.detail)

    async def _ensure_open(self) -> None:
        async with self._opening:
            if not self._opened:
                await self._sink.open()
                self._opened = True

    async def close(self) -> None:
        """Close the sink, within bounds."""
        try:
            async with asyncio.timeout(min(self._settings.timeout, CLOSE_SECONDS)):
                await self._sink.close()
        except Exception as error:  # noqa: BLE001 - the rest must still be closed; what is not delivered waits in the log
            logger.warning(
                "backend could not be closed cleanly", extra={"backend": self._settings.name, "error": self._tell(error)}
            )
        self._opened = False

    def trouble(self, error: Exception) -> None:
        """Something failed that is not the backend's doing."""
        if isinstance(error, (OSError, SpoolUnavailable)):
            self._failed(f"the spool or the dead letters can't be used: {describe(error)}")
            return
        logger.error(
            "delivery failed unexpectedly; its events wait in the log", extra={"backend": self._settings.name}, exc_info=error
        )
        self._failed(describe(error))

    def _failed(self, message: str, state: str | None = None) -> None:
        self.progress.failed(message, state or ("retrying" if self.breaker.state is BreakerState.CLOSED else "down"))
        self._change.notify()

    def _tell(self, error: BaseException) -> str:
        if isinstance(error, TimeoutError):
            return f"backend '{self._settings.name}' did not answer within {self._settings.timeout:g} s: it is hung or overloaded"
        return str(error) if isinstance(error, SinkError) else describe(error)


def checked(batch: SinkBatch, report: DeliveryReport) -> DeliveryReport:
    """A report that accounts for every event once. Raises Unavailable otherwise: then nothing of it can be trusted."""
    places = [item.index for item in report.refused] + report.retry
    if report.delivered + len(places) != batch.count or len(set(places)) != len(places):
        message = (
            f"the sink accounts for {report.delivered} delivered, {len(report.refused)} refused and {len(report.retry)} to retry "
            f"of {batch.count} events: that doesn't add up, so all are sent again"
        )
        raise Unavailable(message)
    return report
