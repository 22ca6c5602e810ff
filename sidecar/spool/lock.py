"""One process writes a spool: who holds `spool.lock` does, and its process id stands in it."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final

from sidecar.spool.errors import SpoolLocked
from sidecar.spool.filesystem import Filesystem, write_all

if TYPE_CHECKING:
    from pathlib import Path

LOCK: Final = "spool.lock"


def take_lock(folder: Path, filesystem: Filesystem) -> int:
    """The open lock file; the spool is held until it is closed. Raises SpoolLocked, OSError."""
    path = folder / LOCK
    fd = filesystem.open(path, os.O_RDWR | os.O_CREAT)
    if not filesystem.lock(fd):
        text = filesystem.read_at(fd, 32, 0).strip()
        filesystem.close(fd)
        raise SpoolLocked(folder, int(text) if text.isdigit() else None)
    with contextlib.suppress(OSError):  # a full disk must not stop the start; only the name in an error message would be missing
        filesystem.truncate(fd, 0)
        write_all(filesystem, fd, [f"{os.getpid()}\n".encode()], 0)
    return fd
