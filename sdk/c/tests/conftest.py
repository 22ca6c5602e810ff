"""Builds of the C SDK, each made once on a machine, and the harness to speak to."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.services.apt import ensure_packages

ROOT = Path(__file__).parents[3]
OPTIONS = {
    "release": (),
    "sanitize": ("-DMON_SANITIZE=ON",),
    "tsan": ("-DMON_SANITIZE_THREADS=ON",),
    "fuzz": ("-DMON_SANITIZE=ON", "-DMON_FUZZ=ON", "-DMON_TESTS=OFF", "-DMON_HARNESS=OFF", "-DCMAKE_C_COMPILER=clang-14"),
}
SANITIZERS = {
    "ASAN_OPTIONS": "detect_leaks=1:abort_on_error=0:exitcode=98",
    "UBSAN_OPTIONS": "print_stacktrace=1",
}

Build = Callable[[str], Path]
Harness = Callable[..., "Speaker"]


def settings(url: str, tmp_path: Path, **sdk: Any) -> dict[str, Any]:
    """A configuration that sends to a sidecar; `sdk` goes under `sdk`."""
    sidecar = {"url": url, "spool_dir": str(tmp_path / "spool"), "retries": 0}
    return {"sdk": {"app": {"name": "c", "site_id": "fab1"}, "sidecar": sidecar, "queue": {"flush_interval": 0.1}, **sdk}}


def run(command: list[str | Path], cwd: Path, env: dict[str, str] | None = None) -> str:
    """What a program that must succeed writes."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("MONITORING_")}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**kept, **(env or {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, f"{command[0]} ended with {done.returncode}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def direct(backends: Sequence[Mapping[str, Any]], tmp_path: Path, **sdk: Any) -> dict[str, Any]:
    """A configuration that delivers to these backends."""
    return settings("http://127.0.0.1:9", tmp_path, mode="direct", direct_backends=backends, **sdk)


@pytest.fixture(scope="session")
def build() -> Build:
    """The folder of a build: `release`, `sanitize`, `tsan` or `fuzz`."""

    def make(name: str) -> Path:
        if name == "fuzz":
            ensure_packages("clang-14", "libclang-rt-14-dev")
        command = [str(ROOT / "scripts" / "sdk-c.sh"), "--build", name, *OPTIONS[name]]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1500)
        assert done.returncode == 0, done.stderr[-4000:]
        return Path(done.stdout.strip())

    return make


class Trapper(threading.Thread):
    """Takes the requests of zabbix_sender, and answers how many values are of `items`, the keys that there are; None: all."""

    def __init__(self, items: set[str] | None = None) -> None:
        super().__init__(daemon=True)
        self.items = items
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.config = {"url": f"http://127.0.0.1:{self.listener.getsockname()[1]}", "host": "wafer-monitor"}
        self.requests: list[list[dict[str, Any]]] = []
        self.values: list[dict[str, Any]] = []
        """Those that were taken."""

    def run(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with connection, connection.makefile("rwb") as stream:
                header = stream.read(13)
                assert header[:5] == b"ZBXD\x01"
                data = json.loads(stream.read(struct.unpack("<Q", header[5:])[0]))["data"]
                items = self.items
                taken = [value for value in data if items is None or value["key"] in items]
                self.values += taken
                self.requests.append(data)
                counts = f"processed: {len(taken)}; failed: {len(data) - len(taken)}; total: {len(data)}; seconds spent: 0.1"
                answer = json.dumps({"response": "success", "info": counts})
                stream.write(b"ZBXD\x01" + struct.pack("<Q", len(answer)) + answer.encode())

    def stop(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.join(30)


class Speaker:
    """A harness that is told what to do; see sdk/conformance/HARNESS.md."""

    def __init__(self, command: list[str], cwd: Path, env: Mapping[str, str]) -> None:
        self.log = cwd / "harness.log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, cwd=cwd, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
        assert json.loads(self._line())["language"] == "c"

    def do(self, what: str, **arguments: Any) -> dict[str, Any]:
        """Give a command; its answer."""
        self._send(what, arguments)
        answer: dict[str, Any] = json.loads(self._line())
        return answer

    def end(self, what: str | None = None, **arguments: Any) -> int:
        """End it, by a command that it does not survive or by the end of its input; its exit status."""
        if what is not None:
            self._send(what, arguments)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        status = self.process.wait(120)
        self.process.stdout.close()
        return status

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(30)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None and not pipe.closed:
                pipe.close()

    def _send(self, what: str, arguments: Mapping[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": what, **arguments}).encode() + b"\n")
        self.process.stdin.flush()

    def _line(self) -> bytes:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the harness ended: {self.log.read_text(errors='replace')[-3000:]}"
        return line


@pytest.fixture
def harness(build: Build, tmp_path: Path) -> Iterator[Harness]:
    """Start a harness: of which build, and under which command."""
    speakers: list[Speaker] = []

    def start(name: str = "release", under: tuple[str, ...] = (), env: Mapping[str, str] | None = None) -> Speaker:
        program = build(name) / "harness" / "monitoring-harness"
        kept = {key: value for key, value in os.environ.items() if not key.startswith("MONITORING_")}
        speakers.append(Speaker([*under, str(program)], tmp_path, {**kept, **(env or {})}))
        return speakers[-1]

    yield start
    for speaker in speakers:
        speaker.close()
