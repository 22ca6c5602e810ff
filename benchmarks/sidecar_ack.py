"""How fast, and how soon, the sidecar acknowledges events that are durable; beside a bare append and the OpenTelemetry Collector.

    python -m benchmarks.sidecar_ack [--seconds 10] [--collector PATH | --no-collector]

Server and load each have a core of their own (0 and 1). Batches of 100 events of about 500 bytes over 16 connections. Both
servers have one destination that is dead, so that accepting alone is measured, and both sync before they answer. Prints JSON.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.http_load import Plan, run_pinned
from benchmarks.otlp_body import logs_request
from benchmarks.peers import collector as otel
from contract.ids import uuid7
from tests.services.base import free_port, wait_until

SERVER_CORE, LOAD_CORE = 0, 1
EVENTS, CONNECTIONS, BODIES = 100, 16, 32
OPEN_LOOP_EVENTS = 10_000
SECONDS_TO_START = 30


def make_events(batch: int) -> list[dict[str, Any]]:
    """A batch of 100 events of about 500 bytes."""
    emitter = uuid7()
    return [
        {
            "event_id": uuid7(),
            "timestamp": f"2026-07-01T09:{batch % 60:02}:00.{number:06}Z",
            "kind": "metric",
            "name": "chamber.sensors",
            "site_id": "fab1",
            "app": {"name": "etch-controller", "version": "1.0.0", "instance_id": "host-01"},
            "run_id": emitter,
            "emitter": {"id": emitter, "seq": batch * EVENTS + number + 1},
            "entities": {
                "lot": f"L{batch:05}",
                "wafer": f"{number % 25 + 1:02}",
                "tool": "ETCH-01",
                "chamber": "A",
                "recipe": "R-17",
            },
            "message": "sample of the chamber's sensors",
            "metrics": {"temperature": 65.25 + number, "pressure": 12.5, "rf_power": 1500.125},
        }
        for number in range(EVENTS)
    ]


def ndjson(events: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(event, separators=(",", ":")).encode() + b"\n" for event in events)


def plan(
    port: int, path: str, content_type: str, bodies: list[bytes], expect: int, seconds: float, rate: float | None = None
) -> Plan:
    encoded = [base64.b64encode(body).decode() for body in bodies]
    numbered_at = len('{"event_id":"') + 24 if bodies[0].startswith(b'{"event_id":"') else None
    return Plan("127.0.0.1", port, path, content_type, encoded, CONNECTIONS, seconds, expect, rate, numbered_at=numbered_at)


@contextmanager
def pinned(command: list[str], folder: Path, ready: str, env: dict[str, str] | None = None) -> Iterator[int]:
    """A server on its own core while the block runs; gives its process id."""
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            ["taskset", "-c", str(SERVER_CORE), *command], cwd=folder, env={**os.environ, **(env or {})}, stdout=log, stderr=log
        )
    try:
        wait_until(lambda: answers(ready, process, folder), seconds=SECONDS_TO_START, what=ready)
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def answers(url: str, process: subprocess.Popen[bytes], folder: Path) -> bool:
    if process.poll() is not None:
        message = f"the server ended with {process.returncode}:\n{(folder / 'server.log').read_text()[-2000:]}"
        raise RuntimeError(message)
    try:
        with urllib.request.urlopen(url, timeout=1):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


def memory(pid: int) -> dict[str, float]:
    """Resident memory now and at its highest, in MiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return {
        "rss_mib": round(int(fields["VmRSS"].split()[0]) / 1024, 1),
        "peak_rss_mib": round(int(fields["VmHWM"].split()[0]) / 1024, 1),
    }


def cpu_seconds(pid: int) -> float:
    """Processor time of a process so far, its threads and the kernel's work for it included."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measured(load: Plan, pid: int) -> dict[str, Any]:
    """Run a load and tell what came back and what it cost; the cost in processor time hardly depends on who else is busy."""
    before = cpu_seconds(pid)
    result = run_pinned(load, LOAD_CORE)
    cost = (cpu_seconds(pid) - before) / max(result.answered, 1) * 1e6
    return (
        {"events_per_second": round(result.answered * EVENTS / result.seconds), "cpu_us_per_batch": round(cost)}
        | asdict(result)
        | memory(pid)
    )


def measure_sidecar(folder: Path, bodies: list[bytes], seconds: float) -> dict[str, Any]:
    port, dead = free_port(), free_port()
    config = folder / "sidecar.yaml"
    backends = [{"name": "dead", "type": "managed", "config": {"url": f"http://127.0.0.1:{dead}"}}]
    spool = {"dir": "./spool", "max_bytes": "20GiB"}
    config.write_text(json.dumps({"sidecar": {"listen": f"127.0.0.1:{port}", "spool": spool, "backends": backends}}))
    command = [sys.executable, "-m", "trackmate", "sidecar", "--config", str(config)]
    result: dict[str, Any] = {}
    with pinned(command, folder, f"http://127.0.0.1:{port}/ready") as pid:
        target = (port, "/v1/ingest/events", "application/x-ndjson", bodies, 202)
        run_pinned(plan(*target, 1.0), LOAD_CORE)
        result["open_loop_10k"] = measured(plan(*target, seconds, OPEN_LOOP_EVENTS / EVENTS), pid)
        result["one_connection"] = measured(one_connection(plan(*target, min(seconds, 3))), pid)
        result["saturation"] = measured(plan(*target, seconds), pid)
    return result


def one_connection(load: Plan) -> Plan:
    load.connections = 1
    return load


def measure_delivering_sidecar(folder: Path, bodies: list[bytes], seconds: float) -> dict[str, Any]:
    """10,000 events/s with a backend that works: what an agent in use needs."""
    port = free_port()
    config = folder / "sidecar.yaml"
    backends = [{"name": "files", "type": "filesystem", "config": {"path": "./out"}}]
    config.write_text(json.dumps({"sidecar": {"listen": f"127.0.0.1:{port}", "spool": {"dir": "./spool"}, "backends": backends}}))
    command = [sys.executable, "-m", "trackmate", "sidecar", "--config", str(config)]
    with pinned(command, folder, f"http://127.0.0.1:{port}/ready") as pid:
        target = (port, "/v1/ingest/events", "application/x-ndjson", bodies, 202)
        load = measured(plan(*target, seconds, OPEN_LOOP_EVENTS / EVENTS), pid)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health") as answer:
            (backend,) = json.load(answer)["backends"]
        return load | {"lag_events": backend["lag_events"], "lag_seconds": backend["lag_seconds"]}


def measure_bare_append(folder: Path, bodies: list[bytes], seconds: float, together: int) -> dict[str, Any]:
    """Nothing but write and fdatasync of the same bytes, `together` batches a sync."""
    os.sched_setaffinity(0, {SERVER_CORE})
    descriptor = os.open(folder / "bare", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
    times: list[float] = []
    started = time.perf_counter()
    try:
        while time.perf_counter() - started < seconds:
            begun = time.perf_counter()
            os.writev(descriptor, [bodies[number % len(bodies)] for number in range(together)])
            os.fdatasync(descriptor)
            times.append(time.perf_counter() - begun)
        elapsed = time.perf_counter() - started
    finally:
        os.close(descriptor)
        os.sched_setaffinity(0, {SERVER_CORE, LOAD_CORE})
    times.sort()
    return {
        "batches_a_sync": together,
        "events_per_second": round(len(times) * together * EVENTS / elapsed),
        "p50_ms": round(times[len(times) // 2] * 1000, 3),
        "p99_ms": round(times[int(len(times) * 0.99)] * 1000, 3),
    }


def measure_collector(folder: Path, bodies: list[bytes], seconds: float, binary: Path) -> dict[str, Any]:
    port = free_port()
    command = otel.command(binary, folder, port=port, endpoint=f"http://127.0.0.1:{free_port()}")
    result: dict[str, Any] = {}
    with pinned(command, folder, f"http://127.0.0.1:{port}/v1/logs", {"GOMAXPROCS": "1"}) as pid:
        target = (port, "/v1/logs", "application/x-protobuf", bodies, 200)
        run_pinned(plan(*target, 1.0), LOAD_CORE)
        result["open_loop_10k"] = measured(plan(*target, seconds, OPEN_LOOP_EVENTS / EVENTS), pid)
        result["one_connection"] = measured(one_connection(plan(*target, min(seconds, 3))), pid)
        result["saturation"] = measured(plan(*target, seconds), pid)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each measurement")
    parser.add_argument("--collector", type=Path, help="an OpenTelemetry Collector with otlp, otlphttp and file_storage")
    parser.add_argument("--no-collector", action="store_true", help="leave the collector out")
    parser.add_argument("--dir", type=Path, help="folder on the disk to measure; a temporary one by default")
    options = parser.parse_args()

    batches = [make_events(number) for number in range(BODIES)]
    bodies = [ndjson(batch) for batch in batches]
    otlp = [logs_request(batch) for batch in batches]
    result: dict[str, Any] = {
        "benchmark": "sidecar_ack",
        "events_per_batch": EVENTS,
        "connections": CONNECTIONS,
        "bytes_per_event": round(sum(map(len, bodies)) / BODIES / EVENTS),
        "otlp_bytes_per_event": round(sum(map(len, otlp)) / BODIES / EVENTS),
        "seconds": options.seconds,
    }

    def in_folder(measure: Callable[..., dict[str, Any]], *args: Any) -> dict[str, Any]:
        folder = Path(tempfile.mkdtemp(prefix="sidecar-ack-", dir=options.dir))
        try:
            return measure(folder, *args)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    result["sidecar"] = in_folder(measure_sidecar, bodies, options.seconds)
    result["sidecar_delivering_to_files"] = in_folder(measure_delivering_sidecar, bodies, options.seconds)
    for together in (1, CONNECTIONS):
        result[f"bare_append_{together}"] = in_folder(measure_bare_append, bodies, min(options.seconds, 5), together)
    if not options.no_collector:
        result["collector"] = in_folder(measure_collector, otlp, options.seconds, options.collector or otel.collector())
    json.dump(result, sys.stdout, indent=2)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
