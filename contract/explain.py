"""Words for what is wrong with an event: a dotted path, and what was expected there."""

from __future__ import annotations

import difflib
import json
import re
from typing import Any, Final

import msgspec

from contract.errors import InvalidEvent
from contract.event import KIND_FIELDS, KINDS
from contract.limits import MAX_DEPTH

UUID_EXPECTED: Final = "expected a UUID in lower case, such as 01890a5d-ac96-774b-bcce-b302099a8057"
TIMESTAMP_EXPECTED: Final = "expected an RFC 3339 timestamp with offset, such as 2026-01-31T12:00:00.000Z"

_ENUMS: Final = {
    "kind": KINDS,
    "status": ("ok", "failed", "aborted"),
    "severity": ("debug", "info", "warning", "error", "critical"),
}
_FIELDS: Final = (
    "event_id", "timestamp", "kind", "name", "site_id", "app", "run_id", "parent_run_id", "emitter", "entities", "status",
    "severity", "message", "progress", "duration_ms", "state", "metrics", "error", "trace_id", "span_id", "attributes",
)  # fmt: skip
_TYPE_NAMES: Final = {
    "str": "string",
    "float": "number",
    "int": "integer",
    "bool": "boolean",
    "null": "null",
    "datetime": "string",
}
_UUID_FIELDS: Final = ("event_id", "run_id", "parent_run_id", "emitter.id")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`$", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(.*)`$")
_EXPECTED_GOT = re.compile(r"Expected `(.+)`, got `(.+)`$")
_LENGTH = re.compile(r"Expected `str` of length (>=|<=) (\d+)$")
_BOUND = re.compile(r"Expected `(?:float|int)` (>=|<=) ([\d.]+)$")
_PATTERN = re.compile(r"Expected `str` matching regex ")


def from_validation(error: msgspec.ValidationError, raw: bytes) -> InvalidEvent:
    """msgspec's finding about the event `raw`, in the contract's words."""
    text, _, where = str(error).partition(" - at ")
    path = where.strip("`").removeprefix("$").removeprefix(".")
    if "key` in `" in where:
        table = where.rpartition("$.")[2].rstrip("`")
        return InvalidEvent(table, "expected keys of 1 to 256 characters")
    if path.endswith("[...]"):
        path = _name_the_entry(path.removesuffix("[...]"), raw)
    if found := _UNKNOWN.match(text):
        return _unknown_field(path, found.group(1), raw)
    if found := _MISSING.match(text):
        return InvalidEvent(_join(path, found.group(1)), "required field is missing")
    return InvalidEvent(path, _reason(path, text, raw))


def _reason(path: str, text: str, raw: bytes) -> str:
    if text == "Expected `str`":
        return f"expected string, got {json_type(_at(path, raw))}"
    if path in _UUID_FIELDS and not _EXPECTED_GOT.match(text):
        return UUID_EXPECTED
    if path == "timestamp" and not text.endswith("`"):
        return TIMESTAMP_EXPECTED
    if path in _ENUMS and text.startswith("Invalid"):
        got = re.sub(r"^Invalid (enum )?value ", "", text)
        return f"expected one of {', '.join(_ENUMS[path])}, got {got}"
    if found := _EXPECTED_GOT.match(text):
        wanted = " or ".join(_TYPE_NAMES.get(name.strip(), name.strip()) for name in found.group(1).split("|"))
        return f"expected {wanted}, got {_TYPE_NAMES.get(found.group(2), found.group(2))}"
    if found := _LENGTH.match(text):
        return f"expected at {'least' if found.group(1) == '>=' else 'most'} {found.group(2)} character(s)"
    if found := _BOUND.match(text):
        return f"expected a number {'not below' if found.group(1) == '>=' else 'not above'} {found.group(2).removesuffix('.0')}"
    if _PATTERN.match(text):
        return f"expected {32 if path == 'trace_id' else 16} lower-case hexadecimal digits"
    return text


def _unknown_field(parent: str, name: str, raw: bytes) -> InvalidEvent:
    path = _join(parent, name)
    if not parent and name in KIND_FIELDS:
        kind = _loads(raw).get("kind")
        return InvalidEvent(path, f"is only allowed on kind {' or '.join(KIND_FIELDS[name])}, not on {kind}")
    close = difflib.get_close_matches(name, _FIELDS, n=1) if not parent else []
    hint = f"did you mean '{close[0]}'?" if close else "put data of your own under 'attributes'"
    return InvalidEvent(path, f"unknown field; {hint}")


def _name_the_entry(path: str, raw: bytes) -> str:
    """msgspec says `[...]` for an entry of a map; find the first entry that is of the wrong type."""
    table = _loads(raw).get(path)
    if not isinstance(table, dict):
        return path
    wanted: tuple[type, ...] = (int, float) if path == "metrics" else (str,)
    for key, value in table.items():
        if isinstance(value, bool) or not isinstance(value, wanted) or (isinstance(value, str) and not 1 <= len(value) <= 256):
            return _join(path, key)
    return path


def check_values(event: dict[str, Any]) -> None:
    """Raise InvalidEvent for text that no store can keep (U+0000, lone surrogates) and for nesting beyond the limit."""
    stack: list[tuple[str, Any, int]] = [("", event, 1)]
    while stack:
        path, value, depth = stack.pop()
        if isinstance(value, str):
            _check_text(path, value)
            continue
        if not isinstance(value, dict | list):
            continue
        if depth > MAX_DEPTH:
            raise InvalidEvent(path.partition(".")[0], f"nests deeper than {MAX_DEPTH} levels")
        if isinstance(value, dict):
            for key, entry in value.items():
                _check_text(path, key)
                stack.append((_join(path, key), entry, depth + 1))
        else:
            stack.extend((_join(path, str(index)), entry, depth + 1) for index, entry in enumerate(value))


def _check_text(path: str, text: str) -> None:
    if "\0" in text:
        raise InvalidEvent(path, "contains U+0000, which no store can keep; leave it out")
    try:
        text.isascii() or text.encode()
    except UnicodeEncodeError as error:
        raise InvalidEvent(path, "contains a lone surrogate, which is not valid Unicode") from error


def json_type(value: Any) -> str:
    """The name that JSON Schema has for the type of a decoded value."""
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
        case _:
            return "object"


_EVENT_ID = re.compile(rb'"event_id"\s*:\s*"([^"\\]{1,64})"')


class _IdOnly(msgspec.Struct):
    event_id: str


def event_id(raw: bytes) -> str | None:
    """The id that a rejected event carries, when it can be read."""
    try:
        return msgspec.json.decode(raw, type=_IdOnly).event_id[:64]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        found = _EVENT_ID.search(raw)
        return found.group(1).decode(errors="replace") if found else None


def _at(path: str, raw: bytes) -> Any:
    value: Any = _loads(raw)
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _loads(raw: bytes) -> dict[str, Any]:
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _join(path: str, name: str) -> str:
    name = name if len(name) <= 64 else name[:61] + "..."
    return f"{path}.{name}" if path else name
