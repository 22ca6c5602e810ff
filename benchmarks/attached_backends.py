"""How soon the sidecar acknowledges with eight backends attached that it delivers to, beside the same sidecar with none.

    python -m benchmarks.attached_backends [--seconds 10] [--rounds 3]

5,000 events/s in batches of 100 over 16 connections, as an open loop: a latency runs from when its batch was due. The sidecar has
core 0; load, receiver and watcher share core 1. The eight: two folders of JSON Lines, one of Parquet (a file every two seconds
instead of every minute, so that a short run has that cost in it), two gateways and three webhooks, which a receiver that only
counts stands for. What a backend is behind by is asked of /health ten times a second, in both cases. The order of the cases
alternates over the rounds. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.http_load import run_pinned
from benchmarks.peers.counting_receiver import Receiver, receiver
from benchmarks.sidecar_ack import BODIES, CONNECTIONS, EVENTS, LOAD_CORE, make_events, measured, ndjson, pinned, plan
from tests.services.base import free_port, wait_until

EVENTS_PER_SECOND = 5_000
WATCH_SECONDS = 0.1
DRAIN_SECONDS = 120
PROMISED_P99_MS, WANTED_P99_MS = 100, 20


def eight(to: Receiver) -> list[dict[str, Any]]:
    """The backends; each that sends has a path of its own at the receiver."""
    configs: dict[str, tuple[str, dict[str, Any]]] = {
        **{f"jsonl-{n}": ("filesystem", {"path": f"./jsonl-{n}"}) for n in (1, 2)},
        "parquet": ("filesystem", {"path": "./parquet", "format": "parquet", "rotate_seconds": 2}),
        **{f"managed-{n}": ("managed", {"url": f"{to.url}/managed-{n}"}) for n in (1, 2)},
        **{f"webhook-{n}": ("webhook", {"url": f"{to.url}/webhook-{n}", "allow_private": True}) for n in (1, 2, 3)},
    }
    return [{"name": name, "type": kind, "config": config} for name, (kind, config) in configs.items()]


class Watch:
    """What /health says of each backend, asked every 100 ms while the block runs."""

    def __init__(self, url: str) -> None:
        self.seen: list[list[dict[str, Any]]] = []
        self._url = url
        self._ended = threading.Event()

    @contextmanager
    def running(self) -> Iterator[None]:
        thread = threading.Thread(target=self._run, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()

    def ask(self) -> list[dict[str, Any]]:
        with urllib.request.urlopen(f"{self._url}/health", timeout=30) as answer:
            found: list[dict[str, Any]] = json.load(answer)["backends"]
            return found

    def _run(self) -> None:
        while not self._ended.wait(WATCH_SECONDS):
            self.seen.append(self.ask())

    def lags(self) -> dict[str, dict[str, float]]:
        """For each backend the 99th percentile and the most of what it was behind by."""
        found = {}
        for states in zip(*self.seen, strict=True):
            events, seconds = (sorted(state[key] for state in states) for key in ("lag_events", "lag_seconds"))
            found[states[0]["name"]] = {
                "lag_events_p99": at(events, 0.99),
                "lag_events_max": events[-1],
                "lag_seconds_p99": at(seconds, 0.99),
                "lag_seconds_max": seconds[-1],
            }
        return found


def at(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def measure(folder: Path, bodies: list[bytes], backends: list[dict[str, Any]], seconds: float) -> dict[str, Any]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    config = folder / "sidecar.yaml"
    config.write_text(json.dumps({"sidecar": {"listen": f"127.0.0.1:{port}", "spool": {"dir": "./spool"}, "backends": backends}}))
    command = [sys.executable, "-m", "trackmate", "sidecar", "--config", str(config)]
    with pinned(command, folder, f"{url}/ready") as pid:
        target = (port, "/v1/ingest/events", "application/x-ndjson", bodies, 202)
        rate = EVENTS_PER_SECOND / EVENTS
        run_pinned(plan(*target, 1.0, rate), LOAD_CORE)
        watch = Watch(url)
        wait_until(lambda: not any(state["lag_events"] for state in watch.ask()), seconds=DRAIN_SECONDS, what="warming up")
        with watch.running():
            load = measured(plan(*target, seconds, rate), pid)
        started = time.monotonic()
        wait_until(lambda: not any(state["lag_events"] for state in watch.ask()), seconds=DRAIN_SECONDS, what="every backend")
        caught_up = time.monotonic() - started
        lags = watch.lags()
        for state in watch.ask():
            lags[state["name"]]["delivered"] = state["delivered"]
    return load | {"caught_up_after_seconds": round(caught_up, 2), "backends": lags}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dir", type=Path, help="folder on the disk to measure; a temporary one by default")
    options = parser.parse_args()
    os.sched_setaffinity(0, {LOAD_CORE})
    bodies = [ndjson(make_events(number)) for number in range(BODIES)]
    rounds = []
    for number in range(options.rounds):
        found: dict[str, Any] = {}
        for name in ("none", "eight") if number % 2 == 0 else ("eight", "none"):
            folder = Path(tempfile.mkdtemp(prefix="attached-backends-", dir=options.dir))
            try:
                with receiver(LOAD_CORE) as to:
                    found[name] = measure(folder, bodies, eight(to) if name == "eight" else [], options.seconds)
                    found[name]["received"] = {path: count.events for path, count in sorted(to.counts().items())}
            finally:
                shutil.rmtree(folder, ignore_errors=True)
        rounds.append(found)
    p99 = {name: round(median(found[name]["p99_ms"] for found in rounds), 3) for name in ("none", "eight")}
    result = {
        "benchmark": "attached_backends",
        "events_per_second": EVENTS_PER_SECOND,
        "events_per_batch": EVENTS,
        "connections": CONNECTIONS,
        "seconds": options.seconds,
        "rounds": rounds,
        "median_p50_ms": {name: round(median(found[name]["p50_ms"] for found in rounds), 3) for name in ("none", "eight")},
        "median_p99_ms": p99,
        "p99_ratio": round(p99["eight"] / p99["none"], 2),
        "promised_p99_ms": PROMISED_P99_MS,
        "wanted_p99_ms": WANTED_P99_MS,
        "promise_kept": p99["eight"] < PROMISED_P99_MS,
        "goal_reached": p99["eight"] < WANTED_P99_MS,
    }
    json.dump(result, sys.stdout, indent=2)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
