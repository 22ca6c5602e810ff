"""Maintenance: what keeps the lake and the hot store quick and bounded."""

from datetime import UTC, datetime
from typing import Final

import dagster as dg

from lakehouse import maintenance
from lakehouse.hot.maintenance import maintain
from orchestration.resources import Site
from orchestration.retries import LAKE_RETRY, SOURCE_RETRY


@dg.asset(key=["maintenance", "lake"], group_name="maintenance", kinds={"deltalake"}, pool="maintenance", retry_policy=LAKE_RETRY)
def lake(site: Site) -> dg.MaterializeResult[None]:
    """Compact, cluster, checkpoint and clean up every table of the lake; add the columns that declarations have gained."""
    done = {
        step.table: {key: str(value) for key, value in vars(step).items() if value} for step in maintenance.maintain(site.lake)
    }
    return dg.MaterializeResult(metadata={"tables": done})


@dg.asset(
    key=["maintenance", "hot_store"], group_name="maintenance", kinds={"postgres"}, pool="maintenance", retry_policy=SOURCE_RETRY
)
def hot_store(site: Site) -> dg.MaterializeResult[None]:
    """Make partitions ahead, refresh aggregates, compress, and drop what is past its retention and confirmed by the lake."""
    done = maintain(site.config.hot, datetime.now(UTC))
    return dg.MaterializeResult(
        metadata={
            "level": done.level,
            "partitions made": [day.isoformat() for day in done.made],
            "aggregated up to transaction": done.aggregated_to_xid,
            "retention": str(done.retained),
            "seconds": round(done.seconds, 3),
        }
    )


ASSETS: Final = [lake, hot_store]
