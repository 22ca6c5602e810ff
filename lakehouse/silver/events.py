"""silver.events: bronze followed commit by commit, every event once.

No MERGE: the ids of new events are anti-joined against just the id column of just those files of silver whose range of ids can
hold one of them, and the rest is appended.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import date
from typing import Final

import duckdb
import pyarrow.fs as pafs
from deltalake import DeltaTable

from lakehouse.files import DataFile, active_files, changes
from lakehouse.lake import Lake, LogExpired, identifiers, quote, scan
from lakehouse.silver.step import MAX_ROWS, Refreshed, nothing_new, overlapping, refreshed, source_cursor
from lakehouse.tables import BRONZE_EVENTS, FLAT, SILVER_EVENTS
from lakehouse.writer import append_once

MAX_BYTES: Final = 512 * 1024 * 1024
"""Parquet that one step reads of bronze, about, in bytes."""

BATCH_ROWS: Final = 65_536


@dataclass(frozen=True)
class _Batch:
    files: tuple[DataFile, ...]
    target: int
    more: bool


def refresh_events(lake: Lake, *, max_rows: int = MAX_ROWS, max_bytes: int = MAX_BYTES) -> Refreshed:
    """Bring silver.events further along bronze.events by one step: whole bronze commits, about `max_rows` rows of them.

    Raises StaleCursor or ConcurrentWrite when another run did it at the same time; nothing is written twice.
    """
    started = time.monotonic()
    bronze, silver = lake.table(BRONZE_EVENTS.name), lake.table(SILVER_EVENTS.name)
    app_id = source_cursor(lake, BRONZE_EVENTS.name)
    cursor: int | None = silver.transaction_version(app_id)
    batch = _next_batch(lake, bronze, -1 if cursor is None else cursor, max_rows, max_bytes)
    if not batch.files:
        return nothing_new(lake, SILVER_EVENTS.name, cursor, started)
    with lake.connect() as connection:
        read_rows = _number_rows(connection, batch.files)
        _mark_known(lake, connection, silver)
        dates = [day for (day,) in connection.execute("SELECT DISTINCT event_date FROM keys WHERE NOT known").fetchall()]
        query = _new_rows(batch)
        commit = append_once(
            lake,
            SILVER_EVENTS.name,
            lambda: connection.execute(query).to_arrow_reader(BATCH_ROWS),
            app_id,
            batch.target,
            after=cursor,
        )
    return refreshed(commit, started=started, read_rows=read_rows, span=(cursor, batch.target), dates=dates, more=batch.more)


def _next_batch(lake: Lake, bronze: DeltaTable, after: int, max_rows: int, max_bytes: int) -> _Batch:
    """The files of the next bronze commits, whole commits only, at least one."""
    files: list[DataFile] = []
    target = after
    rows = size = 0
    try:
        for change in changes(lake, BRONZE_EVENTS.name, bronze, after=after):
            rows += sum(file.rows or 0 for file in change.added)
            size += sum(file.bytes for file in change.added)
            if files and (rows > max_rows or size > max_bytes):
                return _Batch(_present(lake, bronze, files), target, more=True)
            files += change.added
            target = change.version
    except LogExpired:
        # Far behind: what silver has is recognised by its ids, so all of bronze can be read again.
        return _Batch(tuple(active_files(lake, BRONZE_EVENTS.name, bronze)), int(bronze.version()), more=False)
    return _Batch(_present(lake, bronze, files), target, more=False)


def _present(lake: Lake, bronze: DeltaTable, files: list[DataFile]) -> tuple[DataFile, ...]:
    """The files, with those that compaction replaced and clean-up has removed since given by their partitions' files of today."""
    active = {file.path: file for file in active_files(lake, BRONZE_EVENTS.name, bronze)}
    replaced = [file for file in files if file.path not in active]
    gone: set[date | None] = set()
    if replaced:
        infos = lake.filesystem(bronze).get_file_info([file.path for file in replaced])
        gone = {file.partition for file, info in zip(replaced, infos, strict=True) if info.type is pafs.FileType.NotFound}
    kept = {file.path: file for file in files if file.partition not in gone}
    return tuple((kept | {path: file for path, file in active.items() if file.partition in gone}).values())


def _number_rows(connection: duckdb.DuckDBPyConnection, files: tuple[DataFile, ...]) -> int:
    """Make the table `keys`: id, date and place of every row of the batch; `known` where an earlier row has the same id."""
    rows = scan(BRONZE_EVENTS, [file.uri for file in files], columns=["event_id", "timestamp", "ingested_at"], place=True)
    connection.execute(
        f"""
        CREATE TEMP TABLE keys AS
        SELECT event_id, CAST("timestamp" AS DATE) AS event_date, ingested_at,
               file_index AS file, file_row_number AS row, false AS known
        FROM {rows}
        """
    )
    connection.execute(
        """
        UPDATE keys SET known = true FROM (
            SELECT file, row, row_number() OVER (PARTITION BY event_id ORDER BY ingested_at, file, row) AS occurrence
            FROM keys WHERE event_id IN (SELECT event_id FROM keys GROUP BY event_id HAVING count(*) > 1)
        ) AS repeated
        WHERE occurrence > 1 AND keys.file = repeated.file AND keys.row = repeated.row
        """
    )
    (count,) = connection.execute("SELECT count(*) FROM keys").fetchone() or (0,)
    return int(count)


def _mark_known(lake: Lake, connection: duckdb.DuckDBPyConnection, silver: DeltaTable) -> None:
    """Mark the keys that silver has already."""
    candidates = overlapping(
        connection, active_files(lake, SILVER_EVENTS.name, silver), "event_id", "SELECT event_id AS key FROM keys WHERE NOT known"
    )
    if not candidates:
        return
    low, high = connection.execute("SELECT min(event_id), max(event_id) FROM keys").fetchone() or ("", "")
    ids = scan(SILVER_EVENTS, [file.uri for file in candidates], columns=["event_id"])
    connection.execute(
        f"""
        UPDATE keys SET known = true WHERE event_id IN (
            SELECT event_id FROM {ids}
            WHERE event_id BETWEEN {quote(low)} AND {quote(high)} AND event_id IN (SELECT event_id FROM keys)
        )
        """
    )


def _new_rows(batch: _Batch) -> str:
    """SQL of the rows to append: those of the batch whose key is not known."""
    rows = scan(BRONZE_EVENTS, [file.uri for file in batch.files], place=True)
    return f"""
        SELECT {identifiers([column.name for column in FLAT], "b.")}, b.source AS first_source, b.ingested_at,
               CAST({batch.target} AS BIGINT) AS bronze_version, CAST(b."timestamp" AS DATE) AS event_date
        FROM {rows} AS b ANTI JOIN (SELECT file, row FROM keys WHERE known) AS k
             ON k.file = b.file_index AND k.row = b.file_row_number
    """
