"""Conservation at five backends of different kinds, each stopped and started at random, under a sidecar that is killed.

Replay a run by its seed: TRACKMATE_SEED=… pytest tests/conservation.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conservation.stores import Collection, Documents, Files, Objects, Rows, Store
from tests.conservation.verdict import Expected, judge_events
from tests.services.base import wait_until
from tests.services.elasticsearch import Elasticsearch
from tests.services.mongo import MongoService
from tests.services.toxiproxy import Toxiproxy
from tests.sidecar.harness import RunningSidecar

SENDERS = 2


@pytest.fixture
def stores(tmp_path: Path, elasticsearch: Elasticsearch, mongo: MongoService, toxiproxy: Toxiproxy) -> Iterator[list[Store]]:
    """All five, up."""
    made: list[Store] = []
    try:
        made += [Files(tmp_path / "files"), Objects(), Rows()]
        made += [Collection(mongo, toxiproxy, tmp_path.name), Documents(elasticsearch, toxiproxy, tmp_path.name)]
        yield made
    finally:
        for store in made:
            store.close()


def send(port: int, folder: Path, seed: int, events: int, rate: float) -> list[subprocess.Popen[bytes]]:
    """Programs that post batches, and note which of them were acknowledged."""
    senders = []
    for number in range(SENDERS):
        options = {"port": port, "ledger": folder / f"ledger-{number}", "seed": seed, "sender": number}
        options |= {"count": events // SENDERS, "rate": rate}
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        senders.append(subprocess.Popen([sys.executable, "-m", "tests.conservation.http_sender", *words]))
    return senders


def campaign(stores: list[Store], folder: Path, *, seed: int, events: int, rate: float, kills: int, outages: int) -> None:
    """Send under kills and outages, heal, drain, and hold every backend against what was acknowledged."""
    print("seed", seed)
    rng = random.Random(seed)
    backends = [
        {"name": store.name, "type": store.type, "timeout": "5s", "probe_interval": "500ms", "config": store.config}
        for store in stores
    ]
    spool = {"dir": "./spool", "segment_bytes": "1MiB", "segment_age": "2s"}
    sidecar = RunningSidecar(spool=spool, shutdown_grace="1s", backends=backends)
    senders: list[subprocess.Popen[bytes]] = []
    try:
        sidecar.start()
        senders = send(sidecar.port, folder, seed, events, rate)
        strikes = ["kill"] * kills + [store.name for store in stores] * outages
        rng.shuffle(strikes)
        by_name = {store.name: store for store in stores}
        for strike in strikes:
            time.sleep(rng.uniform(0.2, 1.2))
            if strike == "kill":
                sidecar.kill()
                time.sleep(rng.uniform(0, 0.5))
                sidecar.start()
            else:
                by_name[strike].down()
                time.sleep(rng.uniform(0.5, 3))
                by_name[strike].up()
        for sender in senders:
            assert sender.wait(events / rate + 120) == 0

        def drained() -> bool:
            return all(backend["lag_events"] == 0 for backend in sidecar.health()["backends"])

        wait_until(drained, seconds=300, what=f"every backend to have everything: {sidecar.health()['backends']}")
        assert [sidecar.dead(store.name) for store in stores] == [[]] * len(stores)
    finally:
        for sender in senders:
            sender.kill()
            sender.wait()
        sidecar.client.close()
        sidecar.stop()
    expected = Expected()
    for number in range(SENDERS):
        expected.read_ledger(number, folder / f"ledger-{number}")
    assert expected.acknowledged > events / 2
    found = {store.name: judge_events(store.events(), expected, seed) for store in stores}
    rows = {name: verdict.rows for name, verdict in found.items()}
    print(json.dumps({"seed": seed, "acknowledged": expected.acknowledged, "rows": rows, "kills": kills, "outages": outages}))
    assert {name: verdict.faults for name, verdict in found.items()} == {store.name: [] for store in stores}


def seed() -> int:
    return int(os.environ.get("TRACKMATE_SEED", random.randrange(2**31)))


@pytest.mark.timeout(600)
def test_a_backend_loses_doubles_or_alters_an_acknowledged_event(stores: list[Store], tmp_path: Path) -> None:
    campaign(stores, tmp_path, seed=seed(), events=6_000, rate=300, kills=4, outages=1)


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_a_backend_loses_doubles_or_alters_one_of_many_acknowledged_events(stores: list[Store], tmp_path: Path) -> None:
    campaign(stores, tmp_path, seed=seed(), events=60_000, rate=300, kills=20, outages=5)
