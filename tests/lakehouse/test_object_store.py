"""The same lake on S3: conditional put lets one writer win, and every step gives what it gives on a folder."""

from __future__ import annotations

import random
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from multiprocessing import get_context
from typing import Any

import pytest

from contract.settings import Secret
from lakehouse import bronze, custody, gold, maintenance, silver
from lakehouse.config import LakeConfig
from lakehouse.lake import ConcurrentWrite, Lake, LakeError, StaleCursor
from tests.lakehouse.lakes import EPOCH, an_event, count, local_lake, read, records, run_events, state_events
from tests.services.versitygw import VersityGw


@pytest.fixture
def remote(versitygw: VersityGw) -> Lake:
    """An empty lake in a bucket of its own."""
    options = {key: Secret(value) for key, value in versitygw.storage_options.items()}
    return Lake(LakeConfig(root=f"s3://{versitygw.fresh_bucket()}/lake", storage_options=options), threads=1)


def test_a_step_gives_something_else_on_an_object_store(tmp_path, remote):
    rng = random.Random(4)
    events = run_events(rng, 20) + state_events(rng, 20)
    lakes = (local_lake(tmp_path), remote)
    for lake in lakes:
        for first in (0, 60):
            bronze.append_spool(lake, "s", records(events[first : first + 60], first=1 + bronze.spool_cursor(lake, "s")))
            silver.refresh_events(lake)
            for refresh in (silver.refresh_metrics, silver.refresh_runs, silver.refresh_tool_states):
                refresh(lake)
        for refresh in (gold.refresh_run_hourly, gold.refresh_error_pareto, gold.refresh_tool_state):
            refresh(lake)
        custody.refresh_custody(lake, [EPOCH.date()])
    for name, columns in (
        ("silver.metrics", "*"),
        ("silver.runs", "*"),
        ("silver.tool_states", "*"),
        ("gold.run_hourly", "*"),
        ("gold.error_pareto", "*"),
        ("gold.tool_state", "*"),
        ("gold.custody", "*"),
        ("silver.events", "* EXCLUDE (ingested_at)"),
    ):
        here, there = (read(lake, name, f"SELECT {columns} FROM rows ORDER BY ALL") for lake in lakes)
        assert here == there


def write_from_a_host(config: LakeConfig, spool: str, events: list[dict[str, Any]]) -> None:
    """Bring the events of one spool into the lake, beside whoever else does the same; a process stands for a host."""
    lake = Lake(config, threads=1)
    while bronze.spool_cursor(lake, spool) < len(events):
        try:
            bronze.append_spool(lake, spool, records(events, size=5), max_events=10)
        except (StaleCursor, ConcurrentWrite):
            continue


def test_writers_on_two_hosts_double_or_lose_events(remote):
    events = [an_event(EPOCH + timedelta(seconds=n)) for n in range(60)]
    remote.table("bronze.events")
    with ProcessPoolExecutor(4, mp_context=get_context("spawn")) as hosts:
        list(hosts.map(write_from_a_host, [remote.config] * 4, ["a", "a", "b", "b"], [events] * 4))
    rows = read(remote, "bronze.events", "SELECT source_id, source_seq FROM rows ORDER BY ALL")
    assert [(row["source_id"], row["source_seq"]) for row in rows] == [(spool, n) for spool in "ab" for n in range(1, 61)]
    silver.refresh_events(remote)
    assert count(remote, "silver.events") == 60


def test_maintenance_fails_on_an_object_store(remote):
    for n in range(1, 10):
        bronze.append_spool(remote, "s", records([an_event(EPOCH)], first=n))
    assert maintenance.maintain(remote, ["bronze.events"])[0].partitions_compacted == 1
    silver.refresh_events(remote)
    assert count(remote, "silver.events") == 9


def test_wrong_keys_are_shown_in_the_error(versitygw):
    options = {key: Secret(value) for key, value in (versitygw.storage_options | {"secret_access_key": "hush-hush"}).items()}
    lake = Lake(LakeConfig(root=f"s3://{versitygw.fresh_bucket()}/lake", storage_options=options))
    with pytest.raises(Exception) as caught:
        lake.table("bronze.events")
    assert "hush-hush" not in str(caught.value)
    with pytest.raises(LakeError, match="computed on a local folder or on s3://"), Lake(LakeConfig(root="az://x/lake")).connect():
        pass
