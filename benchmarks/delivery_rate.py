"""How many events a second get through a queue on disk to a receiver; beside the OpenTelemetry Collector and rsyslog.

    python -m benchmarks.delivery_rate [--seconds 5] [--rounds 3] [--collector PATH | --without collector rsyslog]

Each agent has core 0; load and receiver, which only counts, share core 1. Batches of 100 events of about 500 bytes come as fast
as they are taken, over 16 connections, for `seconds`; the rate is that of all events, from the first one sent until the last one
has arrived. The sidecar and the collector sync before they acknowledge. The sidecar delivers by its webhook, as JSON Lines: plain
HTTP with a body that anybody reads, as OTLP/HTTP is, and not its own protocol, which would pass stored bytes on untouched. Both
send a batch a request, ten requests at once (the collector's default) and one at a time, and joined up to 1,000 events a request.
rsyslog takes and gives lines over TCP and acknowledges nothing. The order turns with each round. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.http_load import run
from benchmarks.otlp_body import logs_request
from benchmarks.peers import collector as otel
from benchmarks.peers.counting_receiver import Receiver, receiver
from benchmarks.sidecar_ack import (
    BODIES,
    CONNECTIONS,
    EVENTS,
    LOAD_CORE,
    SERVER_CORE,
    cpu_seconds,
    make_events,
    memory,
    ndjson,
    pinned,
    plan,
)
from tests.services.base import free_port, wait_until

JOINED = 1000
"""Events of one request where batches are joined: the most that the webhook sends."""

SENDERS = 10
"""Requests at once: the collector's default."""

DRAIN_SECONDS = 300
SETTLE_SECONDS = 0.5
"""After the last event, for one that comes twice."""

Push = Callable[[float], tuple[int, dict[str, int]]]
"""Sends for so many seconds; gives the events sent, and the answers that were not as they should be."""


def push_http(
    port: int, path: str, content_type: str, bodies: list[bytes], expect: int, seconds: float
) -> tuple[int, dict[str, int]]:
    load = run(plan(port, path, content_type, bodies, expect, seconds))
    return load.answered * EVENTS, load.unexpected


def push_lines(port: int, bodies: list[bytes], seconds: float) -> tuple[int, dict[str, int]]:
    """As fast as the connections take them; every batch that was begun is sent to its end."""
    poll = select.epoll()
    unsent: dict[int, memoryview] = {}
    sockets: dict[int, socket.socket] = {}
    for _ in range(CONNECTIONS):
        connection = socket.socket()
        # Little of what counts as sent waits in the kernel.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)
        connection.connect(("127.0.0.1", port))
        connection.setblocking(False)
        sockets[connection.fileno()] = connection
        unsent[connection.fileno()] = memoryview(b"")
        poll.register(connection.fileno(), select.EPOLLOUT)
    batches = 0
    end = time.monotonic() + seconds
    while unsent:
        for descriptor, _ in poll.poll():
            if not unsent[descriptor]:
                if time.monotonic() >= end:
                    del unsent[descriptor]
                    poll.unregister(descriptor)
                    continue
                unsent[descriptor] = memoryview(bodies[batches % len(bodies)])
                batches += 1
            unsent[descriptor] = unsent[descriptor][sockets[descriptor].send(unsent[descriptor]) :]
    for connection in sockets.values():
        connection.close()
    return batches * EVENTS, {}


def syslog_lines(events: list[dict[str, Any]]) -> bytes:
    """The same events as RFC 5424 messages, a line each."""
    head = b"<134>1 2026-07-01T09:00:00Z host-01 etch-controller - - - "
    return b"".join(head + line for line in ndjson(events).splitlines(keepends=True))


def measured(pid: int, push: Push, to: Receiver, seconds: float) -> dict[str, Any]:
    """Push, wait until everything has arrived, and tell what it cost."""
    before = cpu_seconds(pid)
    started = time.monotonic()
    sent, unexpected = push(seconds)
    pushed = time.monotonic()
    complete = True
    try:
        everything_came(to, sent, DRAIN_SECONDS)
    except TimeoutError:
        complete = False
    cpu = cpu_seconds(pid) - before
    time.sleep(SETTLE_SECONDS)
    total = to.total()
    took = total.last - started
    return {
        "delivered_events_per_second": round(total.events / took),
        "sent_events_per_second": round(sent / (pushed - started)),
        "events_sent": sent,
        "events_received": total.events,
        "complete": complete,
        "unexpected_answers": unexpected,
        "events_per_request": round(total.events / total.requests, 1) if total.requests else None,
        "seconds": round(took, 2),
        "cpu_seconds": round(cpu, 2),
        "cpu_us_per_event": round(cpu / max(total.events, 1) * 1e6, 2),
        **memory(pid),
    }


def everything_came(to: Receiver, sent: int, seconds: float) -> None:
    """Wait for it. Raises TimeoutError."""
    wait_until(lambda: to.total().events >= sent, seconds=seconds, what=f"{sent} events", interval=0.1)


def sidecar(folder: Path, to: Receiver, bodies: list[bytes], seconds: float, *, joined: int, parallel: int) -> dict[str, Any]:
    port = free_port()
    webhook = {"url": f"{to.url}/events", "allow_private": True, "max_events": joined, "parallel": parallel}
    backends = [{"name": "counter", "type": "webhook", "config": webhook}]
    settings = {"listen": f"127.0.0.1:{port}", "spool": {"dir": "./spool", "max_bytes": "20GiB"}, "backends": backends}
    config = folder / "sidecar.yaml"
    config.write_text(json.dumps({"sidecar": settings}))
    command = [sys.executable, "-m", "trackmate", "sidecar", "--config", str(config)]
    push = partial(push_http, port, "/v1/ingest/events", "application/x-ndjson", bodies, 202)
    with pinned(command, folder, f"http://127.0.0.1:{port}/ready") as pid:
        return measured(pid, push, to, seconds)


def collector(
    folder: Path, to: Receiver, bodies: list[bytes], seconds: float, *, binary: Path, consumers: int, joined: bool
) -> dict[str, Any]:
    port = free_port()
    command = otel.command(binary, folder, port=port, endpoint=to.url, consumers=consumers, joined=JOINED if joined else None)
    url = f"http://127.0.0.1:{port}/v1/logs"
    push = partial(push_http, port, "/v1/logs", "application/x-protobuf", bodies, 200)
    with pinned(command, folder, url, {"GOMAXPROCS": "1"}) as pid:
        return measured(pid, push, to, seconds)


def rsyslog(folder: Path, to: Receiver, bodies: list[bytes], seconds: float, *, sync: bool) -> dict[str, Any]:
    from benchmarks.peers.rsyslog import Rsyslog

    with Rsyslog(core=SERVER_CORE, to=to.tcp_port, queue=folder, sync=sync) as server:
        return measured(server.pid, partial(push_lines, server.port, bodies), to, seconds)


def ceiling(bodies: list[bytes], otlp: list[bytes], lines: list[bytes], seconds: float) -> dict[str, int]:
    """What load and receiver manage by themselves on their one core, in events a second."""
    found = {}
    pushes: dict[str, Callable[[Receiver], tuple[int, dict[str, int]]]] = {
        "json_lines": lambda to: push_http(to.http_port, "/events", "application/x-ndjson", bodies, 200, seconds),
        "otlp": lambda to: push_http(to.http_port, "/v1/logs", "application/x-protobuf", otlp, 200, seconds),
        "tcp": lambda to: push_lines(to.tcp_port, lines, seconds),
    }
    for name, push in pushes.items():
        with receiver(LOAD_CORE) as to:
            started = time.monotonic()
            sent, _ = push(to)
            everything_came(to, sent, DRAIN_SECONDS)
            found[name] = round(sent / (to.total().last - started))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="how long each one is sent to")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--collector", type=Path, help="an OpenTelemetry Collector with otlp, otlphttp and file_storage")
    parser.add_argument("--without", nargs="*", default=[], choices=["collector", "rsyslog"], help="peers to leave out")
    parser.add_argument("--dir", type=Path, help="folder on the disk to measure; a temporary one by default")
    options = parser.parse_args()
    os.sched_setaffinity(0, {LOAD_CORE})

    batches = [make_events(number) for number in range(BODIES)]
    bodies = [ndjson(batch) for batch in batches]
    otlp = [logs_request(batch) for batch in batches]
    lines = [syslog_lines(batch) for batch in batches]
    cases: dict[str, Callable[[Path, Receiver], dict[str, Any]]] = {
        name: partial(sidecar, bodies=bodies, seconds=options.seconds, joined=joined, parallel=parallel)
        for name, joined, parallel in (
            ("sidecar", EVENTS, SENDERS),
            ("sidecar_one_sender", EVENTS, 1),
            ("sidecar_joined", JOINED, 1),
        )
    }
    if "collector" not in options.without:
        each = partial(collector, bodies=otlp, seconds=options.seconds, binary=options.collector or otel.collector())
        cases["collector"] = partial(each, consumers=SENDERS, joined=False)
        cases["collector_one_sender"] = partial(each, consumers=1, joined=False)
        cases["collector_joined"] = partial(each, consumers=SENDERS, joined=True)
    if "rsyslog" not in options.without:
        cases["rsyslog"] = partial(rsyslog, bodies=lines, seconds=options.seconds, sync=True)
        cases["rsyslog_not_synced"] = partial(rsyslog, bodies=lines, seconds=options.seconds, sync=False)

    rounds = []
    for number in range(options.rounds):
        found: dict[str, Any] = {}
        for name in list(cases) if number % 2 == 0 else reversed(cases):
            folder = Path(tempfile.mkdtemp(prefix="delivery-rate-", dir=options.dir))
            try:
                with receiver(LOAD_CORE) as to:
                    found[name] = cases[name](folder, to)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
        rounds.append(found)
    result: dict[str, Any] = {
        "benchmark": "delivery_rate",
        "events_per_batch": EVENTS,
        "connections": CONNECTIONS,
        "bytes_per_event": round(sum(map(len, bodies)) / BODIES / EVENTS),
        "otlp_bytes_per_event": round(sum(map(len, otlp)) / BODIES / EVENTS),
        "seconds_sent": options.seconds,
        "ceiling_events_per_second": ceiling(bodies, otlp, lines, min(options.seconds, 3)),
        "rounds": rounds,
        "median_delivered_events_per_second": {name: round(median(speeds(rounds, name))) for name in cases},
        "median_ratio": {
            f"{ours}_of_{peer}": ratio(rounds, ours, peer)
            for peer in cases
            if not peer.startswith("sidecar")
            for ours in [peer.replace("collector", "sidecar") if "collector" in peer else "sidecar"]
        },
    }
    json.dump(result, sys.stdout, indent=2)
    sys.stdout.write("\n")


def speeds(rounds: list[dict[str, Any]], name: str) -> list[float]:
    return [found[name]["delivered_events_per_second"] for found in rounds]


def ratio(rounds: list[dict[str, Any]], ours: str, peer: str) -> float:
    """The median over the rounds."""
    return round(median(mine / its for mine, its in zip(speeds(rounds, ours), speeds(rounds, peer), strict=True)), 2)


if __name__ == "__main__":
    main()
