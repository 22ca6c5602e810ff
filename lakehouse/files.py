"""A Delta table's data files as its log tells them: which are active, what each spans, what commits added and removed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any
from urllib.parse import unquote

import pyarrow.fs as pafs
from deltalake import DeltaTable

from lakehouse.lake import Lake, LogExpired, as_arrow

_CUT_OFF = timedelta(microseconds=999)
"""The log keeps timestamps in milliseconds, cut off: the largest value of a file may be this much later than it says."""


@dataclass(frozen=True)
class DataFile:
    """One Parquet file: DuckDB reads `uri`, `path` is relative to the table; a column without statistics is in no mapping.

    `modified` is the millisecond of its making, or of its removal where that is told of.
    """

    uri: str
    path: str
    bytes: int
    rows: int | None
    partition: date | None
    minimum: Mapping[str, Any]
    maximum: Mapping[str, Any]
    nulls: Mapping[str, int]
    modified: int = 0

    def may_hold(self, column: str, low: Any, high: Any) -> bool:
        """Whether a value of `column` between `low` and `high` (inclusive; None: open) can be in the file."""
        if column not in self.minimum or column not in self.maximum:
            return self.rows is None or self.nulls.get(column) != self.rows
        return (high is None or self.minimum[column] <= high) and (low is None or self.maximum[column] >= low)


@dataclass(frozen=True)
class Change:
    """What one commit did to the rows: files added and removed by it, compaction (which changes no row) left out."""

    version: int
    added: tuple[DataFile, ...]
    removed: tuple[DataFile, ...]


def active_files(lake: Lake, name: str, table: DeltaTable) -> list[DataFile]:
    """The files that make up the opened version of the table."""
    partition_by = lake.declaration(name).partition_by
    root = lake.uri(name)
    files = []
    for row in as_arrow(table.get_add_actions(flatten=True)).to_pylist():
        spans: dict[str, dict[str, Any]] = {"min": {}, "max": {}, "null_count": {}}
        for key, value in row.items():
            kind, _, column = key.partition(".")
            if kind in spans and value is not None:
                spans[kind][column] = value + _CUT_OFF if kind == "max" and isinstance(value, datetime) else value
        path = unquote(row["path"])
        files.append(
            DataFile(
                uri=f"{root}/{path}",
                path=path,
                bytes=row["size_bytes"],
                rows=row["num_records"],
                partition=row.get(f"partition.{partition_by}"),
                minimum=spans["min"],
                maximum=spans["max"],
                nulls=spans["null_count"],
                modified=row["modification_time"],
            )
        )
    return files


def commit_actions(filesystem: pafs.FileSystem, version: int) -> list[dict[str, Any]] | None:
    """The actions of one commit as the log's JSON has them; None if the log no longer (or not yet) has it."""
    try:
        with filesystem.open_input_file(f"_delta_log/{version:020d}.json") as handle:
            body: bytes = handle.read()
    except FileNotFoundError:
        return None
    return [json.loads(line) for line in body.splitlines() if line.strip()]


def changes(lake: Lake, name: str, table: DeltaTable, *, after: int) -> Iterator[Change]:
    """The commits after version `after` up to the opened one, oldest first, read one by one.

    Raises LogExpired when the log no longer holds one of them.
    """
    partition_by = lake.declaration(name).partition_by
    root = lake.uri(name)
    filesystem = lake.filesystem(table)

    def data_file(action: Mapping[str, Any]) -> DataFile:
        stats = json.loads(action["stats"]) if action.get("stats") else {}
        value = (action.get("partitionValues") or {}).get(partition_by)
        path = unquote(action["path"])
        return DataFile(
            uri=f"{root}/{path}",
            path=path,
            bytes=action.get("size") or 0,
            rows=stats.get("numRecords"),
            partition=None if value is None else date.fromisoformat(value),
            minimum=stats.get("minValues") or {},
            maximum=stats.get("maxValues") or {},
            nulls=stats.get("nullCount") or {},
            modified=action.get("modificationTime") or action.get("deletionTimestamp") or 0,
        )

    for version in range(after + 1, int(table.version()) + 1):
        actions = commit_actions(filesystem, version)
        if actions is None:
            raise LogExpired(name, version)
        yield Change(
            version=version,
            added=tuple(data_file(a["add"]) for a in actions if "add" in a and a["add"]["dataChange"]),
            removed=tuple(data_file(a["remove"]) for a in actions if "remove" in a and a["remove"]["dataChange"]),
        )
