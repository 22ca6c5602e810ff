"""silver.runs: one row a run, put together from whatever of its events is known, in whatever order they came.

A row carries enough to merge with later events without reading the earlier ones again (which event its name is from, which one
ended it, and when): what comes late, twice or out of order leads to the same row as if all had come at once.

- A `start` gives started_at (the earliest, if there are several).
- A `finish`, or an `error` that has a status or a duration, ends the run; of several, the latest counts. Any other error is one
  that the run survived.
- Name, place and entities are those of the start, else of the end, else of the earliest progress; of other events
  (metrics, logs) only place and entities are taken, since their name is not the run's.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Final

import duckdb
import pyarrow as pa

from lakehouse.files import DataFile, active_files
from lakehouse.lake import Lake, identifiers, scan
from lakehouse.silver.step import MAX_ROWS, NewEvents, Refreshed, new_events, nothing_new, overlapping, refreshed
from lakehouse.tables import SILVER_RUNS
from lakehouse.writer import replace_partitions_once

_BATCH_ROWS: Final = 65_536
_IDENTITY: Final = (
    "parent_run_id", "name", "site_id", "app_name", "lot", "wafer", "tool", "chamber", "recipe", "step", "product", "operator",
)  # fmt: skip

# One event as a run that is known by nothing else: the same columns as _MERGED reads from rows that are there already.
_FROM_EVENT: Final = f"""
    SELECT run_id,
           {", ".join("CASE WHEN rank < 3 THEN name END AS name" if name == "name" else name for name in _IDENTITY)},
           rank AS identity_rank, "timestamp" AS identity_at, event_id AS identity_event_id,
           CASE WHEN rank = 0 THEN "timestamp" END AS started_at,
           CASE WHEN rank = 1 THEN "timestamp" END AS ended_at,
           CASE WHEN rank = 1 THEN event_id END AS end_event_id,
           CASE WHEN rank = 1 THEN coalesce(status, CASE WHEN kind = 'error' THEN 'failed' ELSE 'ok' END) END AS status,
           CASE WHEN rank = 1 THEN duration_ms END AS end_duration_ms,
           CASE WHEN kind = 'progress' AND progress IS NOT NULL THEN "timestamp" END AS progress_at,
           CASE WHEN kind = 'progress' AND progress IS NOT NULL THEN event_id END AS progress_event_id,
           CASE WHEN kind = 'progress' THEN progress END AS last_progress,
           CASE WHEN error_type IS NOT NULL THEN "timestamp" END AS error_at,
           CASE WHEN error_type IS NOT NULL THEN event_id END AS error_event_id,
           error_type, error_message,
           1::BIGINT AS events, "timestamp" AS first_seen, "timestamp" AS last_seen
    FROM (
        SELECT *, CASE WHEN kind = 'start' THEN 0
                       WHEN kind = 'finish' OR (kind = 'error' AND (status IS NOT NULL OR duration_ms IS NOT NULL)) THEN 1
                       WHEN kind = 'progress' THEN 2 ELSE 3 END::BIGINT AS rank
        FROM incoming
    )
"""
_FROM_ROW: Final = f"""
    SELECT run_id, {identifiers(_IDENTITY)}, identity_rank, identity_at, identity_event_id,
           started_at, ended_at, end_event_id, CASE WHEN ended_at IS NOT NULL THEN status END AS status, end_duration_ms,
           progress_at, progress_event_id, last_progress,
           error_at, error_event_id, error_type, error_message, events, first_seen, last_seen
    FROM known
"""


def _pack(*names: str) -> str:
    return "struct_pack(" + ", ".join(f'"{name}" := "{name}"' for name in names) + ")"


_MERGED: Final = f"""
    SELECT run_id, unnest(identity), unnest(ending), unnest(advance), unnest(failure), started_at, events, first_seen, last_seen
    FROM (
        SELECT run_id,
               arg_min({_pack(*_IDENTITY, "identity_rank", "identity_at", "identity_event_id")},
                       (identity_rank, identity_at, identity_event_id)) AS identity,
               arg_max({_pack("ended_at", "end_event_id", "status", "end_duration_ms")},
                       (coalesce(ended_at, TIMESTAMP '0001-01-01'), coalesce(end_event_id, ''))) AS ending,
               arg_max({_pack("progress_at", "progress_event_id", "last_progress")},
                       (coalesce(progress_at, TIMESTAMP '0001-01-01'), coalesce(progress_event_id, ''))) AS advance,
               arg_max({_pack("error_at", "error_event_id", "error_type", "error_message")},
                       (coalesce(error_at, TIMESTAMP '0001-01-01'), coalesce(error_event_id, ''))) AS failure,
               min(started_at) AS started_at, sum(events)::BIGINT AS events,
               min(first_seen) AS first_seen, max(last_seen) AS last_seen
        FROM (({_FROM_EVENT}) UNION ALL BY NAME ({_FROM_ROW}))
        GROUP BY run_id
    )
"""
_ROWS: Final = f"""
    SELECT {identifiers([name for name in SILVER_RUNS.names if name not in {"status", "duration_ms", "run_date"}])},
           coalesce(status, 'running') AS status,
           coalesce(end_duration_ms, epoch_us(ended_at - started_at) / 1000.0) AS duration_ms,
           CAST(coalesce(started_at, first_seen) AS DATE) AS run_date
    FROM ({_MERGED})
"""


def refresh_runs(lake: Lake, *, max_rows: int = MAX_ROWS) -> Refreshed:
    """Merge the events that came to silver.events since the last step into their runs; the days concerned are replaced.

    Raises StaleCursor or ConcurrentWrite when another run did it at the same time; nothing is merged twice.
    """
    started = time.monotonic()
    new = new_events(lake, SILVER_RUNS.name, max_rows)
    if new is None:
        return nothing_new(lake, SILVER_RUNS.name, None, started)
    table = lake.table(SILVER_RUNS.name)
    files = active_files(lake, SILVER_RUNS.name, table)
    with lake.connect() as connection:
        read_rows = _take(connection, new)
        _load_known(connection, files)
        connection.execute(f"CREATE TEMP TABLE merged AS {_ROWS}")
        dates = [
            day
            for (day,) in connection.execute("SELECT run_date FROM merged UNION SELECT run_date FROM known ORDER BY 1").fetchall()
        ]
        query = f"""
            SELECT {identifiers(SILVER_RUNS.names)} FROM merged
            UNION ALL
            SELECT {identifiers(SILVER_RUNS.names)} FROM {_partitions(files, dates)} ANTI JOIN merged USING (run_id)
        """

        def rows() -> pa.RecordBatchReader:
            return connection.execute(query).to_arrow_reader(_BATCH_ROWS)

        commit = replace_partitions_once(
            lake, SILVER_RUNS.name, rows, dates, new.app_id, new.target, after=new.cursor, snapshot=int(table.version())
        )
    return refreshed(commit, started=started, read_rows=read_rows, span=(new.cursor, new.target), dates=dates, more=new.more)


def _take(connection: duckdb.DuckDBPyConnection, new: NewEvents) -> int:
    columns = ["run_id", "event_id", "timestamp", "kind", "status", "duration_ms", "progress", "error_type", "error_message"]
    connection.execute(
        f"CREATE TEMP TABLE incoming AS SELECT {identifiers([*columns, *_IDENTITY])} FROM {new.source} WHERE run_id IS NOT NULL"
    )
    (rows,) = connection.execute("SELECT count(*) FROM incoming").fetchone() or (0,)
    return int(rows)


def _load_known(connection: duckdb.DuckDBPyConnection, files: Sequence[DataFile]) -> None:
    """Make the table `known`: the rows that are there already of the runs in `incoming`."""
    near = overlapping(connection, files, "run_id", "SELECT DISTINCT run_id AS key FROM incoming")
    rows = scan(SILVER_RUNS, [file.uri for file in near])
    connection.execute(f"CREATE TEMP TABLE known AS SELECT * FROM {rows} WHERE run_id IN (SELECT run_id FROM incoming)")


def _partitions(files: Sequence[DataFile], dates: Sequence[date]) -> str:
    wanted = set(dates)
    return scan(SILVER_RUNS, [file.uri for file in files if file.partition in wanted])


def mark_lost(lake: Lake, now: datetime, timeout: timedelta) -> Refreshed:
    """Mark the runs `lost` that have no end and of which nothing was heard for longer than `timeout` before `now` (aware).

    An event that comes all the same brings such a run back.
    """
    started = time.monotonic()
    table = lake.table(SILVER_RUNS.name)
    files = active_files(lake, SILVER_RUNS.name, table)
    moment = now.astimezone(UTC).replace(tzinfo=None)
    silent = "status = 'running' AND last_seen < ?"
    with lake.connect() as connection:
        running = scan(SILVER_RUNS, [file.uri for file in files if file.may_hold("status", "running", "running")])
        counts = connection.execute(
            f"SELECT run_date, count(*) FROM {running} WHERE {silent} GROUP BY run_date", [moment - timeout]
        ).fetchall()
        if not counts:
            return nothing_new(lake, SILVER_RUNS.name, None, started)
        dates = [day for day, _ in counts]

        def rows() -> pa.RecordBatchReader:
            query = (
                f"SELECT * REPLACE (CASE WHEN {silent} THEN 'lost' ELSE status END AS status) FROM {_partitions(files, dates)}"
            )
            return connection.execute(query, [moment - timeout]).to_arrow_reader(_BATCH_ROWS)

        version = int(moment.replace(tzinfo=UTC).timestamp() * 1_000_000)
        commit = replace_partitions_once(lake, SILVER_RUNS.name, rows, dates, "mark_lost", version, snapshot=int(table.version()))
    lost = sum(count for _, count in counts)
    return refreshed(commit, started=started, read_rows=lost, span=(None, version), dates=dates, more=False)
