"""What an HTTP answer means for a batch: the same reading of status codes and `Retry-After` for every sink that speaks HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Final

from contract.settings import Secret

MAX_RETRY_AFTER: Final = 3600.0
"""Seconds; a longer wish is cut to this, so that a wrong clock over there can't silence a backend for days."""

_SHOWN_CHARACTERS: Final = 300


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer, decompressed."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    content: bytes = field(repr=False)
    secrets: tuple[Secret, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the status is 2xx."""
        return 200 <= self.status < 300

    @property
    def phrase(self) -> str:
        """`503 Service Unavailable`."""
        return phrase(self.status)

    @property
    def retry_after(self) -> float | None:
        """Seconds that the other side asks to wait; None when it doesn't say."""
        return retry_after_seconds(self.headers.get("Retry-After"))

    def shown(self, limit: int = _SHOWN_CHARACTERS) -> str:
        """The start of the body in one line, for a message; a secret that it repeats is not in it."""
        return self.without_secrets(" ".join(self.content[: 64 * limit].decode("utf-8", "replace").split()))[:limit]

    def without_secrets(self, text: str) -> str:
        """A part of the answer with `***` where it repeats a secret."""
        for secret in self.secrets:
            text = text.replace(secret.reveal(), "***")
        return text


def retry_after_seconds(value: str | None, now: datetime | None = None) -> float | None:
    """Seconds to wait from a `Retry-After` header, in either form (seconds or a date); None when absent or unreadable."""
    if value is None:
        return None
    text = value.strip()
    if text.isdecimal():
        return min(float(text), MAX_RETRY_AFTER)
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
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
