"""One step of a follower: which new rows of silver.events it takes, and which of its own files those rows can concern."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import duckdb
import pyarrow as pa

from lakehouse.files import DataFile, active_files
from lakehouse.lake import Lake, scan
from lakehouse.tables import BRONZE_EVENTS, SILVER_EVENTS
from lakehouse.writer import Commit

MAX_ROWS = 1_000_000
"""New rows that one step takes, about."""


@dataclass(frozen=True)
class Refreshed:
    """What one step did.

    `rows` and `bytes` are those written, `read_rows` the new ones it took; `from_version` and `to_version` are the source's
    version before and after (None: nothing was ever read), `version` is the table's own; `dates` are the partitions touched;
    `more`: there is more to read at once.
    """

    rows: int
    bytes: int
    read_rows: int
    from_version: int | None
    to_version: int | None
    version: int
    seconds: float
    dates: tuple[date, ...] = ()
    more: bool = False


def refreshed(
    commit: Commit, *, started: float, read_rows: int, span: tuple[int | None, int], dates: Sequence[date], more: bool
) -> Refreshed:
    """The result of a step that committed."""
    return Refreshed(
        rows=commit.rows,
        bytes=commit.bytes,
        read_rows=read_rows,
        from_version=span[0],
        to_version=span[1],
        version=commit.version,
        seconds=time.monotonic() - started,
        dates=tuple(sorted(dates)),
        more=more,
    )


def nothing_new(lake: Lake, name: str, cursor: int | None, started: float) -> Refreshed:
    """The result of a step that found nothing to do."""
    return Refreshed(0, 0, 0, cursor, cursor, lake.version(name), time.monotonic() - started)


@dataclass(frozen=True)
class NewEvents:
    """Rows of silver.events that came after a cursor: `source` is SQL to select from; `app_id` names the cursor."""

    app_id: str
    cursor: int | None
    target: int
    source: str
    dates: tuple[date, ...]
    more: bool


def source_cursor(lake: Lake, source: str) -> str:
    """The name under which a follower of the table keeps its cursor; a table made anew is followed from its beginning."""
    return f"{source}:{lake.table(source).metadata().id}"


def new_events(lake: Lake, follower: str, max_rows: int) -> NewEvents | None:
    """What `follower` has not seen of silver.events yet, at most about `max_rows` rows; None if it has seen everything.

    Rows are followed by the bronze version that brought them, which every row carries: compaction, clustering and clean-up of
    silver.events can't hide a row or show it twice.
    """
    events = lake.table(SILVER_EVENTS.name)
    app_id = source_cursor(lake, SILVER_EVENTS.name)
    cursor: int | None = lake.table(follower).transaction_version(app_id)
    low = 0 if cursor is None else cursor + 1
    top = events.transaction_version(source_cursor(lake, BRONZE_EVENTS.name))
    if top is None or top < low:
        return None
    files = [file for file in active_files(lake, SILVER_EVENTS.name, events) if file.may_hold("bronze_version", low, None)]
    if not files:
        return None
    target, more = _target(files, low, top, max_rows)
    files = [file for file in files if file.may_hold("bronze_version", low, target)]
    rows = scan(SILVER_EVENTS, [file.uri for file in files])
    return NewEvents(
        app_id=app_id,
        cursor=cursor,
        target=target,
        source=f"(SELECT * FROM {rows} WHERE bronze_version BETWEEN {low} AND {target})",
        dates=tuple(sorted({file.partition for file in files if file.partition is not None})),
        more=more,
    )


def _target(files: Sequence[DataFile], low: int, top: int, max_rows: int) -> tuple[int, bool]:
    """Up to which bronze version to read so that the files to open hold about `max_rows` rows; whether that leaves some out."""
    ends = sorted({max(low, file.maximum.get("bronze_version", top)) for file in files})
    chosen = ends[0]
    for end in ends[1:]:
        if sum(file.rows or 0 for file in files if file.may_hold("bronze_version", low, end)) > max_rows:
            break
        chosen = end
    return chosen, chosen != ends[-1]


def overlapping(connection: duckdb.DuckDBPyConnection, files: Sequence[DataFile], column: str, keys: str) -> list[DataFile]:
    """Those files that can hold one of the keys (a query of one column named `key`), by the log's smallest and largest values.

    Ids that begin with their time lie close together, so they are few; a file without statistics is always one of them.
    """
    spans = [(n, file.minimum.get(column), file.maximum.get(column)) for n, file in enumerate(files)]
    known = [span for span in spans if None not in span]
    chosen = {n for n, file in enumerate(files) if file.may_hold(column, None, None)} - {n for n, *_ in known}
    if known:
        numbers, low, high = zip(*known, strict=True)
        connection.register("spans", pa.table({"number": numbers, "low": low, "high": high}))
        found = connection.execute(
            f"SELECT number FROM spans ASOF JOIN ({keys}) AS k ON k.key >= spans.low WHERE k.key <= spans.high"
        ).fetchall()
        connection.unregister("spans")
        chosen |= {number for (number,) in found}
    return [files[n] for n in sorted(chosen)]
