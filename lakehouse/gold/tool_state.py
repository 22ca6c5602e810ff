"""gold.tool_state: how long each tool was in each of the six SEMI E10 states on a day."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date, datetime, timedelta

import duckdb

from contract.event import E10_STATES
from lakehouse.files import DataFile, active_files
from lakehouse.gold.days import date_list, refresh_days, timestamp, watermark
from lakehouse.lake import Lake, quote, scan
from lakehouse.silver.step import Refreshed
from lakehouse.tables import GOLD_TOOL_STATE, SILVER_TOOL_STATES


def refresh_tool_state(lake: Lake, dates: Iterable[date] | None = None, *, now: datetime | None = None) -> Refreshed:
    """Compute these days, or all that are out of date, from silver.tool_states.

    A state that has not ended lasts until the latest event that the lake has (never beyond `now`, aware). The six states of a
    tool sum up to the time for which any state of it is known, to the microsecond; each has a row, if only of 0 seconds.
    """
    until = watermark(lake, now)

    def query(_: duckdb.DuckDBPyConnection, days: Sequence[date]) -> str:
        files = active_files(lake, SILVER_TOOL_STATES.name, lake.table(SILVER_TOOL_STATES.name))
        intervals = scan(SILVER_TOOL_STATES, [file.uri for file in files if _touches(file, days)])
        states = ", ".join(f"({quote(state)})" for state in E10_STATES)
        return f"""
            WITH days AS (SELECT unnest([{date_list(days)}]) AS day),
            pieces AS (
                SELECT site_id, tool, chamber, day, state, state_date = day AS entered,
                       epoch_us(least(coalesce(ended_at, {timestamp(until)}), CAST(day + 1 AS TIMESTAMP), {timestamp(until)})
                                - greatest(started_at, CAST(day AS TIMESTAMP))) AS micros
                FROM {intervals}, days
                WHERE started_at < CAST(day + 1 AS TIMESTAMP) AND (ended_at IS NULL OR ended_at >= CAST(day AS TIMESTAMP))
            ),
            held AS (
                SELECT site_id, tool, chamber, day, state,
                       sum(greatest(micros, 0)) AS micros, count(*) FILTER (entered) AS changes
                FROM pieces GROUP BY ALL
            ),
            tools AS (
                SELECT site_id, tool, chamber, day, sum(micros) AS known
                FROM held GROUP BY ALL HAVING sum(micros) + sum(changes) > 0
            )
            SELECT t.site_id, t.tool, t.chamber, t.day, s.state, coalesce(h.micros, 0) / 1e6 AS seconds,
                   CASE WHEN t.known > 0 THEN coalesce(h.micros, 0) / t.known END AS share, coalesce(h.changes, 0) AS changes
            FROM tools AS t CROSS JOIN (VALUES {states}) AS s(state)
            LEFT JOIN held AS h ON h.site_id = t.site_id AND h.tool = t.tool AND h.chamber IS NOT DISTINCT FROM t.chamber
                 AND h.day = t.day AND h.state = s.state
        """

    return refresh_days(lake, GOLD_TOOL_STATE.name, dates, query, now=now)


def _touches(file: DataFile, days: Sequence[date]) -> bool:
    """Whether an interval of the file can lie on one of the days, which are in order."""
    start = datetime.combine(days[0], datetime.min.time())
    end = datetime.combine(days[-1] + timedelta(days=1), datetime.min.time())
    return file.may_hold("started_at", None, end) and (
        file.nulls.get("ended_at", 1) > 0 or file.may_hold("ended_at", start, None)
    )
