"""The folder that holds everything of one installation: configuration, database, spool, lake, logs; one `up` at a time in it."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import msgspec
import psutil
import typer

from contract.errors import TrackMateError

DataOption = Annotated[
    Path, typer.Option("--data", envvar="TRACKMATE_DATA", help="The data folder: configuration, database, spool, lake, logs.")
]
DEFAULT_DATA = Path("trackmate-data")


class RunningStack(msgspec.Struct):
    """What `up` writes about itself, so that `down` and `status` find it."""

    pid: int
    create_time: float
    started_at: float
    ready: bool = False
    services: dict[str, str] = {}
    """Name of each service and the address it answers at."""

    def alive(self) -> bool:
        """Whether that very process still runs."""
        try:
            process = psutil.Process(self.pid)
            return abs(process.create_time() - self.create_time) < 1.0 and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False


class DataFolder:
    """Where each thing is."""

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().absolute()
        self.trackmate_yaml = self.root / "trackmate.yaml"
        self.sidecar_yaml = self.root / "sidecar.yaml"
        self.sdk_yaml = self.root / "monitoring-config.yaml"
        self.procfile = self.root / "Procfile"
        self.postgres = self.root / "postgres"
        self.spool = self.root / "spool"
        self.lake = self.root / "lake"
        self.dagster = self.root / "dagster"
        self.sdk_spool = self.root / "sdk-spool"
        self.archive = self.root / "archive"
        self.logs = self.root / "logs"
        self._lock = self.root / ".lock"
        self._running = self.root / "up.json"

    def make(self) -> None:
        """Create the folders; raises TrackMateError when that is not allowed."""
        try:
            for folder in (self.root, self.dagster, self.sdk_spool, self.logs):
                folder.mkdir(parents=True, exist_ok=True)
            probe = self.root / ".writable"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise TrackMateError(
                f"can't write to the data folder {self.root} ({error.strerror}). Give another with --data, or make it yours"
            ) from error

    def require(self) -> None:
        """Raise TrackMateError unless the folder was set up by `up` before."""
        if not self.trackmate_yaml.is_file():
            raise TrackMateError(
                f"{self.root} is no data folder of TrackMate (it has no trackmate.yaml). Name yours with --data, or "
                "make one with 'trackmate up'"
            )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for this process; raises TrackMateError that names the process which holds it now."""
        with self._lock.open("a") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                running = self.running()
                who = f"process {running.pid}" if running else "another process"
                raise TrackMateError(
                    f"TrackMate runs already on {self.root} ({who}). See 'trackmate status', stop it with 'trackmate down', "
                    "or give another folder with --data"
                ) from error
            try:
                yield
            finally:
                self._running.unlink(missing_ok=True)

    def announce(self, services: dict[str, str], *, ready: bool) -> None:
        """Write who we are and what we run, for `down` and `status`."""
        me = psutil.Process()
        began = me.create_time()
        stack = RunningStack(os.getpid(), began, time.time(), ready, services)
        aside = self._running.with_suffix(".tmp")
        aside.write_bytes(msgspec.json.encode(stack))
        aside.replace(self._running)

    def running(self) -> RunningStack | None:
        """The stack that runs on this folder; None when none does."""
        try:
            stack = msgspec.json.decode(self._running.read_bytes(), type=RunningStack)
        except (FileNotFoundError, msgspec.DecodeError):
            return None
        return stack if stack.alive() else None
