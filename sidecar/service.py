"""One sidecar put together from its parts: spool, HTTP application, router and adoption, started, reloaded and stopped as one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

from sidecar.access import Access
from sidecar.adoption import Adoption
from sidecar.app import SidecarApp
from sidecar.config import SidecarSettings
from sidecar.intake import Intake
from sidecar.metrics import Metrics
from sidecar.repeats import Repeats, newest_records
from sidecar.router import Router
from sidecar.spool.errors import SpoolBusy, SpoolUnavailable
from sidecar.spool.log import SpoolConfig, SpoolLog
from sidecar.spool.quarantine import Quarantine
from sidecar.whereabouts import Whereabouts

_FIXED_UNTIL_RESTART: Final = ("host", "port", "tls", "spool", "body_timeout", "max_bytes_in_flight")

STOP_SECONDS: Final = 0.5
"""What a delivery under way gets when `shutdown_grace` is over."""

logger = logging.getLogger(__name__)


class Sidecar:
    """All parts of one sidecar; `app` is what a server serves. Make it with `open`."""

    def __init__(self, settings: SidecarSettings, log: SpoolLog) -> None:
        self.settings = settings
        self._log = log
        self._started_at = datetime.now(UTC)
        self._metrics = Metrics()
        self._quarantine = Quarantine(settings.spool.dir)
        self._repeats = _before(log, self._metrics)
        self._intake = Intake(
            self._repeats,
            self._quarantine,
            self._metrics,
            body_timeout=settings.body_timeout,
            max_bytes_in_flight=settings.max_bytes_in_flight,
            shed=bool(settings.spool.shed),
        )
        self._router = Router(settings.spool.dir, log, self._metrics, new_source=log.reader)
        self._adoption: asyncio.Task[None] | None = None
        whereabouts = Whereabouts(settings.spool.dir, log, self._router)
        self.app = SidecarApp(
            self._intake, Access(settings.tokens, settings.host), self._metrics, self.health, whereabouts.answer
        )
        self._metrics.add_readings(self._readings)

    @classmethod
    def open(cls, settings: SidecarSettings) -> Sidecar:
        """Take the spool folder. Raises SpoolLocked or SpoolUnavailable. Needs a running event loop."""
        spool = settings.spool
        log = SpoolLog.open(
            SpoolConfig(
                dir=spool.dir,
                readers=_readers(settings),
                max_bytes=spool.max_bytes,
                segment_bytes=spool.segment_bytes,
                segment_age=spool.segment_age,
                high_water=spool.high_water,
                shed="debug" if "debug" in spool.shed else "none",
            )
        )
        return cls(settings, log)

    def start(self) -> None:
        """Deliver, adopt and take requests."""
        self._router.start(self.settings.backends)
        self._start_adoption()
        self.app.ready = True
        if self.app.access.open_to_loopback:
            logger.warning(
                "no token is configured: only this host may send, and only under the name localhost or 127.0.0.1",
                extra={"setting": "sidecar.tokens"},
            )
        if not self.settings.backends:
            logger.warning(
                "no backend is configured: events are kept in the spool and go nowhere", extra={"setting": "sidecar.backends"}
            )

    async def reload(self, settings: SidecarSettings) -> None:
        """Take new settings while running; what only a restart can change keeps its old value and is named in the log.

        Raises TrackMateError when a backend can't be made; then the old settings stay.
        """
        old = self.settings
        fixed = [name for name in _FIXED_UNTIL_RESTART if getattr(settings, name) != getattr(old, name)]
        for name in fixed:
            logger.warning(
                "this change needs a restart", extra={"setting": f"sidecar.{'listen' if name in {'host', 'port'} else name}"}
            )
        new = replace(settings, **{name: getattr(old, name) for name in fixed})
        # A new backend is declared before it begins, so that nothing is deleted under it; one that ends, after it has ended.
        self._log.set_readers(dict.fromkeys([*_readers(old), *_readers(new)]))
        try:
            await self._router.reload(new.backends, new.shutdown_grace)
            self.settings = new
        finally:
            self._log.set_readers(_readers(self.settings))
        self.app.access = Access(new.tokens, new.host)
        await self._stop_adoption()
        self._start_adoption()

    async def stop(self) -> None:
        """Take nothing more, deliver for `shutdown_grace`, close; what is left waits on disk."""
        self.app.ready = False
        grace = self.settings.shutdown_grace
        await self._stop_adoption()
        await self._router.drain(grace)
        waiting = await self._router.stop(STOP_SECONDS)
        self._intake.close()
        await self._quarantine.close()
        await self._log.close()
        logger.info("stopped", extra={"drained": not waiting, "waiting": waiting})

    def health(self) -> tuple[bool, Mapping[str, Any]]:
        """Whether events can be accepted, and the page that /health shows."""
        refusal = self._refusal()
        backends = self._router.states()
        stats = self._log.stats()
        troubled = any(state["state"] in {"down", "retrying", "stopped"} for state in backends)
        content = {
            "status": "failing" if refusal else "degraded" if troubled else "ok",
            "accepting": refusal is None,
            "reason": refusal,
            "started_at": self._started_at,
            "spool": {
                "id": stats.spool_id,
                "bytes": stats.bytes,
                "max_bytes": stats.max_bytes,
                "segments": stats.segments,
                "first_event": stats.oldest_seq,
                "last_event": stats.durable_seq,
                "above_high_water": stats.busy,
                "failing": stats.failing,
                "damaged_events": stats.damaged_events,
                "lag": stats.lag,
            },
            "body_bytes_in_flight": self._intake.budget.used,
            "backends": backends,
        }
        return refusal is None, content

    def _refusal(self) -> str | None:
        try:
            self._log.check()
        except (SpoolBusy, SpoolUnavailable) as error:
            return str(error)
        return None

    def _readings(self) -> Iterator[tuple[str, str, dict[str, str], float]]:
        stats = self._log.stats()
        yield "sidecar_spool_bytes", "Bytes of segments on disk", {}, stats.bytes
        yield "sidecar_spool_max_bytes", "The hard bound of the spool", {}, stats.max_bytes
        yield "sidecar_spool_segments", "Segment files", {}, stats.segments
        yield "sidecar_spool_last_event", "Sequence number of the last durable event", {}, stats.durable_seq
        yield "sidecar_spool_syncs_total", "Syncs: how many batches share one", {}, stats.syncs
        for reason, events in (("damaged", stats.damaged_events), ("shed", stats.shed_events)):
            yield (
                "sidecar_dropped_events_total",
                "Events that are gone: damaged on disk, or shed to leave room",
                {"reason": reason},
                events,
            )
        yield "sidecar_spool_busy", "1 above the high-water mark", {}, float(stats.busy)
        yield "sidecar_spool_failing", "1 while nothing can be made durable", {}, float(stats.failing is not None)
        yield "sidecar_body_bytes_in_flight", "Bytes of bodies held at this moment", {}, self._intake.budget.used
        for reader, lag in stats.lag.items():
            yield "sidecar_reader_lag_events", "Events that a declared reader has yet to pass", {"reader": reader}, lag
        for delivery in self._router.deliveries:
            labels = {"backend": delivery.settings.name}
            yield "sidecar_backend_lag_events", "Events that the backend has yet to get", labels, delivery.lag_events
            yield "sidecar_backend_lag_seconds", "Age of the oldest of them", labels, delivery.lag_seconds
            state = delivery.breaker.state.value
            yield "sidecar_breaker_state", "0 closed (works), 1 half-open (probing), 2 open (down)", labels, state
            yield "sidecar_concurrency_limit", "Calls that the backend may get at once", labels, delivery.concurrency.limit
            yield "sidecar_calls_in_flight", "Calls under way", labels, delivery.concurrency.in_flight
            yield "sidecar_bytes_in_flight", "Bytes of events on their way", labels, delivery.flights.bytes

    def _start_adoption(self) -> None:
        if self.settings.adopt:
            adoption = Adoption(
                self.settings.adopt, self._repeats, self._quarantine, self._metrics, grace=self.settings.adopt_grace
            )
            self._adoption = asyncio.create_task(adoption.run(), name="adoption")

    async def _stop_adoption(self) -> None:
        if self._adoption is not None:
            task, self._adoption = self._adoption, None
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def _readers(settings: SidecarSettings) -> tuple[str, ...]:
    return (*(backend.name for backend in settings.backends), *settings.readers)


def _before(log: SpoolLog, metrics: Metrics) -> Repeats:
    """What keeps repeated batches out of the log; without what stands in it when that can't be read now."""
    count: Callable[[int], None] = metrics.repeated.inc
    try:
        return Repeats(log, newest_records(log.reader()), count)
    except OSError as error:
        logger.warning("batches stored before this start are not recognised when they come again", extra={"error": str(error)})
        return Repeats(log, (), count)
