"""Moves events from the queue to the sidecar, or to disk when it can't be reached, on threads of its own.

The sender cuts batches, sends them, retries, and replays what waits on disk. The spiller, started when the queue first nears its
bound, writes batches to disk while the sender is busy with a slow sidecar. Both are daemon threads: they never keep a process
alive; `close` gives them a deadline, and does itself what they have not done by then.
"""

from __future__ import annotations

import logging
import queue
import random
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from monitoring_sdk._batch import Batch, Entry, pack
from monitoring_sdk._config import Settings
from monitoring_sdk._counts import Counts, Stats
from monitoring_sdk._limits import MAX_BATCH_EVENTS
from monitoring_sdk._queue import EventQueue
from monitoring_sdk._replay import Replay, note_rejections
from monitoring_sdk._results import BackendResult, FlushResult, Verdict
from monitoring_sdk._retry import Breaker, backoff
from monitoring_sdk._spool import Spool
from monitoring_sdk._transport import Answer, Outcome, Transport

logger = logging.getLogger("monitoring_sdk")

LONGEST_WAIT = 10.0
"""A sidecar that asks for a longer pause than this is left alone: its batch goes to disk meanwhile. In seconds."""

INTERRUPT_GRACE = 0.4
"""How long an interrupted sender has to put its batch on disk before `close` does it, in seconds."""

_AFTER_BUG = 1.0

BACKENDS = ("sidecar",)
"""How results name the sidecar."""


class Delivery:
    """One process's way to the sidecar. `make_report` turns counts of drops into an entry that reports them.

    `always` is what results call the other side; a recorder in tests may go by several names.
    """

    def __init__(
        self,
        settings: Settings,
        emitter_id: str,
        transport: Transport,
        make_report: Callable[[dict[str, int]], Entry],
        *,
        spool: Spool | None,
        always: Sequence[str] = BACKENDS,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self.counts = Counts()
        self.queue = EventQueue(settings.queue, self.counts, spooling=spool is not None)
        self.queue.attendants = self
        self.spool = spool
        self._settings = settings
        self._emitter_id = emitter_id
        self._transport = transport
        self._make_report = make_report
        self._clock = clock
        self._rng = rng or random.Random()  # noqa: S311 - spreads retries, keeps no secret
        self._breaker = Breaker(self._rng)
        self._lock = threading.RLock()
        self._sender: threading.Thread | None = None
        self._spiller: threading.Thread | None = None
        # SimpleQueue.put may interrupt itself in a signal handler; the condition inside threading.Event may not.
        self._signals: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._signalled = False
        self._spills: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._spill_asked = False
        self._flush_asked = False
        self._closing = threading.Event()
        self._deadline = 0.0
        self._held: list[Batch] = []
        self._reports = 0
        self.always = tuple(always)
        """The names of the backends that get every event."""
        self._error: str | None = None
        self._replay = None if spool is None else Replay(spool, self.queue, self.counts, settings.queue.batch_size)

    # --------------------------------------------------------------------------------------------- called by the program

    def start(self) -> None:
        """Start the sender, unless it runs."""
        with self._lock:
            if self._sender is None and not self._closing.is_set():
                thread = threading.Thread(target=self._run, name="monitoring-sdk-sender", daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # the interpreter is shutting down: close() will do without
                    return
                self._sender = thread
                self.queue.begin()

    def wake(self) -> None:
        """Have the sender look at the queue now."""
        if not self._signalled:
            self._signalled = True
            self._signals.put(None)

    def hurry(self) -> None:
        """Have all of the queue looked at now, be it a whole batch or not."""
        self._flush_asked = True
        self.wake()

    def overflow(self) -> None:
        """Have the spiller put some of the queue on disk."""
        if self._spill_asked:
            return
        self._spill_asked = True
        with self._lock:
            if self._spiller is None and not self._closing.is_set():
                thread = threading.Thread(target=self._run_spiller, name="monitoring-sdk-spiller", daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # the interpreter is shutting down: close() will do without
                    return
                self._spiller = thread
        self._spills.put(True)

    def late(self) -> None:
        """Keep what came in while or after closing."""
        self._put_away_queue("undeliverable")

    def error_of(self, backend: str) -> str | None:  # noqa: ARG002 - there is but one
        """Why a backend does not take events now."""
        return self._error

    def flush(self, timeout: float) -> FlushResult:
        """Wait until everything emitted before this call is with the sidecar or on disk; whether that came to pass in time."""
        lost = self.counts.lost
        done = self.queue.flush(timeout, self._clock, self._closing)
        stats = self.stats()
        return FlushResult(done and self.counts.lost == lost, stats.backends)

    def stats(self) -> Stats:
        """The counts now."""
        stats = self.counts.snapshot(received=self.queue.mark(), queued=self.queue.depth())
        result = BackendResult(
            delivered=stats.sent,
            spooled=stats.spooled,
            failed=stats.failed + stats.rejected,
            dropped=stats.dropped,
            waiting=stats.queued,
            replayed=stats.replayed,
            error=self._error,
        )
        return replace(stats, backends=dict.fromkeys(self.always, result))

    def close(self, grace: float) -> bool:
        """Send what can be sent within `grace` seconds, put the rest on disk, and end; False when that was begun before.

        Each step may be done again: a signal may end the process in the middle of a first call, which then never goes on.
        """
        with self._lock:
            first = not self._closing.is_set()
            if first:
                self._deadline = self._clock() + grace
                self._closing.set()
        self.queue.close()
        self.wake()
        self._spills.put(False)
        if not self._joined(self._sender, max(0.0, self._deadline - self._clock())):
            self._transport.interrupt()
            self._joined(self._sender, INTERRUPT_GRACE)
        self._joined(self._spiller, INTERRUPT_GRACE)
        with self._lock:
            for batch in self.queue.in_hand():
                self._put_away(batch, "undeliverable")
            self._put_away_queue("undeliverable")
            self._transport.close()
            if self.spool is not None:
                self.spool.close()
        return first

    def forget(self) -> None:
        """Let go of what a forked child inherited; the parent goes on with it."""
        if self.spool is not None:
            self.spool.forget()

    @staticmethod
    def _joined(thread: threading.Thread | None, timeout: float) -> bool:
        if thread is None or thread is threading.current_thread():
            return True
        thread.join(timeout)
        return not thread.is_alive()

    # --------------------------------------------------------------------------------------------------------- the sender

    def _run(self) -> None:
        interval = self._settings.queue.flush_interval
        due = self._clock() + interval
        while not self._closing.is_set():
            if self._replay is None or not self._replay.has_more:
                self._wait(due - self._clock())
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
        self._finish()

    def _wait(self, seconds: float) -> None:
        try:
            self._signals.get(timeout=max(0.0, seconds))
        except queue.Empty:
            return

    def _round(self, *, everything: bool) -> None:
        """Send what is due: all full batches, with `everything` also the rest; then what waits on disk."""
        size = self._settings.queue.batch_size
        due = 0
        if everything:
            self._retry_held()
            self._report_drops()
            due = len(self.queue)
        while not self._closing.is_set() and (len(self.queue) >= size or due > 0):
            # What goes to disk anyway goes there in few files.
            batches = self._take(size if self._breaker.allows(self._clock()) else MAX_BATCH_EVENTS)
            due = due - sum(map(len, batches)) if batches else 0
            for batch in batches:
                self._deliver(batch)
        if self._replay is not None and not self._closing.is_set():
            now = self._clock()
            self._replay.run(allowed=self._breaker.allows(now), now=now, send=self._send_once, is_closing=self._closing.is_set)

    def _take(self, limit: int) -> list[Batch]:
        return self.queue.take(limit, self._emitter_id)

    def _report_drops(self) -> None:
        """Tell of what was lost by an event of its own, so that the gap in the numbers is explained."""
        drops = self.counts.take_unreported()
        if not drops:
            return
        self._reports += 1
        self.counts.add("reports", 1)
        # Its ordinal is its own, below those of the queue: nothing that came from the program shifts.
        (batch,) = self.queue.hand(lambda: pack([self._make_report(drops)], self._emitter_id, -self._reports))
        batch.report = drops
        self._deliver(batch)

    def _deliver(self, batch: Batch) -> None:
        """Hand a batch to the sidecar, or put it away."""
        if not self._breaker.allows(self._clock()):
            self._put_away(batch)
            return
        attempts = 1 + (self._settings.sidecar.retries if self._breaker.is_closed else 0)
        answer = self._send(batch, attempts)
        if answer.outcome is Outcome.ACCEPTED:
            self._accepted(batch, answer)
        elif answer.outcome is Outcome.TOO_LARGE and len(batch) > 1:
            halves = batch.halves()
            self.queue.replace(batch, halves)
            for half in halves:
                self._deliver(half)
        elif answer.outcome in {Outcome.REFUSED, Outcome.TOO_LARGE}:
            self._refused(batch, answer)
        else:
            self._put_away(batch)

    def _send(self, batch: Batch, attempts: int) -> Answer:
        """The answer to the last of up to `attempts` attempts; the breaker knows of it."""
        for attempt in range(attempts):
            answer = self._attempt(batch)
            if answer.outcome not in {Outcome.RETRY, Outcome.KEEP}:
                self._error = None
                if self._breaker.succeeded():
                    logger.info("monitoring_sdk: the sidecar at %s takes events again", self._settings.sidecar.url)
                return answer
            if answer.outcome is Outcome.KEEP or attempt + 1 == attempts:
                break
            pause = max(answer.retry_after or 0.0, backoff(attempt, self._rng))
            if pause > LONGEST_WAIT or self._closing.wait(pause):
                break
        self._error = answer.detail
        if self._breaker.failed(self._clock(), answer.retry_after or 0.0) and not self._closing.is_set():
            where = f"wait in {self.spool.folder}" if self.spool is not None else "wait in memory"
            logger.warning(
                "monitoring_sdk: the sidecar at %s does not take events (%s); they %s",
                self._settings.sidecar.url,
                answer.detail,
                where,
            )
        return answer

    def _send_once(self, batch: Batch) -> Answer:
        return self._send(batch, 1)

    def _attempt(self, batch: Batch) -> Answer:
        timeout = self._settings.sidecar.timeout
        if self._closing.is_set():
            timeout = min(timeout, max(0.05, self._deadline - self._clock()))
        try:
            return self._transport.send(batch, timeout)
        except Exception as error:  # transports come from outside too, and no batch may be lost with a mistake in one
            logger.exception("monitoring_sdk: a mistake in the transport")
            return Answer(Outcome.RETRY, f"{type(error).__name__}: {error}")

    def _accepted(self, batch: Batch, answer: Answer) -> None:
        with self.queue.settling(batch) as first:
            if first:
                self.counts.add("sent", len(batch) - len(answer.rejected))
                rejected = {rejection.index for rejection in answer.rejected}
                self._tell(batch, Verdict.DELIVERED, set(batch.watches) - rejected)
                self._tell(batch, Verdict.REJECTED, rejected)
                note_rejections(answer, self.counts)

    def _refused(self, batch: Batch, answer: Answer) -> None:
        """The sidecar will never take this batch: keep it aside."""
        logger.error("monitoring_sdk: the sidecar refused a batch of %d event(s) for good: %s", len(batch), answer.detail)
        if self.spool is not None:
            try:
                self.spool.set_aside(batch)
            except OSError as error:
                self._complain(error)
        with self.queue.settling(batch) as first:
            if first:
                self.counts.add("failed", len(batch))
                self._tell(batch, Verdict.FAILED, batch.watches)

    def _tell(self, batch: Batch, verdict: Verdict, places: Collection[int]) -> None:
        """Let those who watch the events at these places hear what became of them."""
        for name in self.always if batch.watches else ():
            batch.tell(name, verdict, places)

    # ------------------------------------------------------------------------------------------------------- the last resort

    def _put_away(self, batch: Batch, at_the_end: str = "") -> None:
        """Put a batch on disk; without disk hold it in memory, or drop it for the reason `at_the_end`, counted."""
        if batch.settled:
            return
        if self.spool is not None:
            try:
                self.spool.write(batch)
            except OSError as error:
                self._complain(error)
            else:
                self.queue.disk_failing = False
                with self.queue.settling(batch) as first:
                    if first:
                        self.counts.add("spooled", len(batch))
                        self._tell(batch, Verdict.SPOOLED, batch.watches)
                return
        if at_the_end:
            self._drop(batch, "spool_failed" if self.spool is not None else at_the_end)
            return
        with self._lock:
            self._held.append(batch)
            excess = sum(map(len, self._held)) - self._settings.queue.max_events
            while excess > 0 and self._held:
                oldest = self._held.pop(0)
                excess -= len(oldest)
                self._drop(oldest, "spool_failed" if self.spool is not None else "undeliverable")

    def _drop(self, batch: Batch, reason: str) -> None:
        with self.queue.settling(batch) as first:
            if first:
                self.counts.unreport(batch.report)
                self.counts.drop(reason, len(batch))
                self._tell(batch, Verdict.DROPPED, batch.watches)

    def _put_away_queue(self, reason: str) -> None:
        while batches := self._take(MAX_BATCH_EVENTS):
            for batch in batches:
                self._put_away(batch, reason)

    def _retry_held(self) -> None:
        """Try what could be put nowhere once more, until the first that fails again."""
        with self._lock:
            held, self._held = self._held, []
        while held:
            batch = held.pop(0)
            self._deliver(batch)
            if not batch.settled:
                break
        with self._lock:
            self._held += held

    def _complain(self, error: OSError) -> None:
        """Say that the spool folder fails, once until it works again."""
        if not self.queue.disk_failing and self.spool is not None:
            logger.error(
                "monitoring_sdk: can't write to the spool folder %s: %s; check space and rights", self.spool.folder, error
            )
        self.queue.disk_failing = True

    def _finish(self) -> None:
        """The sender's last round: send what the deadline allows, the rest goes to disk."""
        try:
            with self._lock:
                held, self._held = self._held, []
            for batch in held:
                self._put_away(batch, "undeliverable")
            self._report_drops()
            while self._breaker.is_closed and self._clock() < self._deadline:
                batches = self._take(self._settings.queue.batch_size)
                if not batches:
                    break
                for batch in batches:
                    self._deliver_or_end(batch)
        except Exception:
            logger.exception("monitoring_sdk: a mistake in the SDK while closing")

    def _deliver_or_end(self, batch: Batch) -> None:
        if self._breaker.is_closed and self._clock() < self._deadline:
            self._deliver(batch)
        else:
            self._put_away(batch, "undeliverable")

    # --------------------------------------------------------------------------------------------------------- the spiller

    def _run_spiller(self) -> None:
        while self._spills.get():
            self._spill_asked = False
            try:
                self._spill()
            except Exception:
                logger.exception("monitoring_sdk: a mistake in the SDK; it goes on")

    def _spill(self) -> None:
        """Bring the queue down to half its bounds."""
        while (excess := self.queue.excess()) and not self._closing.is_set():
            for batch in self._take(min(MAX_BATCH_EVENTS, excess)):
                self._put_away(batch)
            if self.queue.disk_failing:
                return
