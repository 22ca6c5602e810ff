"""silver.metrics: one row a measured value, appended as events come to silver."""

from __future__ import annotations

import time

import duckdb
import pyarrow as pa

from lakehouse.lake import Lake, identifiers
from lakehouse.silver.step import MAX_ROWS, Refreshed, new_events, nothing_new, refreshed
from lakehouse.tables import SILVER_EVENTS, SILVER_METRICS
from lakehouse.writer import append_once

_BATCH_ROWS = 65_536
_KEPT = [name for name in SILVER_METRICS.names if name in SILVER_EVENTS.names]


def refresh_metrics(lake: Lake, *, max_rows: int = MAX_ROWS) -> Refreshed:
    """Append the values of the events that came to silver.events since the last step, of about `max_rows` events.

    Raises StaleCursor or ConcurrentWrite when another run did it at the same time; nothing is written twice.
    """
    started = time.monotonic()
    new = new_events(lake, SILVER_METRICS.name, max_rows)
    if new is None:
        return nothing_new(lake, SILVER_METRICS.name, None, started)
    with lake.connect() as connection:
        connection.execute(
            f"CREATE TEMP TABLE measured AS SELECT {identifiers(_KEPT)}, metrics FROM {new.source} WHERE metrics IS NOT NULL"
        )
        (rows,) = connection.execute("SELECT count(*) FROM measured").fetchone() or (0,)
        query = _query(connection)

        def values() -> pa.RecordBatchReader:
            return connection.execute(query).to_arrow_reader(_BATCH_ROWS)

        commit = append_once(lake, SILVER_METRICS.name, values, new.app_id, new.target, after=new.cursor)
    return refreshed(commit, started=started, read_rows=int(rows), span=(new.cursor, new.target), dates=new.dates, more=new.more)


def _query(connection: duckdb.DuckDBPyConnection) -> str:
    """SQL of one row a value; of a metric that an event names twice, the last one counts, as every JSON reader of ours has it."""
    kept = identifiers(_KEPT, "m.")
    repeated = "SELECT 1 FROM measured WHERE len(json_keys(metrics)) <> len(list_distinct(json_keys(metrics))) LIMIT 1"
    if connection.execute(repeated).fetchone() is None:
        return f"""
            SELECT {identifiers(_KEPT)}, entry.key AS metric, entry.value AS value
            FROM (SELECT {kept}, unnest(map_entries(from_json(m.metrics, '"MAP(VARCHAR, DOUBLE)"'))) AS entry FROM measured AS m)
            WHERE isfinite(entry.value)
        """
    return f"""
        SELECT {kept}, entry.key AS metric, CAST(arg_max(entry.value, entry.id) AS DOUBLE) AS value
        FROM measured AS m, json_each(m.metrics) AS entry
        GROUP BY ALL
        HAVING isfinite(CAST(arg_max(entry.value, entry.id) AS DOUBLE))
    """
