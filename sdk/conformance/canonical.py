"""The canonical form of an event, in which what arrived is compared with what was meant, byte for byte."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

_TIMESTAMP = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d+))?(?:[Zz]|([+-])(\d\d):(\d\d))")


def canonical(event: dict[str, Any], *, exact_integers: bool = True) -> str:
    """The canonical text of an event, as `contract/PROTOCOL.md` says.

    `exact_integers`: whole numbers are compared as they are; else as doubles, for a language that has no others.
    """
    copy = dict(event)
    if "timestamp" in copy:
        copy["timestamp"] = canonical_time(copy["timestamp"])
    return json.dumps(_numbers(copy, exact_integers), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def canonical_time(text: str) -> str:
    """An RFC 3339 timestamp in UTC with six decimals; digits beyond microseconds are cut off."""
    found = _TIMESTAMP.fullmatch(text)
    if found is None:
        message = f"not an RFC 3339 timestamp with offset: {text!r}"
        raise ValueError(message)
    day, clock, fraction, sign, hours, minutes = found.groups()
    moment = datetime.fromisoformat(f"{day}T{clock}").replace(tzinfo=UTC)
    if sign:
        offset = timedelta(hours=int(hours), minutes=int(minutes))
        moment += offset if sign == "-" else -offset
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{(fraction or '')[:6]:0<6}Z"


def _numbers(value: Any, exact: bool) -> Any:
    if isinstance(value, dict):
        return {key: _numbers(item, exact) for key, item in value.items()}
    if isinstance(value, list):
        return [_numbers(item, exact) for item in value]
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    if isinstance(value, int):
        return value if exact or abs(value) < 2**53 else float(value)
    if value.is_integer() and abs(value) < 1e15:
        return int(value)
    return value
