"""One process's SDK: stamps events and puts them on the queue; everything slow is behind it."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Iterable, Mapping
from typing import Any

from monitoring_sdk import _backends, _clean, _event
from monitoring_sdk._batch import Entry
from monitoring_sdk._config import Settings
from monitoring_sdk._counts import Stats
from monitoring_sdk._delivery import BACKENDS, Delivery
from monitoring_sdk._direct import DirectDelivery
from monitoring_sdk._event import Captured
from monitoring_sdk._exceptions import InvalidEventError
from monitoring_sdk._http import SidecarTransport
from monitoring_sdk._ids import IdSource, uuid7
from monitoring_sdk._queue import LARGE_TEXT
from monitoring_sdk._results import BackendResult, EmitResult, FlushResult, Watch
from monitoring_sdk._spool import Spool
from monitoring_sdk._state import Link
from monitoring_sdk._tracing import trace_ids
from monitoring_sdk._transport import Transport

logger = logging.getLogger("monitoring_sdk")

CLOSE_GRACE = 1.0
"""How long `close` goes on sending, in seconds; what is left then goes to disk, so that a process ends within two."""

DROPPED_NAME = "sdk.dropped"

_Prepared = tuple[str, Captured, str, bool]
"""Text of the fields from elsewhere; the event's own fields; the id and whether there is a timestamp that the program gave."""


class Client:
    """Takes events from the program. `transport` stands in for the sidecar and for every backend, and then nothing is spooled."""

    def __init__(self, settings: Settings, transport: Transport | None = None) -> None:
        self.settings = settings
        self._given_transport = transport
        app = {"name": settings.app.name, "version": settings.app.version, "instance_id": settings.app.instance_id}
        self._origin = {"site_id": settings.app.site_id, "app": {key: value for key, value in app.items() if value is not None}}
        self._head = _event.head_of(self._origin)
        self._begin()

    def _begin(self) -> None:
        self._ids = IdSource()
        self._seq = itertools.count(1)
        self.emitter_id = uuid7()
        self._delivery = self._to_the_backends() if self._is_direct else self._to_the_sidecar()
        self._queue = self._delivery.queue

    @property
    def _is_direct(self) -> bool:
        return self.settings.mode == "direct" and self._given_transport is None

    def _to_the_sidecar(self) -> Delivery:
        sidecar = self.settings.sidecar
        spooling = sidecar.enable_spooling and self._given_transport is None
        return Delivery(
            self.settings,
            self.emitter_id,
            self._given_transport or SidecarTransport(sidecar.url, sidecar.token),
            self._report_of_drops,
            spool=Spool(sidecar.spool_dir, self.emitter_id) if spooling else None,
            always=[entry.name for entry in self.settings.backends if not entry.fallback] or BACKENDS,
        )

    def _to_the_backends(self) -> DirectDelivery:
        settings = self.settings
        backends = {entry.name: _backends.make(entry, settings.sidecar, self.emitter_id) for entry in settings.backends}
        return DirectDelivery(settings, self.emitter_id, backends, self._report_of_drops)

    def start(self) -> None:
        """Start the worker, so that what a process before this one left on disk is sent even before the first event."""
        self._delivery.start()

    def start_in_child(self) -> None:
        """Begin anew after a fork: what the parent had queued is the parent's. The first event starts the worker."""
        inherited = self._delivery
        self._begin()
        inherited.forget()

    # ---------------------------------------------------------------------------------------------------------- emitting

    def emit(self, event: Mapping[str, Any], link: Link | None) -> str:
        """Take one event, of the run in `link` if any; its `event_id`. Raises InvalidEventError."""
        fields = _event.plain_copy(event)
        if fields is None:
            return self._put(self._prepare_with_care(event, link))
        head = self._head
        if link is not None:
            head += _run_head(link, fields)
        trace = trace_ids()
        if trace is not None:
            head = f'{head}"trace_id":"{trace[0]}","span_id":"{trace[1]}",'
        now = time.time_ns()
        seq = next(self._seq)
        event_id = self._ids.new(now, seq)
        self._queue.put((seq, now, event_id, head, fields))
        return event_id

    def emit_all(self, events: Iterable[Mapping[str, Any]], link: Link | None) -> EmitResult:
        """Take all of the events, or none when one of them is invalid; their ids, and what becomes of them."""
        prepared: list[_Prepared] = []
        try:
            prepared.extend(self._prepare(event, link) for event in events)
        except InvalidEventError as error:
            place = f"[{len(prepared)}]"
            raise InvalidEventError(f"{place}.{error.path}" if error.path else place, error.error) from error
        watch = Watch(self._delivery.always, self._delivery.error_of)
        watch.expect(len(prepared))
        result = EmitResult([self._put(entry, watch) for entry in prepared], watch, self.flush)
        watch.seal()
        return result

    def _prepare(self, event: Mapping[str, Any], link: Link | None) -> _Prepared:
        fields = _event.plain_copy(event)
        if fields is None:
            return self._prepare_with_care(event, link)
        head = self._head + (_run_head(link, fields) if link is not None else "")
        trace = trace_ids()
        if trace is not None:
            head = f'{head}"trace_id":"{trace[0]}","span_id":"{trace[1]}",'
        return head, fields, "", False

    def _prepare_with_care(self, event: Mapping[str, Any], link: Link | None) -> _Prepared:
        """Prepare an event that is nested, large, or brings fields that the SDK would fill in."""
        fields = _clean.clean(event)
        filling: dict[str, Any] = dict(self._origin)
        if link is not None:
            filling.update(link[0].fields)
            if "run_id" in fields:
                filling.pop("parent_run_id", None)
            if "entities" in fields:
                fields["entities"] = {**filling.get("entities", {}), **fields["entities"]}
        trace = trace_ids()
        if trace is not None and "trace_id" not in fields and "span_id" not in fields:
            filling["trace_id"], filling["span_id"] = trace
        head = _event.head_of({key: value for key, value in filling.items() if key not in fields})
        return head, _event.encode(fields, head), fields.get("event_id", ""), "timestamp" in fields

    def _put(self, prepared: _Prepared, watch: Watch | None = None) -> str:
        head, captured, given_id, has_time = prepared
        now = time.time_ns()
        seq = next(self._seq)
        if watch is not None:
            self._queue.watches.add(seq, watch)
        event_id = given_id or self._ids.new(now, seq)
        large = len(captured) if isinstance(captured, str) and len(captured) > LARGE_TEXT else 0
        self._queue.put((seq, 0 if has_time else now, "" if given_id else event_id, head, captured), large)
        return event_id

    def _report_of_drops(self, drops: dict[str, int], by_backend: Mapping[str, Mapping[str, int]] | None = None) -> Entry:
        """The event that tells of events that were lost, and of direct mode's backends, which of them lost how many."""
        now = time.time_ns()
        seq = next(self._seq)
        where = "the sidecar" if by_backend is None else f"{', '.join(sorted(by_backend)) or 'any backend'}"
        fields: dict[str, Any] = {
            "kind": "metric",
            "name": DROPPED_NAME,
            "severity": "warning",
            "message": f"{sum(drops.values())} event(s) of this process were lost before they reached {where}",
            "metrics": dict(drops),
        }
        if by_backend:
            fields["attributes"] = {"backends": {name: dict(reasons) for name, reasons in by_backend.items()}}
        return (seq, now, self._ids.new(now, seq), self._head, fields)

    # ------------------------------------------------------------------------------------------------------------ the end

    def flush(self, timeout: float) -> FlushResult:
        """Wait until all that was emitted is delivered or on disk; whether it was so within `timeout` seconds."""
        return self._delivery.flush(timeout)

    def hurry(self) -> None:
        """Have the worker hand over all that there is now, without waiting for it."""
        self._delivery.hurry()

    def wake(self) -> None:
        """Have the worker send what there is, without waiting for it."""
        self._delivery.wake()

    def stats(self) -> Stats:
        """The counts now."""
        return self._delivery.stats()

    def before_exit(self) -> None:
        """Do what can't be done any more once the interpreter has begun to end."""
        if isinstance(self._delivery, DirectDelivery):
            self._delivery.before_exit(CLOSE_GRACE)

    def close(self) -> None:
        """Flush, and put on disk what can't be sent soon. Calling it twice does no harm."""
        if self._delivery.close(CLOSE_GRACE):
            self._log_totals()

    def _log_totals(self) -> None:
        stats = self.stats()
        lost = stats.dropped or stats.failed
        logger.log(
            logging.WARNING if lost else logging.INFO,
            "monitoring_sdk: closed; emitted=%d sent=%d spooled=%d replayed=%d rejected=%d failed=%d dropped=%d queued=%d%s",
            stats.emitted,
            stats.sent,
            stats.spooled,
            stats.replayed,
            stats.rejected,
            stats.failed,
            stats.dropped,
            stats.queued,
            "".join(f"; {name}: {_summed_up(result)}" for name, result in stats.backends.items()) if self._is_direct else "",
        )


def _summed_up(result: BackendResult) -> str:
    counts = f"delivered={result.delivered} spooled={result.spooled} replayed={result.replayed} failed={result.failed}"
    return f"{counts} dropped={result.dropped}"


def _run_head(link: Link, fields: dict[str, Any]) -> str:
    """The text of the fields that a run gives to an event; its entities go into `fields` when the event has some of its own."""
    run = link[0]
    if run.entities and "entities" in fields:
        fields["entities"] = {**run.entities, **fields["entities"]}
        return run.ids_head
    return run.head
