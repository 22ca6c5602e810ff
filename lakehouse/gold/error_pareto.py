"""gold.error_pareto: which errors a day had, the most frequent first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date

import duckdb

from lakehouse.gold.days import partitions, refresh_days
from lakehouse.lake import Lake
from lakehouse.silver.step import Refreshed
from lakehouse.tables import GOLD_ERROR_PARETO, SILVER_EVENTS


def refresh_error_pareto(lake: Lake, dates: Iterable[date] | None = None) -> Refreshed:
    """Compute these days, or all that are out of date, from silver.events; shares are of all errors of a site and day."""

    def query(_: duckdb.DuckDBPyConnection, days: Sequence[date]) -> str:
        return f"""
            SELECT day, site_id, app_name, name, error_type, tool, recipe, events, runs,
                   row_number() OVER ranked AS rank,
                   events / sum(events) OVER (PARTITION BY day, site_id) AS share,
                   sum(events) OVER ranked / sum(events) OVER (PARTITION BY day, site_id) AS cumulative_share
            FROM (
                SELECT event_date AS day, site_id, app_name, name, coalesce(error_type, '(none)') AS error_type, tool, recipe,
                       count(*) AS events, count(DISTINCT run_id) AS runs
                FROM {partitions(lake, SILVER_EVENTS.name, days)}
                WHERE kind = 'error' OR error_type IS NOT NULL
                GROUP BY ALL
            )
            WINDOW ranked AS (
                PARTITION BY day, site_id ORDER BY events DESC, error_type, app_name, name, tool NULLS FIRST, recipe NULLS FIRST
                ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
            )
        """

    return refresh_days(lake, GOLD_ERROR_PARETO.name, dates, query)
