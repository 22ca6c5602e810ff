"""Which days of a gold table are out of date, and how days are computed and put in place."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final

import duckdb
import pyarrow as pa

from lakehouse.files import DataFile, active_files, changes
from lakehouse.lake import Lake, LogExpired, quote, scan
from lakehouse.silver.step import Refreshed, source_cursor
from lakehouse.tables import GOLD_ERROR_PARETO, GOLD_RUN_HOURLY, GOLD_TOOL_STATE, SILVER_EVENTS, SILVER_RUNS, SILVER_TOOL_STATES
from lakehouse.writer import Commit, replace_partitions, replace_partitions_once

DAYS_A_COMMIT: Final = 31
_BATCH_ROWS: Final = 65_536
SOURCES: Final = {
    GOLD_RUN_HOURLY.name: SILVER_RUNS,
    GOLD_ERROR_PARETO.name: SILVER_EVENTS,
    GOLD_TOOL_STATE.name: SILVER_TOOL_STATES,
}
"""The table that each table of gold is computed from."""

DayQuery = Callable[[duckdb.DuckDBPyConnection, Sequence[date]], str]
"""Makes the SQL that gives all rows of some days."""


@dataclass(frozen=True)
class Dirty:
    """The days of a gold table that its source has changed since the table's last step.

    `version` is the source's version that they bring the table up to, `cursor` the one it stands at (None: never filled).
    """

    dates: tuple[date, ...]
    cursor: int | None
    version: int


def dirty_dates(lake: Lake, name: str, *, now: datetime | None = None) -> Dirty:
    """Which days of the gold table must be computed anew.

    For gold.tool_state these are also the days that a changed state lasts into, and those that have passed since (up to `now`).
    """
    source = SOURCES[name]
    table = lake.table(source.name)
    cursor: int | None = lake.table(name).transaction_version(source_cursor(lake, source.name))
    active = active_files(lake, source.name, table)
    days: set[date] = set()
    try:
        for change in changes(lake, source.name, table, after=-1 if cursor is None else cursor):
            days |= {file.partition for file in (*change.added, *change.removed) if file.partition is not None}
    except LogExpired:
        days = {file.partition for file in active if file.partition is not None}
    if name == GOLD_TOOL_STATE.name:
        days = _lasting(lake, active, days, watermark(lake, now))
    return Dirty(tuple(sorted(days)), cursor, int(table.version()))


def watermark(lake: Lake, now: datetime | None = None) -> datetime:
    """Up to when the lake knows what happened: the latest timestamp of an event, but not later than `now`; UTC without zone."""
    moment = (now or datetime.now(UTC)).astimezone(UTC).replace(tzinfo=None)
    events = active_files(lake, SILVER_EVENTS.name, lake.table(SILVER_EVENTS.name))
    latest = max((file.maximum["timestamp"] for file in events if "timestamp" in file.maximum), default=None)
    if latest is None or latest >= moment:
        return moment
    newest = [file.uri for file in events if file.may_hold("timestamp", latest - timedelta(milliseconds=1), None)]
    with lake.connect() as connection:
        query = f'SELECT max("timestamp") FROM {scan(SILVER_EVENTS, newest, columns=["timestamp"])}'
        exact: datetime | None = (connection.execute(query).fetchone() or (None,))[0]
    return moment if exact is None else min(moment, exact)


def _lasting(lake: Lake, active: Sequence[DataFile], changed: set[date], until: datetime) -> set[date]:
    """The days that the states of the changed days last into, and those from the last one in gold.tool_state until `until`."""
    days: set[date] = set()
    filled = [
        file.partition for file in active_files(lake, GOLD_TOOL_STATE.name, lake.table(GOLD_TOOL_STATE.name)) if file.partition
    ]
    if filled:
        days |= set(_days(max(filled), until.date()))
    rows = scan(SILVER_TOOL_STATES, [file.uri for file in active if file.partition in changed])
    with lake.connect() as connection:
        spans = connection.execute(
            f"SELECT state_date, max(CAST(coalesce(ended_at, {timestamp(until)}) AS DATE)) FROM {rows} GROUP BY state_date"
        ).fetchall()
    for first, last in spans:
        days |= set(_days(first, min(last, until.date())))
    return days


def _days(first: date, last: date) -> Iterable[date]:
    return (first + timedelta(days=n) for n in range((last - first).days + 1))


def refresh_days(
    lake: Lake, name: str, dates: Iterable[date] | None, query: DayQuery, *, now: datetime | None = None
) -> Refreshed:
    """Compute whole days of a gold table anew and put them in the place of what was there.

    Without `dates`: those that are out of date, and the cursor moves with the last commit; a step that dies is done again.
    Days may be out of date though the source has not changed, since time has passed: then there is no cursor to move.
    Raises StaleCursor or ConcurrentWrite when another run wrote the table meanwhile: what that one read may be newer.
    """
    started = time.monotonic()
    if dates is None:
        dirty = dirty_dates(lake, name, now=now)
        if not dirty.dates:
            return Refreshed(0, 0, 0, dirty.cursor, dirty.cursor, lake.version(name), time.monotonic() - started)
        days = dirty.dates
    else:
        dirty, days = None, tuple(sorted(set(dates)))
    total = Commit(written=False, version=lake.version(name))
    chunks = [days[start : start + DAYS_A_COMMIT] for start in range(0, len(days), DAYS_A_COMMIT)]
    for chunk in chunks:
        last = chunk is chunks[-1]
        stands = lake.version(name)
        with lake.connect() as connection:
            sql = query(connection, chunk)

            def rows(connection: duckdb.DuckDBPyConnection = connection, sql: str = sql) -> pa.RecordBatchReader:
                return connection.execute(sql).to_arrow_reader(_BATCH_ROWS)

            if dirty is not None and last and dirty.version != dirty.cursor:
                app_id = source_cursor(lake, SOURCES[name].name)
                commit = replace_partitions_once(lake, name, rows, chunk, app_id, dirty.version, after=dirty.cursor)
            else:
                commit = replace_partitions(lake, name, rows, chunk, snapshot=stands)
        total = Commit(commit.written, commit.version, total.rows + commit.rows, total.bytes + commit.bytes)
    return Refreshed(
        rows=total.rows,
        bytes=total.bytes,
        read_rows=total.rows,
        from_version=dirty.cursor if dirty else None,
        to_version=dirty.version if dirty else None,
        version=total.version,
        seconds=time.monotonic() - started,
        dates=days,
    )


def timestamp(moment: datetime) -> str:
    """A moment (UTC without zone) as an SQL literal."""
    return f"TIMESTAMP {quote(moment.isoformat(sep=' '))}"


def date_list(dates: Sequence[date]) -> str:
    """Dates as an SQL list."""
    return ", ".join(f"DATE {quote(day.isoformat())}" for day in dates)


def partitions(lake: Lake, name: str, dates: Sequence[date]) -> str:
    """SQL to select from: the rows of these partitions of a silver table."""
    wanted = set(dates)
    files = active_files(lake, name, lake.table(name))
    return scan(lake.declaration(name), [file.uri for file in files if file.partition in wanted])
