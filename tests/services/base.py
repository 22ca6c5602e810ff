"""What every real server in the tests has in common: on demand, on loopback, in its own folder, stopped by its own pid."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import psutil

CACHE = Path(os.environ.get("TRACKMATE_CACHE", Path.home() / ".cache" / "trackmate"))
"""Builds and downloads that are worth keeping between runs; a clean machine makes them anew."""


def free_port() -> int:
    """A loopback TCP port that nothing listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until(condition: Callable[[], Any], *, seconds: float, what: str, interval: float = 0.05) -> Any:
    """Poll `condition` until it returns something true; fail with `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            message = f"waited {seconds} s in vain for {what}"
            raise TimeoutError(message)
        time.sleep(interval)


def port_open(port: int, host: str = "127.0.0.1") -> bool:
    """Whether something accepts TCP connections there."""
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1):
        return True
    return False


@contextlib.contextmanager
def cache_lock(name: str) -> Iterator[Path]:
    """Hold the machine-wide lock on one cached artefact while it is made, so that parallel runs make it once."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f".{name}.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield CACHE / name


def go_binary(name: str, module: str, version: str) -> Path:
    """A program built once from the Go module proxy and kept in the cache.

    `module` is the path of the program's package; the binary is stored under `name` and `version`.
    """
    with cache_lock(f"{name}-{version}") as target:
        if not target.is_file():
            build = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=CACHE))
            try:
                subprocess.run(
                    ["go", "install", f"{module}@{version}"],
                    env={**os.environ, "GOBIN": str(build), "GOFLAGS": "-buildvcs=false"},
                    check=True,
                )
                (built,) = build.iterdir()
                built.replace(target)
            finally:
                shutil.rmtree(build, ignore_errors=True)
    return target


class Service:
    """One real server: `start()` returns once it answers, `stop()` ends it and removes its folder."""

    name = "service"
    start_seconds = 60.0

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=f"trackmate-{self.name}-"))
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        """Start the server and wait until it is ready."""
        raise NotImplementedError

    def attach(self) -> None:
        """Make what a test needs to use a server that another process started; every other attribute is there.

        Names that tests ask for are numbered: each process numbers from a place of its own.
        """
        if hasattr(self, "_numbers"):
            self._numbers = itertools.count(os.getpid() * 1_000_000)

    def detach(self) -> None:
        """Close what `attach` made."""

    def spawn(
        self, command: Sequence[str | Path], *, ready: Callable[[], Any], env: Mapping[str, str] | None = None, **options: Any
    ) -> None:
        """Run `command` in a process group of its own and wait until `ready` says so; its output goes to `log.txt`."""
        log = (self.folder / "log.txt").open("ab")
        with log:
            self.process = subprocess.Popen(
                [str(part) for part in command],
                cwd=self.folder,
                env={**os.environ, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **options,
            )

        def alive_and_ready() -> Any:
            assert self.process is not None
            if self.process.poll() is not None:
                tail = (self.folder / "log.txt").read_text(errors="replace")[-4000:]
                message = f"{self.name} ended with {self.process.returncode} before it was ready:\n{tail}"
                raise RuntimeError(message)
            return ready()

        wait_until(alive_and_ready, seconds=self.start_seconds, what=f"{self.name} to be ready")

    def kill(self, sig: int = signal.SIGKILL) -> None:
        """Send `sig` to the server's process group and wait for its end, as a crash would.

        SIGKILL also reaches helpers that made themselves groups of their own, as those of PostgreSQL do.
        """
        if self.process is None or self.process.poll() is not None:
            return
        helpers = []
        if sig == signal.SIGKILL:
            os.killpg(self.process.pid, signal.SIGSTOP)  # it starts no more of them
            helpers = psutil.Process(self.process.pid).children(recursive=True)
        os.killpg(self.process.pid, sig)
        for helper in helpers:
            with contextlib.suppress(psutil.NoSuchProcess):
                helper.kill()
        self.process.wait(30)
        _, left = psutil.wait_procs(helpers, timeout=30)
        if left:
            message = f"{self.name} was killed, but {', '.join(map(str, left))} lives on"
            raise RuntimeError(message)

    def stop(self) -> None:
        """End the server, gently first, and remove its folder."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()
        self.process = None
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
