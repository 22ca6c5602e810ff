"""Events as the text that COPY reads, in as few Python operations a row as possible.

The text is CSV with control characters in place of comma and quote, so that JSON goes through unescaped. A row is joined without
looking into its fields; then a whole chunk is proved clean at once by counting the control characters in it. Only a chunk that
fails the proof is written again with quotes. An empty field is NULL; an empty string is a pair of quotes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final, LiteralString

import msgspec
from msgspec import UNSET

from contract.event import Error, Event, Finish, Progress, State

DELIMITER: Final = "\x01"
QUOTE: Final = "\x02"
COPY_OPTIONS: Final[LiteralString] = r"(FORMAT csv, DELIMITER E'\x01', QUOTE E'\x02')"

EVENT_COLUMNS: Final = (
    "event_id", "timestamp", "kind", "name", "site_id", "app_name", "app_version", "app_instance_id", "run_id", "parent_run_id",
    "emitter_id", "emitter_seq", "lot", "wafer", "tool", "chamber", "recipe", "step", "product", "operator", "entities",
    "severity", "message", "metrics", "trace_id", "span_id", "attributes",
    "status", "progress", "duration_ms", "state_from", "state_to", "error_type", "error_message", "error_stack",
)  # fmt: skip
"""The flat layout, with what only some kinds carry at the end."""

METRIC_COLUMNS: Final = ("event_id", "timestamp", "site_id", "app_name", "tool", "chamber", "recipe", "name", "value")

Row = tuple[str, ...]

_EMPTY: Final = QUOTE + QUOTE
_SPECIAL: Final = frozenset(DELIMITER + QUOTE + "\r\n")
_NOTHING: Final[dict[str, str]] = {}
_NO_TAIL: Final = ("",) * 8
_NO_ENTITIES: Final = ("",) * 9
_PLAIN_KINDS: Final = frozenset({"start", "metric", "log"})
_encode = msgspec.json.Encoder().encode


def event_row(event: Event) -> Row:
    """One event's fields as text, in the order of EVENT_COLUMNS."""
    app, emitter, entities, message, metrics, attributes = (
        event.app, event.emitter, event.entities, event.message, event.metrics, event.attributes,
    )  # fmt: skip
    kind = event.kind
    return (
        event.event_id,
        utc_text(event.timestamp),
        kind,
        event.name,
        event.site_id,
        app.name,
        app.version or "",
        app.instance_id or "",
        event.run_id or "",
        event.parent_run_id or "",
        *(("", "") if emitter is UNSET else (emitter.id, str(emitter.seq))),
        *(_NO_ENTITIES if entities is UNSET else _entity_fields(entities)),
        event.severity or event.default_severity,
        message or ("" if message is UNSET else _EMPTY),
        "" if metrics is UNSET else _encode(metrics).decode(),
        event.trace_id or "",
        event.span_id or "",
        "" if attributes is UNSET else bytes(attributes).decode(),
        *(_NO_TAIL if kind in _PLAIN_KINDS else _tail(event)),
    )


def utc_text(moment: datetime) -> str:
    """A moment as PostgreSQL's `timestamp` reads it: it ignores the offset, so the offset must be UTC's."""
    return (moment if moment.tzinfo is UTC else moment.astimezone(UTC)).isoformat()


def _entity_fields(named: dict[str, str]) -> Row:
    get = named.get
    return (
        get("lot", ""),
        get("wafer", ""),
        get("tool", ""),
        get("chamber", ""),
        get("recipe", ""),
        get("step", ""),
        get("product", ""),
        get("operator", ""),
        _encode(named).decode(),
    )


def _number(value: Any) -> str:
    return "" if value is UNSET else repr(value)


def _tail(event: Event) -> Row:
    if isinstance(event, Progress):
        return ("", _number(event.progress), "", "", "", "", "", "")
    if isinstance(event, State):
        return ("", "", "", event.state.from_ or "", event.state.to, "", "", "")
    if isinstance(event, Finish | Error):
        error = event.error
        detail = ("", "", "") if error is UNSET else (error.type, error.message or _EMPTY, _text(error.stack))
        return (event.status or "", "", _number(event.duration_ms), "", "", *detail)
    return _NO_TAIL


def _text(value: Any) -> str:
    return value or ("" if value is UNSET else _EMPTY)


def metric_rows(event: Event) -> list[Row]:
    """One row a measured value, in the order of METRIC_COLUMNS."""
    metrics = event.metrics
    if metrics is UNSET:
        return []
    named = _NOTHING if event.entities is UNSET else event.entities
    start = (
        event.event_id,
        utc_text(event.timestamp),
        event.site_id,
        event.app.name,
        named.get("tool", ""),
        named.get("chamber", ""),
        named.get("recipe", ""),
    )
    return [(*start, name, repr(value)) for name, value in metrics.items()]


def events_text(events: Sequence[Event]) -> tuple[int, bytes]:
    """How many rows the events make, and those rows as COPY reads them."""
    return len(events), copy_text([event_row(event) for event in events], len(EVENT_COLUMNS))


def metrics_text(events: Sequence[Event]) -> tuple[int, bytes]:
    """How many rows the events' metrics make, and those rows as COPY reads them."""
    lines = [row for event in events if event.metrics is not UNSET for row in metric_rows(event)]
    return len(lines), copy_text(lines, len(METRIC_COLUMNS)) if lines else b""


def copy_text(rows: Sequence[Row], width: int) -> bytes:
    """The rows as COPY reads them; each has `width` fields."""
    text = "\n".join(map(DELIMITER.join, rows)) + "\n"
    clean = (
        text.count("\n") == len(rows)
        and text.count(DELIMITER) == len(rows) * (width - 1)
        and QUOTE not in text
        and "\r" not in text
    )
    return (text if clean else "".join(map(_quoted, rows))).encode()


def _quoted(row: Iterable[str]) -> str:
    return DELIMITER.join(map(_field, row)) + "\n"


def _field(field: str) -> str:
    # By identity: a field that holds the same two characters is data.
    if field is _EMPTY or _SPECIAL.isdisjoint(field):
        return field
    return QUOTE + field.replace(QUOTE, _EMPTY) + QUOTE
