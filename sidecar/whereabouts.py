"""Answers `GET /v1/events/{event_id}`: where an event is in the spool, and what each backend has of it.

| a backend's state | means |
| --- | --- |
| `delivered` | the backend has it |
| `refused` | the backend will never take it: it is among its dead letters, with the reason |
| `skipped` | the backend's `match` leaves it out |
| `under_way` | it is being sent, or a try failed and the next one is due at `retry_at` |
| `waiting` | it has not been read for this backend yet |
| `owed` | like `waiting`, and the fallbacks in `taken_by` have it meanwhile |
| `standby` | for a fallback: its primaries have it, or work and will get it |
| `unknown` | the event is not in the spool any more; only dead letters tell of it |

Everything is looked up when somebody asks; nothing is kept for it while events come in.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from contract.ids import is_uuid, uuid7_millis
from sidecar.answers import Answer, Refusal, json_answer
from sidecar.dead_letters import DeadLetter, DeadLetters
from sidecar.delivery import Delivery
from sidecar.flights import Standing
from sidecar.router import Router
from sidecar.spool.damage import Damage, DamageLedger
from sidecar.spool.filesystem import DISK
from sidecar.spool.log import SpoolLog
from sidecar.spool.search import Budget, Place, find_event

SEARCH_SECONDS: Final = 5.0
SEARCH_BYTES: Final = 4 * 1024**3
WAITING_SEARCHES: Final = 8
"""Beyond this many at once a search is refused; one goes on at a time."""

logger = logging.getLogger(__name__)


class Whereabouts:
    """Looks events up in one sidecar. `seconds` and `max_bytes` bound each search."""

    def __init__(
        self, spool: Path, log: SpoolLog, router: Router, *, seconds: float = SEARCH_SECONDS, max_bytes: int = SEARCH_BYTES
    ) -> None:
        self._spool = spool
        self._log = log
        self._router = router
        self._seconds = seconds
        self._max_bytes = max_bytes
        self._turn = asyncio.Semaphore(1)
        self._asked = 0

    async def answer(self, event_id: str) -> Answer:
        """The page of one event. Raises Refusal: 400 no id, 404 not here, 429 too many ask, 503 not found in time."""
        if not is_uuid(event_id):
            raise Refusal(
                400, "bad_event_id", "expected a UUID in lower case with dashes, such as 01939c5e-7c1a-7f6e-9d2b-3f4a5b6c7d8e"
            )
        if self._asked >= WAITING_SEARCHES:
            raise Refusal(429, "busy", "enough events are being searched for: ask again in a moment", retry_after=self._seconds)
        self._asked += 1
        try:
            async with self._turn:
                return await self._answer(event_id)
        finally:
            self._asked -= 1

    async def _answer(self, event_id: str) -> Answer:
        began = time.monotonic()
        budget = Budget(began + self._seconds, self._max_bytes)
        try:
            place = await asyncio.to_thread(self._search, event_id, budget)
            # The states first: whoever has dealt with the event has written the dead letter before.
            states = {delivery.settings.name: dict(self._tell(delivery, place)) for delivery in self._router.deliveries}
            letters_budget = Budget(time.monotonic() + self._seconds, self._max_bytes)
            letters = await asyncio.to_thread(self._letters, event_id, place, list(states), letters_budget)
        except OSError as error:
            raise Refusal(503, "spool_unreadable", f"the spool can't be read: {error}", retry_after=self._seconds) from error
        ended_early = budget.ended_early or letters_budget.ended_early
        searched = {
            "complete": ended_early is None,
            "ended_early": ended_early,
            "segments": budget.segments,
            "bytes": budget.bytes + letters_budget.bytes,
            "seconds": round(time.monotonic() - began, 3),
        }
        if place is None and not letters:
            return _not_found(event_id, ended_early, searched)
        for name, letter in letters.items():
            states[name] |= {"state": "refused", "reason": letter.reason, "refused_at": letter.dead_at}
        made = uuid7_millis(event_id)
        content = {
            "event_id": event_id,
            "made_at": None if made is None else datetime.fromtimestamp(made / 1000, UTC),
            "spool": None if place is None else self._spool_place(place),
            "backends": list(states.values()),
            "readers": [] if place is None else list(self._tell_readers(place.seq)),
            "searched": searched,
        }
        return json_answer(200, content)

    def _spool_place(self, place: Place) -> dict[str, Any]:
        return {"id": self._log.spool_id, "segment": place.segment, "seq": place.seq, "received_at": place.received_at}

    def _search(self, event_id: str, budget: Budget) -> Place | None:
        return find_event(self._log.reader(DamageLedger(None, DISK, _counted_elsewhere)), event_id, budget)

    def _letters(self, event_id: str, place: Place | None, backends: list[str], budget: Budget) -> Mapping[str, DeadLetter]:
        """The dead letters of the event, by backend."""
        found = {}
        seq = None if place is None else place.seq
        for name in backends:
            letter = DeadLetters(self._spool, name).find(event_id, seq, budget.spend)
            if letter is not None:
                found[name] = letter
        return found

    def _tell(self, delivery: Delivery, place: Place | None) -> Iterator[tuple[str, Any]]:
        """What one backend has of the event."""
        settings = delivery.settings
        yield from {"name": settings.name, "type": settings.type, "priority": settings.priority}.items()
        yield "delivery", "fallback" if settings.fallback else "always"
        if place is None:
            yield "state", "unknown"
            return
        if not (settings.match.everything or settings.match.compiled()(place.line)):
            yield "state", "skipped"
            return
        standing = delivery.standing(place.seq)
        if settings.fallback:
            yield from self._tell_fallback(delivery, place.seq, standing)
            return
        if standing is Standing.DEALT_WITH:
            yield "state", "delivered"
            return
        taken_by = [
            other.settings.name
            for other in self._router.deliveries
            if settings.name in other.settings.stands_in_for and self._took(other, place.seq)
        ]
        state = "under_way" if standing is Standing.UNDER_WAY else "waiting"
        yield "state", "owed" if taken_by else state
        if taken_by:
            yield "taken_by", taken_by
        yield from _lag(delivery, place.seq)

    def _tell_fallback(self, delivery: Delivery, seq: int, standing: Standing) -> Iterator[tuple[str, Any]]:
        primaries = self._router.primaries_of(delivery.settings)
        owed_to = [primary.settings.name for primary in primaries if primary.standing(seq) is not Standing.DEALT_WITH]
        if self._took(delivery, seq):
            yield "state", "delivered"
            yield "owed_to", owed_to
        elif standing is Standing.DEALT_WITH or any(primary.breaker.available for primary in primaries):
            yield "state", "standby"
        else:
            yield "state", "under_way" if standing is Standing.UNDER_WAY else "waiting"
            yield from _lag(delivery, seq)

    def _took(self, fallback: Delivery, seq: int) -> bool:
        """Whether a fallback has the event and its primaries don't all have it."""
        if seq > fallback.position:
            return fallback.standing(seq) is Standing.DEALT_WITH
        return any(stretch.first <= seq <= stretch.last for stretch in self._router.ledger.owed(fallback.settings.name))

    def _tell_readers(self, seq: int) -> Iterator[dict[str, Any]]:
        backends = {delivery.settings.name for delivery in self._router.deliveries}
        for reader, position in self._log.stats().checkpoints.items():
            if reader not in backends:
                yield {"name": reader, "state": "passed" if position >= seq else "waiting", "position": position}


def _lag(delivery: Delivery, seq: int) -> Iterator[tuple[str, Any]]:
    """How far the backend is from the event, and what keeps it."""
    yield "events_before_it", max(0, seq - delivery.position - 1)
    yield "lag_events", delivery.lag_events
    yield "lag_seconds", round(delivery.lag_seconds, 3)
    yield "backend_state", delivery.progress.state
    yield "error", delivery.progress.error
    yield "retry_at", delivery.retry_at


def _not_found(event_id: str, ended_early: str | None, searched: dict[str, Any]) -> Answer:
    if ended_early is None:
        message = f"event {event_id} is not in this spool any more (delivered everywhere and removed), or never was here"
        return json_answer(404, {"error": {"code": "not_in_spool", "message": message}, "searched": searched})
    message = f"event {event_id} was not found before the search ended: {ended_early}. It may be in what was not searched"
    return json_answer(503, {"error": {"code": "search_ended_early", "message": message}, "searched": searched})


def _counted_elsewhere(damage: Damage) -> None:
    logger.debug("search came across damage: %s", damage)
