"""Silver: each event once, and what follows from it, each step incremental from the commits that it has not seen."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import dagster as dg

from lakehouse import silver
from lakehouse.lake import Lake
from lakehouse.tables import TABLES
from orchestration.freshness import HOURLY
from orchestration.metadata import definition_metadata, result_metadata
from orchestration.resources import Site
from orchestration.retries import LAKE_RETRY

LOST_AFTER: Final = timedelta(hours=24)
"""A run that has told nothing for so long is counted as lost."""

BRONZE: Final = dg.AssetKey(["bronze", "events"])
EVENTS: Final = dg.AssetKey(["silver", "events"])


def _silver(table: str, upstream: dg.AssetKey, refresh: Callable[[Lake], silver.Refreshed]) -> dg.AssetsDefinition:
    """The asset of one silver table: `refresh` is called until it has caught up with `upstream`."""
    layer, name = table.split(".")

    @dg.asset(
        key=[layer, name],
        deps=[upstream],
        group_name=layer,
        kinds={"deltalake", "duckdb"},
        pool=f"{layer}_{name}",
        retry_policy=LAKE_RETRY,
        metadata=definition_metadata(table),
        freshness_policy=HOURLY,
        automation_condition=dg.AutomationCondition.eager(),
        description=TABLES[table].description,
    )
    def build(site: Site) -> dg.MaterializeResult[None]:
        return dg.MaterializeResult(metadata=catch_up(site.lake, table, refresh))

    return build


def catch_up(lake: Lake, table: str, refresh: Callable[[Lake], silver.Refreshed]) -> dict[str, Any]:
    """Call `refresh` until it says that there is no more; what it did, as metadata."""
    rows = size = steps = 0
    seconds = 0.0
    while True:
        step = refresh(lake)
        rows, size, seconds, steps = rows + step.rows, size + step.bytes, seconds + step.seconds, steps + 1
        if not step.more:
            return result_metadata(
                lake, table, rows=rows, size=size, seconds=seconds, steps=steps, **{"read up to version": step.to_version}
            )


def _runs(lake: Lake) -> silver.Refreshed:
    step = silver.refresh_runs(lake)
    if not step.more:
        silver.mark_lost(lake, datetime.now(UTC), LOST_AFTER)
    return step


silver_events = _silver("silver.events", BRONZE, silver.refresh_events)
silver_metrics = _silver("silver.metrics", EVENTS, silver.refresh_metrics)
silver_runs = _silver("silver.runs", EVENTS, _runs)
silver_tool_states = _silver("silver.tool_states", EVENTS, silver.refresh_tool_states)

ASSETS: Final = [silver_events, silver_metrics, silver_runs, silver_tool_states]
