"""Writing to Delta exactly once: every commit carries the cursor of what it brought, and is refused when that cursor has moved.

delta-rs records application transactions but does not refuse a repeated one, so this does: it looks at the cursor before it
writes, commits with the cursor's next value, and a commit that meets another one under the same `app_id` fails and is looked at
again.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote
from uuid import uuid4

import pyarrow as pa
from deltalake import (
    BloomFilterProperties,
    ColumnProperties,
    CommitProperties,
    DeltaTable,
    Transaction,
    WriterProperties,
    write_deltalake,
)
from deltalake.exceptions import CommitFailedError
from deltalake.schema import Schema

from lakehouse.files import commit_actions
from lakehouse.lake import ConcurrentWrite, Lake, LakeError, StaleCursor
from lakehouse.tables import Table

Rows = pa.Table | pa.RecordBatchReader | Callable[[], pa.RecordBatchReader]
"""What can be written; a reader can be read once only, so a lost race ends it, where a table or a factory is tried again."""

TARGET_FILE_BYTES: Final = 128 * 1024 * 1024
ROW_GROUP_ROWS: Final = 131_072
ATTEMPTS: Final = 12

_ONE_AT_A_TIME: Final = threading.Lock()
"""Threads of one process that write at once can block each other for ever inside delta-rs; processes can't."""

_MARK: Final = "trackmate.write"
"""Under this name a commit carries the id of the attempt that made it."""


class _AnyCursor:
    """Marks that the caller does not care where the cursor stood before."""


ANY: Final = _AnyCursor()


@dataclass(frozen=True)
class Commit:
    """What came of one write: `version` is the table's version that holds it, `bytes` those of the new files.

    `written` is False when the cursor said that it was in already; rows and bytes are 0 then.
    """

    written: bool
    version: int
    rows: int = 0
    bytes: int = 0
    seconds: float = 0.0


def writer_properties(declared: Table, *, bloom: bool = False) -> WriterProperties:
    """How the table's Parquet files are written: zstd, row groups small enough to be skipped; Bloom filters if `bloom`."""
    columns = {name: ColumnProperties(bloom_filter_properties=_bloom_filter()) for name in (declared.bloom if bloom else ())}
    return WriterProperties(
        compression="ZSTD",
        compression_level=1,
        max_row_group_size=ROW_GROUP_ROWS,
        column_properties=columns or None,
    )


def _bloom_filter() -> BloomFilterProperties:
    return BloomFilterProperties(set_bloom_filter_enabled=True, fpp=0.01, ndv=ROW_GROUP_ROWS)


def transaction_version(lake: Lake, name: str, app_id: str) -> int | None:
    """Where the cursor `app_id` of the table stands; None if it has never been set."""
    version: int | None = lake.table(name).transaction_version(app_id)
    return version


def append_once(lake: Lake, name: str, data: Rows, app_id: str, version: int, *, after: int | _AnyCursor | None = ANY) -> Commit:
    """Append `data` and move the cursor `app_id` to `version` in one commit, unless the cursor stands there or beyond already.

    `after` is where the cursor stood when `data` was read: if it stands elsewhere now, StaleCursor is raised, nothing written.
    Raises ConcurrentWrite when other writers win too often.
    """
    return _write_once(lake, name, data, app_id, version, after=after, how={"mode": "append"})


def replace_partitions_once(
    lake: Lake,
    name: str,
    data: Rows,
    partitions: Sequence[date],
    app_id: str,
    version: int,
    *,
    after: int | _AnyCursor | None = ANY,
    snapshot: int | None = None,
) -> Commit:
    """Put `data` in the place of everything in these partitions, and move the cursor, in one commit.

    Every row of `data` must lie in one of `partitions`; partitions of which `data` has no row become empty. `snapshot` is the
    version of the table that `data` was made from: if it is no longer the newest, ConcurrentWrite is raised, nothing written.
    """
    if not partitions:
        empty = pa.schema([pa.field(each.name, each.type) for each in lake.declaration(name).columns]).empty_table()
        return append_once(lake, name, empty, app_id, version, after=after)
    predicate = _in_partitions(lake.declaration(name), partitions)
    return _write_once(
        lake, name, data, app_id, version, after=after, snapshot=snapshot, how={"mode": "overwrite", "predicate": predicate}
    )


def replace_partitions(lake: Lake, name: str, data: Rows, partitions: Sequence[date], *, snapshot: int | None = None) -> Commit:
    """Put `data` in the place of everything in these partitions, without a cursor: for what can be computed again at any time.

    `snapshot` is as for `replace_partitions_once`: no cursor tells that somebody put newer rows there meanwhile.
    """
    how = {"mode": "overwrite", "predicate": _in_partitions(lake.declaration(name), partitions)}
    return _write_once(lake, name, data, None, 0, after=ANY, snapshot=snapshot, how=how)


def _in_partitions(declared: Table, partitions: Sequence[date]) -> str:
    days = ", ".join(f"'{day.isoformat()}'" for day in sorted(set(partitions)))
    return f"{declared.partition_by} IN ({days})"


def _write_once(
    lake: Lake,
    name: str,
    data: Rows,
    app_id: str | None,
    version: int,
    *,
    after: int | _AnyCursor | None,
    snapshot: int | None = None,
    how: dict[str, Any],
) -> Commit:
    declared = lake.declaration(name)
    started = time.monotonic()
    for attempt in range(ATTEMPTS):
        table = lake.table(name)
        current = None if app_id is None else table.transaction_version(app_id)
        if current is not None and current >= version:
            return Commit(written=False, version=int(table.version()), seconds=time.monotonic() - started)
        if not isinstance(after, _AnyCursor) and current != after:
            raise StaleCursor(name, str(app_id), expected=after, found=current)
        if snapshot is not None and table.version() != snapshot:
            raise ConcurrentWrite(name, f"made from version {snapshot}, which is now {table.version()}")
        mark = str(uuid4())
        try:
            evolve(table, declared)
            with _ONE_AT_A_TIME:
                write_deltalake(
                    table,
                    conform(data() if callable(data) else data, declared),
                    **how,
                    target_file_size=TARGET_FILE_BYTES,
                    writer_properties=writer_properties(declared),
                    commit_properties=CommitProperties(
                        custom_metadata={_MARK: mark},
                        app_transactions=None if app_id is None else [Transaction(app_id, version)],
                    ),
                )
        except CommitFailedError as error:
            if isinstance(data, pa.RecordBatchReader) or attempt == ATTEMPTS - 1:
                raise ConcurrentWrite(name, error) from error
            time.sleep(random.uniform(0, min(2.0, 0.02 * 2**attempt)))  # noqa: S311 - jitter, not a secret
            continue
        return _receipt(lake, name, table, mark, started)
    raise AssertionError  # the loop's last round returns or raises


def _receipt(lake: Lake, name: str, table: DeltaTable, mark: str, started: float) -> Commit:
    """Find our own commit in the log, make it durable, and count what it holds."""
    filesystem = lake.filesystem(table)
    for number in range(int(table.version()), -1, -1):
        actions = commit_actions(filesystem, number) or []
        info: dict[str, Any] = next((action["commitInfo"] for action in actions if "commitInfo" in action), {})
        if info.get(_MARK) != mark:
            continue
        added = [action["add"] for action in actions if "add" in action]
        if not lake.remote:
            _sync(Path(lake.uri(name)), [unquote(add["path"]) for add in added] + [f"_delta_log/{number:020d}.json"])
        return Commit(
            written=True,
            version=number,
            rows=int(info.get("operationMetrics", {}).get("num_added_rows", 0)),
            bytes=sum(add["size"] for add in added),
            seconds=time.monotonic() - started,
        )
    message = f"{name}: the commit just made is not in its log; check that nothing deletes files under {lake.uri(name)}"
    raise LakeError(message)


def _sync(root: Path, paths: Sequence[str]) -> None:
    """Write files and their folders through to the disk, so that what a source forgets after this survives a power cut."""
    folders = {(root / path).parent for path in paths}
    for target in [*(root / path for path in paths), *folders]:
        handle = os.open(target, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def evolve(table: DeltaTable, declared: Table) -> list[str]:
    """Add the columns that the declaration has gained to the table; the names of those added. Columns are never taken away."""
    present = {each.name for each in table.schema().fields}
    missing = [each for each in declared.schema if each.name not in present]
    if missing:
        table.alter.add_columns(Schema.from_arrow(pa.schema(missing)).fields)
    return [each.name for each in missing]


def conform(data: pa.Table | pa.RecordBatchReader, declared: Table) -> pa.RecordBatchReader:
    """The data in the declared columns and types, in order; a column that is not given is NULL. Unknown columns are an error."""
    schema = pa.schema([pa.field(each.name, each.type) for each in declared.columns])
    unknown = set(data.schema.names) - set(schema.names)
    if unknown:
        message = f"{declared.name} has no column {', '.join(sorted(unknown))}; it has {', '.join(schema.names)}"
        raise ValueError(message)
    reader = data if isinstance(data, pa.RecordBatchReader) else data.to_reader()

    def batches() -> Iterator[pa.RecordBatch]:
        for batch in reader:
            columns = [
                batch.column(each.name).cast(each.type)
                if each.name in batch.schema.names
                else pa.nulls(batch.num_rows, each.type)
                for each in schema
            ]
            yield pa.RecordBatch.from_arrays(columns, schema=schema)

    return pa.RecordBatchReader.from_batches(schema, batches())
