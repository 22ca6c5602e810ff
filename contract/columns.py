"""The flat layout: the event as one row, the same in the hot store, the lake, every adapter and the unified view."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, Literal, NamedTuple

import msgspec
from msgspec import UNSET

from contract.event import ErrorDetail, Event, StateChange, kind_of, severity_of

LogicalType = Literal["string", "int64", "float64", "timestamp", "json"]


class Column(NamedTuple):
    """One column of the flat layout; `timestamp` is UTC microseconds without zone, `json` is JSON text."""

    name: str
    type: LogicalType
    nullable: bool
    description: str


PROMOTED_ENTITIES: Final = ("lot", "wafer", "tool", "chamber", "recipe", "step", "product", "operator")
"""Entities that everyone filters by, as columns of their own beside `entities`."""

COLUMNS: Final = (
    Column("event_id", "string", False, "UUID of the event: the idempotency key everywhere"),
    Column("timestamp", "timestamp", False, "When it happened, UTC"),
    Column("kind", "string", False, "start, progress, finish, error, metric, log or state"),
    Column("name", "string", False, "The operation, metric, logger or state machine"),
    Column("site_id", "string", False, "The site that it happened at"),
    Column("app_name", "string", False, "The program that reported it"),
    Column("app_version", "string", True, "Version of that program"),
    Column("app_instance_id", "string", True, "Instance of that program"),
    Column("run_id", "string", True, "UUID of the run that it belongs to"),
    Column("parent_run_id", "string", True, "UUID of the run around that one"),
    Column("emitter_id", "string", True, "UUID of the process start that reported it"),
    Column("emitter_seq", "int64", True, "Number of the event in that process, from 1; a gap proves a loss"),
    Column("lot", "string", True, "Entity: lot"),
    Column("wafer", "string", True, "Entity: wafer"),
    Column("tool", "string", True, "Entity: tool"),
    Column("chamber", "string", True, "Entity: chamber"),
    Column("recipe", "string", True, "Entity: recipe"),
    Column("step", "string", True, "Entity: step"),
    Column("product", "string", True, "Entity: product"),
    Column("operator", "string", True, "Entity: operator"),
    Column("entities", "json", True, "All entities, as a JSON object"),
    Column("status", "string", True, "ok, failed or aborted; on finish and error"),
    Column("severity", "string", False, "debug, info, warning, error or critical"),
    Column("message", "string", True, "Text for people"),
    Column("progress", "float64", True, "From 0 to 1; on progress"),
    Column("duration_ms", "float64", True, "Milliseconds by a monotonic clock; on finish and error"),
    Column("state_from", "string", True, "The state before; on state"),
    Column("state_to", "string", True, "The state from now on; on state"),
    Column("metrics", "json", True, "Measured values, as a JSON object of numbers"),
    Column("error_type", "string", True, "Type of the error"),
    Column("error_message", "string", True, "What the error said"),
    Column("error_stack", "string", True, "Where it was raised"),
    Column("trace_id", "string", True, "W3C trace id"),
    Column("span_id", "string", True, "W3C span id"),
    Column("attributes", "json", True, "Everything else, as JSON text as it was received"),
)

NAMES: Final = tuple(column.name for column in COLUMNS)

_encode = msgspec.json.Encoder().encode
_NO_ENTITIES: Final[Mapping[str, str]] = {}


def _text(value: Any) -> Any:
    return None if value is UNSET else value


def flatten(event: Event) -> tuple[Any, ...]:
    """One row in the order of `COLUMNS`: str, int, float, naive UTC datetime, JSON text as str, or None."""
    app, emitter, entities = event.app, event.emitter, event.entities
    named = _NO_ENTITIES if entities is UNSET else entities
    state: StateChange | None = getattr(event, "state", None)
    error: ErrorDetail | None = getattr(event, "error", None) or None
    return (
        event.event_id,
        event.timestamp.astimezone(UTC).replace(tzinfo=None),
        kind_of(event),
        event.name,
        event.site_id,
        app.name,
        _text(app.version),
        _text(app.instance_id),
        _text(event.run_id),
        _text(event.parent_run_id),
        None if emitter is UNSET else emitter.id,
        None if emitter is UNSET else emitter.seq,
        *[named.get(name) for name in PROMOTED_ENTITIES],
        None if entities is UNSET else _encode(entities).decode(),
        _text(getattr(event, "status", UNSET)),
        severity_of(event),
        _text(event.message),
        _text(getattr(event, "progress", UNSET)),
        _text(getattr(event, "duration_ms", UNSET)),
        None if state is None else _text(state.from_),
        None if state is None else state.to,
        None if event.metrics is UNSET else _encode(event.metrics).decode(),
        None if error is None else error.type,
        None if error is None else error.message,
        None if error is None else _text(error.stack),
        _text(event.trace_id),
        _text(event.span_id),
        None if event.attributes is UNSET else bytes(event.attributes).decode(),
    )


_PLAIN: Final = (
    "event_id", "kind", "name", "site_id", "run_id", "parent_run_id", "status", "severity", "message", "progress", "duration_ms",
    "trace_id", "span_id",
)  # fmt: skip
_NESTED: Final = {
    "app": {"name": "app_name", "version": "app_version", "instance_id": "app_instance_id"},
    "emitter": {"id": "emitter_id", "seq": "emitter_seq"},
    "state": {"from": "state_from", "to": "state_to"},
    "error": {"type": "error_type", "message": "error_message", "stack": "error_stack"},
}
_JSON: Final = ("entities", "metrics", "attributes")


def unflatten(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the flat layout (column name → value, None or absent for NULL) as an event in its JSON shape."""
    event: dict[str, Any] = {name: row[name] for name in _PLAIN if row.get(name) is not None}
    moment = row["timestamp"]
    if isinstance(moment, datetime):
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
        moment = moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
    event["timestamp"] = moment
    for parent, fields in _NESTED.items():
        values = {name: row[column] for name, column in fields.items() if row.get(column) is not None}
        if values:
            event[parent] = values
    for name in _JSON:
        value = row.get(name)
        if value is not None:
            event[name] = json.loads(value) if isinstance(value, str) else value
    return event
