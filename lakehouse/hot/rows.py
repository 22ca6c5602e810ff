"""Events as the text that COPY reads, in as few Python operations a row as possible.

The text is CSV with control characters in place of comma and quote, so that JSON goes through unescaped. A row is joined without
looking into its fields; then a whole chunk is proved clean at once by counting the control characters in it. Only a chunk that
fails the proof is written again with quotes. An empty field is NULL; an empty string is a pair of quotes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC
from typing import Any, Final, LiteralString

import msgspec
from msgspec import UNSET
from msgspec.structs import astuple

from contract.event import Error, Event, EventBase, Finish, Progress, State

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
_BASE: Final = slice(-len(EventBase.__struct_fields__), None)
"""Where an event's tuple has the fields of every kind; those of its own kind stand before them."""
_lines = msgspec.json.Encoder().encode_lines


def events_text(events: Sequence[Event]) -> tuple[int, bytes]:
    """How many rows the events make, and those rows as COPY reads them."""
    rows = list(
        map(_event_row, events, _moments(events), _texts([e.entities for e in events]), _texts([e.metrics for e in events]))
    )
    return len(rows), _copy_text(rows, len(EVENT_COLUMNS))


def metrics_text(events: Sequence[Event]) -> tuple[int, bytes]:
    """How many rows the events' metrics make, and those rows as COPY reads them."""
    measured = [event for event in events if event.metrics]
    rows = [row for event, moment in zip(measured, _moments(measured), strict=True) for row in _metric_rows(event, moment)]
    return len(rows), _copy_text(rows, len(METRIC_COLUMNS)) if rows else b""


def _moments(events: Sequence[Event]) -> list[str]:
    """The events' timestamps as PostgreSQL's `timestamp` reads them: it ignores an offset, so every one must be UTC."""
    text = _lines([event.timestamp for event in events]).decode()
    if text.count("Z") != len(events):
        text = _lines([event.timestamp.astimezone(UTC) for event in events]).decode()
    return text.replace('"', "").split("\n")[:-1]


def _texts(objects: Sequence[Any]) -> list[str]:
    """Each object as JSON, nothing for what is UNSET; encoded all at once, which costs a fraction of one by one."""
    return _lines([_NOTHING if each is UNSET else each for each in objects]).decode().split("\n")[:-1]


def _event_row(event: Event, moment: str, entities: str, metrics: str) -> Row:
    """One event's fields as text, in the order of EVENT_COLUMNS."""
    # All at once: a batch mixes kinds, and Python caches the place of an attribute for one class only.
    (
        event_id, _, name, site_id, app, run_id, parent_run_id, emitter, named, severity, message, measured, trace_id, span_id,
        attributes,
    ) = astuple(event)[_BASE]  # fmt: skip
    kind = event.kind
    emitter_id, emitter_seq = ("", "") if emitter is UNSET else (emitter.id, str(emitter.seq))
    get = (named or _NOTHING).get
    status, progress, duration, state_from, state_to, error_type, error_message, error_stack = (
        _TAILS[kind](event) if kind in _TAILS else _NO_TAIL
    )
    return (
        event_id,
        moment,
        kind,
        name,
        site_id,
        app.name,
        app.version or "",
        app.instance_id or "",
        run_id or "",
        parent_run_id or "",
        emitter_id,
        emitter_seq,
        get("lot", ""),
        get("wafer", ""),
        get("tool", ""),
        get("chamber", ""),
        get("recipe", ""),
        get("step", ""),
        get("product", ""),
        get("operator", ""),
        "" if named is UNSET else entities,
        severity or event.default_severity,
        message or ("" if message is UNSET else _EMPTY),
        "" if measured is UNSET else metrics,
        trace_id or "",
        span_id or "",
        "" if attributes is UNSET else str(attributes, "utf-8"),
        status,
        progress,
        duration,
        state_from,
        state_to,
        error_type,
        error_message,
        error_stack,
    )


def _progress_tail(event: Progress) -> Row:
    return ("", _number(event.progress), "", "", "", "", "", "")


def _state_tail(event: State) -> Row:
    return ("", "", "", event.state.from_ or "", event.state.to, "", "", "")


def _end_tail(event: Finish | Error) -> Row:
    error = event.error
    detail = ("", "", "") if error is UNSET else (error.type, error.message or _EMPTY, _text(error.stack))
    return (event.status or "", "", _number(event.duration_ms), "", "", *detail)


_TAILS: Final[dict[str, Callable[[Any], Row]]] = {
    "progress": _progress_tail,
    "state": _state_tail,
    "finish": _end_tail,
    "error": _end_tail,
}


def _number(value: Any) -> str:
    return "" if value is UNSET else repr(value)


def _text(value: Any) -> str:
    return value or ("" if value is UNSET else _EMPTY)


def _metric_rows(event: Event, moment: str) -> list[Row]:
    """One row a measured value, in the order of METRIC_COLUMNS."""
    get = (event.entities or _NOTHING).get
    start = (event.event_id, moment, event.site_id, event.app.name, get("tool", ""), get("chamber", ""), get("recipe", ""))
    return [] if event.metrics is UNSET else [(*start, name, repr(value)) for name, value in event.metrics.items()]


def _copy_text(rows: Sequence[Row], width: int) -> bytes:
    """The rows as COPY reads them; each has `width` fields."""
    text = "\n".join(map(DELIMITER.join, rows)) + "\n"
    clean = (
        text.count("\n") == len(rows)
        and text.count(DELIMITER) == len(rows) * (width - 1)
        and QUOTE not in text
        and "\r" not in text
    )
    return (text if clean else "".join(map(_quoted, rows))).encode()


def _quoted(row: Row) -> str:
    return DELIMITER.join(map(_field, row)) + "\n"


def _field(field: str) -> str:
    # By identity: a field that holds the same two characters is data.
    if field is _EMPTY or _SPECIAL.isdisjoint(field):
        return field
    return QUOTE + field.replace(QUOTE, _EMPTY) + QUOTE
