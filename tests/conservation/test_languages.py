"""Programs in every language report to one sidecar under kills: of what each numbered nothing is missing, nothing is double."""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from lakehouse import bronze, custody, silver
from lakehouse.config import LakeConfig
from lakehouse.files import active_files
from lakehouse.lake import Lake, scan
from sdk.conformance.harness import Harness
from sdk.conformance.languages import LANGUAGES, Language
from sidecar.spool.reader import SpoolReader
from tests.services.base import wait_until
from tests.sidecar.harness import RunningSidecar

BURST = 50


class Program:
    """One program that emits bursts until it is told to end; `emitted` is what its SDK counted."""

    def __init__(self, language: Language, folder: Path, url: str, spool: Path) -> None:
        self.name = language.name
        self.emitted = 0
        folder.mkdir()
        self._harness = Harness(
            [language.program], cwd=folder, env={k: v for k, v in os.environ.items() if "MONITORING" not in k}
        )
        sidecar = {"url": url, "spool_dir": str(spool), "timeout": 2.0, "retries": 1}
        app = {"name": f"{language.name}-program", "site_id": "fab1"}
        config = {"sdk": {"sidecar": sidecar, "queue": {"flush_interval": 0.1}, "app": app}}
        assert self._harness.ask({"do": "initialize", "config": config})["ok"]
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._emit)
        self._thread.start()

    def _emit(self) -> None:
        event = {"kind": "metric", "name": "chuck", "metrics": {"temperature": 21.5}, "entities": {"tool": self.name}}
        while not self._ending.is_set():
            assert self._harness.ask({"do": "repeat", "event": event, "times": BURST})["ok"]
            self._harness.ask({"do": "idle", "seconds": 0.05})

    def end(self) -> None:
        """Have it close its SDK and end."""
        self._ending.set()
        self._thread.join(60)
        assert not self._thread.is_alive()
        assert self._harness.ask({"do": "close"})["ok"]
        stats = self._harness.ask({"do": "stats"})["stats"]
        assert stats["dropped"] == stats["failed"] == stats["queued"] == 0, (self.name, stats)
        self.emitted = stats["emitted"]
        status, _ = self._harness.end()
        assert status == 0

    def close(self) -> None:
        self._ending.set()
        self._harness.close()


def run(folder: Path, *, seed: int, seconds: float, kills: int) -> None:
    """Emit for so long while the sidecar is killed, then hold every emitter's numbers and the lake's custody against it."""
    print("seed", seed)
    rng = random.Random(seed)
    sdk_spool = folder / "sdk-spool"
    spool = {"dir": "./spool", "segment_bytes": "4MiB", "segment_age": "1s"}
    sidecar = RunningSidecar(spool=spool, readers=["lake"], adopt=[str(sdk_spool)], adopt_grace="100ms", shutdown_grace="1s")
    programs: list[Program] = []
    try:
        sidecar.start()
        programs += [Program(language, folder / language.name, sidecar.url, sdk_spool) for language in LANGUAGES]
        moments = sorted(rng.uniform(0, seconds) for _ in range(kills))
        began = time.monotonic()
        for moment in moments:
            time.sleep(max(0.0, began + moment - time.monotonic()))
            sidecar.kill()
            time.sleep(rng.uniform(0, 2))
            sidecar.start()
        time.sleep(max(0.0, began + seconds - time.monotonic()))
        for program in programs:
            program.end()
        wait_until(lambda: not list(sdk_spool.glob("*.jsonl*")), seconds=120, what="the sidecar to adopt what the SDKs left")
        assert sidecar.terminate() == 0
        judge(sidecar.spool, folder / "lake", programs)
    finally:
        for program in programs:
            program.close()
        sidecar.client.close()
        sidecar.stop()


def judge(spool: Path, root: Path, programs: list[Program]) -> None:
    reader = SpoolReader(spool)
    lake = Lake(LakeConfig(root=str(root)))
    more = True
    while more:
        after = bronze.spool_cursor(lake, reader.spool_id)
        more = bronze.append_spool(lake, reader.spool_id, reader.read(after, 250_000, 2**28)).rows > 0
    while silver.refresh_events(lake).more:
        pass
    with lake.connect() as connection:
        declared = lake.declaration("silver.events")
        files = [file.uri for file in active_files(lake, declared.name, lake.table(declared.name))]
        rows = connection.execute(
            "SELECT app_name, emitter_id, count(*), count(DISTINCT emitter_seq), min(emitter_seq), max(emitter_seq) "
            f"FROM {scan(declared, files)} GROUP BY ALL"
        ).fetchall()
    found: Counter[str] = Counter()
    for app, emitter, events, numbers, first, last in rows:
        whole = (events, first, last) == (numbers, 1, numbers)
        assert whole, f"{app} {emitter}: {events} events of {numbers} numbers, {first} to {last}"
        found[app] += events
    print(json.dumps(dict(found)))
    assert found == {f"{program.name}-program": program.emitted for program in programs}
    today = datetime.now(UTC).date()
    days = [today - timedelta(days=1), today]
    spooled = custody.spool_counts(lake, reader.spool_id, reader.read(0, 2**40, 2**40))
    custody.refresh_custody(lake, days, outside=[spooled], settle=timedelta(0))
    report = custody.check(lake, days)
    assert report.findings == (), report
    assert report.numbered == report.in_silver == sum(found.values()), report


def seed() -> int:
    return int(os.environ.get("TRACKMATE_SEED", random.randrange(2**31)))


@pytest.mark.timeout(600)
def test_language_loses_or_doubles_events_under_kills(tmp_path: Path) -> None:
    run(tmp_path, seed=seed(), seconds=12, kills=3)


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_language_loses_or_doubles_events_in_two_minutes_of_kills(tmp_path: Path) -> None:
    run(tmp_path, seed=seed(), seconds=120, kills=20)
