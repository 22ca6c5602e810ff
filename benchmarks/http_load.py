"""A load generator for HTTP/1.1: prebuilt requests over keep-alive sockets and epoll, cheaper than what it measures.

As a program (`python -m benchmarks.http_load`) it reads its plan as JSON on stdin and prints the result as JSON, so that it can
run pinned to a core of its own.
"""

from __future__ import annotations

import base64
import json
import secrets
import select
import socket
import subprocess
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Plan:
    """What to send; `rate` in requests a second makes it an open loop, None sends as fast as answers come."""

    host: str
    port: int
    path: str
    content_type: str
    bodies: list[str]
    """Base64; taken in turn."""
    connections: int
    seconds: float
    expect: int
    rate: float | None = None
    headers: dict[str, str] = field(default_factory=dict)
    numbered_at: int | None = None
    """Where in each body 12 hexadecimal digits give way to the request's number, so that none is sent twice."""


@dataclass
class Load:
    """What came back; latencies in milliseconds, from the moment a request was due."""

    answered: int
    unexpected: dict[str, int]
    seconds: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float


def run_pinned(plan: Plan, core: int) -> Load:
    """Run the plan in a process of its own on one core."""
    done = subprocess.run(
        ["taskset", "-c", str(core), sys.executable, "-m", "benchmarks.http_load"],
        input=json.dumps(asdict(plan)),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=plan.seconds + 60,
    )
    return Load(**json.loads(done.stdout))


def run(plan: Plan) -> Load:
    """Run the plan here."""
    return _Generator(plan).run()


class _Connection:
    def __init__(self, plan: Plan) -> None:
        self.socket = socket.create_connection((plan.host, plan.port), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.due = 0.0
        self.unsent = memoryview(b"")
        self.received = b""


class _Generator:
    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        extra = "".join(f"{name}: {value}\r\n" for name, value in plan.headers.items())
        bodies = [base64.b64decode(body) for body in plan.bodies]
        self.requests = [
            (
                f"POST {plan.path} HTTP/1.1\r\nHost: {plan.host}:{plan.port}\r\nContent-Type: {plan.content_type}\r\n{extra}"
                f"Content-Length: {len(body)}\r\n\r\n"
            ).encode()
            + body
            for body in bodies
        ]
        self.number_at = [
            None if plan.numbered_at is None else len(request) - len(body) + plan.numbered_at
            for request, body in zip(self.requests, bodies, strict=True)
        ]
        self.sent = secrets.randbits(40)
        self.latencies: list[float] = []
        self.unexpected: dict[str, int] = {}
        self.poll = select.epoll()
        self.busy: dict[int, _Connection] = {}
        self.idle: deque[_Connection] = deque()
        for _ in range(plan.connections):
            connection = _Connection(plan)
            self.poll.register(connection.socket.fileno(), select.EPOLLIN)
            self.idle.append(connection)

    def run(self) -> Load:
        started = time.perf_counter()
        end = started + self.plan.seconds
        interval = 1 / self.plan.rate if self.plan.rate else 0.0
        next_due = started
        while True:
            now = time.perf_counter()
            if now >= end and not self.busy:
                break
            if now >= end + 10:
                message = f"{len(self.busy)} requests were not answered within 10 s"
                raise TimeoutError(message)
            while self.idle and now < end and next_due <= now:
                self.begin(self.idle.popleft(), next_due if interval else now)
                next_due = next_due + interval if interval else now
            wait = 0.05 if not interval or not self.idle or now >= end else min(max(next_due - time.perf_counter(), 0.0), 0.05)
            for descriptor, events in self.poll.poll(wait):
                connection = self.busy.get(descriptor)
                if connection is not None:
                    self.step(connection, events)
        return self.result(time.perf_counter() - started)

    def begin(self, connection: _Connection, due: float) -> None:
        connection.due = due
        request, place = self.requests[self.sent % len(self.requests)], self.number_at[self.sent % len(self.requests)]
        if place is not None:
            request = b"%b%012x%b" % (request[:place], self.sent, request[place + 12 :])
        connection.unsent = memoryview(request)
        connection.received = b""
        self.sent += 1
        self.busy[connection.socket.fileno()] = connection
        self.push(connection)
        if connection.unsent:
            self.poll.modify(connection.socket.fileno(), select.EPOLLIN | select.EPOLLOUT)

    def push(self, connection: _Connection) -> None:
        try:
            while connection.unsent:
                connection.unsent = connection.unsent[connection.socket.send(connection.unsent) :]
        except BlockingIOError:
            return

    def step(self, connection: _Connection, events: int) -> None:
        if events & select.EPOLLOUT:
            self.push(connection)
            if not connection.unsent:
                self.poll.modify(connection.socket.fileno(), select.EPOLLIN)
        if events & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
            data = connection.socket.recv(65536)
            if not data:
                message = "the server closed a connection"
                raise ConnectionError(message)
            connection.received += data
            if self.complete(connection.received):
                self.finish(connection)

    def complete(self, received: bytes) -> bool:
        head, separator, body = received.partition(b"\r\n\r\n")
        if not separator:
            return False
        lower = head.lower()
        place = lower.find(b"content-length:")
        length = int(lower[place + 15 :].split(b"\r\n", 1)[0]) if place >= 0 else 0
        return len(body) >= length

    def finish(self, connection: _Connection) -> None:
        status = int(connection.received[9:12])
        if status == self.plan.expect:
            self.latencies.append(time.perf_counter() - connection.due)
        else:
            self.unexpected[str(status)] = self.unexpected.get(str(status), 0) + 1
        del self.busy[connection.socket.fileno()]
        self.idle.append(connection)

    def result(self, seconds: float) -> Load:
        ordered = sorted(self.latencies) or [0.0]

        def at(share: float) -> float:
            return round(ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000, 3)

        return Load(len(self.latencies), self.unexpected, round(seconds, 3), at(0.5), at(0.9), at(0.99), at(1.0))


def main() -> None:
    """Read a plan from stdin, print the result."""
    plan: dict[str, Any] = json.load(sys.stdin)
    json.dump(asdict(run(Plan(**plan))), sys.stdout)


if __name__ == "__main__":
    main()
