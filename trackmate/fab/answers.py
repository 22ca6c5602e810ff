"""The three questions that the demo asks in SQL."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Question:
    """A question, and the SQL that answers it."""

    title: str
    sql: str


def questions(site: str) -> tuple[Question, ...]:
    """Slowest step, error pareto, tool time in state, for a site."""
    name = "'" + site.replace("'", "''") + "'"
    return (
        Question(
            "Which step is slowest, and where?",
            "SELECT tool, chamber, step, count(*) AS runs, "  # noqa: S608 - quoted
            "round(avg(duration_ms), 1) AS mean_ms, round(max(duration_ms), 1) AS max_ms "
            f"FROM silver.runs WHERE site_id = {name} AND step IS NOT NULL AND status = 'ok' "
            "GROUP BY tool, chamber, step ORDER BY mean_ms DESC LIMIT 6",
        ),
        Question(
            "Which errors cost most runs?",
            "SELECT error_type, tool, name AS step, CAST(sum(events) AS BIGINT) AS errors, "  # noqa: S608 - quoted
            "round(100.0 * sum(events) / sum(sum(events)) OVER (), 1) AS percent "
            f"FROM gold.error_pareto WHERE site_id = {name} AND name NOT IN ('lot', 'wafer') "
            "GROUP BY error_type, tool, name ORDER BY errors DESC, error_type LIMIT 6",
        ),
        Question(
            "How long was each tool in which E10 state?",
            "SELECT tool, state, round(sum(seconds), 1) AS seconds, CAST(sum(changes) AS BIGINT) AS times "  # noqa: S608 - quoted
            f"FROM gold.tool_state WHERE site_id = {name} AND state <> 'non_scheduled' "
            "GROUP BY tool, state HAVING sum(seconds) > 0 ORDER BY tool, seconds DESC LIMIT 30",
        ),
    )
