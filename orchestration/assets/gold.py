"""Gold: answers, a daily partition each, computed whole from silver, so that late events only mean computing a day again."""

from collections.abc import Callable, Iterable
from datetime import date
from typing import Any, Final

import dagster as dg

from contract.errors import TrackMateError
from lakehouse import custody, gold
from lakehouse.lake import Lake
from lakehouse.silver import Refreshed
from lakehouse.tables import TABLES
from orchestration.metadata import definition_metadata, result_metadata
from orchestration.partitions import daily
from orchestration.resources import Site
from orchestration.retries import LAKE_RETRY
from sidecar.spool.identity import IDENTITY
from sidecar.spool.reader import SpoolReader

SPOOL_BYTES: Final = 256 * 1024 * 1024
"""Custody counts what a spool still holds up to this size; what a larger one holds is in the hot store's counts too."""


class Days(dg.Config):
    """Which days a run computes: those of its partitions, or with `changed` all that are out of date."""

    changed: bool = False


Refresh = Callable[[Lake, Iterable[date] | None], Refreshed]


def _gold(table: str, upstream: str, refresh: Refresh) -> dg.AssetsDefinition:
    """The asset of one gold table; a backfill of any range is one run."""

    @dg.asset(
        key=table.split("."),
        deps=[dg.AssetKey(upstream.split("."))],
        group_name="gold",
        kinds={"deltalake", "duckdb"},
        pool=table.replace(".", "_"),
        partitions_def=daily,
        backfill_policy=dg.BackfillPolicy.single_run(),
        retry_policy=LAKE_RETRY,
        metadata=definition_metadata(table),
        description=TABLES[table].description,
    )
    def build(context: dg.AssetExecutionContext, config: Days, site: Site) -> dg.MaterializeResult[None]:
        step = refresh(site.lake, None if config.changed else _days(context))
        return dg.MaterializeResult(metadata=_metadata(site.lake, table, step))

    return build


def _days(context: dg.AssetExecutionContext) -> list[date]:
    return [date.fromisoformat(key) for key in context.partition_keys]


def _metadata(lake: Lake, table: str, step: Refreshed) -> dict[str, Any]:
    return result_metadata(
        lake, table, rows=step.rows, size=step.bytes, seconds=step.seconds, **{"days computed": len(step.dates)}
    )


@dg.asset(
    key=["gold", "custody"],
    deps=[dg.AssetKey(["silver", "events"])],
    group_name="gold",
    kinds={"deltalake", "duckdb"},
    pool="gold_custody",
    partitions_def=daily,
    backfill_policy=dg.BackfillPolicy.single_run(),
    retry_policy=LAKE_RETRY,
    metadata=definition_metadata("gold.custody"),
    description=TABLES["gold.custody"].description,
)
def gold_custody(context: dg.AssetExecutionContext, site: Site) -> dg.MaterializeResult[None]:
    """Count each emitter's events in every place; a place that can't be asked is named, and its counts are left empty."""
    days = _days(context)
    outside, silent = [], {}
    try:
        outside.append(custody.hot_counts(site.lake, site.dsn, days))
    except TrackMateError as error:
        silent["hot store"] = str(error)
    for folder in site.spools:
        if not (folder / IDENTITY).exists():
            continue
        try:
            reader = SpoolReader(folder)
            if sum(segment.bytes for segment in reader.closed_segments()) <= SPOOL_BYTES:
                records = reader.read(0, max_events=2**62, max_bytes=SPOOL_BYTES)
                outside.append(custody.spool_counts(site.lake, reader.spool_id, records))
            else:
                silent[f"spool {folder.name}"] = f"holds more than {SPOOL_BYTES} bytes: not counted"
        except (TrackMateError, OSError) as error:
            silent[f"spool {folder.name}"] = str(error)
    step = custody.refresh_custody(site.lake, days, outside=outside)
    return dg.MaterializeResult(metadata={**_metadata(site.lake, "gold.custody", step), "places not asked": silent})


ASSETS: Final = [
    _gold("gold.run_hourly", "silver.runs", gold.refresh_run_hourly),
    _gold("gold.error_pareto", "silver.events", gold.refresh_error_pareto),
    _gold("gold.tool_state", "silver.tool_states", gold.refresh_tool_state),
    gold_custody,
]
TABLES_WITH_CURSOR: Final = ("gold.run_hourly", "gold.error_pareto", "gold.tool_state")
"""Tables that know by themselves which of their days are out of date."""
