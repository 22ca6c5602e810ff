"""Freshness: that each table is looked after (policies), and that none owes its source anything for long (checks)."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

import dagster as dg

from contract.errors import TrackMateError
from lakehouse import freshness
from lakehouse.hot import reader as hot_reader
from orchestration.partitions import FIRST_DAY, daily
from orchestration.resources import LAKE_READER, Site
from sidecar.spool.checkpoint import load_checkpoint
from sidecar.spool.identity import IDENTITY
from sidecar.spool.reader import SpoolReader

HOURLY: Final = dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=3), warn_window=timedelta(minutes=90))
"""For what the hourly replication makes even when nothing came: it stands still when the daemon does, or when runs fail."""

TAKEN_UP_WITHIN: Final = timedelta(minutes=30)
"""What its source has had for longer, a table must have; the goal is two minutes."""


def _followed(name: str) -> dg.AssetChecksDefinition:
    source = freshness.FOLLOWED[name]
    minutes = int(TAKEN_UP_WITHIN.total_seconds() // 60)

    @dg.asset_check(
        asset=name.split("."), name="fresh", description=f"What {source} has had for {minutes} minutes is here, whatever its day."
    )
    def fresh(site: Site) -> dg.AssetCheckResult:
        first, last = date.min, date.max
        if name.startswith("gold."):  # older days are in silver only
            first, last = date.fromisoformat(FIRST_DAY), date.fromisoformat(daily.get_last_partition_key() or FIRST_DAY)
        found = freshness.waiting(site.lake, name, first=first, last=last)
        if found is None:
            return _result(None, {})
        return _result(found.since, {"partitions": [day.isoformat() for day in found.days]})

    return fresh


@dg.asset_check(
    asset=["bronze", "events"], name="fresh", description="What hot store and closed spool segments have had for long is here."
)
def bronze_fresh(site: Site) -> dg.AssetCheckResult:
    """Since when the oldest event waits, over the hot store and the spools; one that can't be asked fails the check."""
    since: dict[str, datetime] = {}
    silent: dict[str, str] = {}
    places: dict[str, Callable[[], datetime | None]] = {
        "hot store": partial(hot_reader.oldest_unconfirmed, site.dsn, LAKE_READER),
        **{f"spool {folder.name}": partial(_oldest_segment, folder) for folder in site.spools},
    }
    for place, ask in places.items():
        try:
            moment = ask()
        except (TrackMateError, OSError) as error:
            silent[place] = str(error)
            continue
        if moment is not None:
            since[place] = moment
    waits = {place: moment.isoformat() for place, moment in since.items()}
    return _result(min(since.values(), default=None), {"waiting since": waits, "places not asked": silent}, known=not silent)


def _oldest_segment(folder: Path) -> datetime | None:
    """When the oldest closed segment that the lake has not read whole was written last."""
    if not (folder / IDENTITY).exists():
        return None
    read = load_checkpoint(folder, LAKE_READER)
    unread = [segment.path.stat().st_mtime for segment in SpoolReader(folder).closed_segments() if segment.last_seq > read]
    return datetime.fromtimestamp(min(unread), UTC) if unread else None


def _result(since: datetime | None, metadata: dict[str, Any], *, known: bool = True) -> dg.AssetCheckResult:
    behind = timedelta() if since is None else max(timedelta(), datetime.now(UTC) - since)
    return dg.AssetCheckResult(
        passed=known and behind <= TAKEN_UP_WITHIN, metadata={"minutes behind": round(behind.total_seconds() / 60, 1), **metadata}
    )


CHECKS: Final = [bronze_fresh, *map(_followed, freshness.FOLLOWED)]
