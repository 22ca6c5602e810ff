"""What a table owes its source: since when the oldest change that it has not taken up is there, and in which days."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Final

from lakehouse.files import DataFile, active_files, changes
from lakehouse.gold.days import SOURCES
from lakehouse.lake import Lake, LogExpired
from lakehouse.silver.step import source_cursor
from lakehouse.tables import BRONZE_EVENTS, SILVER_EVENTS, SILVER_METRICS, SILVER_RUNS, SILVER_TOOL_STATES

FOLLOWED: Final[dict[str, str]] = {
    SILVER_EVENTS.name: BRONZE_EVENTS.name,
    **{table.name: SILVER_EVENTS.name for table in (SILVER_METRICS, SILVER_RUNS, SILVER_TOOL_STATES)},
    **{name: source.name for name, source in SOURCES.items()},
}
"""The source of each table that keeps a cursor in it."""

_BY_VERSION_OF_BRONZE: Final = frozenset({SILVER_METRICS.name, SILVER_RUNS.name, SILVER_TOOL_STATES.name})
"""Their cursors count the bronze versions that the source's rows carry."""


@dataclass(frozen=True)
class Waiting:
    """What a table has not taken up yet: since when the oldest of it is there (UTC), and the source's days that it is in."""

    since: datetime
    days: tuple[date, ...]


def waiting(lake: Lake, name: str, *, first: date = date.min, last: date = date.max) -> Waiting | None:
    """What the source of `name` (a key of `FOLLOWED`) has and it has not, in days from `first` to `last`; None: nothing."""
    files = [file for file in _not_taken_up(lake, name) if file.partition is None or first <= file.partition <= last]
    if not files:
        return None
    days = {file.partition for file in files if file.partition is not None}
    return Waiting(datetime.fromtimestamp(min(file.modified for file in files) / 1000, UTC), tuple(sorted(days)))


def _not_taken_up(lake: Lake, name: str) -> Sequence[DataFile]:
    source = FOLLOWED[name]
    cursor: int | None = lake.table(name).transaction_version(source_cursor(lake, source))
    table = lake.table(source)
    if name in _BY_VERSION_OF_BRONZE:
        low = 0 if cursor is None else cursor + 1
        return [file for file in active_files(lake, source, table) if file.may_hold("bronze_version", low, None)]
    try:
        made = list(changes(lake, source, table, after=-1 if cursor is None else cursor))
    except LogExpired:
        return active_files(lake, source, table)
    return [file for change in made for file in (*change.added, *change.removed)]
