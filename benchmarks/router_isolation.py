"""What nine dead backends cost the tenth: how long an event takes to reach it, with all ten healthy and with nine down.

    python -m benchmarks.router_isolation [--seconds 10] [--rate 50] [--batch 20]

One sidecar, ten `managed` backends on loopback, batches at an even rate. Of the nine that are down three refuse connections,
three accept them and never answer, three answer 503. The time of an event runs from just before its batch is sent to the
moment when the tenth has it. The order of the two cases alternates over the rounds. Prints JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import httpx

from contract.ids import uuid7
from tests.services.base import free_port, wait_until

BACKENDS = 10
SENT = re.compile(rb'"sent":([0-9.]+)')


class Receiver:
    """A gateway that only counts; `down` is how it fails. With `watch` it keeps how long each event took, in seconds."""

    def __init__(self, down: str | None = None, *, watch: bool = False) -> None:
        self.times: list[float] = []
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                now = time.perf_counter()
                if down == "hung":
                    owner.ended.wait()
                    return
                sent = SENT.findall(body)
                if watch:
                    owner.times += [now - float(moment) for moment in sent]
                answer = b"{}" if down else json.dumps({"accepted": len(sent), "rejected": []}).encode()
                self.send_response(503 if down else 202)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                with contextlib.suppress(ConnectionError):
                    self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                return

        self.ended = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self._server.shutdown()
        self._server.server_close()


def batch(size: int) -> bytes:
    sent = f"{time.perf_counter():.6f}"
    lines = [
        f'{{"event_id":"{uuid7()}","timestamp":"2026-07-01T09:00:00Z","kind":"log","name":"etch","site_id":"fab1",'
        f'"app":{{"name":"bench"}},"message":"{"x" * 300}","attributes":{{"sent":{sent}}}}}\n'
        for _ in range(size)
    ]
    return "".join(lines).encode()


def measure(down: bool, seconds: float, rate: float, size: int) -> dict[str, Any]:
    with contextlib.ExitStack() as stack:
        tenth = stack.enter_context(Receiver(watch=True))
        kinds = ["refused", "hung", "503"] * 3 if down else [None] * (BACKENDS - 1)
        urls = [
            f"http://127.0.0.1:{free_port()}" if kind == "refused" else stack.enter_context(Receiver(kind)).url for kind in kinds
        ]
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="router-isolation-")))
        backends = [
            {
                "name": f"b{n}",
                "type": "managed",
                "priority": n + 1,
                "timeout": "1s",
                "probe_interval": "1s",
                "config": {"url": url},
            }
            for n, url in enumerate([*urls, tenth.url])
        ]
        port = free_port()
        settings = {"listen": f"127.0.0.1:{port}", "spool": {"dir": "./spool"}, "backends": backends, "shutdown_grace": "100ms"}
        config = folder / "sidecar.yaml"
        config.write_text(json.dumps({"sidecar": settings}))
        with (folder / "log").open("wb") as log:
            command = [sys.executable, "-m", "trackmate", "sidecar", "--config", str(config)]
            process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            return load(f"http://127.0.0.1:{port}", tenth, seconds, rate, size, down=down)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def load(url: str, tenth: Receiver, seconds: float, rate: float, size: int, *, down: bool) -> dict[str, Any]:
    with httpx.Client(base_url=url, trust_env=False, timeout=20) as client:

        def send() -> None:
            headers = {"Content-Type": "application/x-ndjson"}
            client.post("/v1/ingest/events", content=batch(size), headers=headers).raise_for_status()

        def state() -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = client.get("/health").json()["backends"]
            return found

        wait_until(lambda: answers(client), seconds=60, what="the sidecar")
        send()
        if down:
            wait_until(lambda: sum(b["breaker"] != "closed" for b in state()) >= BACKENDS - 1, seconds=60, what="nine to be down")
        wait_until(lambda: state()[-1]["lag_events"] == 0, seconds=60, what="the tenth to have all")
        tenth.times.clear()
        started, sent = time.perf_counter(), 0
        while (now := time.perf_counter()) - started < seconds:
            if sent <= (now - started) * rate:
                send()
                sent += 1
            else:
                time.sleep(0.001)
        wait_until(lambda: len(tenth.times) >= sent * size, seconds=60, what="the tenth to have all")
        times = sorted(tenth.times)
        lag = sum(backend["lag_events"] for backend in state()[:-1])
    return {
        "events": sent * size,
        "delivered_to_the_tenth": len(times),
        "p50_ms": round(times[len(times) // 2] * 1000, 2),
        "p99_ms": round(times[int(len(times) * 0.99)] * 1000, 2),
        "max_ms": round(times[-1] * 1000, 2),
        "lag_of_the_nine": lag,
    }


def answers(client: httpx.Client) -> bool:
    try:
        return client.get("/ready").status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each measurement")
    parser.add_argument("--rate", type=float, default=50.0, help="batches a second")
    parser.add_argument("--batch", type=int, default=20, help="events a batch")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rounds = []
    for number in range(options.rounds):
        found: dict[str, Any] = {}
        for down in (False, True) if number % 2 == 0 else (True, False):
            name = "nine_down" if down else "all_healthy"
            found[name] = measure(down, options.seconds, options.rate, options.batch)
        found["p99_ratio"] = round(found["nine_down"]["p99_ms"] / found["all_healthy"]["p99_ms"], 3)
        rounds.append(found)
    ratios = sorted(found["p99_ratio"] for found in rounds)
    settings = {"backends": BACKENDS, "batches_per_second": options.rate, "events_per_batch": options.batch}
    result = {"benchmark": "router_isolation", **settings, "rounds": rounds, "median_p99_ratio": ratios[len(ratios) // 2]}
    json.dump(result, sys.stdout, indent=2)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
