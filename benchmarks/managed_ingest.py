"""How close managed ingest over HTTP comes to a bare COPY into the same tables of the same server, in the same run.

Prints JSON. The bare COPY sends text that was made beforehand; the gateway gets JSON bodies over HTTP, as a sidecar sends them,
and answers after the commit. Rounds alternate, so that what else the machine does meets both alike.

    python -m benchmarks.managed_ingest [--events 100000] [--batch 1000] [--connections 4]
"""

from __future__ import annotations

import argparse
import itertools
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import psycopg

from benchmarks.hot_ingest import bare_copy, cut, make, truncate
from contract.event import Event
from lakehouse.hot.migrate import migrate

ROUNDS = 5


def requests(port: int, batches: Sequence[Sequence[Event]]) -> list[bytes]:
    """One whole HTTP request a batch."""
    made = []
    for batch in batches:
        body = msgspec.json.encode(batch)
        head = (
            f"POST /v1/ingest/managed HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        made.append(head.encode() + body)
    return made


def answer(connection: socket.socket) -> bytes:
    """The body of one response."""
    received = b""
    while (end := received.find(b"\r\n\r\n")) < 0:
        received += connection.recv(65_536)
    head = received[:end].lower()
    length = int(head.partition(b"content-length:")[2].split(b"\r\n")[0])
    while len(received) < end + 4 + length:
        received += connection.recv(65_536)
    assert received.startswith(b"HTTP/1.1 200"), received[:500]
    return received[end + 4 :]


def over_http(port: int, prepared: Sequence[bytes], connections: int, count: int) -> tuple[float, list[float]]:
    """Seconds for all requests over so many connections, and each request's seconds."""
    waiting: Iterator[bytes] = iter(prepared)
    lock = threading.Lock()
    inserted: list[int] = []
    latencies: list[float] = []

    def send() -> None:
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while True:
                with lock:
                    request = next(waiting, None)
                if request is None:
                    return
                begun = time.perf_counter()
                connection.sendall(request)
                inserted.append(json.loads(answer(connection))["inserted"])
                latencies.append(time.perf_counter() - begun)

    senders = [threading.Thread(target=send) for _ in range(connections)]
    started = time.perf_counter()
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    seconds = time.perf_counter() - started
    assert sum(inserted) == count, (sum(inserted), count)
    return seconds, latencies


@contextmanager
def gateway(folder: Path, dsn: str, port: int) -> Iterator[int]:
    """A gateway in a process of its own, ready."""
    config = folder / "trackmate.yaml"
    limits = {"rate": 1_000_000, "burst": 1_000_000, "concurrent": 256}
    config.write_text(
        json.dumps(
            {"gateway": {"listen": f"127.0.0.1:{port}", "limits": limits}, "hot": {"dsn": dsn}, "lake": {"root": "./lake"}}
        )
    )
    with (folder / "gateway.log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "trackmate", "gateway", "--config", str(config)], stderr=log)
        try:
            deadline = time.monotonic() + 60
            while True:
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=5):
                        break
                except OSError:
                    if time.monotonic() > deadline or process.poll() is not None:
                        raise
                    time.sleep(0.2)
            yield process.pid
        finally:
            process.terminate()
            process.wait(30)


def measure(dsn: str, folder: Path, port: int, count: int, size: int, connections: int) -> dict[str, object]:
    migrate(dsn)
    start = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    seconds: dict[str, list[float]] = {"bare_copy": [], "http_1_connection": [], f"http_{connections}_connections": []}
    latencies: dict[str, list[float]] = {name: [] for name in seconds}
    with gateway(folder, dsn, port):
        over_http(port, requests(port, cut(make(size, start), size)), 1, size)  # partitions, caches
        for _, (name, times) in itertools.product(range(ROUNDS), seconds.items()):
            batches = cut(make(count, start), size)
            truncate(dsn)
            if name == "bare_copy":
                times.append(bare_copy(dsn, batches))
                continue
            parallel = 1 if name == "http_1_connection" else connections
            took, each = over_http(port, requests(port, batches), parallel, count)
            times.append(took)
            latencies[name] += each
    rates = {name: round(count / statistics.median(times)) for name, times in seconds.items()}
    with psycopg.connect(dsn) as connection:
        row = connection.execute("SELECT split_part(version(), ' ', 2), level FROM trackmate.store").fetchone()
    best = max(rate for name, rate in rates.items() if name != "bare_copy")
    return {
        "benchmark": "managed_ingest",
        "postgresql": row,
        "events": count,
        "batch": size,
        "rounds": ROUNDS,
        "rows_per_second": rates,
        "latency_ms": {
            name: {"p50": round(statistics.median(each) * 1e3, 1), "p99": round(sorted(each)[int(len(each) * 0.99)] * 1e3, 1)}
            for name, each in latencies.items()
            if each
        },
        "ratio": round(best / rates["bare_copy"], 3),
        "target": 0.6,
        "seconds": {name: [round(value, 3) for value in times] for name, times in seconds.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--events", type=int, default=50_000)
    parser.add_argument("--batch", type=int, default=1_000)
    parser.add_argument("--connections", type=int, default=4)
    arguments = parser.parse_args()
    from tests.services.base import free_port
    from trackmate.embedded_postgres import EmbeddedPostgres

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server = EmbeddedPostgres(folder / "postgres", free_port())
        server.start()
        try:
            result = measure(server.dsn().reveal(), folder, free_port(), arguments.events, arguments.batch, arguments.connections)
        finally:
            server.stop()
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
