"""Runs: what happens between the start and the end of a `monitored_context`, and how it is reported."""

from __future__ import annotations

import logging
import os
import time
import traceback
from collections.abc import Mapping
from typing import Any

from monitoring_sdk import _clean, _event, _state
from monitoring_sdk._exceptions import InvalidEventError, MonitoringError
from monitoring_sdk._ids import uuid7
from monitoring_sdk._limits import MAX_TEXT

logger = logging.getLogger("monitoring_sdk")

ENTITIES = frozenset({"lot", "wafer", "tool", "chamber", "recipe", "step", "product", "operator"})
"""Names that are entities wherever metadata is given; a site's own go under `entities`."""

_LONGEST_ERROR = 8_000
_LONGEST_STACK = 32_000
_ROUNDING = 1e-9
_open: dict[str, Run] = {}


class Run:
    """A run that is under way: `run_id` and `entities` go to every event that is emitted inside it.

    It never changes but for what `set` adds to its end. `with run.bind(wafer="7"):` narrows it down for a block.
    """

    __slots__ = ("_attributes", "_started", "entities", "fields", "head", "ids_head", "name", "parent_run_id", "pid", "run_id")

    def __init__(
        self,
        name: str,
        run_id: str,
        parent_run_id: str | None,
        entities: dict[str, str],
        attributes: dict[str, Any],
        started: int,
    ) -> None:
        self.name = name
        self.run_id = run_id
        self.parent_run_id = parent_run_id
        self.entities = entities
        self.pid = os.getpid()
        self._attributes = attributes
        self._started = started
        ids = {"run_id": run_id} if parent_run_id is None else {"run_id": run_id, "parent_run_id": parent_run_id}
        self.fields: dict[str, Any] = {**ids, "entities": entities} if entities else dict(ids)
        self.ids_head = _event.head_of(ids)
        self.head = _event.head_of(self.fields)

    def __repr__(self) -> str:
        return f"<Run {self.name!r} {self.run_id}>"

    # ---------------------------------------------------------------------------------------------------------- reporting

    def progress(self, fraction: float, message: str | None = None, **attributes: Any) -> str:
        """Report how far it is, from 0 to 1; the event's id."""
        if 1 < fraction <= 1 + _ROUNDING:
            fraction = 1.0
        return self._emit({"kind": "progress", "progress": fraction}, message, attributes)

    def metric(self, name: str, value: float | None = None, /, **values: float) -> str:
        """Report a value or several: `metric("temperature", 21.5)`, `metric("chuck", bow=0.2, warp=0.3)`; the event's id."""
        metrics = values if value is None else {name: value, **values}
        return self._emit({"kind": "metric", "name": name, "metrics": metrics}, None, {})

    def log(self, message: str, severity: str = "info", **attributes: Any) -> str:
        """Report a line of text; the event's id."""
        return self._emit({"kind": "log", "severity": severity}, message, attributes)

    def set(self, **attributes: Any) -> None:
        """Add attributes to the event that will end the run. Raises InvalidEventError for what isn't JSON."""
        checked = _clean.mend({"kind": "log", "name": self.name, "attributes": attributes})["attributes"]
        self._attributes.update(checked)

    def bind(self, **entities: str) -> Run:
        """The same run with more entities: report through it, or make it the active one for a block by `with`."""
        return Run(
            self.name,
            self.run_id,
            self.parent_run_id,
            {**self.entities, **_entities(entities)},
            self._attributes,
            self._started,
        )

    def _emit(self, event: dict[str, Any], message: str | None, attributes: dict[str, Any]) -> str:
        event.setdefault("name", self.name)
        if message is not None:
            event["message"] = message
        if attributes:
            event["attributes"] = attributes
        return _state.require("Run").emit(event, (self, None))

    # ------------------------------------------------------------------------------------------------- the active run

    def __enter__(self) -> Run:  # noqa: PYI034 - Self is not in the standard library of Python 3.9
        _state.active.set((self, _state.active.get()))
        return self

    def __exit__(self, *error: object) -> None:
        self.deactivate()

    def deactivate(self) -> None:
        """Make the run that was active before this one active again, if this one is."""
        link = _state.active.get()
        if link is not None and link[0] is self:
            _state.active.set(link[1])

    # -------------------------------------------------------------------------------------------------- start and end

    def end(self, error: BaseException | None) -> None:
        """Report the end: `ok`; `failed` for an exception; `aborted` for what is no Exception, such as a cancellation.

        Never raises: at the end of a block, an error of ours would hide the program's own.
        """
        _open.pop(self.run_id, None)
        if self.pid != os.getpid():  # a forked child leaves its parent's block; the run is the parent's to end
            return
        event: dict[str, Any] = {"kind": "finish", "name": self.name, "status": "ok", "duration_ms": self._duration()}
        if isinstance(error, Exception):
            event.update(kind="error", status="failed", error=describe(error))
        elif error is not None and not _is_success(error):
            event.update(status="aborted", severity="warning", error=describe(error))
        self._report_end(event)

    def abort(self, kind: str, message: str) -> None:
        """Report that the process is about to die in the middle of the run."""
        error = {"type": kind, "message": message}
        duration = self._duration()
        self._report_end(
            {
                "kind": "finish",
                "name": self.name,
                "status": "aborted",
                "severity": "warning",
                "duration_ms": duration,
                "error": error,
            }
        )

    def _duration(self) -> float:
        return round((time.perf_counter_ns() - self._started) / 1_000_000, 3)

    def _report_end(self, event: dict[str, Any]) -> None:
        client = _state.client
        if client is None:
            logger.warning(
                "monitoring_sdk: the run %s of %s ended after close(); its end is not reported", self.run_id, self.name
            )
            return
        try:
            try:
                client.emit({**event, "attributes": self._attributes} if self._attributes else event, (self, None))
            except InvalidEventError:  # together they are too large: the end matters more than what was set
                client.emit({**event, "attributes": {"truncated": True}}, (self, None))
        except MonitoringError:
            logger.exception("monitoring_sdk: can't report the end of the run %s of %s", self.run_id, self.name)


def start(name: str, entities: dict[str, str], attributes: dict[str, Any]) -> Run:
    """Begin a run inside the active one, and report it. Raises NotInitializedError or InvalidEventError."""
    client = _state.require("monitored_context")
    link = _state.active.get()
    parent = link[0] if link is not None else None
    run = Run(
        name,
        uuid7(),
        parent.run_id if parent is not None else None,
        {**parent.entities, **entities} if parent is not None else entities,
        dict(attributes),
        time.perf_counter_ns(),
    )
    event: dict[str, Any] = {"kind": "start", "name": name}
    if attributes:
        event["attributes"] = attributes
    client.emit(event, (run, None))
    _open[run.run_id] = run
    return run


def split(name: str, metadata: Mapping[str, Any] | None) -> tuple[dict[str, str], dict[str, Any]]:
    """The entities and the attributes that stand in `metadata`. Raises InvalidEventError."""
    if metadata is None:
        metadata = {}
    if not isinstance(metadata, Mapping):
        raise InvalidEventError("metadata", f"expected a mapping such as {{'lot': 'L1'}}, got {type(metadata).__name__}")
    own = metadata.get("entities", {})
    if not isinstance(own, Mapping):
        raise InvalidEventError("metadata.entities", f"expected a mapping such as {{'robot': 'R2'}}, got {type(own).__name__}")
    entities = {**{key: value for key, value in metadata.items() if key in ENTITIES}, **own}
    attributes = {key: value for key, value in metadata.items() if key not in ENTITIES and key != "entities"}
    event = _clean.mend({"kind": "start", "name": name, "entities": _texts(entities), "attributes": attributes})
    return event["entities"], event["attributes"]


def abort_open(kind: str, message: str) -> None:
    """Report that every run which is under way dies with the process, the innermost first."""
    for run in reversed(list(_open.values())):
        run.abort(kind, message)


def forget_open() -> None:
    """Forget the runs under way: in a forked child, where they are the parent's."""
    _open.clear()


def describe(error: BaseException) -> dict[str, str]:
    """An exception as the event's `error`, whatever the exception's own methods do."""
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    try:
        message = str(error)
        stack = "".join(traceback.format_exception(kind, error, error.__traceback__))
    except Exception as broken:  # noqa: BLE001 - an exception that can't be shown must not hide the one it is
        message, stack = f"(its text can't be had: {type(broken).__name__})", "".join(traceback.format_tb(error.__traceback__))
    return {"type": name[:MAX_TEXT], "message": _cut(message, _LONGEST_ERROR), "stack": _cut(stack, _LONGEST_STACK)}


def _is_success(error: BaseException) -> bool:
    return isinstance(error, SystemExit) and error.code in (None, 0)


def _entities(entities: Mapping[str, Any]) -> dict[str, str]:
    checked: dict[str, str] = _clean.clean({"kind": "log", "name": "bind", "entities": _texts(entities)})["entities"]
    return checked


def _texts(entities: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers as text: wafer 7 is as good as wafer "7"."""
    return {
        key: str(value) if isinstance(value, int) and not isinstance(value, bool) else value for key, value in entities.items()
    }


def _cut(text: str, longest: int) -> str:
    """Head and tail of a text that is too long."""
    if len(text) <= longest:
        return text
    half = longest // 2
    return f"{text[:half]}\n... {len(text) - 2 * half} characters left out ...\n{text[-half:]}"
