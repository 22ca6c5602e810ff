"""gold.run_hourly: runs by the hour they started in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date

import duckdb

from lakehouse.gold.days import partitions, refresh_days
from lakehouse.lake import Lake
from lakehouse.silver.step import Refreshed
from lakehouse.tables import GOLD_RUN_HOURLY, SILVER_RUNS


def refresh_run_hourly(lake: Lake, dates: Iterable[date] | None = None) -> Refreshed:
    """Compute these days, or all that are out of date, from silver.runs.

    A run counts in the hour of its start, or of its first event while its start is not known; durations are of runs that ended.
    """

    def query(_: duckdb.DuckDBPyConnection, days: Sequence[date]) -> str:
        ended = "FILTER (ended_at IS NOT NULL)"
        return f"""
            SELECT date_trunc('hour', coalesce(started_at, first_seen)) AS hour, site_id, app_name, name, tool, recipe, step,
                   count(*) AS runs,
                   count(*) FILTER (status = 'ok') AS ok,
                   count(*) FILTER (status = 'failed') AS failed,
                   count(*) FILTER (status = 'aborted') AS aborted,
                   count(*) FILTER (status = 'lost') AS lost,
                   count(*) FILTER (status = 'running') AS running,
                   quantile_cont(duration_ms, 0.5) {ended} AS duration_p50_ms,
                   quantile_cont(duration_ms, 0.95) {ended} AS duration_p95_ms,
                   max(duration_ms) {ended} AS duration_max_ms,
                   sum(duration_ms ORDER BY duration_ms) {ended} AS duration_sum_ms,
                   run_date
            FROM {partitions(lake, SILVER_RUNS.name, days)}
            GROUP BY ALL
        """

    return refresh_days(lake, GOLD_RUN_HOURLY.name, dates, query)
