"""Bronze: replication from the sidecars' spools and from the hot store, each exactly once."""

import time
from pathlib import Path
from typing import Any, Final

import dagster as dg

from contract.errors import TrackMateError
from lakehouse import bronze
from orchestration.freshness import HOURLY
from orchestration.metadata import definition_metadata, result_metadata
from orchestration.resources import LAKE_READER, Site
from orchestration.retries import SOURCE_RETRY
from sidecar.spool.checkpoint import store_checkpoint
from sidecar.spool.identity import IDENTITY
from sidecar.spool.reader import SpoolReader

STEP_SECONDS: Final = 120.0
"""How long one run keeps following a source that has more; then the next run goes on."""


class Replication(dg.Config):
    """Which sources a run follows."""

    spools: bool = True
    hot_store: bool = True


class _Totals:
    """What came from all sources together, and which of them failed."""

    def __init__(self) -> None:
        self.rows = 0
        self.bytes = 0
        self.failures: dict[str, str] = {}
        self.sources: dict[str, Any] = {}

    def add(self, source: str, step: bronze.Appended) -> None:
        self.rows += step.rows
        self.bytes += step.bytes
        before = self.sources.get(source, {"rows": 0, "quarantined": 0})
        self.sources[source] = {
            "rows": before["rows"] + step.rows,
            "quarantined": before["quarantined"] + step.quarantined,
            "up to": step.to_seq,
            "more": step.more,
        }


@dg.asset(
    key=["bronze", "events"],
    group_name="bronze",
    kinds={"deltalake"},
    pool="bronze_events",
    retry_policy=SOURCE_RETRY,
    metadata=definition_metadata("bronze.events"),
    freshness_policy=HOURLY,
    description="Every event as received, from the sidecars' spools and from the hot store; a source's cursor is in the commit.",
)
def bronze_events(context: dg.AssetExecutionContext, config: Replication, site: Site) -> dg.MaterializeResult[None]:
    """Follow every source until it has no more, or `STEP_SECONDS` have passed; one that fails does not stop the others."""
    started = time.monotonic()
    totals = _Totals()
    if config.spools:
        for folder in site.spools:
            _attempt(context, totals, f"spool {folder.name}", lambda folder=folder: _follow_spool(site, folder, totals))
    if config.hot_store:
        _attempt(context, totals, "hot store", lambda: _follow_hot_store(site, totals))
    seconds = time.monotonic() - started
    metadata = result_metadata(
        site.lake, "bronze.events", rows=totals.rows, size=totals.bytes, seconds=seconds, sources=totals.sources
    )
    if totals.failures:
        raise dg.Failure(
            description="some sources could not be read; the others are in. " + "; ".join(totals.failures.values()),
            metadata={**metadata, "failed sources": totals.failures},
        )
    return dg.MaterializeResult(metadata=metadata)


def _attempt(context: dg.AssetExecutionContext, totals: _Totals, source: str, follow: Any) -> None:
    try:
        follow()
    except (TrackMateError, OSError) as error:
        context.log.exception("%s could not be read", source)
        totals.failures[source] = f"{source}: {error}"


def _follow_spool(site: Site, folder: Path, totals: _Totals) -> None:
    if not (folder / IDENTITY).exists():
        totals.sources[f"spool {folder.name}"] = "not there yet: no sidecar has started with this spool.dir"
        return
    reader = SpoolReader(folder)
    deadline = time.monotonic() + STEP_SECONDS
    after = bronze.spool_cursor(site.lake, reader.spool_id)
    # A run that died between its commit and its checkpoint is made good here.
    store_checkpoint(folder, LAKE_READER, after)
    while True:
        records = reader.read(after, max_events=bronze.MAX_EVENTS, max_bytes=bronze.MAX_BYTES, closed_only=True)
        step = bronze.append_spool(site.lake, reader.spool_id, records)
        totals.add(f"spool {reader.spool_id}", step)
        if step.to_seq is None or step.to_seq == after:
            # Damage at the end must not look like events that wait, nor keep its segment for ever.
            store_checkpoint(folder, LAKE_READER, reader.skip_lost(after))
            return
        after = step.to_seq
        store_checkpoint(folder, LAKE_READER, after)
        if time.monotonic() > deadline:
            return


def _follow_hot_store(site: Site, totals: _Totals) -> None:
    deadline = time.monotonic() + STEP_SECONDS
    while True:
        step = bronze.append_hot(site.lake, site.dsn)
        totals.add("hot store", step)
        if not step.more or time.monotonic() > deadline:
            return


@dg.asset(
    key=["bronze", "quarantine"],
    group_name="bronze",
    kinds={"deltalake"},
    pool="bronze_quarantine",
    retry_policy=SOURCE_RETRY,
    metadata=definition_metadata("bronze.quarantine"),
    freshness_policy=HOURLY,
    description="What sidecars refused, with the reason, so that a fixed schema can replay it.",
)
def bronze_quarantine(site: Site) -> dg.MaterializeResult[None]:
    """Read on in every spool's quarantine files from where each was left."""
    rows = size = 0
    seconds = 0.0
    for folder in site.spools:
        if not (folder / IDENTITY).exists():
            continue
        files = sorted((folder / "quarantine").glob("*.ndjson"))
        step = bronze.append_quarantine(site.lake, SpoolReader(folder).spool_id, files)
        rows, size, seconds = rows + step.rows, size + step.bytes, seconds + step.seconds
    return dg.MaterializeResult(metadata=result_metadata(site.lake, "bronze.quarantine", rows=rows, size=size, seconds=seconds))


ASSETS: Final = [bronze_events, bronze_quarantine]
