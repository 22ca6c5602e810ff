"""Moments as callers write them: RFC 3339 with offset, `now`, or back from now (`-15m`, `-1h`, `-7d`)."""

from __future__ import annotations

import datetime as dt
import re
from typing import Final

from contract.limits import MAX_TIMESTAMP, MIN_TIMESTAMP
from federation.gateway.errors import ApiError

_RELATIVE: Final = re.compile(r"-(\d{1,9})(ms|s|m|h|d|w)")
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0, "w": 604_800.0}
_RFC3339: Final = re.compile(r"\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}:\d{2}(\.\d{1,9})?([Zz]|[+-]\d{2}:\d{2})")
_EXPECTED: Final = "RFC 3339 with offset (2026-01-31T12:00:00Z; in a URL write + as %2B), now, or back from now such as -1h"


def is_relative(text: str) -> bool:
    """Whether the text means another moment a second later."""
    return text == "now" or _RELATIVE.fullmatch(text) is not None


def parse(text: str, where: str, now: dt.datetime) -> dt.datetime:
    """The moment that `text` means, in UTC; raises `ApiError` (400) naming the parameter `where`."""
    if text == "now":
        return now
    moment: dt.datetime | None = None
    found = _RELATIVE.fullmatch(text)
    try:
        if found is not None:
            moment = now - dt.timedelta(seconds=int(found[1]) * _UNITS[found[2]])
        elif _RFC3339.fullmatch(text):
            whole, _, fraction = text.partition(".")
            digits = re.match(r"\d*", fraction)
            kept = "" if digits is None else digits[0][:6]
            zone = fraction[len(digits[0]) :] if digits is not None else ""
            moment = dt.datetime.fromisoformat((f"{whole}.{kept:0<6}{zone}" if fraction else whole).upper()).astimezone(dt.UTC)
    except (ValueError, OverflowError):
        moment = None
    if moment is None:
        raise ApiError(400, "bad_time", f"{where}: {text[:64]!r} is not a moment", where=where, hint=f"write {_EXPECTED}")
    if not MIN_TIMESTAMP <= moment < MAX_TIMESTAMP:
        years = f"{MIN_TIMESTAMP.year} to {MAX_TIMESTAMP.year - 1}"
        raise ApiError(400, "bad_time", f"{where}: {text[:64]} is outside the years {years}", where=where)
    return moment
