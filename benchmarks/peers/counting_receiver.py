"""A receiver that only counts: events of HTTP requests and of lines over TCP, by the `event_id` that each event has once.

As a program (`python -m benchmarks.peers.counting_receiver`) it prints its two ports as JSON and runs until it is ended.
Every POST is answered 200, with what a gateway would say of so many events; `GET /count` tells what has come for each path.
"""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

MARK = b"event_id"
TCP = "tcp"
"""Lines over TCP are counted under this name, requests under their path."""

_PIECE = 1 << 20


@dataclass
class Count:
    """What came for one path; `last` is when, by the machine's monotonic clock, in seconds."""

    events: int = 0
    requests: int = 0
    size: int = 0
    last: float = 0.0

    def add(self, events: int, requests: int, size: int) -> None:
        self.last = time.monotonic()
        self.events += events
        self.requests += requests
        self.size += size


@dataclass
class Connection:
    socket: socket.socket
    lines: bool
    received: bytearray = field(default_factory=bytearray)
    wanted: int = 0
    """Bytes of the request that is being received, its head included; 0 until the head is there."""
    target: str = ""
    """Its method and path."""


class Counter:
    """One thread, one epoll."""

    def __init__(self) -> None:
        self.counts: dict[str, Count] = {}
        self._poll = select.epoll()
        self._connections: dict[int, Connection] = {}
        self._buffer = memoryview(bytearray(_PIECE))
        self._listeners = {
            server.fileno(): (server, lines) for lines in (False, True) for server in [socket.create_server(("127.0.0.1", 0))]
        }
        for descriptor in self._listeners:
            self._poll.register(descriptor, select.EPOLLIN)

    def ports(self) -> dict[str, int]:
        return {"tcp" if lines else "http": server.getsockname()[1] for server, lines in self._listeners.values()}

    def run(self) -> None:
        while True:
            for descriptor, _ in self._poll.poll():
                if descriptor in self._listeners:
                    self._accept(descriptor)
                else:
                    self._read(self._connections[descriptor])

    def _accept(self, descriptor: int) -> None:
        server, lines = self._listeners[descriptor]
        accepted, _ = server.accept()
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connections[accepted.fileno()] = Connection(accepted, lines)
        self._poll.register(accepted.fileno(), select.EPOLLIN)

    def _read(self, connection: Connection) -> None:
        try:
            size = connection.socket.recv_into(self._buffer)
        except ConnectionError:
            size = 0
        if not size:
            self._poll.unregister(connection.socket.fileno())
            del self._connections[connection.socket.fileno()]
            connection.socket.close()
            return
        connection.received += self._buffer[:size]
        if connection.lines:
            self._count_lines(connection)
            return
        while self._take_request(connection):
            pass

    def _count_lines(self, connection: Connection) -> None:
        end = connection.received.rfind(b"\n") + 1
        if end:
            events = connection.received.count(MARK, 0, end)
            self.counts.setdefault(TCP, Count()).add(events, 0, end)
            del connection.received[:end]

    def _take_request(self, connection: Connection) -> bool:
        received = connection.received
        if not connection.wanted:
            end = received.find(b"\r\n\r\n")
            if end < 0:
                return False
            head = bytes(received[:end]).lower()
            place = head.find(b"\r\ncontent-length:")
            length = int(head[place + 17 :].split(b"\r\n", 1)[0]) if place >= 0 else 0
            connection.wanted = end + 4 + length
            connection.target = received[: received.find(b" HTTP/")].decode()
        if len(received) < connection.wanted:
            return False
        method, _, path = connection.target.partition(" ")
        answer = b""
        if method == "GET":
            answer = json.dumps({path: asdict(count) for path, count in self.counts.items()}).encode()
        elif method == "POST":
            events = received.count(MARK, 0, connection.wanted)
            self.counts.setdefault(path, Count()).add(events, 1, connection.wanted)
            # An OTLP exporter would try to read an answer that isn't empty.
            if not path.endswith("/v1/logs"):
                answer = b'{"accepted":%d,"rejected":[]}' % events
        connection.socket.sendall(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(answer), answer)
        )
        del received[: connection.wanted]
        connection.wanted = 0
        return True


@dataclass(frozen=True)
class Receiver:
    """A running one, seen from outside."""

    http_port: int
    tcp_port: int
    pid: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    def counts(self) -> dict[str, Count]:
        with urllib.request.urlopen(f"{self.url}/count", timeout=30) as answer:
            found: dict[str, Any] = json.load(answer)
        return {path: Count(**count) for path, count in found.items()}

    def total(self) -> Count:
        """Over all paths."""
        counts = list(self.counts().values()) or [Count()]
        return Count(
            sum(count.events for count in counts),
            sum(count.requests for count in counts),
            sum(count.size for count in counts),
            max(count.last for count in counts),
        )


@contextmanager
def receiver(core: int) -> Iterator[Receiver]:
    """One on this core while the block runs."""
    command = ["taskset", "-c", str(core), sys.executable, "-m", "benchmarks.peers.counting_receiver"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONUNBUFFERED": "1"}) as process:
        assert process.stdout is not None
        try:
            ports = json.loads(process.stdout.readline())
            yield Receiver(ports["http"], ports["tcp"], process.pid)
        finally:
            process.kill()


def main() -> None:
    """Print the ports and count."""
    counter = Counter()
    sys.stdout.write(json.dumps(counter.ports()) + "\n")
    sys.stdout.flush()
    counter.run()


if __name__ == "__main__":
    main()
