"""From spool and hot store to silver, through Dagster's own jobs, sensors and checks."""

from datetime import UTC, date, datetime, timedelta

import dagster as dg
import pytest

from contract.ids import uuid7
from lakehouse.hot.reader import confirmations, has_unconfirmed
from orchestration import sensors
from orchestration.definitions import defs
from sidecar.spool.checkpoint import load_checkpoint
from tests.orchestration.conftest import make_events


def checks(result):
    return {(e.asset_key.to_user_string(), e.check_name): e.passed for e in result.get_asset_check_evaluations()}


def test_an_event_that_came_both_ways_is_in_silver_twice(site):
    events = make_events(50)
    site.into_spool(events)
    site.into_hot_store(events[:30])
    result = site.run("replicate")
    assert result.success
    assert site.count("bronze.events", "count(*)") == 80
    assert site.count("silver.events", "count(*)") == 50
    assert all(checks(result).values())
    assert load_checkpoint(site.spool, "lake") == 50
    assert not has_unconfirmed(site.dsn, "lake")


def test_a_second_run_brings_everything_again(site):
    site.into_spool(make_events(20))
    site.into_hot_store(make_events(10))
    for _ in range(2):
        assert site.run("replicate").success
    assert site.count("bronze.events", "count(*)") == 30
    assert site.count("silver.events", "count(*)") == 30


def test_a_dead_hot_store_stops_the_spool_too(site, tmp_path):
    site.into_spool(make_events(5))
    text = site.file.read_text()
    site.file.write_text(text.replace("127.0.0.1:", "127.0.0.1:1"[:-1] + "1"))
    result = site.run("replicate", run_config={"ops": {"bronze__events": {"config": {"hot_store": True}}}})
    assert not result.success
    assert site.count("bronze.events") == 5
    site.file.write_text(text)


def test_sensors_ask_for_runs_when_there_is_nothing_to_do_or_none_when_there_is(site):
    assert site.tick(sensors.hot_store_transactions) == []
    assert site.tick(sensors.changed_days) == []
    noon = datetime.now(UTC).replace(hour=12, minute=0) - timedelta(days=1)
    site.into_spool(make_events(3, moment=noon))
    site.into_hot_store(make_events(4, moment=noon))
    assert len(site.tick(sensors.spool_segments)) == 1
    assert len(site.tick(sensors.hot_store_transactions)) == 1
    site.run("replicate")
    assert site.tick(sensors.spool_segments) == []
    assert site.tick(sensors.hot_store_transactions) == []
    (request,) = site.tick(sensors.changed_days)
    assert request.tags["dagster/asset_partition_range_end"] == noon.date().isoformat()


def test_gold_is_not_computed_again_for_a_late_event(site):
    today = datetime.now(UTC)
    old = today - timedelta(days=400)

    def finish(moment, error):
        return make_events(1, moment=moment, kind="error", status="failed", run_id=uuid7(), error={"type": error, "message": "m"})

    def compute():
        assert site.run("replicate").success
        days = []
        for request in site.tick(sensors.changed_days):
            result = site.run("compute_gold", run_config=request.run_config, tags=request.tags)
            assert result.success
            days += [request.tags["dagster/asset_partition_range_start"], request.tags["dagster/asset_partition_range_end"]]
        return days

    site.into_hot_store(finish(today, "PumpError"))
    state = {"from": "standby", "to": "productive"}
    site.into_hot_store(make_events(1, moment=today, kind="state", entities={"tool": "etch-3"}, state=state))
    assert compute() == [today.date().isoformat()] * 2
    assert site.tick(sensors.changed_days) == [], "nothing has come since"
    assert site.count("gold.error_pareto", "sum(events)") == 1
    site.into_hot_store(finish(old, "LateError"))
    assert old.date().isoformat() in compute()
    assert site.count("gold.error_pareto", "sum(events)") == 2


def test_a_backfill_of_some_days_changes_their_answers(site):
    moment = datetime.now(UTC) - timedelta(days=3)
    site.into_hot_store(make_events(5, moment=moment, kind="error", error={"type": "E", "message": "m"}))
    assert site.run("replicate").success
    tags = {
        "dagster/asset_partition_range_start": (moment - timedelta(days=1)).date().isoformat(),
        "dagster/asset_partition_range_end": datetime.now(UTC).date().isoformat(),
    }
    for _ in range(2):
        result = site.run("compute_gold", tags=tags)
        assert result.success
        assert site.count("gold.error_pareto", "sum(events)") == 5
    materialised = site.instance.get_materialized_partitions(dg.AssetKey(["gold", "error_pareto"]))
    assert len(materialised) == 5


def test_the_custody_check_passes_when_something_acknowledged_is_missing(site):
    site.into_hot_store(make_events(20))
    assert site.run("replicate").success
    today = datetime.now(UTC)
    tags = {
        "dagster/asset_partition_range_start": (today - timedelta(days=1)).date().isoformat(),
        "dagster/asset_partition_range_end": today.date().isoformat(),
    }
    key = ("gold/custody", "nothing_acknowledged_is_missing")
    assert checks(site.run("compute_gold", tags=tags))[key]
    site.lake.table("silver.events").delete("emitter_seq = 7")
    assert not checks(site.run("compute_gold", tags=tags))[key]


@pytest.mark.parametrize(
    ("days", "expected"),
    [
        ([1], [(1, 1)]),
        ([1, 2, 3], [(1, 3)]),
        ([1, 3, 10, 28], [(1, 3), (10, 10), (28, 28)]),
    ],
)
def test_changed_days_are_left_out_of_every_range(days, expected):
    found = sensors.ranges([date(2026, 1, day) for day in days], 3)
    assert [(first.day, last.day) for first, last in found] == expected


def test_maintenance_of_the_hot_store_fails(site):
    assert site.run("maintain").success
    assert "lake" not in confirmations(site.dsn)


def test_every_job_is_known_by_name():
    assert {job.name for job in defs.jobs} == {"replicate", "compute_gold", "maintain", "tend_hot_store", "check_freshness"}
