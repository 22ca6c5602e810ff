"""A lock by which all that write one log's files below one folder take turns, be it in this process or in another."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_RETRY_SECONDS: Final = 0.01
_NO_LOCKS: Final = frozenset({errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL})
"""What a file system says that has none; then nobody else is expected to write there."""


@contextmanager
def turn(path: Path, *, seconds: float) -> Iterator[bool]:
    """Hold the lock of this file, made when it is missing, while the block runs; False when another has it for so many seconds.

    Raises OSError when the file can't be made.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        deadline = time.monotonic() + seconds
        while not (is_ours := _try_lock(descriptor)) and time.monotonic() < deadline:
            time.sleep(_RETRY_SECONDS)
        try:
            yield is_ours
        finally:
            # Closing does not do: a process that was forked meanwhile has the same handle and would keep the lock.
            _flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        _flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _flock(descriptor: int, operation: int) -> None:
    try:
        fcntl.flock(descriptor, operation)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
