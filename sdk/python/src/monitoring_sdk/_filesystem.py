"""The built-in `filesystem` backend: JSON Lines in the layout of TrackMate's sink of that name, without a dependency.

    <path>/date=2026-07-01/hour=09/<log>-<first number>.jsonl.open            grows
    <path>/date=2026-07-01/hour=09/<log>-<first number>-<last number>.jsonl   complete, never touched again
    <path>/.state/<log>.json                                                  what the files hold, for certain
    <path>/.state/<log>.lock                                                  its owner holds an exclusive flock on it

Folders go by the event's timestamp in UTC; a log is one start of one process (its emitter id), its events are numbered in the
order of delivery, with 20 digits. A batch is appended to the growing files of its hours, these are synced, and only then the
state is replaced. The state is the truth: numbers that it covers are passed over when they come again, and what a crash left
beyond the recorded length is cut off. Whoever writes to the folder next completes the files of owners that are dead.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import time
from bisect import bisect_right
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from monitoring_sdk._batch import Batch
from monitoring_sdk._config import BackendSettings
from monitoring_sdk._spool import try_lock
from monitoring_sdk._transport import Answer, Bounds, Outcome

FILESYSTEM_SETTINGS = frozenset({"path", "format", "rotate_size_mb", "rotate_seconds"})
"""The settings that are understood here."""

STATE_FOLDER = ".state"
OPEN_SUFFIX = ".jsonl.open"
DEFAULT_ROTATE_MB = 100
DEFAULT_ROTATE_SECONDS = 60

_MEBIBYTE = 1024 * 1024
_MOST_OPEN = 48
_PATIENCE = 2.0
"""How long to wait for another process that writes for the same dead one, in seconds."""

_POLL = 0.01
_TIDY_INTERVAL = 60.0
_STALE_STATE = 30 * 86_400.0
"""Seconds after which the state of a dead log is no longer needed: nothing of it will be delivered again."""

_TIMESTAMP = re.compile(rb'"timestamp":"((\d{4}-\d\d-\d\d)T(\d\d):[^"]*)"')
_ADVICE = {
    errno.ENOSPC: "the disk is full: make room, or point `path` to another disk",
    errno.EDQUOT: "the quota is used up: make room, or raise the quota",
    errno.EROFS: "the file system is read-only: mount it for writing, or change `path`",
    errno.EACCES: "permission denied: let the user of this process write there, or change `path`",
    errno.EPERM: "not permitted: let the user of this process write there, or change `path`",
    errno.ENOTDIR: "a part of `path` is a file, not a folder: change `path`",
    errno.EEXIST: "a part of `path` is a file, not a folder: change `path`",
    errno.EIO: "the disk reports an input/output error: check the disk",
}


class FilesystemBackend:
    """Writes to one folder; what it accepts is synced, and a batch delivered twice stands once."""

    bounds = Bounds()
    keeps_rejected = False
    outlives_executors = True

    def __init__(self, settings: BackendSettings, own_log: str, *, clock: Callable[[], float] = time.time) -> None:
        config = settings.config
        self._root = (settings.base or Path.cwd()) / Path(config["path"]).expanduser()
        self._rotate_bytes = int(float(config.get("rotate_size_mb", DEFAULT_ROTATE_MB)) * _MEBIBYTE)
        self._rotate_seconds = float(config.get("rotate_seconds", DEFAULT_ROTATE_SECONDS))
        self._own_log = own_log
        self._clock = clock
        self._log: _Log | None = None
        self._in_doubt = False
        """Whether a batch may stand there though it counts as not delivered: then it may come again, and the state stays."""
        self._next_tidying = 0.0

    def send(self, batch: Batch, timeout: float) -> Answer:
        """Append the batch and sync."""
        began = self._clock()
        try:
            if batch.log == self._own_log:
                self._append(batch)
            else:
                self._append_for_the_dead(batch)
        except OSError as error:
            self._in_doubt = True
            self.forget()
            return Answer(Outcome.RETRY, self._explained(error))
        except ValueError as error:  # a state file that is no JSON
            self.forget()
            return Answer(Outcome.KEEP, f"{error}; move it away")
        self._in_doubt |= self._clock() - began > timeout
        return Answer(Outcome.ACCEPTED)

    def _append(self, batch: Batch) -> None:
        if self._log is None:
            self._log = _Log(self._root, self._own_log)
        self._log.append(batch, self._clock())
        self._log.rotate(self._clock(), self._rotate_bytes, self._rotate_seconds)

    def _append_for_the_dead(self, batch: Batch) -> None:
        """Write what waited on disk; other processes may be doing so for the same log, each in its turn."""
        log = _Log(self._root, batch.log)
        try:
            log.append(batch, self._clock())
            log.rotate(self._clock(), 0, 0.0)
        finally:
            log.free()

    def tick(self) -> None:
        """Complete the files that are old enough, and those that dead processes left."""
        try:
            if self._log is not None:
                self._log.rotate(self._clock(), self._rotate_bytes, self._rotate_seconds)
            if self._clock() >= self._next_tidying:
                self._next_tidying = self._clock() + _TIDY_INTERVAL
                self._tidy()
        except OSError:  # the next batch meets the same disk and reports it
            self.forget()

    def interrupt(self) -> None:
        """Nothing can be done about a disk that hangs."""

    def close(self) -> None:
        """Complete every growing file."""
        if self._log is not None:
            with contextlib.suppress(OSError):  # then the next process that writes here completes them
                self._log.rotate(self._clock(), 0, 0.0)
                if not self._in_doubt:
                    self._log.remove()
        self.forget()

    def forget(self) -> None:
        """Close the handle of the lock; what is to be known stands on disk."""
        log, self._log = self._log, None
        if log is not None:
            log.free()

    def _tidy(self) -> None:
        """Complete what dead processes left growing, and forget them in the end."""
        for lock in (self._root / STATE_FOLDER).glob("*.lock"):
            log = _Log.of_the_dead(self._root, lock)
            if log is None:
                continue
            try:
                log.rotate(self._clock(), 0, 0.0)
                if log.age(self._clock()) > _STALE_STATE:
                    log.remove()
            finally:
                log.free()

    def _explained(self, error: OSError) -> str:
        return f"can't write to {self._root}: {_ADVICE.get(error.errno or 0, str(error))}"


class _Log:
    """The files of one log. Methods raise OSError, and ValueError for a state file that is no JSON."""

    def __init__(self, root: Path, name: str, lock_fd: int | None = None) -> None:
        self._root = root
        self._name = name
        self._state_path = root / STATE_FOLDER / f"{name}.json"
        self._state_path.parent.mkdir(parents=True, exist_ok=True)
        self._lock_path = self._state_path.with_suffix(".lock")
        self._lock_fd = _locked(self._lock_path, _PATIENCE) if lock_fd is None else lock_fd
        try:
            self._covered: list[tuple[int, int]] = []
            self._open: dict[str, dict[str, Any]] = {}
            self._load()
        except BaseException:
            self.free()
            raise

    @classmethod
    def of_the_dead(cls, root: Path, lock: Path) -> _Log | None:
        """The log of that lock; None while its owner lives."""
        try:
            fd = _locked(lock)
            return cls(root, lock.stem, fd)
        except (BlockingIOError, FileNotFoundError, PermissionError, ValueError):
            return None

    def age(self, now: float) -> float:
        """Seconds since the state last changed; infinite when there is none."""
        try:
            return now - self._state_path.stat().st_mtime
        except FileNotFoundError:
            return float("inf")

    def remove(self) -> None:
        """Forget what was written."""
        for path in (self._state_path, self._lock_path):
            with contextlib.suppress(FileNotFoundError):
                path.unlink()

    def free(self) -> None:
        """Let go of the lock."""
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def append(self, batch: Batch, now: float) -> None:
        """Append what of the batch is not there yet; afterwards its numbers count as covered."""
        by_partition: dict[str, list[tuple[int, bytes]]] = {}
        for number, line in enumerate(batch.lines, start=batch.first_seq):
            if not self._covers(number):
                by_partition.setdefault(partition_of(line), []).append((number, line))
        grown = {partition: self._append_to(partition, numbered, now) for partition, numbered in by_partition.items()}
        covered = _with(self._covered, batch.first_seq, batch.first_seq + len(batch.lines) - 1)
        self._store(covered, {**self._open, **grown})

    def rotate(self, now: float, rotate_bytes: float, rotate_seconds: float) -> None:
        """Complete the growing files that are large or old enough."""
        by_age = sorted(self._open, key=lambda partition: float(self._open[partition]["since"]))
        surplus = set(by_age[: max(0, len(by_age) - _MOST_OPEN)])
        done = [
            partition
            for partition, file in self._open.items()
            if partition in surplus or file["size"] >= rotate_bytes or now - file["since"] >= rotate_seconds
        ]
        for partition in done:
            file = self._open[partition]
            growing = self._growing(partition, file["first"])
            with contextlib.suppress(FileNotFoundError):
                growing.rename(growing.with_name(f"{self._name}-{file['first']:020}-{file['last']:020}.jsonl"))
                _sync_folder(growing.parent)
        if done:
            self._store(self._covered, {name: file for name, file in self._open.items() if name not in done})

    def _append_to(self, partition: str, numbered: list[tuple[int, bytes]], now: float) -> dict[str, Any]:
        known = self._open.get(partition)
        first = known["first"] if known else numbered[0][0]
        path = self._growing(partition, first)
        if known is None:
            _make_folder(path.parent, self._root)
        data = b"\n".join(line for _, line in numbered) + b"\n"
        with path.open("ab") as file:
            size = min(file.tell(), known["size"] if known else 0)
            file.truncate(size)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if known is None:
            _sync_folder(path.parent)
            return {"first": first, "last": numbered[-1][0], "size": len(data), "since": now}
        return {**known, "last": max(known["last"], numbered[-1][0]), "size": size + len(data)}

    def _growing(self, partition: str, first: int) -> Path:
        return self._root / partition / f"{self._name}-{first:020}{OPEN_SUFFIX}"

    def _covers(self, number: int) -> bool:
        place = bisect_right(self._covered, (number, float("inf"))) - 1
        return place >= 0 and self._covered[place][1] >= number

    def _load(self) -> None:
        """Read the state, cut the growing files to what it records, and remove those that it doesn't know."""
        try:
            state = json.loads(self._state_path.read_bytes())
            self._covered = [(first, last) for first, last in state["covered"]]
            self._open = dict(state["open"])
        except FileNotFoundError:
            pass
        except (ValueError, KeyError, TypeError) as error:
            message = f"{self._state_path} can't be read ({error})"
            raise ValueError(message) from error
        known = {self._growing(partition, file["first"]): file["size"] for partition, file in self._open.items()}
        for path, size in known.items():
            if path.exists() and path.stat().st_size > size:
                os.truncate(path, size)
        for path in self._root.glob(f"date=*/hour=*/{self._name}-*{OPEN_SUFFIX}"):
            if path not in known:
                path.unlink()

    def _store(self, covered: list[tuple[int, int]], growing: dict[str, dict[str, Any]]) -> None:
        aside = self._state_path.with_name(self._state_path.name + ".tmp")
        with aside.open("w", encoding="utf-8") as file:
            json.dump({"covered": covered, "open": growing}, file)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(self._state_path)
        _sync_folder(aside.parent)
        self._covered, self._open = covered, growing


def partition_of(line: bytes) -> str:
    """The folder of an event, from its timestamp in UTC: `date=2026-07-01/hour=09`."""
    found = _TIMESTAMP.search(line)
    text = found[1].decode() if found else ""
    if found is not None and text.endswith("Z") and line.count(b'"timestamp":') == 1:
        return f"date={found[2].decode()}/hour={found[3].decode()}"
    text = str(json.loads(line)["timestamp"]).upper().replace(" ", "T")
    moment = text[:19] + (text[-6:] if text[-6] in "+-" else "+00:00")
    utc = datetime.fromisoformat(moment).astimezone(timezone.utc)
    return f"date={utc:%Y-%m-%d}/hour={utc:%H}"


def _with(ranges: list[tuple[int, int]], first: int, last: int) -> list[tuple[int, int]]:
    """Closed ranges in order, none touching the next, with one more put in."""
    before = [entry for entry in ranges if entry[1] < first - 1]
    after = [entry for entry in ranges if entry[0] > last + 1]
    touching = ranges[len(before) : len(ranges) - len(after)]
    merged = (min([first, *(entry[0] for entry in touching)]), max([last, *(entry[1] for entry in touching)]))
    return [*before, merged, *after]


def _locked(path: Path, patience: float = 0.0) -> int:
    """A handle that holds the lock, which is made when it is missing. Raises BlockingIOError when somebody else holds it."""
    deadline = time.monotonic() + patience
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    try:
        while time.monotonic() < deadline and not try_lock(fd):
            time.sleep(_POLL)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise
    return fd


def _make_folder(folder: Path, root: Path) -> None:
    if folder.is_dir():
        return
    folder.mkdir(parents=True, exist_ok=True)
    while folder != root:
        folder = folder.parent
        _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
