"""Conservation from the SDK to silver. Replay a run by its seed: TRACKMATE_SEED=… pytest tests/conservation."""

import os
import random

import pytest

from tests.conservation.campaign import Campaign, Plan
from tests.services.small_disk import small_disk
from tests.services.toxiproxy import Toxiproxy


@pytest.fixture(scope="module")
def proxy():
    with Toxiproxy() as server:
        yield server


def run(plan, tmp_path, proxy, size):
    with small_disk(tmp_path / "disk", size) as mounted:
        # Where no file system may be mounted there is none to fill: every other fault strikes all the same.
        assert mounted or os.getuid() != 0, "root could not mount a tmpfs"
        plan = plan if mounted else Plan(**{**vars(plan), "disks": 0})
        outcome = Campaign(plan, tmp_path / "data", tmp_path / "disk" / "spool", proxy).run()
    print(outcome)
    assert outcome.verdict.faults == []
    assert sum(outcome.kills.values()) >= plan.kills
    assert outcome.disks == plan.disks
    assert outcome.verdict.rows >= outcome.verdict.acknowledged > 0


def seed():
    return int(os.environ.get("TRACKMATE_SEED", random.randrange(2**31)))


@pytest.mark.timeout(600)
def test_an_acknowledged_event_is_lost_doubled_invented_or_altered(tmp_path, proxy):
    plan = Plan(seed=seed(), events=15_000, rate=300, kills=8, networks=5, disks=1)
    print("seed", plan.seed)
    run(plan, tmp_path, proxy, "256m")


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_one_of_a_million_acknowledged_events_is_lost_doubled_invented_or_altered(tmp_path, proxy):
    plan = Plan(seed=seed(), events=1_100_000, rate=1_500, kills=60, networks=30, disks=2, pause=(0.5, 3.0), drain_seconds=1200)
    print("seed", plan.seed)
    run(plan, tmp_path, proxy, "2g")
