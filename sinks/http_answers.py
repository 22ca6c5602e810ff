"""What an HTTP answer means for a batch: the same reading of status codes and `Retry-After` for every sink that speaks HTTP."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Final

MAX_RETRY_AFTER: Final = 3600.0
"""Seconds; a longer wish is cut to this, so that a wrong clock over there can't silence a backend for days."""


def retry_after_seconds(value: str | None, now: datetime | None = None) -> float | None:
    """Seconds to wait from a `Retry-After` header, in either form (seconds or a date); None when absent or unreadable."""
    if value is None:
        return None
    text = value.strip()
    if text.isdecimal():
        return min(float(text), MAX_RETRY_AFTER)
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    wait = (moment - (now or datetime.now(UTC))).total_seconds()
    return min(max(wait, 0.0), MAX_RETRY_AFTER)


def phrase(status: int) -> str:
    """`503 Service Unavailable` for 503."""
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)
