"""One backend's way in direct mode: a thread and a bounded backlog of its own, retries, a breaker, and a folder on disk.

A lane shares nothing with its neighbours but the parcels' bytes. Whatever its backend does (refuse, hang, never return), the
parcels that it can't take in time go to the lane's own folder, and from there to this backend alone.
"""

from __future__ import annotations

import logging
import queue
import random
import threading
import time
from collections.abc import Callable, Sequence

from monitoring_sdk._backlog import Backlog
from monitoring_sdk._batch import Batch
from monitoring_sdk._config import BackendSettings, QueueSettings
from monitoring_sdk._letters import event_in, letters, reason
from monitoring_sdk._limits import MAX_BATCH_BYTES, MAX_BATCH_EVENTS
from monitoring_sdk._replay import FILES_AT_ONCE, ORPHAN_INTERVAL
from monitoring_sdk._results import BackendResult, Verdict
from monitoring_sdk._retry import Breaker, backoff
from monitoring_sdk._shipments import Numbers, Parcel
from monitoring_sdk._spool import Claim, Spool
from monitoring_sdk._transport import Answer, Backend, Outcome, Rejection

logger = logging.getLogger("monitoring_sdk")

LONGEST_WAIT = 10.0
"""A backend that asks for a longer pause than this is left alone: its parcels go to disk meanwhile. In seconds."""

HUNG_AFTER = 2.0
"""How much longer than its timeout a call may take, in seconds, before the lane stops counting on its return."""

_TICK = 1.0
_AFTER_BUG = 1.0
_POLL = 0.005


class Lane:
    """Delivers parcels to one backend. `drop` is told of lost events with the reason, `replayed` of those delivered from disk."""

    def __init__(
        self,
        settings: BackendSettings,
        backend: Backend,
        limits: QueueSettings,
        numbers: Numbers,
        log: str,
        *,
        spool: Spool | None,
        drop: Callable[[str, str, int], None],
        replayed: Callable[[int], None],
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self.settings = settings
        self.name = settings.name
        self.error: str | None = None
        """Why the backend does not take events now."""
        self._backend = backend
        self._limits = limits
        self._numbers = numbers
        self._log = log
        self._spool = spool
        self._drop_told = drop
        self._replayed_told = replayed
        self._clock = clock
        self._rng = rng or random.Random()  # noqa: S311 - spreads retries, keeps no secret
        self._breaker = Breaker(self._rng)
        self._backlog = Backlog(limits.max_events)
        self._lock = self._backlog.lock
        self._signals: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._counts = dict.fromkeys(("delivered", "spooled", "failed", "dropped", "replayed"), 0)
        self._thread: threading.Thread | None = None
        self._ending = threading.Event()
        self._deadline = 0.0
        self._ended = False
        self._busy_until = float("inf")
        self._stuck = False
        self._complained = False
        self._next_orphans = 0.0
        self._has_more = False
        self._progress: dict[str, int] = {}

    @property
    def outlives_executors(self) -> bool:
        """Whether the backend still works when the interpreter has shut its executors down."""
        return self._backend.outlives_executors

    # -------------------------------------------------------------------------------------------- called by other threads

    def start(self) -> None:
        """Start the thread, unless it runs or has ended."""
        with self._lock:
            if self._thread is None and not self._ending.is_set():
                thread = threading.Thread(target=self._run, name=f"monitoring-sdk-{self.name}", daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # the interpreter is shutting down: finish() will do without
                    return
                self._thread = thread

    def offer(self, parcel: Parcel) -> None:
        """Take a parcel, in the pieces that the backend's bounds ask for."""
        for piece in parcel.cut(self._backend.bounds.max_events, self._backend.bounds.max_bytes):
            with self._lock:
                away = self._ended or self._stuck
                if not away:
                    self._backlog.append(piece)
            if away:
                self._give_up(piece)
        if self._backlog.is_full:
            self._make_room()
        self._signals.put(None)

    def check(self) -> None:
        """Stop counting on a call that does not return: what it holds, and what waits behind it, goes elsewhere."""
        with self._lock:
            if self._clock() < self._busy_until or self._stuck:
                return
            self._stuck = True
            stranded = self._backlog.strand()
        self._fails(Answer(Outcome.RETRY, f"it hangs: a call has not returned within {self.settings.timeout + HUNG_AFTER:g} s"))
        for parcel in stranded:
            self._give_up(parcel)

    def end(self, deadline: float) -> None:
        """Deliver what can be delivered until `deadline` (of the clock), then end."""
        with self._lock:
            if not self._ending.is_set():
                self._deadline = deadline
                self._ending.set()
        self._signals.put(None)

    def joined(self, timeout: float) -> bool:
        """Whether the thread has ended, within `timeout` seconds."""
        thread = self._thread
        if thread is None or thread is threading.current_thread():
            return True
        thread.join(max(0.0, timeout))
        return not thread.is_alive()

    def interrupt(self) -> None:
        """Have a call that is under way return soon."""
        self._backend.interrupt()

    def finish(self) -> None:
        """Put on disk what is left; a thread that hangs is left to itself. Calling it twice does no harm."""
        with self._lock:
            self._ended = True
            left = self._backlog.strand()
        for parcel in left:
            self._put_away(parcel, at_the_end=True)
        if self._thread is None:
            self._backend.close()
        if self._spool is not None:
            self._spool.close()

    def forget(self) -> None:
        """Let go of what a forked child inherited."""
        self._backend.forget()
        if self._spool is not None:
            self._spool.forget()

    def result(self) -> BackendResult:
        """The counts now."""
        with self._lock:
            return BackendResult(waiting=self._backlog.depth, error=self.error, **self._counts)

    # -------------------------------------------------------------------------------------------------------- the backlog

    def _make_room(self) -> None:
        """Bring the backlog of a slow backend back into its bounds, as `on_full` says."""
        if self._limits.on_full == "block":
            while self._backlog.is_full and self._breaker.is_closed and not (self._ending.is_set() or self._stuck):
                self.check()
                time.sleep(_POLL)
            if not self._backlog.is_full:
                return
        spooling = self._spool is not None and self._limits.on_full != "drop_oldest"
        while self._backlog.is_full or (spooling and self._backlog.is_half_full):
            # What goes to disk goes there in few files.
            parcel = self._backlog.pop(MAX_BATCH_EVENTS, MAX_BATCH_BYTES) if spooling else self._backlog.pop(1, 1)
            if parcel is None:
                return
            if not (spooling and self._put_away(parcel, hold=False)):
                self._drop(parcel, "spool_failed" if spooling else "queue_full")

    def _count(self, name: str, events: int) -> None:
        with self._lock:
            self._counts[name] += events

    # --------------------------------------------------------------------------------------------------------- the thread

    def _run(self) -> None:
        while not self._ending.is_set():
            self._wait()
            self._safely(self._round)
        self._safely(self._round)
        with self._lock:
            self._ended = True
        self._safely(self._put_away_all)
        self._safely(self._backend.close)

    def _safely(self, step: Callable[[], None]) -> None:
        try:
            step()
        except Exception:
            logger.exception("monitoring_sdk: a mistake in the SDK; backend '%s' goes on", self.name)
            self._ending.wait(_AFTER_BUG)

    def _wait(self) -> None:
        if self._has_more:
            return
        try:
            self._signals.get(timeout=min(_TICK, self._limits.flush_interval))
        except queue.Empty:
            return

    def _round(self) -> None:
        bounds = self._backend.bounds
        while self._backlog and not (self._ending.is_set() and self._clock() >= self._deadline):
            if self._breaker.allows(self._clock()):
                parcel = self._backlog.pop(bounds.max_events, bounds.max_bytes)
                if parcel is not None:
                    self._deliver(parcel)
            elif self._spool is None:
                for waiting in self._backlog.waiting():
                    waiting.failed(self.name)
                break
            else:
                # What goes to disk anyway goes there in few files.
                parcel = self._backlog.pop(MAX_BATCH_EVENTS, MAX_BATCH_BYTES)
                if parcel is not None and not self._give_up(parcel):
                    break
        self._backend.tick()
        if not self._ending.is_set():
            self._replay()

    def _put_away_all(self) -> None:
        """Put the whole backlog on disk."""
        while (parcel := self._backlog.pop(MAX_BATCH_EVENTS, MAX_BATCH_BYTES)) is not None:
            self._put_away(parcel, at_the_end=True)

    def _deliver(self, parcel: Parcel) -> None:
        attempts = 1 + (self.settings.retries if self._breaker.is_closed else 0)
        for left in self._hand_over(parcel, attempts):
            self._give_up(left)

    def _hand_over(self, parcel: Parcel, attempts: int) -> list[Parcel]:
        """Deliver a parcel in up to so many attempts; what the backend has not taken by then."""
        answer = Answer(Outcome.RETRY)
        for attempt in range(attempts):
            parcel.attempted = True
            answer = self._attempt(parcel)
            if answer.outcome is Outcome.ACCEPTED:
                rest = self._accepted(parcel, answer)
                if rest is None:
                    self._works()
                    return []
                parcel = rest
            elif answer.outcome is Outcome.TOO_LARGE and len(parcel) > 1:
                return [left for half in self._halves(parcel) for left in self._hand_over(half, attempts)]
            elif answer.outcome in {Outcome.REFUSED, Outcome.TOO_LARGE}:
                self._refused(parcel, [Rejection(place, "", answer.detail) for place in range(len(parcel))])
                self._works()
                return []
            if answer.outcome is Outcome.KEEP or attempt + 1 == attempts or parcel.settled:
                break
            pause = max(answer.retry_after or 0.0, backoff(attempt, self._rng))
            if pause > LONGEST_WAIT or self._ending.wait(pause):
                break
        self._fails(answer)
        return [parcel]

    def _attempt(self, parcel: Parcel) -> Answer:
        timeout = self.settings.timeout
        if self._ending.is_set():
            timeout = min(timeout, max(0.05, self._deadline - self._clock()))
        self._busy_until = self._clock() + timeout + HUNG_AFTER
        try:
            return self._backend.send(parcel.batch(), timeout)
        except Exception as error:  # backends come from outside too, and no parcel may be lost with a mistake in one
            logger.exception("monitoring_sdk: a mistake in backend '%s'", self.name)
            return Answer(Outcome.RETRY, f"{type(error).__name__}: {error}")
        finally:
            self._busy_until = float("inf")
            self._stuck = False

    def _halves(self, parcel: Parcel) -> list[Parcel]:
        middle = len(parcel) // 2
        halves = [parcel.piece(0, middle), parcel.piece(middle, len(parcel))]
        with self._lock:
            if self._backlog.settle(parcel):
                for half in halves:
                    self._backlog.hand(half)
                return halves
        return []

    def _works(self) -> None:
        self.error = None
        if self._breaker.succeeded():
            logger.info("monitoring_sdk: backend '%s' takes events again", self.name)

    def _fails(self, answer: Answer) -> None:
        self.error = answer.detail or "it asks for some events again"
        if self._breaker.failed(self._clock(), answer.retry_after or 0.0) and not self._ending.is_set():
            where = f"wait in {self._spool.folder}" if self._spool is not None else "wait in memory"
            logger.warning("monitoring_sdk: backend '%s' does not take events (%s); they %s", self.name, self.error, where)

    def _accepted(self, parcel: Parcel, answer: Answer) -> Parcel | None:
        """Note what was taken and what was refused; what is left to be sent again."""
        rejections = [rejection for rejection in answer.rejected if 0 <= rejection.index < len(parcel)]
        gone = {rejection.index for rejection in rejections}
        again = sorted({place for place in answer.retry if 0 <= place < len(parcel)} - gone)
        taken = None if not (gone or again) else [place for place in range(len(parcel)) if place not in gone.union(again)]
        if rejections and not self._backend.keeps_rejected:
            self._set_aside(parcel, rejections)
        with self._lock:
            if not self._backlog.settle(parcel):
                return None
            rest = parcel.subset(again, self._log, self._numbers.take(len(again))) if again else None
            if rest is not None:
                rest.attempted = True
                self._backlog.hand(rest)
            self._taken(parcel, len(parcel) if taken is None else len(taken))
            self._counts["failed"] += len(gone)
        parcel.resolve(self.name, Verdict.DELIVERED, taken)
        if gone:
            verdict = Verdict.REJECTED if self._backend.keeps_rejected else Verdict.FAILED
            self._tell_refusal(rejections)
            parcel.resolve(self.name, verdict, sorted(gone))
        return rest

    def _taken(self, parcel: Parcel, events: int) -> None:
        if parcel.segments:
            self._counts["delivered"] += events
        else:
            self._counts["replayed"] += events
            self._replayed_told(events)

    def _refused(self, parcel: Parcel, rejections: Sequence[Rejection]) -> None:
        """The backend will never take this parcel."""
        self._set_aside(parcel, rejections)
        self._tell_refusal(rejections)
        if self._backlog.settle(parcel):
            self._count("failed", len(parcel))
            parcel.resolve(self.name, Verdict.FAILED)

    def _tell_refusal(self, rejections: Sequence[Rejection]) -> None:
        first = rejections[0]
        logger.warning(
            "monitoring_sdk: backend '%s' refused %d event(s) for good%s; the first: %s",
            self.name,
            len(rejections),
            f", kept as *.refused in {self._spool.folder}" if self._spool is not None else "",
            reason(first),
        )

    def _set_aside(self, parcel: Parcel, rejections: Sequence[Rejection]) -> None:
        """Keep refused events with the reason, where nobody replays them."""
        if self._spool is None:
            return
        lines = letters(self.name, parcel, rejections)
        try:
            self._spool.set_aside(Batch(lines, self._numbers.take(len(lines))))
        except OSError as error:
            self._complain(error)

    # -------------------------------------------------------------------------------------------------- when it does not work

    def _give_up(self, parcel: Parcel) -> bool:
        """The backend does not take the parcel now: let whoever stands in have it, and keep it for later. Whether it is out of
        memory."""
        if not (parcel.settled or self._ended):
            parcel.failed(self.name)
        return self._put_away(parcel, at_the_end=self._ended)

    def _put_away(self, parcel: Parcel, *, at_the_end: bool = False, hold: bool = True) -> bool:
        """Put a parcel on disk; without disk hold it in memory, or at the end drop it. Whether it is out of memory."""
        if parcel.settled:
            return True
        if self._spool is not None:
            try:
                self._spool.write(parcel.batch())
            except OSError as error:
                self._complain(error)
            else:
                self._complained = False
                if self._backlog.settle(parcel) and parcel.segments:
                    self._count("spooled", len(parcel))
                    parcel.resolve(self.name, Verdict.SPOOLED)
                return True
        if at_the_end:
            self._drop(parcel, "undeliverable" if self._spool is None else "spool_failed")
            return True
        if hold:
            self._backlog.put_back(parcel)
            while self._backlog.is_full and (oldest := self._backlog.pop(1, 1)) is not None:
                self._drop(oldest, "undeliverable" if self._spool is None else "spool_failed")
        return False

    def _drop(self, parcel: Parcel, reason: str) -> None:
        if self._backlog.settle(parcel):
            self._count("dropped", len(parcel))
            self._drop_told(self.name, reason, len(parcel))
            parcel.resolve(self.name, Verdict.DROPPED)

    def _complain(self, error: OSError) -> None:
        """Say that the folder fails, once until it works again."""
        if not self._complained and self._spool is not None:
            logger.error(
                "monitoring_sdk: can't write to the spool folder %s: %s; check space and rights", self._spool.folder, error
            )
        self._complained = True

    # ---------------------------------------------------------------------------------------------------- what waits on disk

    def _replay(self) -> None:
        """Deliver files until one fails, a few at a time, and never before new events."""
        self._has_more = False
        spool = self._spool
        if spool is None or not self._breaker.allows(self._clock()):
            return
        waiting = spool.own()
        try:
            if self._clock() >= self._next_orphans:
                self._next_orphans = self._clock() + ORPHAN_INTERVAL
                waiting = spool.orphans() + waiting
            for done, path in enumerate(waiting):
                if done == FILES_AT_ONCE or self._backlog or self._ending.is_set():
                    self._has_more = done == FILES_AT_ONCE
                    self._next_orphans = self._clock()
                    return
                claim = spool.claim(path)
                if claim is None:
                    continue
                try:
                    went_on = self._replay_file(spool, claim)
                except OSError:  # what a backend did not take of it can't be written: all of the file waits on
                    spool.returned(claim)
                    raise
                if not went_on:
                    return
        except OSError as error:
            logger.warning("monitoring_sdk: can't replay from %s now: %s", spool.folder, error)

    def _replay_file(self, spool: Spool, claim: Claim) -> bool:
        """Deliver one file; whether the backend took it or will never do."""
        lines = self._without_damage(spool, claim, [line for batch in claim.batches for line in batch.lines])
        if not lines:
            self._progress.pop(claim.name, None)
            claim.done()
            return True
        pieces = list(Parcel(lines, claim.emitter_id, claim.number).cut(*self._bounds()))
        for place, piece in enumerate(pieces):
            if place < self._progress.get(claim.name, 0):
                continue
            left = self._hand_over(piece, 1)
            if left == [piece]:
                spool.returned(claim)
                return False
            for part in left:  # of a piece of which some was taken: as a parcel of this process's own
                self._backlog.settle(part)
                spool.write(part.subset(range(len(part)), self._log, self._numbers.take(len(part))).batch())
            self._progress[claim.name] = place + 1
            if left and place + 1 < len(pieces):
                spool.returned(claim)
                return False
        self._progress.pop(claim.name, None)
        claim.done()
        return not left

    def _without_damage(self, spool: Spool, claim: Claim, lines: list[bytes]) -> list[bytes]:
        """The lines that are events; others, which no backend could take, are kept aside when the file is first met."""
        places = [place for place, line in enumerate(lines) if event_in(line) is None]
        damaged = [Rejection(place, "", "the spool file is damaged here") for place in places]
        if damaged and claim.name not in self._progress:
            kept = letters(self.name, Parcel(lines, claim.emitter_id, claim.number), damaged)
            spool.set_aside(Batch(kept, self._numbers.take(len(kept))))
            self._progress[claim.name] = 0
            self._tell_refusal(damaged)
            self._count("failed", len(damaged))
        return [line for place, line in enumerate(lines) if place not in places] if places else lines

    def _bounds(self) -> tuple[int, int]:
        return self._backend.bounds.max_events, self._backend.bounds.max_bytes
