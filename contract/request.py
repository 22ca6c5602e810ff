"""What a reader of events may be asked for: the same request for the hot store, the lake and every other system."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from msgspec import Struct, field

Order = Literal["asc", "desc"]


class Cursor(Struct, frozen=True):
    """The place after which a page starts: the last row of the page before."""

    timestamp: datetime
    event_id: str


class EventRequest(Struct, frozen=True, kw_only=True):
    """A question for events between two moments, newest or oldest first by (timestamp, event_id).

    None and empty mean "any". `start` is inclusive, `end` exclusive; both aware. `text` is looked for in name, message and
    error message, without regard to case. `severity_min` keeps that severity and worse ones. `sites` is what the caller may
    see: None is all, the empty set is nothing.
    """

    start: datetime
    end: datetime
    sites: frozenset[str] | None = None
    kinds: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()
    entities: dict[str, str] = field(default_factory=dict)
    run_id: str | None = None
    trace_id: str | None = None
    text: str | None = None
    severity_min: str | None = None
    limit: int = 1_000
    order: Order = "asc"
    after: Cursor | None = None


SEVERITIES = ("debug", "info", "warning", "error", "critical")
"""From least to worst."""


def severities_from(minimum: str) -> tuple[str, ...]:
    """That severity and all worse ones. Raises ValueError for an unknown one."""
    return SEVERITIES[SEVERITIES.index(minimum) :]
