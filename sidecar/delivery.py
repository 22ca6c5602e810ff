"""Delivers the log to one backend: read, send, keep what was refused, move the checkpoint; nothing else moves it.

Each backend has one `Delivery`, a task of its own, so that a system that is down, hung or slow delays no other. As many pieces of
the log are in flight at once as `Concurrency` finds worth it; the position only ever moves over the first ones, when they are
dealt with.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol

from sidecar.batching import Source, next_cut
from sidecar.breaker import Breaker
from sidecar.concurrency import Concurrency
from sidecar.config import BackendSettings
from sidecar.dead_letters import DeadLetters
from sidecar.flights import Flight, Flights, Stage, Standing
from sidecar.metrics import BackendMetrics
from sidecar.priority import PriorityGate
from sidecar.progress import Progress
from sidecar.sender import TROUBLE_SECONDS, Change, Sender, Stop
from sidecar.spool.errors import SpoolUnavailable
from sinks.base import Sink, describe

CHECKPOINT_SECONDS: Final = 0.5
"""A checkpoint is stored at most this often: each costs two syncs, and what a crash repeats lands once."""

STANDBY_POLL_SECONDS: Final = 0.25
LOOK_AGAIN_SECONDS: Final = 1.0
"""A backend in trouble that is owed nothing is tried out every `probe_interval`, but not more often than this."""

PACE_SECONDS: Final = 0.1
"""A batch that isn't full begins no sooner than this after the one before it: the calls and syncs of many small ones would come
between a sender and its acknowledgement. What comes after a pause goes at once."""

CLOCK_STEP_SECONDS: Final = 0.001
"""A wait that is shorter may be over before the clock has moved."""

LINGER_SECONDS: Final = 0.5
"""A batch that isn't full waits this long for a call under way to end, so that a trickle of events makes few calls, not many."""

HELD_BYTES: Final = 16 * 1024 * 1024
"""No further piece of the log is read while this much is in flight to one backend."""

AHEAD_PIECES: Final = 256
"""Pieces that may be dealt with before the first one is: a crash repeats no more than these."""

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
        self.flights = Flights()
        self.position = position
        """The last event up to which everything is dealt with."""
        self._sink = sink
        self._read_to = position
        """The last event that is in flight or dealt with."""
        self._read_at = float("-inf")
        """When the last piece was read."""
        self._full_events = sink.limits.max_events
        """About as many events make a full batch."""
        self._log = log
        self._source = source
        self._stored = position
        self._stored_at = clock()
        self._look_again_at = 0.0
        self._metrics = metrics
        self._gate = gate
        self._primaries = primaries
        self._took_over = took_over
        self._clock = clock
        self._wanted = None if settings.match.everything else settings.match.compiled()
        self._change = Change()
        self._stop = Stop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._sender = Sender(
            settings,
            sink,
            dead=dead,
            metrics=metrics,
            change=self._change,
            stop=self._stop,
            needed=lambda: not self._not_needed(),
            clock=clock,
            rng=rng or random.Random(),  # noqa: S311 - spreads retries, hides nothing
        )

    @property
    def breaker(self) -> Breaker:
        """Whether the backend counts as working."""
        return self._sender.breaker

    @property
    def concurrency(self) -> Concurrency:
        """How many calls it gets at once."""
        return self._sender.concurrency

    @property
    def progress(self) -> Progress:
        """How it is doing."""
        return self._sender.progress

    # ------------------------------------------------------------------------------------------------------------ what it tells

    @property
    def lag_events(self) -> int:
        """Events in the log that the backend hasn't dealt with."""
        return max(0, self._log.durable_seq - self.position - self.flights.landed_events)

    @property
    def lag_seconds(self) -> float:
        """Age of the oldest of them; 0 until it is read."""
        head = self.flights.head
        if self.lag_events == 0 or head is None:
            return 0.0
        return max(0.0, (datetime.now(UTC) - head.oldest).total_seconds())

    @property
    def retry_at(self) -> datetime | None:
        """When what waits is tried again; None while nothing waits for a time to come."""
        held = self.flights.at(Stage.HELD)
        if not held:
            return None
        wait = min(self._sender.wait_seconds(flight) for flight in held)
        return datetime.now(UTC) + timedelta(seconds=wait)

    def standing(self, seq: int) -> Standing:
        """What the backend has of the event with this number, which it wants."""
        return Standing.DEALT_WITH if seq <= self.position else self.flights.standing(seq)

    async def caught_up(self) -> None:
        """Return once there is nothing more that the backend could be given now."""
        while self.lag_events and self.breaker.available and self.progress.state not in {"waiting", "stopped"}:
            await self._change.next().wait()

    def stop(self) -> None:
        """Ask to end after the calls under way."""
        self._stop.ask()
        self._change.notify()

    # ------------------------------------------------------------------------------------------------------------- from the log

    async def run(self) -> None:
        """Deliver until `stop` is called or the task is cancelled; then close the sink and store the checkpoint."""
        try:
            while not self._stop.wanted:
                try:
                    await self._step()
                except Exception as error:  # noqa: BLE001 - whatever it is, the events wait in the log and the agent goes on
                    self._sender.trouble(error)
                    await self._stop.pause(TROUBLE_SECONDS)
            await asyncio.gather(*self._tasks)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            self.progress.state = "stopped"
            self._change.notify()
            closing = asyncio.create_task(self._close(), name=f"close {self.settings.name}")
            try:
                await asyncio.shield(closing)
            except asyncio.CancelledError:
                await closing  # it is bounded by itself; cut in the middle, a sink would leave half of its work
                raise

    async def _step(self) -> None:
        await self._advance()
        if self.flights.at(Stage.GIVEN_UP):
            # A fallback that is not needed any more. Once its calls have ended it begins again where its position is.
            if self.flights.active():
                await self._wait(None)
            else:
                self.flights.clear()
                self._read_to = self.position
            return
        if self._not_needed():
            await self._stand_by()
        elif not self._may_read():
            await self._wait(None)
        elif self._read_to >= self._log.durable_seq:
            await self._wait_for_events()
        elif (pause := self._pause()) > 0:
            await self._wait(self._read_to + self._full_events - 1, seconds=pause)
        else:
            await self._read()

    def _not_needed(self) -> bool:
        """For a fallback: whether a primary works."""
        return self.settings.fallback and any(primary.breaker.available for primary in self._primaries())

    async def _stand_by(self) -> None:
        """As a fallback that is not needed: pass over what a primary has."""
        if self.flights.active():
            await self._wait(None)
            return
        self.flights.clear()
        ahead = max(primary.position for primary in self._primaries())
        if ahead > self.position:
            self._metrics.skipped.inc(ahead - self.position)
            self.position = ahead
        self._read_to = self.position
        self.progress.state = "waiting"
        self._change.notify()
        await self._store_if_due()
        await self._stop.pause(STANDBY_POLL_SECONDS)

    def _may_read(self) -> bool:
        """Whether one more piece may be in flight."""
        active = self.flights.active()
        if not active:
            return len(self.flights) < AHEAD_PIECES
        return (
            self.breaker.available
            and self._clock() >= self._sender.asked_until
            and len(active) < self.concurrency.maximum
            and self.concurrency.in_flight + len(self.flights.at(Stage.READY)) < self.concurrency.limit
            and len(self.flights) < AHEAD_PIECES
            and self.flights.bytes < HELD_BYTES
        )

    def _pause(self) -> float:
        """How many seconds to let events gather; 0 when what is there is worth a call."""
        if self._log.durable_seq - self._read_to >= self._full_events:
            return 0.0
        due = self._read_at + PACE_SECONDS
        calling = self.flights.at(Stage.CALLING, Stage.READY)
        if calling:
            due = max(due, max(flight.began for flight in calling) + LINGER_SECONDS)
        pause = due - self._clock()
        return pause if pause > CLOCK_STEP_SECONDS else 0.0

    async def _read(self) -> None:
        """Put the next piece of the log on its way."""
        durable = self._log.durable_seq
        async with self._gate.turn(self.settings.priority):
            cut = await asyncio.to_thread(next_cut, self._source, self._read_to, self._sink.limits, self._wanted, durable)
        if cut is None:
            if self.flights:
                await self._wait(None)
                return
            # The log goes on, but what comes next in it is damaged: counted there, and not to be waited for.
            self.position = await asyncio.to_thread(self._source.skip_lost, self.position, closed_only=False)
            self._read_to = self.position
            await self._store_if_due()
            await self._stop.pause(STANDBY_POLL_SECONDS)
            return
        flight = Flight(cut)
        if flight.full:
            self._full_events = max(1, cut.last_seq - self._read_to)
        flight.began = self._read_at = self._clock()
        self.flights.add(flight)
        self._read_to = cut.last_seq
        if flight.active:
            task = asyncio.create_task(self._sender.send(flight), name=f"backend {self.settings.name} from {flight.first_seq}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _wait_for_events(self) -> None:
        trial = None
        if not self.flights:
            if self.progress.state == "waiting":
                self.progress.works()
            if self.progress.state != "ok" and self._clock() >= self._look_again_at:
                self._look_again_at = self._clock() + max(self.settings.probe_interval, LOOK_AGAIN_SECONDS)
                await self._store_if_due(now=True)
                trial = self._sender.try_out()
        await self._wait(self._read_to, trial)

    async def _wait(
        self, beyond: int | None, meanwhile: Coroutine[Any, Any, None] | None = None, seconds: float | None = None
    ) -> None:
        """Until something changes here, an event after `beyond` is in the log, or it is time to look again, within `seconds`.

        `meanwhile` is done as long as nothing else happens; when it is done, the wait is over.
        """
        waits: list[asyncio.Future[Any]] = [asyncio.ensure_future(self._change.next().wait())]
        if beyond is not None:
            waits.append(asyncio.ensure_future(self._log.wait_beyond(beyond)))
        if meanwhile is not None:
            waits.append(asyncio.ensure_future(meanwhile))
            timeout = None
        elif seconds is not None:
            timeout = seconds
        elif self.settings.fallback:
            timeout = STANDBY_POLL_SECONDS
        elif self._stored != self.position or self.flights or self.progress.state != "ok":
            timeout = LINGER_SECONDS
        else:
            timeout = None
        try:
            done, _ = await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
        for wait in done:
            wait.result()
        await self._store_if_due()

    async def _advance(self) -> None:
        """Move the position over the first pieces that are dealt with."""
        await self._store_if_due()
        while (flight := self.flights.head) is not None and flight.stage is Stage.DONE:
            if self.settings.fallback and self._took_over is not None and flight.events:
                await asyncio.to_thread(self._took_over, self.settings.name, flight.first_seq, flight.last_seq)
            self.flights.pop()
            self.position = flight.last_seq
            self._metrics.skipped.inc(flight.skipped)
            self._metrics.unreadable.inc(flight.unreadable)
            self._change.notify()

    async def _store_if_due(self, *, now: bool = False) -> None:
        if self._stored != self.position and (now or self._clock() - self._stored_at >= CHECKPOINT_SECONDS):
            position = self.position
            await self._log.checkpoint(self.settings.name, position)
            self._stored, self._stored_at = position, self._clock()

    async def _close(self) -> None:
        try:
            await self._advance()
            await self._store_if_due(now=True)
        except (OSError, SpoolUnavailable) as error:
            logger.warning(
                "checkpoint not stored: some events will be delivered again",
                extra={"backend": self.settings.name, "error": describe(error)},
            )
        await self._sender.close()
