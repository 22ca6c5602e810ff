"""The whole truth about an event that is not plain: names the first mistake, or mends what the contract lets an SDK mend.

Mended: NaN and infinities (metrics are left out and named in the attribute `dropped_metrics`; in attributes they become null),
text that is not valid Unicode and U+0000 (each such character becomes U+FFFD), a message over 8 KiB (cut, with the attribute
`truncated`), numbers of other libraries, dates, paths and the like.
"""

from __future__ import annotations

import difflib
import enum
import math
import re
from collections.abc import Mapping
from datetime import date, datetime, time, timezone
from decimal import Decimal
from numbers import Integral, Real
from pathlib import PurePath
from typing import Any, Callable
from uuid import UUID

from monitoring_sdk._exceptions import InvalidEventError
from monitoring_sdk._limits import MAX_DEPTH, MAX_INTEGER_DIGITS, MAX_MESSAGE_BYTES, MAX_SITE, MAX_TEXT

KINDS = ("start", "progress", "finish", "error", "metric", "log", "state")
_ANY_KIND = (
    "event_id", "timestamp", "kind", "name", "site_id", "app", "run_id", "parent_run_id", "entities", "severity", "message",
    "metrics", "trace_id", "span_id", "attributes",
)  # fmt: skip
_KIND_FIELDS = {
    "status": ("finish", "error"),
    "duration_ms": ("finish", "error"),
    "error": ("finish", "error"),
    "progress": ("progress",),
    "state": ("state",),
}
ALLOWED = {kind: frozenset(_ANY_KIND).union(field for field, kinds in _KIND_FIELDS.items() if kind in kinds) for kind in KINDS}
"""The fields that an event of each kind may carry."""

CHOICES = {
    "kind": frozenset(KINDS),
    "status": frozenset(("ok", "failed", "aborted")),
    "severity": frozenset(("debug", "info", "warning", "error", "critical")),
}
_SEVERITIES = ("debug", "info", "warning", "error", "critical")
_ORDERED_CHOICES = {"kind": KINDS, "status": ("ok", "failed", "aborted"), "severity": _SEVERITIES}

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_TIMESTAMP = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d+))?(?:[Zz]|([+-])(\d\d):(\d\d))", re.ASCII
)  # fmt: skip
_HEX = {"trace_id": re.compile(r"[0-9a-f]{32}"), "span_id": re.compile(r"[0-9a-f]{16}")}
_BAD_TEXT = re.compile("[\0\ud800-\udfff]")
_LARGEST_INTEGER = 10**MAX_INTEGER_DIGITS
_FIRST_YEAR, _LAST_YEAR = 1970, 2099

Event = dict[str, Any]


def clean(event: Mapping[str, Any]) -> Event:
    """A valid copy of `event` in plain types. Raises InvalidEventError for the first mistake."""
    if not isinstance(event, Mapping):
        raise InvalidEventError("", f"expected a mapping such as {{'kind': 'log', 'name': 'etch'}}, got {type(event).__name__}")
    event = dict(event)
    for field in ("kind", "name"):
        if field not in event:
            raise InvalidEventError(field, "required field is missing")
    kind = event["kind"] = _choice("kind", event["kind"])
    _check_fields(event, kind)
    copy = {field: _FIELDS[field](field, value) for field, value in event.items()}
    if "metrics" in copy:
        _leave_out(copy)
    if "message" in copy:
        _shorten(copy)
    return copy


def mend(event: Mapping[str, Any]) -> Event:
    """A copy of `event` that the JSON encoder takes and every store can keep. Raises InvalidEventError for what isn't JSON."""
    copy: Event = _mended(clean(event), "", 1)
    return copy


def check_bounds(event: Mapping[str, Any]) -> None:
    """Raise InvalidEventError when `event` nests too deep or holds an integer that is too long."""
    _mended(event, "", 1)


def to_json(value: Any) -> Any:
    """What stands in JSON for a value that has no JSON of its own. Raises TypeError when there is nothing."""
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, (Decimal, PurePath, UUID)):
        return str(value)
    if isinstance(value, Real):
        number = float(value)
        return number if math.isfinite(number) else None
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Mapping):
        return dict(value)
    message = f"expected JSON, got {type(value).__name__}; convert it first"
    raise TypeError(message)


# --------------------------------------------------------------------------------------------------------------- fields


def _check_fields(event: Mapping[str, Any], kind: str) -> None:
    for field in event:
        if field in ALLOWED[kind]:
            continue
        if field in _KIND_FIELDS:
            raise InvalidEventError(field, f"is only allowed on kind {' or '.join(_KIND_FIELDS[field])}, not on {kind}")
        if field == "emitter":
            raise InvalidEventError(field, "is made by the SDK; leave it out")
        close = difflib.get_close_matches(str(field), _FIELDS, n=1)
        hint = f"did you mean '{close[0]}'?" if close else "put data of your own under 'attributes'"
        raise InvalidEventError(str(field), f"unknown field; {hint}")
    if kind == "state" and "state" not in event:
        raise InvalidEventError("state", "required field is missing")


def _choice(path: str, value: Any) -> str:
    text = _text(path, value)
    if text not in CHOICES[path]:
        raise InvalidEventError(path, f"expected one of {', '.join(_ORDERED_CHOICES[path])}, got '{text}'")
    return text


def _text(path: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidEventError(path, f"expected string, got {_type_name(value)}")
    return _valid_text(str.__str__(value))


def _short(path: str, value: Any, longest: int = MAX_TEXT) -> str:
    text = _text(path, value)
    if not text:
        raise InvalidEventError(path, "expected at least 1 character(s)")
    if len(text) > longest:
        raise InvalidEventError(path, f"expected at most {longest} character(s)")
    return text


def _site(path: str, value: Any) -> str:
    return _short(path, value, MAX_SITE)


def _uuid(path: str, value: Any) -> str:
    text = str(value) if isinstance(value, UUID) else _text(path, value)
    if not _UUID.fullmatch(text):
        raise InvalidEventError(path, "expected a UUID in lower case, such as 01890a5d-ac96-774b-bcce-b302099a8057")
    return text


def _hex(path: str, value: Any) -> str:
    text = _text(path, value)
    if not _HEX[path].fullmatch(text):
        raise InvalidEventError(path, f"expected {32 if path == 'trace_id' else 16} lower-case hexadecimal digits")
    return text


def _timestamp(path: str, value: Any) -> str:
    if isinstance(value, datetime):
        if value.tzinfo is None or value.utcoffset() is None:
            raise InvalidEventError(path, "expected a datetime with a time zone, such as datetime.now(timezone.utc)")
        try:
            moment = value.astimezone(timezone.utc)
        except OverflowError as error:
            raise InvalidEventError(path, f"expected a moment from 1970 to 2099, got year {value.year}") from error
        text = moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ") if moment.year >= 1000 else ""
    else:
        text = _text(path, value)
        moment = _moment(path, text)
    if not _FIRST_YEAR <= moment.year <= _LAST_YEAR:
        raise InvalidEventError(path, f"expected a moment from 1970 to 2099, got year {moment.year}")
    return text


def _moment(path: str, text: str) -> datetime:
    expected = "expected an RFC 3339 timestamp with offset, such as 2026-01-31T12:00:00.000Z"
    found = _TIMESTAMP.fullmatch(text)
    if not found:
        raise InvalidEventError(path, expected)
    year, month, day, hour, minute, second = (int(part) for part in found.groups()[:6])
    offset = "+00:00" if found[8] is None else f"{found[8]}{found[9]}:{found[10]}"
    try:
        whole = datetime(year, month, day, hour, minute, second).isoformat()  # noqa: DTZ001 - the offset is in the text
        local = datetime.fromisoformat(whole + offset)
    except ValueError as error:
        raise InvalidEventError(path, expected) from error
    try:
        return local.astimezone(timezone.utc)
    except OverflowError:
        return local


def _number(path: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise InvalidEventError(path, f"expected number, got {_type_name(value)}")
    if isinstance(value, Integral):
        whole = int(value)
        if not -_LARGEST_INTEGER < whole < _LARGEST_INTEGER:
            raise InvalidEventError(path, f"expected a number of at most {MAX_INTEGER_DIGITS} digits")
        return whole
    return float(value)


def _progress(path: str, value: Any) -> float:
    number = _number(path, value)
    if not number >= 0:
        raise InvalidEventError(path, "expected a number not below 0")
    if number > 1:
        raise InvalidEventError(path, "expected a number not above 1")
    return number


def _duration(path: str, value: Any) -> float:
    number = _number(path, value)
    if not 0 <= number < math.inf:
        raise InvalidEventError(path, "expected a number not below 0")
    return number


def _table(check: Callable[[str, Any], Any]) -> Callable[[str, Any], Event]:
    """A check of a map from short text to what `check` takes."""

    def check_table(path: str, value: Any) -> Event:
        copy: Event = {}
        for key, entry in _object(path, value).items():
            if not isinstance(key, str) or not 0 < len(key) <= MAX_TEXT:
                raise InvalidEventError(path, f"expected keys of 1 to {MAX_TEXT} characters")
            copy[_valid_text(str.__str__(key))] = check(f"{path}.{key}", entry)
        return copy

    return check_table


def _struct(required: tuple[str, ...], **checks: Callable[[str, Any], Any]) -> Callable[[str, Any], Event]:
    """A check of an object with these fields and no others."""

    def check_struct(path: str, value: Any) -> Event:
        given = _object(path, value)
        for field in required:
            if field not in given:
                raise InvalidEventError(f"{path}.{field}", "required field is missing")
        for field in given:
            if field not in checks:
                raise InvalidEventError(f"{path}.{field}", "unknown field; put data of your own under 'attributes'")
        return {field: checks[field](f"{path}.{field}", entry) for field, entry in given.items()}

    return check_struct


def _object(path: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidEventError(path, f"expected object, got {_type_name(value)}")
    return value


def _attributes(path: str, value: Any) -> Event:
    return dict(_object(path, value))


_FIELDS: dict[str, Callable[[str, Any], Any]] = {
    "event_id": _uuid,
    "timestamp": _timestamp,
    "kind": _choice,
    "name": _short,
    "site_id": _site,
    "app": _struct(("name",), name=_short, version=_short, instance_id=_short),
    "run_id": _uuid,
    "parent_run_id": _uuid,
    "entities": _table(_short),
    "status": _choice,
    "severity": _choice,
    "message": _text,
    "progress": _progress,
    "duration_ms": _duration,
    "state": _struct(("to",), to=_short, **{"from": _short}),
    "metrics": _table(_number),
    "error": _struct(("type", "message"), type=_short, message=_text, stack=_text),
    "trace_id": _hex,
    "span_id": _hex,
    "attributes": _attributes,
}


# -------------------------------------------------------------------------------------------------------------- mending


def _leave_out(event: Event) -> None:
    """Leave out metrics that are no numbers in JSON, and say so."""
    dropped = [name for name, number in event["metrics"].items() if not math.isfinite(number)]
    if dropped:
        event["metrics"] = {name: number for name, number in event["metrics"].items() if name not in dropped}
        event["attributes"] = {**event.get("attributes", {}), "dropped_metrics": dropped}


def _shorten(event: Event) -> None:
    """Cut a message that is too long, between two characters, and say so."""
    message = event["message"]
    if len(message) * 4 > MAX_MESSAGE_BYTES:
        raw = message.encode()
        if len(raw) > MAX_MESSAGE_BYTES:
            event["message"] = raw[:MAX_MESSAGE_BYTES].decode(errors="ignore")
            event["attributes"] = {**event.get("attributes", {}), "truncated": True}


def _mended(value: Any, path: str, depth: int) -> Any:
    if isinstance(value, str):
        return _valid_text(str.__str__(value))
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        if not -_LARGEST_INTEGER < value < _LARGEST_INTEGER:
            raise InvalidEventError(path, f"integer of more than {MAX_INTEGER_DIGITS} digits")
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, (Mapping, list, tuple)):
        if depth > MAX_DEPTH:
            raise InvalidEventError(path.partition(".")[0], f"nests deeper than {MAX_DEPTH} levels")
        if isinstance(value, Mapping):
            return {
                _valid_text(_key(key, path)): _mended(entry, f"{path}.{key}" if path else str(key), depth + 1)
                for key, entry in value.items()
            }
        return [_mended(entry, f"{path}.{index}", depth + 1) for index, entry in enumerate(value)]
    try:
        return _mended(to_json(value), path, depth)
    except TypeError as error:
        raise InvalidEventError(path, str(error)) from error


def _key(key: Any, path: str) -> str:
    """A key as the JSON encoder writes it."""
    if isinstance(key, str):
        return str.__str__(key)
    if key is None or isinstance(key, bool):
        return {None: "null", True: "true", False: "false"}[key]
    if isinstance(key, (int, float)):
        return repr(key)
    raise InvalidEventError(path, f"expected keys that are text, got {type(key).__name__}")


def _valid_text(text: str) -> str:
    return _BAD_TEXT.sub("\ufffd", text) if not text.isascii() or "\0" in text else text


_TYPE_NAMES = {type(None): "null", bool: "boolean", int: "integer", float: "number", str: "string", list: "array", tuple: "array"}


def _type_name(value: Any) -> str:
    return _TYPE_NAMES.get(type(value), "object" if isinstance(value, Mapping) else type(value).__name__)
