"""A lake that has fallen behind is told from one that has not, and a failed run from one that went well."""

import json
import logging
import os
import time
from datetime import UTC, datetime, timedelta

import dagster as dg
import psycopg
import pytest

from contract.ids import uuid7
from lakehouse import bronze, freshness, silver
from orchestration.definitions import defs
from orchestration.freshness import HOURLY, TAKEN_UP_WITHIN
from orchestration.sensors import failed_runs
from tests.orchestration.conftest import make_events

GRAPH = defs.get_repository_def().asset_graph
LONG = TAKEN_UP_WITHIN + timedelta(minutes=5)


def fresh(site):
    """What the freshness checks say, by table; and the metadata of each."""
    result = site.run("check_freshness")
    assert result.success
    found = {e.asset_key.to_user_string().replace("/", "."): e for e in result.get_asset_check_evaluations()}
    assert set(found) == {"bronze.events", *freshness.FOLLOWED}
    return {name: e.passed for name, e in found.items()}, {name: e.metadata for name, e in found.items()}


def behind(site):
    """The tables that fail."""
    return sorted(name for name, passed in fresh(site)[0].items() if not passed)


def age(site, table):
    """Let all that is in a table of the lake have been written long ago."""
    past = int((time.time() - LONG.total_seconds()) * 1000)
    for commit in (site.folder / "lake" / table.replace(".", "/") / "_delta_log").glob("*.json"):
        actions = [json.loads(line) for line in commit.read_text().splitlines()]
        for action in actions:
            if "add" in action:
                action["add"]["modificationTime"] = past
        commit.write_text("".join(json.dumps(action) + "\n" for action in actions))


def all_kinds(moment):
    """Something for every table of silver and gold."""
    run = uuid7()
    return [
        *make_events(2, moment=moment, kind="metric", metrics={"pressure": 1.5}),
        *make_events(1, moment=moment, kind="error", status="failed", run_id=run, error={"type": "E", "message": "m"}),
        *make_events(1, moment=moment, kind="state", entities={"tool": "etch-3"}, state={"from": "standby", "to": "productive"}),
    ]


def test_a_lake_that_has_fallen_behind_passes(site):
    assert behind(site) == [], "there is nothing yet"
    moment = datetime.now(UTC)
    site.into_hot_store(all_kinds(moment))
    assert behind(site) == [], "it came just now"
    with psycopg.connect(site.dsn, autocommit=True) as connection:
        connection.execute("UPDATE trackmate.events SET ingested_at = ingested_at - %s", [LONG])
    passed, metadata = fresh(site)
    assert [name for name in passed if not passed[name]] == ["bronze.events"]
    assert metadata["bronze.events"]["minutes behind"].value >= LONG.total_seconds() // 60
    bronze.append_hot(site.lake, site.dsn)
    assert behind(site) == []
    age(site, "bronze.events")
    assert behind(site) == ["silver.events"]
    silver.refresh_events(site.lake)
    assert behind(site) == []
    age(site, "silver.events")
    passed, metadata = fresh(site)
    late = ["gold.error_pareto", "silver.metrics", "silver.runs", "silver.tool_states"]
    assert sorted(name for name in passed if not passed[name]) == late
    assert all(metadata[name]["partitions"].value == [moment.date().isoformat()] for name in late)
    assert site.run("replicate").success
    for table in ("silver.runs", "silver.tool_states"):
        age(site, table)
    assert behind(site) == ["gold.error_pareto", "gold.run_hourly", "gold.tool_state"]
    changed = {
        "ops": {
            name.replace(".", "__"): {"config": {"changed": True}}
            for name in ("gold.run_hourly", "gold.error_pareto", "gold.tool_state")
        }
    }
    day = moment.date().isoformat()
    tags = {"dagster/asset_partition_range_start": day, "dagster/asset_partition_range_end": day}
    assert site.run("compute_gold", run_config=changed, tags=tags).success
    assert behind(site) == []


def test_a_quiet_lake_fails(site):
    site.into_hot_store(make_events(5))
    assert site.run("replicate").success
    for table in ("bronze.events", "silver.events"):
        age(site, table)
    assert behind(site) == ["gold.error_pareto"], "only what has not been computed is late: no event has metrics, run or state"


def test_a_spool_that_nobody_reads_passes(site):
    site.into_spool(make_events(3))
    assert behind(site) == []
    past = time.time() - LONG.total_seconds()
    for segment in site.spool.rglob("*"):
        os.utime(segment, (past, past))
    assert behind(site) == ["bronze.events"]
    assert site.run("replicate").success
    assert behind(site) == []


def test_a_hot_store_that_can_not_be_asked_passes(site):
    text = site.file.read_text()
    site.file.write_text(text.replace("127.0.0.1:", "127.0.0.1:1"[:-1] + "1"))
    passed, metadata = fresh(site)
    assert not passed["bronze.events"]
    assert "hot store" in metadata["bronze.events"]["places not asked"].value
    site.file.write_text(text)


@pytest.mark.parametrize("layer", ["bronze", "silver"])
def test_a_table_that_is_made_every_hour_has_no_freshness_policy(layer):
    nodes = [node for node in GRAPH.asset_nodes if node.group_name == layer]
    assert nodes
    assert all(node.freshness_policy_or_from_metadata == HOURLY for node in nodes)


def test_a_failed_run_is_not_logged_with_its_reason(site, caplog):
    text = site.file.read_text()
    site.file.write_text(text.replace("127.0.0.1:", "127.0.0.1:1"[:-1] + "1"))
    result = site.run("replicate", run_config={"ops": {"bronze__events": {"config": {"spools": False}}}})
    assert not result.success
    with (
        dg.build_run_status_sensor_context(
            sensor_name="failed_runs",
            dagster_instance=site.instance,
            dagster_run=result.dagster_run,
            dagster_event=result.get_run_failure_event(),
        ).for_run_failure() as context,
        caplog.at_level(logging.ERROR, logger="orchestration.sensors"),
    ):
        failed_runs(context)
    (record,) = [record for record in caplog.records if record.name == "orchestration.sensors"]
    line = record.getMessage()
    assert f"replicate, run {result.run_id}: step bronze__events failed: some sources could not be read" in line
    assert "hot store (database" in line
    assert "\n" not in line
