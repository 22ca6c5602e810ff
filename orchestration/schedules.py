"""What runs by the clock."""

import dagster as dg

from orchestration.jobs import check_freshness, maintain, replicate, tend_hot_store

hourly_replication = dg.ScheduleDefinition(
    name="hourly_replication",
    job=replicate,
    cron_schedule="7 * * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Replicates even when nothing came: marks runs as lost, and shows that the way is open.",
)

nightly_maintenance = dg.ScheduleDefinition(
    name="nightly_maintenance",
    job=maintain,
    cron_schedule="23 2 * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Compaction, clustering, vacuum and checkpoints; partitions, aggregates and retention of the hot store.",
)

hot_store_upkeep = dg.ScheduleDefinition(
    name="hot_store_upkeep",
    job=tend_hot_store,
    cron_schedule="*/15 * * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Keeps the hot store's aggregates fresh and its partitions ahead of time.",
)

hourly_freshness = dg.ScheduleDefinition(
    name="hourly_freshness",
    job=check_freshness,
    cron_schedule="37 * * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Looks whether any table has fallen behind its source.",
)

SCHEDULES = [hourly_replication, nightly_maintenance, hot_store_upkeep, hourly_freshness]
