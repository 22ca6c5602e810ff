"""One server of a kind for a whole test run, however many workers share the work: kept by a process of its own.

The first worker that asks for a server starts its keeper, which starts the server, writes down where it is, and ends it when the
run ends or dies. The others read what was written.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import os
import pickle
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from tests.services.base import Service

RUN = "TRACKMATE_TEST_RUN"
"""Environment variable: the folder of this test run, made by the process that hands out the work."""

RUNNER = "TRACKMATE_TEST_RUNNER"
"""Environment variable: that process's id."""

START_SECONDS = 1800.0
"""A first start may have to build its server."""

Kind = TypeVar("Kind", bound=Service)


def begin_run() -> None:
    """Make the folder of this run, unless an outer process has."""
    if RUN not in os.environ:
        os.environ[RUN] = tempfile.mkdtemp(prefix="trackmate-tests-")
        os.environ[RUNNER] = str(os.getpid())


def end_run() -> None:
    """End every server of this run; only the process that began it does."""
    if os.environ.get(RUNNER) != str(os.getpid()):
        return
    folder = Path(os.environ.pop(RUN))
    del os.environ[RUNNER]
    keepers = [int(path.read_text()) for path in folder.glob("*.pid")]
    for pid in keepers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + 60
    while any(map(_alive, keepers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def shared(kind: type[Kind]) -> Iterator[Kind]:
    """This run's server of this kind, started when it is first asked for. It is not to be stopped by a test."""
    server = _attached(kind)
    try:
        yield server
    finally:
        server.detach()


def _attached(kind: type[Kind]) -> Kind:
    place = Path(os.environ[RUN]) / f"{kind.__module__}.{kind.__qualname__}"
    with place.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        state = place.with_suffix(".state")
        if not state.exists():
            _start_keeper(kind, place)
        server = kind.__new__(kind)
        server.__dict__.update(pickle.loads(state.read_bytes()))
        server.attach()
        return server


def _start_keeper(kind: type[Service], place: Path) -> None:
    log = place.with_suffix(".log")
    # Not by `subprocess`, whose objects complain when they go before their processes: the keeper lives longer than this worker.
    keeper = os.posix_spawn(
        sys.executable,
        [sys.executable, "-m", "tests.services.shared", kind.__module__, kind.__qualname__, str(place)],
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )
    place.with_suffix(".pid").write_text(str(keeper))
    deadline = time.monotonic() + START_SECONDS
    while not place.with_suffix(".state").exists():
        if not _alive(keeper) or time.monotonic() > deadline:
            tail = log.read_text(errors="replace")[-4000:]
            message = f"{kind.__name__} could not be started:\n{tail}"
            raise RuntimeError(message)
        time.sleep(0.05)


def _alive(pid: int) -> bool:
    """Whether a process runs; a dead one that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _picklable(values: dict[str, Any]) -> dict[str, Any]:
    kept = {}
    for name, value in values.items():
        with contextlib.suppress(TypeError, AttributeError, pickle.PicklingError):
            pickle.dumps(value)
            kept[name] = value
    return kept


def keep(module: str, name: str, place: Path) -> None:
    """Start a server, write down where it is, and end it when told to, or when the run is over without having told."""
    stopping = False

    def stop(_number: int, _frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGTERM, stop)
    runner = int(os.environ[RUNNER])
    server: Service = getattr(importlib.import_module(module), name)()
    with server:
        aside = place.with_suffix(".state.tmp")
        aside.write_bytes(pickle.dumps(_picklable(server.__dict__)))
        aside.replace(place.with_suffix(".state"))
        while not stopping and _alive(runner):
            time.sleep(0.2)


if __name__ == "__main__":
    keep(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
