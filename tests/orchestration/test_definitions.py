"""The definitions load without any server, and say what the design says."""

import dagster as dg
import pytest

from lakehouse.tables import TABLES
from orchestration.definitions import defs

GRAPH = defs.get_repository_def().asset_graph


def test_definitions_cannot_be_loaded_without_a_site():
    dg.Definitions.validate_loadable(defs)


@pytest.mark.parametrize("table", TABLES)
def test_a_declared_table_has_no_asset(table):
    key = dg.AssetKey(table.split("."))
    assert key in GRAPH.get_all_asset_keys()
    assert GRAPH.get(key).group_name == table.split(".")[0]


def test_two_runs_may_write_one_table_at_once():
    pools = [GRAPH.get(dg.AssetKey(table.split("."))).pools for table in TABLES]
    assert all(len(pool) == 1 for pool in pools)
    assert len({next(iter(pool)) for pool in pools}) == len(TABLES)


@pytest.mark.parametrize("table", [table for table in TABLES if table.startswith("gold.")])
def test_a_backfill_of_gold_costs_a_run_a_day(table):
    node = GRAPH.get(dg.AssetKey(table.split(".")))
    assert node.partitions_def is not None
    assert node.backfill_policy == dg.BackfillPolicy.single_run()


def test_an_asset_that_other_systems_feed_gives_up_at_once():
    for definition in defs.resolve_all_asset_specs():
        assert definition.group_name in {"bronze", "silver", "gold", "maintenance"}
    ops = [definition.op for definition in defs.assets if isinstance(definition, dg.AssetsDefinition)]
    assert all(op.retry_policy is not None for op in ops)
