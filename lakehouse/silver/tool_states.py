"""silver.tool_states: one interval a state change, cut so that the intervals of a tool partition its time.

Only the six SEMI E10 states count: a tool's other state machines (a door, a pump) stay in silver.events. A change that comes late
cuts the interval it falls into: the row before it gets a new end, and its own ends where that one ended.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime
from typing import Final

import pyarrow as pa

from contract.event import E10_STATES
from lakehouse.files import DataFile, active_files
from lakehouse.lake import Lake, identifiers, quote, scan
from lakehouse.silver.step import MAX_ROWS, Refreshed, new_events, nothing_new, refreshed
from lakehouse.tables import SILVER_TOOL_STATES
from lakehouse.writer import replace_partitions_once

_BATCH_ROWS: Final = 65_536
_STATES: Final = ", ".join(quote(state) for state in E10_STATES)
_SAME_KEY: Final = "a.site_id = b.site_id AND a.tool = b.tool AND a.chamber IS NOT DISTINCT FROM b.chamber"

_CHANGE: Final = ("site_id", "tool", "chamber", "state", "from_state", "started_at", "event_id")

_RECUT: Final = f"""
    CREATE TEMP TABLE recut AS
    SELECT site_id, tool, chamber, state, from_state, started_at,
           lead(started_at) OVER (PARTITION BY site_id, tool, chamber ORDER BY started_at, event_id) AS ended_at,
           event_id, CAST(started_at AS DATE) AS state_date, old_end, is_new
    FROM (
        SELECT {identifiers(_CHANGE)}, NULL::TIMESTAMP AS old_end, true AS is_new FROM incoming
        UNION ALL
        SELECT {identifiers(_CHANGE, "a.")}, a.ended_at, false
        FROM known AS a JOIN earliest AS b ON {_SAME_KEY} AND (a.ended_at IS NULL OR a.ended_at >= b.since)
    )
"""


def refresh_tool_states(lake: Lake, *, max_rows: int = MAX_ROWS) -> Refreshed:
    """Cut the state changes that came to silver.events since the last step into the intervals; the days concerned are replaced.

    Raises StaleCursor or ConcurrentWrite when another run did it at the same time; nothing is cut twice.
    """
    started = time.monotonic()
    new = new_events(lake, SILVER_TOOL_STATES.name, max_rows)
    if new is None:
        return nothing_new(lake, SILVER_TOOL_STATES.name, None, started)
    table = lake.table(SILVER_TOOL_STATES.name)
    files = active_files(lake, SILVER_TOOL_STATES.name, table)
    with lake.connect() as connection:
        connection.execute(
            f"""
            CREATE TEMP TABLE incoming AS
            SELECT site_id, tool, chamber, state_to AS state, state_from AS from_state, "timestamp" AS started_at, event_id
            FROM {new.source} WHERE kind = 'state' AND tool IS NOT NULL AND state_to IN ({_STATES})
            """
        )
        connection.execute(
            "CREATE TEMP TABLE earliest AS SELECT site_id, tool, chamber, min(started_at) AS since FROM incoming GROUP BY ALL"
        )
        rows, since = connection.execute("SELECT count(*), min(started_at) FROM incoming").fetchone() or (0, None)
        reaching = scan(SILVER_TOOL_STATES, [file.uri for file in _reaching(files, since)])
        connection.execute(f"CREATE TEMP TABLE known AS SELECT a.* FROM {reaching} AS a SEMI JOIN earliest AS b ON {_SAME_KEY}")
        connection.execute(_RECUT)
        changed = "SELECT DISTINCT state_date FROM recut WHERE is_new OR old_end IS DISTINCT FROM ended_at ORDER BY 1"
        dates = [day for (day,) in connection.execute(changed).fetchall()]
        wanted = set(dates)
        untouched = scan(SILVER_TOOL_STATES, [file.uri for file in files if file.partition in wanted])
        columns = identifiers(SILVER_TOOL_STATES.names)
        query = f"""
            SELECT {columns} FROM recut WHERE state_date IN ({changed.removesuffix(" ORDER BY 1")})
            UNION ALL
            SELECT {columns} FROM {untouched} ANTI JOIN recut USING (event_id)
        """

        def intervals() -> pa.RecordBatchReader:
            return connection.execute(query).to_arrow_reader(_BATCH_ROWS)

        commit = replace_partitions_once(
            lake,
            SILVER_TOOL_STATES.name,
            intervals,
            dates,
            new.app_id,
            new.target,
            after=new.cursor,
            snapshot=int(table.version()),
        )
    return refreshed(commit, started=started, read_rows=int(rows), span=(new.cursor, new.target), dates=dates, more=new.more)


def _reaching(files: Sequence[DataFile], since: datetime | None) -> list[DataFile]:
    """The files with an interval that ends at `since` or later, or has not ended."""
    if since is None:
        return []
    return [file for file in files if file.nulls.get("ended_at", 1) > 0 or file.may_hold("ended_at", since, None)]
