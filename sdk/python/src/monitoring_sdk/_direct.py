"""Direct mode: moves events from the queue to every backend, each on a lane of its own.

The dispatcher, a daemon thread, cuts batches and hands them to the lanes; it never waits for a backend (but for a slow one with
`on_full: block`), so the queue runs empty whatever they do. A batch counts as in memory until every lane is done with it.
"""

from __future__ import annotations

import logging
import queue
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from monitoring_sdk._batch import Batch, Entry, pack
from monitoring_sdk._config import BackendSettings, Settings
from monitoring_sdk._counts import Counts, Stats
from monitoring_sdk._lane import Lane
from monitoring_sdk._limits import MAX_BATCH_EVENTS
from monitoring_sdk._queue import EventQueue
from monitoring_sdk._results import BackendResult, FlushResult, Verdict
from monitoring_sdk._shipments import Numbers, Shipment
from monitoring_sdk._spool import Spool, backend_folder
from monitoring_sdk._transport import Backend

logger = logging.getLogger("monitoring_sdk")

INTERRUPT_GRACE = 0.4
"""How long interrupted lanes have to put their parcels on disk before `close` does it, in seconds."""

_AFTER_BUG = 1.0
_LONGEST_ROUND = 1.0


class DirectDelivery:
    """One process's way to its backends. `make_report` turns counts of drops into an entry that reports them."""

    def __init__(
        self,
        settings: Settings,
        emitter_id: str,
        backends: Mapping[str, Backend],
        make_report: Callable[[dict[str, int], dict[str, dict[str, int]]], Entry],
        *,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self.counts = Counts()
        self._spooling = settings.sidecar.enable_spooling
        self.queue = EventQueue(settings.queue, self.counts, spooling=self._spooling)
        self.queue.attendants = self
        self._settings = settings
        self._emitter_id = emitter_id
        self._make_report = make_report
        self._clock = clock
        self._rng = rng or random.Random()  # noqa: S311 - spreads retries, keeps no secret
        self._numbers = Numbers()
        self._lanes = {entry.name: self._lane(entry, backends[entry.name]) for entry in settings.backends}
        self._always = [self._lanes[entry.name] for entry in settings.backends if not entry.fallback]
        self._standbys = [
            (self._lanes[entry.name], frozenset(other.name for other in settings.backends if other.priority < entry.priority))
            for entry in settings.backends
            if entry.fallback
        ]
        self._lock = threading.RLock()
        self._dispatcher: threading.Thread | None = None
        # SimpleQueue.put may interrupt itself in a signal handler; the condition inside threading.Event may not.
        self._signals: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._signalled = False
        self._flush_asked = False
        self._closing = threading.Event()
        self._deadline: float | None = None
        self._reports = 0
        self._drops_lock = threading.RLock()
        self._drops: dict[str, dict[str, int]] = {}
        self._last_reason = "undeliverable"

    def _lane(self, entry: BackendSettings, backend: Backend) -> Lane:
        folder = backend_folder(self._settings.sidecar.spool_dir, self._settings.app, entry.name)
        return Lane(
            entry,
            backend,
            self._settings.queue,
            self._numbers,
            self._emitter_id,
            spool=Spool(folder, self._emitter_id) if self._spooling else None,
            drop=self._note_drop,
            replayed=lambda events: self.counts.add("replayed", events),
            clock=self._clock,
            rng=self._rng,
        )

    # --------------------------------------------------------------------------------------------- called by the program

    def start(self) -> None:
        """Start the dispatcher and the lanes, unless they run."""
        with self._lock:
            if self._dispatcher is None and not self._closing.is_set():
                thread = threading.Thread(target=self._run, name="monitoring-sdk-dispatcher", daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # the interpreter is shutting down: close() will do without
                    return
                self._dispatcher = thread
                for lane in self._lanes.values():
                    lane.start()
                self.queue.begin()

    def wake(self) -> None:
        """Have the dispatcher look at the queue now."""
        if not self._signalled:
            self._signalled = True
            self._signals.put(None)

    def hurry(self) -> None:
        """Have all of the queue looked at now, be it a whole batch or not."""
        self._flush_asked = True
        self.wake()

    def overflow(self) -> None:
        """The queue is nearly full: the dispatcher is what makes room."""
        self.wake()

    def late(self) -> None:
        """Keep what came in while or after closing."""
        self._dispatch_all(MAX_BATCH_EVENTS)

    @property
    def always(self) -> tuple[str, ...]:
        """The names of the backends that get every event."""
        return tuple(lane.name for lane in self._always)

    def error_of(self, backend: str) -> str | None:
        """Why a backend does not take events now."""
        lane = self._lanes.get(backend)
        return lane.error if lane is not None else None

    def flush(self, timeout: float) -> FlushResult:
        """Wait until everything emitted before this call is delivered or on disk; whether that came to pass in time."""
        lost = self.counts.lost
        done = self.queue.flush(timeout, self._clock, self._closing)
        return FlushResult(done and self.counts.lost == lost, self._results())

    def stats(self) -> Stats:
        """The counts now."""
        stats = self.counts.snapshot(received=self.queue.mark(), queued=self.queue.depth())
        return replace(stats, backends=self._results())

    def _results(self) -> dict[str, BackendResult]:
        return {name: lane.result() for name, lane in self._lanes.items()}

    def close(self, grace: float) -> bool:
        """Deliver what can be delivered within `grace` seconds, put the rest on disk, and end; False when that was begun before.

        Each step may be done again: a signal may end the process in the middle of a first call, which then never goes on.
        """
        with self._lock:
            first = not self._closing.is_set()
            deadline = self._end_by(grace)
            self._closing.set()
        self.queue.close()
        self.wake()
        self._join_dispatcher(deadline)
        self._end(list(self._lanes.values()), deadline)
        with self._lock:
            self.late()
            for lane in self._lanes.values():
                lane.finish()
        return first

    def before_exit(self, grace: float) -> None:
        """End the lanes whose backends need executors, which the interpreter is about to shut down; the others go on."""
        fragile = [lane for lane in self._lanes.values() if not lane.outlives_executors]
        if fragile and not self._closing.is_set():
            deadline = self._end_by(grace)
            self.queue.flush(max(0.0, deadline - self._clock()), self._clock, self._closing)
            self._end(fragile, deadline)

    def forget(self) -> None:
        """Let go of what a forked child inherited; the parent goes on with it."""
        for lane in self._lanes.values():
            lane.forget()

    def _end_by(self, grace: float) -> float:
        """When all must have ended, by the clock: fixed by whoever asks first."""
        with self._lock:
            if self._deadline is None:
                self._deadline = self._clock() + grace
            return self._deadline

    def _join_dispatcher(self, deadline: float) -> None:
        thread = self._dispatcher
        if thread is not None and thread is not threading.current_thread():
            thread.join(max(0.05, deadline - self._clock()))

    def _end(self, lanes: list[Lane], deadline: float) -> None:
        """End lanes: first those that others stand in for."""
        for group in ([lane for lane in lanes if not lane.settings.fallback], [x for x in lanes if x.settings.fallback]):
            for lane in group:
                lane.end(deadline)
            for lane in group:
                lane.joined(deadline - self._clock())
        hung = [lane for lane in lanes if not lane.joined(0.0)]
        for lane in hung:
            lane.interrupt()
        last = self._clock() + INTERRUPT_GRACE
        for lane in hung:
            lane.joined(last - self._clock())

    # ------------------------------------------------------------------------------------------------------ the dispatcher

    def _run(self) -> None:
        interval = self._settings.queue.flush_interval
        due = self._clock() + interval
        while not self._closing.is_set():
            self._wait(min(due - self._clock(), _LONGEST_ROUND))
            self._signalled = False
            flush, self._flush_asked = self._flush_asked, False
            everything = flush or self._clock() >= due
            if everything:
                due = self._clock() + interval
            try:
                self._round(everything=everything)
            except Exception:
                logger.exception("monitoring_sdk: a mistake in the SDK; it goes on")
                self._closing.wait(_AFTER_BUG)
        try:
            self._report_drops()
            self._dispatch_all(self._settings.queue.batch_size)
        except Exception:
            logger.exception("monitoring_sdk: a mistake in the SDK while closing")

    def _wait(self, seconds: float) -> None:
        try:
            self._signals.get(timeout=max(0.0, seconds))
        except queue.Empty:
            return

    def _round(self, *, everything: bool) -> None:
        """Hand out what is due: all full batches, with `everything` also the rest."""
        for lane in self._lanes.values():
            lane.check()
        size = self._settings.queue.batch_size
        due = 0
        if everything:
            self._report_drops()
            due = len(self.queue)
        while not self._closing.is_set() and (len(self.queue) >= size or due > 0):
            taken = self._dispatch(size)
            due = due - taken if taken else 0

    def _dispatch_all(self, size: int) -> None:
        while self._dispatch(size):
            pass

    def _dispatch(self, limit: int) -> int:
        """Hand out up to so many events; how many it were."""
        batches = self.queue.take(limit, self._emitter_id)
        for batch in batches:
            self._ship(batch)
        return sum(map(len, batches))

    def _ship(self, batch: Batch) -> None:
        Shipment(batch, self._emitter_id, self._numbers, self._always, self._standbys, self._shipped).send()

    def _shipped(self, shipment: Shipment) -> None:
        """Every lane is done with a batch."""
        with self.queue.settling(shipment.batch) as first:
            if not first:
                return
            counts = shipment.counts()
            self.counts.add("sent", counts[Verdict.DELIVERED])
            self.counts.add("spooled", counts[Verdict.SPOOLED])
            self.counts.add("rejected", counts[Verdict.REJECTED])
            self.counts.add("failed", counts[Verdict.FAILED])
            if counts[Verdict.DROPPED]:
                self.counts.unreport(shipment.batch.report)
                self.counts.drop(self._last_reason, counts[Verdict.DROPPED])

    # --------------------------------------------------------------------------------------------------------------- drops

    def _note_drop(self, backend: str, reason: str, events: int) -> None:
        with self._drops_lock:
            of_backend = self._drops.setdefault(backend, {})
            of_backend[reason] = of_backend.get(reason, 0) + events
            self._last_reason = reason

    def _report_drops(self) -> None:
        """Tell of what was lost by an event of its own, so that the gap in the numbers is explained."""
        drops = self.counts.take_unreported()
        if not drops:
            return
        with self._drops_lock:
            by_backend, self._drops = self._drops, {}
        self._reports += 1
        self.counts.add("reports", 1)
        # Its ordinal is its own, below those of the queue: nothing that came from the program shifts.
        (batch,) = self.queue.hand(lambda: pack([self._make_report(drops, by_backend)], self._emitter_id, -self._reports))
        batch.report = drops
        self._ship(batch)
