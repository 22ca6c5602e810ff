"""What is run together: replication in one run (a run costs seconds to launch), and the days of gold that have changed."""

from __future__ import annotations

import dagster as dg

from orchestration import freshness

replicate = dg.define_asset_job(
    "replicate",
    selection=dg.AssetSelection.groups("bronze", "silver"),
    executor_def=dg.in_process_executor,
    description="Spools and hot store to bronze to silver, in one process.",
)

compute_gold = dg.define_asset_job(
    "compute_gold",
    selection=dg.AssetSelection.groups("gold"),
    executor_def=dg.in_process_executor,
    description="The answers of the days that have changed.",
)

maintain = dg.define_asset_job(
    "maintain",
    selection=dg.AssetSelection.groups("maintenance"),
    executor_def=dg.in_process_executor,
    description="Partitions, aggregates, compression and retention of the hot store.",
)

tend_hot_store = dg.define_asset_job(
    "tend_hot_store",
    selection=dg.AssetSelection.assets(["maintenance", "hot_store"]),
    executor_def=dg.in_process_executor,
    description="The hot store's part of maintenance alone: its aggregates are to be minutes old, not a day.",
)

check_freshness = dg.define_asset_job(
    "check_freshness",
    selection=dg.AssetSelection.checks(*freshness.CHECKS),
    executor_def=dg.in_process_executor,
    description="Whether any table owes its source something: also when no table is made, and so no other check runs.",
)

JOBS = [replicate, compute_gold, maintain, tend_hot_store, check_freshness]
