"""The folder for what the sidecar can't take now: one file a batch, written to last, claimed by rename; see SPOOL_FORMAT.md."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import stat
import threading
import time
from pathlib import Path

from monitoring_sdk._batch import Batch, unpack
from monitoring_sdk._config import AppSettings

_NAME = re.compile(
    r"(?P<base>(?P<owner>[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\.\d+)\.\d{20}\.jsonl)(?:(?P<torn>\.tmp)|\.claimed-(?P<claimer>\d+))?"
)
_OLD_CLAIM = 3600.0
"""Seconds after which a claim whose flock is free is stale, whatever its process id says."""


class Claim:
    """A spool file that is ours to replay."""

    def __init__(self, path: Path, base: Path, fd: int, data: bytes, open_fds: set[int]) -> None:
        self.path = path
        self._base = base
        self._fd = fd
        self._open_fds = open_fds
        open_fds.add(fd)
        self.batches = unpack(data)

    @property
    def emitter_id(self) -> str:
        """Of the process that wrote it."""
        return self._base.name.partition(".")[0]

    @property
    def number(self) -> int:
        """The number of its first event, out of its name."""
        return int(self._base.name.split(".")[2])

    @property
    def name(self) -> str:
        """The file's name while nobody claims it."""
        return self._base.name

    def done(self) -> None:
        """Its events are with the sidecar: delete it."""
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()
        self._free()

    def give_back(self) -> None:
        """Let it wait for another try."""
        self._rename(self._base)

    def refuse(self) -> None:
        """Keep it aside for a person to look at."""
        self._rename(self._base.with_name(f"{self._base.name}.refused"))

    def _rename(self, target: Path) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.path.rename(target)
        self._free()

    def _free(self) -> None:
        self._open_fds.discard(self._fd)
        os.close(self._fd)


class Spool:
    """This process's part of the folder, and its view of the rest. Methods raise OSError when the folder can't be used."""

    def __init__(self, folder: Path, emitter_id: str) -> None:
        self.folder = folder
        self._owner = f"{emitter_id}.{os.getpid()}"
        self._own: set[str] = set()
        self._lock = threading.RLock()
        self._lock_fd: int | None = None
        self._claim_fds: set[int] = set()

    # ---------------------------------------------------------------------------------------------------------- writing

    def write(self, batch: Batch) -> None:
        """Put a batch on disk, for good when this returns."""
        name = f"{self._owner}.{batch.first_seq:020d}.jsonl"
        self._write(name, batch.body())
        with self._lock:
            self._own.add(name)

    def set_aside(self, batch: Batch) -> None:
        """Keep a batch that was refused, where nobody replays it."""
        self._write(f"{self._owner}.{batch.first_seq:020d}.jsonl.refused", batch.body())

    def _write(self, name: str, data: bytes) -> None:
        self._be_alive()
        path = self.folder / name
        temporary = self.folder / f"{name}.tmp"
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
        try:
            try:
                rest = memoryview(data)
                while rest:
                    rest = rest[os.write(fd, rest) :]
                os.fsync(fd)
            finally:
                os.close(fd)
            temporary.rename(path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        self._sync_folder()

    def _sync_folder(self) -> None:
        fd = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def _be_alive(self) -> None:
        """Hold the lock that tells others that this process lives, in a folder that exists."""
        with self._lock:
            path = self._lock_path(self._owner)
            if self._lock_fd is not None:
                if _is_at(self._lock_fd, path):
                    return
                os.close(self._lock_fd)
                self._lock_fd = None
            self.folder.mkdir(parents=True, exist_ok=True)
            while True:
                fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
                fcntl.flock(fd, fcntl.LOCK_EX)
                if _is_at(fd, path):
                    self._lock_fd = fd
                    return
                os.close(fd)

    def _lock_path(self, owner: str) -> Path:
        return self.folder / f"{owner}.lock"

    def close(self) -> None:
        """The end of the owner: what it left may be taken by anybody."""
        with self._lock:
            if self._lock_fd is not None:
                with contextlib.suppress(OSError):
                    self._lock_path(self._owner).unlink()
                os.close(self._lock_fd)
                self._lock_fd = None

    def forget(self) -> None:
        """Close the handles, but let the locks be: in a forked child, where they are the parent's."""
        for fd in self._claim_fds.union(() if self._lock_fd is None else (self._lock_fd,)):
            os.close(fd)
        self._claim_fds.clear()
        self._lock_fd = None

    # --------------------------------------------------------------------------------------------------------- replaying

    def own(self) -> list[Path]:
        """The files that this process wrote and that, as far as it knows, still wait; oldest first."""
        with self._lock:
            return [self.folder / name for name in sorted(self._own)]

    def orphans(self) -> list[Path]:
        """The files that dead processes left and the claims that dead claimers left, oldest first."""
        try:
            entries = list(os.scandir(self.folder))
        except FileNotFoundError:
            return []
        found: list[tuple[float, Path]] = []
        dead: dict[str, bool] = {}
        for entry in entries:
            name = _NAME.fullmatch(entry.name)
            if name is None:
                continue
            owner = name["owner"]
            try:
                status = entry.stat(follow_symlinks=False)
                if not stat.S_ISREG(status.st_mode):
                    continue
                if name["claimer"]:
                    free = owner == self._owner or _may_be_stale(int(name["claimer"]), status.st_ctime)
                else:
                    if owner not in dead:
                        dead[owner] = owner != self._owner and self._is_dead(owner)
                    free = dead[owner]
            except (FileNotFoundError, PermissionError):
                continue
            if free:
                found.append((status.st_mtime, Path(entry.path)))
        self._tidy(entries)
        return [path for _, path in sorted(found)]

    def claim(self, path: Path) -> Claim | None:
        """The file, ours to replay; None when somebody else has it, or it is gone."""
        with self._lock:
            self._own.discard(path.name)
        name = _NAME.fullmatch(path.name)
        if name is None:
            return None
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        except (FileNotFoundError, PermissionError):
            return None
        base = self.folder / name["base"]
        claimed = base.with_name(f"{base.name}.claimed-{os.getpid()}")
        try:
            if not try_lock(fd) or not _is_at(fd, path):
                os.close(fd)
                return None
            path.rename(claimed)
            with open(fd, "rb", closefd=False) as file:
                return Claim(claimed, base, fd, file.read(), self._claim_fds)
        except (FileNotFoundError, PermissionError):
            os.close(fd)
            return None
        except OSError:
            os.close(fd)
            raise

    def returned(self, claim: Claim) -> None:
        """Give a claim back, and remember the file when it is this process's own."""
        claim.give_back()
        name = claim.path.name.partition(".claimed-")[0]
        if name.startswith(self._owner):
            with self._lock:
                self._own.add(name)

    def _is_dead(self, owner: str) -> bool:
        try:
            fd = os.open(self._lock_path(owner), os.O_RDONLY | os.O_NOFOLLOW)
        except FileNotFoundError:
            return True
        except OSError:  # another user's: not ours to take over
            return False
        try:
            return try_lock(fd)
        finally:
            os.close(fd)

    def _tidy(self, entries: list[os.DirEntry[str]]) -> None:
        """Remove the locks of dead owners that left nothing, so that they don't pile up."""
        left = {name["owner"] for name in map(_NAME.fullmatch, (entry.name for entry in entries)) if name}
        for entry in entries:
            owner, _, suffix = entry.name.rpartition(".")
            is_lock = suffix == "lock" and _NAME.fullmatch(f"{owner}.{0:020d}.jsonl") is not None
            if is_lock and owner != self._owner and owner not in left and self._is_dead(owner):
                with contextlib.suppress(OSError):
                    Path(entry.path).unlink()


def try_lock(fd: int) -> bool:
    """Whether the exclusive lock on an open file is this handle's now."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(fd: int, path: Path) -> bool:
    """Whether the open file is still the one of that name."""
    try:
        named = path.lstat()
    except FileNotFoundError:
        return False
    opened = os.fstat(fd)
    return (named.st_ino, named.st_dev) == (opened.st_ino, opened.st_dev)


def _may_be_stale(claimer: int, changed: float) -> bool:
    if claimer == os.getpid() or time.time() - changed > _OLD_CLAIM:
        return True
    try:
        os.kill(claimer, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def backend_folder(spool_dir: Path, app: AppSettings, backend: str) -> Path:
    """Where direct mode keeps what one backend of one program could not take: below the folder, out of the sidecar's sight."""
    name = re.sub(r"[^A-Za-z0-9_-]", "_", app.name)[:80]
    digest = hashlib.sha256(f"{app.site_id}\0{app.name}".encode()).hexdigest()[:8]
    return spool_dir / "direct" / f"{name}-{digest}" / backend
