"""The aggregates by minute and hour: what happened, and what was measured, ready for charts over long times.

Where the server keeps no continuous aggregates, a job adds to the tables what came since its last run, found by transaction and
not by time: an event counts once, whenever it arrives and however late, even when the raw events of its time are long dropped.
Every measure can be added to, so nothing is ever computed again from raw events that may be gone.

Continuous aggregates are computed again from raw events, so they are never refreshed over a day that was dropped: an event that
comes later than the retention is in the lake, but not in them.

`sum` and `sum_squares` leave out values beyond 1e140, whose sums and squares a double can't hold; `sum_count` counts the rest.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import psycopg
from psycopg import sql

from contract.settings import Secret
from lakehouse.hot import connect, levels
from lakehouse.hot.transactions import Window, next_window

READER: Final = "aggregates"
"""The name under which the job notes how far it is, as every reader of the store does."""
NAMES: Final = ("events_1m", "metrics_1m", "events_1h", "metrics_1h")
"""In the order in which they feed each other."""

_MAX_ROWS: Final = 100_000

_EVENTS: Final = """
WITH fresh AS (
    SELECT date_trunc('minute', "timestamp") AS bucket, site_id, app_name, coalesce(tool, '') AS tool, kind, severity,
        count(*) AS events,
        count(*) FILTER (WHERE status = 'failed') AS failed,
        count(*) FILTER (WHERE status = 'aborted') AS aborted,
        count(duration_ms) FILTER (WHERE duration_ms <= 1e140) AS duration_count,
        coalesce(sum(duration_ms) FILTER (WHERE duration_ms <= 1e140), 0) AS duration_sum,
        max(duration_ms) AS duration_max
    FROM trackmate.events WHERE {window} GROUP BY 1, 2, 3, 4, 5, 6
), minutes AS (
    INSERT INTO trackmate.events_1m AS t SELECT * FROM fresh ON CONFLICT (bucket, site_id, app_name, tool, kind, severity) {merge}
)
INSERT INTO trackmate.events_1h AS t
SELECT date_trunc('hour', bucket), site_id, app_name, tool, kind, severity,
    sum(events), sum(failed), sum(aborted), sum(duration_count), sum(duration_sum), max(duration_max)
FROM fresh GROUP BY 1, 2, 3, 4, 5, 6
ON CONFLICT (bucket, site_id, app_name, tool, kind, severity) {merge}
"""
_MERGE_EVENTS: Final = """DO UPDATE SET
    events = t.events + excluded.events, failed = t.failed + excluded.failed, aborted = t.aborted + excluded.aborted,
    duration_count = t.duration_count + excluded.duration_count, duration_sum = t.duration_sum + excluded.duration_sum,
    duration_max = greatest(t.duration_max, excluded.duration_max)"""

_METRICS: Final = """
WITH fresh AS (
    SELECT date_trunc('minute', e."timestamp") AS bucket, e.site_id, e.app_name, coalesce(e.tool, '') AS tool,
        coalesce(e.chamber, '') AS chamber, coalesce(e.recipe, '') AS recipe, m.key AS name,
        count(*) AS count, min(v.value) AS min, max(v.value) AS max,
        count(*) FILTER (WHERE abs(v.value) <= 1e140) AS sum_count,
        coalesce(sum(v.value) FILTER (WHERE abs(v.value) <= 1e140), 0) AS sum,
        coalesce(sum(v.value * v.value) FILTER (WHERE abs(v.value) BETWEEN 1e-150 AND 1e140), 0) AS sum_squares
    FROM trackmate.events e CROSS JOIN LATERAL json_each_text(e.metrics) m
    CROSS JOIN LATERAL (SELECT m.value::float8) v (value)
    WHERE {window} AND e.metrics IS NOT NULL GROUP BY 1, 2, 3, 4, 5, 6, 7
), minutes AS (
    INSERT INTO trackmate.metrics_1m AS t SELECT * FROM fresh
    ON CONFLICT (bucket, name, site_id, app_name, tool, chamber, recipe) {merge}
)
INSERT INTO trackmate.metrics_1h AS t
SELECT date_trunc('hour', bucket), site_id, app_name, tool, chamber, recipe, name,
    sum(count), min(min), max(max), sum(sum_count), sum(sum), sum(sum_squares)
FROM fresh GROUP BY 1, 2, 3, 4, 5, 6, 7
ON CONFLICT (bucket, name, site_id, app_name, tool, chamber, recipe) {merge}
"""
_MERGE_METRICS: Final = """DO UPDATE SET
    count = t.count + excluded.count, min = least(t.min, excluded.min), max = greatest(t.max, excluded.max),
    sum_count = t.sum_count + excluded.sum_count, sum = t.sum + excluded.sum,
    sum_squares = t.sum_squares + excluded.sum_squares"""


@dataclass(frozen=True)
class Refreshed:
    """What one run of the job did: up to which transaction, in how many steps, in how many seconds."""

    to_xid: int
    steps: int
    seconds: float


def refresh(dsn: str | Secret, now: datetime, *, max_rows: int = _MAX_ROWS) -> Refreshed:
    """Bring the aggregates up to what is committed now; safe to run twice and in two places at once.

    On TimescaleDB with continuous aggregates, refreshes those from where raw events are still kept. Raises HotStoreError.
    """
    started = time.monotonic()
    with connect.connect(dsn, statement_timeout=connect.JOB_TIMEOUT) as connection, connect.translated(dsn):
        if levels.recorded(connection).continuous_aggregates:
            _refresh_continuous(connection, now)
            return Refreshed(0, 1, time.monotonic() - started)
        steps, more, xid = 0, True, 0
        while more:
            window = _add(connection, max_rows)
            steps, more, xid = steps + 1, window.more, window.below - 1
    return Refreshed(xid, steps, time.monotonic() - started)


def _add(connection: psycopg.Connection, max_rows: int) -> Window:
    """Add the next transactions' events and note it, both or neither."""
    with connection.transaction():
        # The lock on its place makes a second run wait and then go on from here.
        row = connection.execute(
            "SELECT confirmed_xid FROM trackmate.replication WHERE reader = %s FOR UPDATE", [READER]
        ).fetchone()
        window = next_window(connection, row[0] if row else 0, max_rows)
        events = sql.SQL(_EVENTS).format(window=window.holds(), merge=sql.SQL(_MERGE_EVENTS))
        metrics = sql.SQL(_METRICS).format(window=window.holds(sql.SQL("e.ingest_xid")), merge=sql.SQL(_MERGE_METRICS))
        connection.execute(events)
        connection.execute(metrics)
        connection.execute(
            "UPDATE trackmate.replication SET confirmed_xid = %s, confirmed_at = now() AT TIME ZONE 'UTC' WHERE reader = %s",
            [max(window.below - 1, window.after), READER],
        )
    return window


def _refresh_continuous(connection: psycopg.Connection, now: datetime) -> None:
    start = kept_since(connection)
    for name in NAMES:
        refresh_continuous(connection, name, start, now.astimezone(UTC).replace(tzinfo=None))


def kept_since(connection: psycopg.Connection) -> datetime | None:
    """The moment (UTC without zone) from which on no raw events have been dropped; None when none ever were."""
    row = connection.execute("SELECT (max(day) + 1)::timestamp FROM trackmate.dropped").fetchone()
    return row[0] if row else None


def refresh_continuous(connection: psycopg.Connection, name: str, start: datetime | None, end: datetime | None) -> None:
    """Refresh a continuous aggregate between two moments (UTC without zone); never call it over what was dropped."""
    bounds = [sql.Literal(moment.isoformat()) if moment else sql.NULL for moment in (start, end)]
    statement = "CALL refresh_continuous_aggregate({}, {}::timestamp, {}::timestamp)"
    connection.execute(sql.SQL(statement).format(sql.Literal(f"trackmate.{name}"), *bounds))


def drop_before(connection: psycopg.Connection, moment: datetime) -> None:
    """Remove the aggregates' rows from before a moment (UTC without zone)."""
    continuous = levels.recorded(connection).continuous_aggregates
    for name in NAMES:
        if continuous:
            connection.execute("SELECT drop_chunks(%s::regclass, older_than => %s::timestamp)", [f"trackmate.{name}", moment])
        else:
            connection.execute(
                sql.SQL("DELETE FROM trackmate.{} WHERE bucket < {}").format(sql.Identifier(name), sql.Literal(moment))
            )
