"""Parquet in the flat layout of `contract.columns`: the schema, events as a table, and the lines of a file as rows of another."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from contract import codec
from contract.columns import COLUMNS, flatten
from contract.errors import InvalidBody
from contract.event import Event
from sinks.parquet_completion import Unreadable

ROW_GROUP_ROWS: Final = 32_768
"""Rows in a group at least, save in the last: enough for a reader to skip by statistics, little enough to hold in memory."""
_READ_BYTES: Final = 64 * 1024
"""JSON text decoded at a time: below the events and bytes of one batch, and little enough to hold up no other thread."""
_NDJSON: Final = "application/x-ndjson"

_ARROW: Final[dict[str, pa.DataType]] = {
    "string": pa.string(),
    "int64": pa.int64(),
    "float64": pa.float64(),
    "timestamp": pa.timestamp("us"),
    "json": pa.string(),
}
SCHEMA: Final = pa.schema([pa.field(c.name, _ARROW[c.type], c.nullable) for c in COLUMNS])
"""The flat layout as Arrow sees it; `timestamp` is UTC without a zone."""


def table_of(events: Sequence[Event]) -> pa.Table:
    """The events as rows of SCHEMA, in their order."""
    columns: list[tuple[Any, ...]] = list(zip(*map(flatten, events), strict=True)) or [() for _ in SCHEMA]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def write_parquet(lines: Path, target: Path) -> None:
    """Write the events of a JSON Lines file into a new and synced Parquet file, a part at a time.

    Raises OSError when the disk fails and Unreadable for what is no event; the target is removed then.
    """
    try:
        with target.open("wb") as handle:
            with pq.ParquetWriter(handle, SCHEMA, compression="zstd") as writer:
                for table in _row_groups(lines):
                    writer.write_table(table)
            handle.flush()
            os.fsync(handle.fileno())
    except (OSError, Unreadable):
        target.unlink(missing_ok=True)
        raise


def _row_groups(lines: Path) -> Iterator[pa.Table]:
    waiting: list[pa.Table] = []
    rows = 0
    with lines.open("rb") as handle:
        while part := handle.readlines(_READ_BYTES):
            try:
                batch = codec.decode_batch(b"".join(part), _NDJSON)
            except InvalidBody as error:  # not one of these lines is JSON
                raise Unreadable(f"{lines}: {error}") from error
            if batch.rejected:
                raise Unreadable(f"{lines}: {batch.rejected[0].error}")
            waiting.append(table_of(batch.events))
            rows += len(batch.events)
            if rows >= ROW_GROUP_ROWS:
                yield pa.concat_tables(waiting).combine_chunks()
                waiting, rows = [], 0
    if waiting:
        yield pa.concat_tables(waiting).combine_chunks()
