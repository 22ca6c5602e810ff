"""A real sidecar in a process of its own, and what tests send to it."""

from __future__ import annotations

import json
import signal
import socket
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import psutil

from contract.ids import uuid7
from tests.services.base import Service, free_port, wait_until

PATH = "/v1/ingest/events"


def event(**fields: Any) -> dict[str, Any]:
    """A valid event; `fields` replace or add."""
    return {
        "event_id": uuid7(),
        "timestamp": "2026-07-01T09:00:00.000001Z",
        "kind": "log",
        "name": "etch",
        "site_id": "fab1",
        "app": {"name": "wafer-processing"},
        **fields,
    }


def events(count: int, **fields: Any) -> list[dict[str, Any]]:
    return [event(**fields) for _ in range(count)]


def ndjson(items: Iterable[Mapping[str, Any]]) -> bytes:
    return b"".join(json.dumps(item).encode() + b"\n" for item in items)


class RunningSidecar(Service):
    """`trackmate sidecar` with a configuration of its own on a free port; `settings` goes under `sidecar`."""

    name = "sidecar"
    start_seconds = 30

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.settings: dict[str, Any] = {"listen": f"127.0.0.1:{self.port}", "spool": {"dir": "./spool"}, **settings}
        self.environment: dict[str, str] = {}
        self.client = httpx.Client(
            base_url=self.url, trust_env=False, verify=False, timeout=20
        )  # no certificates to load: plain HTTP

    @property
    def config(self) -> Path:
        return self.folder / "sidecar.yaml"

    @property
    def spool(self) -> Path:
        return self.folder / "spool"

    def write_config(self) -> None:
        self.config.write_text(json.dumps({"sidecar": self.settings}))

    def start(self, *, written: bool = False) -> RunningSidecar:
        """Write the configuration, unless that is done, and wait until it serves."""
        if not written:
            self.write_config()
        command = [sys.executable, "-m", "trackmate", "sidecar", "--config", str(self.config)]
        self.spawn(command, ready=self.is_ready, env=self.environment)
        return self

    def stop(self) -> None:
        """End the sidecar and the client that spoke to it."""
        self.client.close()
        super().stop()

    def is_ready(self) -> bool:
        try:
            return self.get("/ready").status_code == 200
        except httpx.TransportError:
            return False

    def terminate(self, seconds: float = 20) -> int:
        """SIGTERM, and the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def hang_up(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGHUP)

    def post(self, content: Any, *, headers: Mapping[str, str] | None = None, timeout: float = 20) -> httpx.Response:
        """Send JSON (anything but bytes) or bytes as they are."""
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        return self.client.post(
            PATH, content=body, headers={"Content-Type": "application/json", **(headers or {})}, timeout=timeout
        )

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.client.get(path, **options)

    def health(self) -> dict[str, Any]:
        answer: dict[str, Any] = self.get("/health").json()
        return answer

    def backend(self, name: str) -> dict[str, Any]:
        return next(state for state in self.health()["backends"] if state["name"] == name)

    def wait_for_backend(self, name: str, seconds: float = 15, **expected: Any) -> dict[str, Any]:
        """Until every expected field of the backend's state is as given."""

        def ready() -> dict[str, Any] | None:
            state = self.backend(name)
            return state if all(state[key] == value for key, value in expected.items()) else None

        state: dict[str, Any] = wait_until(ready, seconds=seconds, what=f"backend {name} to show {expected}")
        return state

    def metric(self, name: str, **labels: str) -> float:
        wanted = "{" + ",".join(f'{k}="{v}"' for k, v in labels.items()) + "}" if labels else ""
        for line in self.get("/metrics").text.splitlines():
            if line.startswith(f"{name}{wanted} "):
                return float(line.rpartition(" ")[2])
        message = f"no metric {name}{wanted}"
        raise KeyError(message)

    def log_lines(self) -> list[dict[str, Any]]:
        text = (self.folder / "log.txt").read_text()
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]

    def rss(self) -> int:
        assert self.process is not None
        return int(psutil.Process(self.process.pid).memory_info().rss)

    def peak_rss(self) -> int:
        assert self.process is not None
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) * 1024

    def quarantined(self) -> list[dict[str, Any]]:
        return read_lines(sorted((self.spool / "quarantine").glob("*.ndjson")))

    def dead(self, backend: str) -> list[dict[str, Any]]:
        return read_lines(sorted((self.spool / "dead" / backend).glob("[0-9]*.ndjson")))

    def delivered(self, folder: str = "out") -> list[dict[str, Any]]:
        """Events in the files of a filesystem backend, growing files included."""
        while True:  # files are renamed when they are complete: read again when that happened meanwhile
            files = delivered_files(self.folder / folder)
            try:
                lines = read_lines(files)
            except FileNotFoundError:
                continue
            if delivered_files(self.folder / folder) == files:
                return lines

    def raw(self, request: bytes, *, timeout: float = 10, read_until: int = 1) -> bytes:
        """Send bytes over a connection of its own and read answers until `read_until` of them came or the connection ends."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout) as connection:
            connection.sendall(request)
            return read_answers(connection, read_until)


def read_answers(connection: socket.socket, count: int) -> bytes:
    received = b""
    while received.count(b"HTTP/1.1 ") < count or not _complete(received):
        data = connection.recv(65536)
        if not data:
            break
        received += data
    return received


def _complete(received: bytes) -> bool:
    head, separator, body = received[received.rfind(b"HTTP/1.1 ") :].partition(b"\r\n\r\n")
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return bool(separator) and bool(lengths) and len(body) >= int(lengths[0].partition(b":")[2])


def delivered_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("date=*/hour=*/*.jsonl*"))


def read_lines(files: Sequence[Path]) -> list[dict[str, Any]]:
    return list(_read(files))


def _read(files: Sequence[Path]) -> Iterator[dict[str, Any]]:
    for file in files:
        *lines, _being_written = file.read_bytes().split(b"\n")
        for line in lines:
            yield json.loads(line)


def files_backend(name: str = "files", path: str = "./out", **settings: Any) -> dict[str, Any]:
    return {"name": name, "type": "filesystem", "config": {"path": path, "rotate_seconds": 1}, **settings}


def managed_backend(url: str, name: str = "managed", **settings: Any) -> dict[str, Any]:
    return {"name": name, "type": "managed", "config": {"url": url}, **settings}
