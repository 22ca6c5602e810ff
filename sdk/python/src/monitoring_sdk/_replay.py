"""Sends what waits on disk: this process's own files, and those that dead processes left."""

from __future__ import annotations

import logging
from collections.abc import Callable

from monitoring_sdk._batch import Batch
from monitoring_sdk._counts import Counts
from monitoring_sdk._queue import EventQueue
from monitoring_sdk._spool import Claim, Spool
from monitoring_sdk._transport import Answer, Outcome

logger = logging.getLogger("monitoring_sdk")

ORPHAN_INTERVAL = 15.0
"""How often to look for what others left, in seconds."""

FILES_AT_ONCE = 20

Send = Callable[[Batch], Answer]
"""One attempt to hand a batch over."""


class Replay:
    """Replays a spool folder, a few files at a time, and never before a full batch of new events."""

    def __init__(self, spool: Spool, queue: EventQueue, counts: Counts, batch_size: int) -> None:
        self._spool = spool
        self._queue = queue
        self._counts = counts
        self._batch_size = batch_size
        self._next_orphans = 0.0
        self.has_more = False
        """Whether the last run ended before all files were looked at."""

    def run(self, *, allowed: bool, now: float, send: Send, is_closing: Callable[[], bool]) -> None:
        """Send files until one fails, if that is `allowed`: a sidecar that is down is thereby probed with one file.

        `now` is seconds of a monotonic clock.
        """
        self.has_more = False
        if not allowed:
            return
        waiting = self._spool.own()
        try:
            if now >= self._next_orphans:
                self._next_orphans = now + ORPHAN_INTERVAL
                waiting = self._spool.orphans() + waiting
            for done, path in enumerate(waiting):
                if done == FILES_AT_ONCE or len(self._queue) >= self._batch_size or is_closing():
                    self.has_more = not is_closing()
                    self._next_orphans = now
                    return
                claim = self._spool.claim(path)
                if claim is not None and not self._send_file(claim, send):
                    return
        except OSError as error:
            logger.warning("monitoring_sdk: can't replay from %s now: %s", self._spool.folder, error)

    def _send_file(self, claim: Claim, send: Send) -> bool:
        """Send one file; whether the sidecar took it or will never do."""
        taken = 0
        waiting = list(claim.batches)
        while waiting:
            batch = waiting.pop(0)
            answer = send(batch)
            if answer.outcome is Outcome.TOO_LARGE and len(batch) > 1:
                waiting[:0] = batch.halves(seq_of=0)
                continue
            if answer.outcome in {Outcome.REFUSED, Outcome.TOO_LARGE}:
                logger.error("monitoring_sdk: the sidecar refused %s for good: %s", claim.path.name, answer.detail)
                claim.refuse()
                self._counts.add("replayed", taken)
                self._counts.add("failed", len(batch) + sum(map(len, waiting)))
                return True
            if answer.outcome is not Outcome.ACCEPTED:
                self._spool.returned(claim)
                return False
            taken += len(batch) - len(answer.rejected)
            note_rejections(answer, self._counts)
        claim.done()
        self._counts.add("replayed", taken)
        return True


def note_rejections(answer: Answer, counts: Counts) -> None:
    """Count the events of an accepted batch that were refused, and say why the first was."""
    if answer.rejected:
        first = answer.rejected[0]
        logger.warning(
            "monitoring_sdk: the sidecar refused %d event(s) and keeps them in quarantine; the first: %s: %s",
            len(answer.rejected),
            first.path,
            first.error,
        )
        counts.add("rejected", len(answer.rejected))
