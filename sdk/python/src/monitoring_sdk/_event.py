"""From what a program hands over to the event's JSON text: checked against the contract at once, copied, and bounded.

Nearly every event is plain: exact built-in types, nothing nested in `attributes`, far from every limit. `plain_copy` finds
that out while it copies, in a microsecond or two, and leaves the JSON to the worker's `text_of`. What is not plain goes through
`monitoring_sdk._clean`, which names the mistake or mends what may be mended, and `encode`s on the spot, since only that tells
whether it is JSON and how large it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from json import encoder as json_encoder
from typing import Any, Callable, Union

from monitoring_sdk import _clean
from monitoring_sdk._clean import CHOICES
from monitoring_sdk._exceptions import InvalidEventError
from monitoring_sdk._limits import MAX_DEPTH, MAX_EVENT_BYTES, MAX_INTEGER_DIGITS, MAX_TEXT

Captured = Union["dict[str, Any]", str]
"""An event's own fields, as nobody else's plain copy or as JSON text."""

HEAD_BYTES = 220
"""What the worker puts before the event's own fields (ids, timestamp, emitter), at most."""

# An event within these is below 256 KiB even when every character needs an escape of six bytes.
_PLAIN_ENTRIES = 24
_PLAIN_KINDS = frozenset(_clean.KINDS) - {"state"}
_ENDS = frozenset(("finish", "error"))
_PLAIN_TEXT = 256
_PLAIN_TEXTS = {"kind": MAX_TEXT, "name": MAX_TEXT, "message": 2048}
_PLAIN_INTEGER = 10**15

_LONG_NUMBER = re.compile(f"[0-9]{{{MAX_INTEGER_DIGITS + 1}}}")
_DIGIT = re.compile(r"[0-9]")


def _make_encoder() -> Callable[[Any], str]:
    make = getattr(json_encoder, "c_make_encoder", None)
    if make is None:
        return json.JSONEncoder(
            ensure_ascii=False, separators=(",", ":"), allow_nan=False, check_circular=False, default=_clean.to_json
        ).encode
    chunks = make(None, _clean.to_json, json_encoder.encode_basestring, None, ":", ",", False, False, False)
    join = "".join

    def encode_in_c(value: Any) -> str:
        return join(chunks(value, 0))

    return encode_in_c


to_text = _make_encoder()
"""JSON text of a value, without white space. Raises ValueError for NaN and infinities, TypeError for what isn't JSON."""


def encode(event: dict[str, Any], head: str) -> str:
    """The JSON text of a clean event's own fields; `head` is the text of the fields that come from elsewhere (site, app, run).

    Raises InvalidEventError for what isn't JSON, and for an event that is too large.
    """
    text, size = _encode(event)
    if size + len(head.encode()) + HEAD_BYTES > MAX_EVENT_BYTES:
        raise InvalidEventError(
            "", f"the event has more than {MAX_EVENT_BYTES} bytes; keep large data elsewhere and send its address"
        )
    return text


def text_of(captured: Captured) -> str:
    """The JSON text of a captured event's own fields."""
    if isinstance(captured, str):
        return captured
    text = to_text(captured)
    return text if text.isascii() and "\\u0000" not in text else _encode(captured)[0]


def _encode(event: dict[str, Any]) -> tuple[str, int]:
    try:
        text = to_text(event)
        if "\\u0000" in text:
            event = _clean.mend(event)
            text = to_text(event)
        size = len(text) if text.isascii() else len(text.encode())
    except (ValueError, TypeError, RecursionError):  # NaN, a lone surrogate, what is not JSON, a list that contains itself
        event = _clean.mend(event)
        text = to_text(event)
        size = len(text.encode())
    # Any run of 309 digits covers one of every 309 places, so a look at these is enough to rule it out.
    long = _DIGIT.search(text[MAX_INTEGER_DIGITS :: MAX_INTEGER_DIGITS + 1]) and _LONG_NUMBER.search(text)
    if long or text.count("{") + text.count("[") > MAX_DEPTH:
        _clean.check_bounds(event)
    return text, size


def plain_copy(event: Mapping[str, Any]) -> dict[str, Any] | None:  # noqa: C901 - one pass without calls is the point
    """A copy of an event that is surely valid and small; None when that takes a closer look."""
    if type(event) is not dict:
        return None
    copy = event.copy()
    kind = copy.get("kind")
    if type(kind) is not str or kind not in _PLAIN_KINDS or "name" not in copy:
        return None
    for field, value in copy.items():
        value_type = type(value)
        if value_type is str:
            longest = _PLAIN_TEXTS.get(field)
            if longest is None:
                if field != "severity" and (field != "status" or kind not in _ENDS):
                    return None
                if value not in CHOICES[field]:
                    return None
            elif not 0 < len(value) <= longest:
                return None
        elif value_type is dict:
            is_plain = _PLAIN_TABLES.get(field)
            inner = copy[field] = value.copy()
            if is_plain is None or not is_plain(inner) or len(inner) > _PLAIN_ENTRIES:
                return None
        elif value_type is float or value_type is int:
            if field == kind == "progress":
                if not 0 <= value <= 1:
                    return None
            elif field != "duration_ms" or kind not in _ENDS or not 0 <= value < _PLAIN_INTEGER:
                return None
        else:
            return None
    return copy


def _are_plain_entities(table: dict[Any, Any]) -> bool:
    for key, value in table.items():
        if type(value) is str is type(key) and 0 < len(value) <= MAX_TEXT and 0 < len(key) <= MAX_TEXT:
            continue
        return False
    return True


def _are_plain_metrics(table: dict[Any, Any]) -> bool:
    for key, value in table.items():
        if type(value) is float:
            if value - value != 0.0:  # infinity and NaN, less themselves, are NaN
                return False
        elif type(value) is not int or not -_PLAIN_INTEGER < value < _PLAIN_INTEGER:
            return False
        if type(key) is not str or not 0 < len(key) <= MAX_TEXT:
            return False
    return True


def _are_plain_attributes(table: dict[Any, Any]) -> bool:
    for key, value in table.items():
        value_type = type(value)
        if value_type is str:
            if len(value) > _PLAIN_TEXT:
                return False
        elif value_type is int:
            if not -_PLAIN_INTEGER < value < _PLAIN_INTEGER:
                return False
        elif value_type is float:
            if value - value != 0.0:
                return False
        elif value_type is not bool and value is not None:
            return False
        if type(key) is not str or len(key) > _PLAIN_TEXT:
            return False
    return True


_PLAIN_TABLES = {"entities": _are_plain_entities, "metrics": _are_plain_metrics, "attributes": _are_plain_attributes}


def head_of(fields: Mapping[str, Any]) -> str:
    """The text of fields that stand before an event's own, each with a comma after it."""
    return to_text(fields)[1:-1] + "," if fields else ""
