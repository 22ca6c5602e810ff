"""Keeping tables quick and small: compaction, clustering, retention, checkpoints, clean-up, new columns; and looking back.

Everything here is bounded, may be stopped at any point and run again, and changes no row but by `expire`.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError, DeltaError

from lakehouse.files import DataFile, active_files
from lakehouse.lake import ConcurrentWrite, Lake, LakeError
from lakehouse.tables import TABLES
from lakehouse.writer import TARGET_FILE_BYTES, append_once, evolve, writer_properties

MAX_PARTITIONS: Final = 8
"""Partitions that one call rewrites at most."""

MIN_FILES: Final = 8
"""Small files in a partition from which on compaction is worth it."""

SETTLED: Final = timedelta(days=2)
"""How old a partition is before it is clustered: by then late events are few."""

KEEP_REMOVED: Final = timedelta(days=7)
"""How long files stay that no version needs any more: for readers of older versions, and followers that lag."""

_TASKS: Final = 2
_SPILL_BYTES: Final = 8 * 1024**3


@dataclass(frozen=True)
class Maintained:
    """What maintenance did to one table."""

    table: str
    version: int
    partitions_compacted: int = 0
    partitions_clustered: int = 0
    files_added: int = 0
    files_removed: int = 0
    files_deleted: int = 0
    columns_added: tuple[str, ...] = ()
    seconds: float = 0.0


def by_partition(lake: Lake, name: str, table: DeltaTable) -> dict[date, list[DataFile]]:
    """The table's files by the day that they are of, oldest first."""
    days: dict[date, list[DataFile]] = defaultdict(list)
    for file in active_files(lake, name, table):
        if file.partition is not None:
            days[file.partition].append(file)
    return dict(sorted(days.items()))


def compact(lake: Lake, name: str, *, max_partitions: int = MAX_PARTITIONS, min_files: int = MIN_FILES) -> Maintained:
    """Join the small files of the partitions that have most of them. Raises ConcurrentWrite if a writer took one meanwhile."""
    started = time.monotonic()
    table = lake.table(name)
    small = {
        day: sum(file.bytes < TARGET_FILE_BYTES // 2 for file in files) for day, files in by_partition(lake, name, table).items()
    }
    chosen = sorted((day for day, count in small.items() if count >= min_files), key=lambda day: -small[day])[:max_partitions]
    added = removed = 0
    for day in chosen:
        metrics = _rewrite(lake, name, table, day)
        added, removed = added + metrics["numFilesAdded"], removed + metrics["numFilesRemoved"]
    return Maintained(
        name,
        int(table.version()),
        partitions_compacted=len(chosen),
        files_added=added,
        files_removed=removed,
        seconds=time.monotonic() - started,
    )


def cluster(
    lake: Lake, name: str, *, now: datetime | None = None, settled: timedelta = SETTLED, max_partitions: int = MAX_PARTITIONS
) -> Maintained:
    """Z-order settled partitions that have changed since they were last clustered, oldest first.

    Raises ConcurrentWrite if a writer took one meanwhile.
    """
    started = time.monotonic()
    table = lake.table(name)
    before = ((now or datetime.now(UTC)).astimezone(UTC) - settled).date()
    chosen = []
    for day, files in by_partition(lake, name, table).items():
        done = table.transaction_version(_cluster_cursor(day))
        if day <= before and (done is None or max(file.modified for file in files) > done):
            chosen.append(day)
    added = removed = 0
    for day in chosen[:max_partitions]:
        metrics = _rewrite(lake, name, table, day, z_order=True)
        added, removed = added + metrics["numFilesAdded"], removed + metrics["numFilesRemoved"]
        table = lake.table(name)
        newest = max(file.modified for file in by_partition(lake, name, table)[day])
        append_once(lake, name, lake.declaration(name).schema.empty_table(), _cluster_cursor(day), newest)
        table = lake.table(name)
    return Maintained(
        name,
        int(table.version()),
        partitions_clustered=len(chosen[:max_partitions]),
        files_added=added,
        files_removed=removed,
        seconds=time.monotonic() - started,
    )


def _cluster_cursor(day: date) -> str:
    return f"clustered:{day.isoformat()}"


def _rewrite(lake: Lake, name: str, table: DeltaTable, day: date, *, z_order: bool = False) -> dict[str, Any]:
    declared = lake.declaration(name)
    how: dict[str, Any] = {
        "partition_filters": [(declared.partition_by, "=", day.isoformat())],
        "target_size": TARGET_FILE_BYTES,
        "max_concurrent_tasks": _TASKS,
        "max_temp_directory_size": _SPILL_BYTES,
        "writer_properties": writer_properties(declared, bloom=True),
    }
    try:
        metrics: dict[str, Any] = (
            table.optimize.z_order(list(declared.z_order), **how) if z_order else table.optimize.compact(**how)
        )
    except CommitFailedError as error:
        raise ConcurrentWrite(name, error) from error
    return metrics


def expire(lake: Lake, name: str, *, now: datetime | None = None, keep: timedelta | None = None) -> Maintained:
    """Drop the partitions that are older than the table's declared retention, or than `keep`; nothing if neither is set."""
    started = time.monotonic()
    declared = lake.declaration(name)
    table = lake.table(name)
    age = declared.retention if keep is None else keep
    removed = 0
    if age is not None:
        oldest = ((now or datetime.now(UTC)).astimezone(UTC) - age).date()
        removed = sum(len(files) for day, files in by_partition(lake, name, table).items() if day < oldest)
        if removed:
            table.delete(f"{declared.partition_by} < '{oldest.isoformat()}'")
    return Maintained(name, int(table.version()), files_removed=removed, seconds=time.monotonic() - started)


def clean_up(lake: Lake, name: str, *, keep: timedelta = KEEP_REMOVED, full: bool = True) -> Maintained:
    """Write a checkpoint, drop log entries beyond the log's retention, and delete data files that no kept version needs.

    `full` lists the folder, and so finds also what writers left behind that died before their commit. `keep` below 7 days is for
    tables that nobody reads or follows at the time.
    """
    started = time.monotonic()
    table = lake.table(name)
    if table.version() > 0:
        table.create_checkpoint()
        table.cleanup_metadata()
    deleted = table.vacuum(
        retention_hours=int(keep / timedelta(hours=1)),
        dry_run=False,
        enforce_retention_duration=keep >= KEEP_REMOVED,
        full=full,
    )
    return Maintained(name, int(table.version()), files_deleted=len(deleted), seconds=time.monotonic() - started)


def add_columns(lake: Lake, name: str) -> Maintained:
    """Give the table the columns that its declaration has gained; old rows read NULL there."""
    started = time.monotonic()
    table = lake.table(name)
    try:
        added = evolve(table, lake.declaration(name))
    except CommitFailedError as error:
        raise ConcurrentWrite(name, error) from error
    return Maintained(name, int(table.version()), columns_added=tuple(added), seconds=time.monotonic() - started)


def maintain(lake: Lake, names: Iterable[str] | None = None, *, now: datetime | None = None) -> list[Maintained]:
    """Everything above for these tables, or all, one after the other."""
    results = []
    for name in TABLES if names is None else names:
        started = time.monotonic()
        steps = [
            add_columns(lake, name),
            expire(lake, name, now=now),
            compact(lake, name),
            cluster(lake, name, now=now),
            clean_up(lake, name),
        ]
        results.append(
            Maintained(
                table=name,
                version=steps[-1].version,
                partitions_compacted=sum(step.partitions_compacted for step in steps),
                partitions_clustered=sum(step.partitions_clustered for step in steps),
                files_added=sum(step.files_added for step in steps),
                files_removed=sum(step.files_removed for step in steps),
                files_deleted=sum(step.files_deleted for step in steps),
                columns_added=steps[0].columns_added,
                seconds=time.monotonic() - started,
            )
        )
    return results


def version_at(lake: Lake, name: str, moment: datetime) -> int:
    """The version of the table that was the newest at `moment` (aware), for `--as-of`.

    Raises LakeError if the table was not there yet, or the log no longer goes back so far.
    """
    table = lake.table(name)
    if moment.tzinfo is None:
        message = f"--as-of {moment.isoformat()} has no zone: write it with one, such as {moment.isoformat()}Z"
        raise LakeError(message)
    limit = moment.timestamp() * 1000
    try:
        history = table.history()
    except DeltaError as error:
        message = f"{name}: its log can't be read: {error}"
        raise LakeError(message) from error
    known = sorted((int(commit["version"]), int(commit["timestamp"])) for commit in history if "timestamp" in commit)
    versions = [version for version, at in known if at <= limit]
    if not versions:
        first = datetime.fromtimestamp(known[0][1] / 1000, UTC).isoformat() if known else "nothing"
        message = f"{name}: no version is as old as {moment.isoformat()}; the log begins at {first}"
        raise LakeError(message)
    return versions[-1]
