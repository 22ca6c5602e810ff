"""The only door from the spool to the disk: a narrow face over system calls that tests replace to inject faults."""

import contextlib
import errno
import fcntl
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

MAX_BUFFERS = 1024
"""Buffers in one gathering write; Linux takes no more (IOV_MAX)."""


class Filesystem:
    """What the spool needs of a disk, and the real one. Every method raises OSError as the system does."""

    def make_folder(self, path: Path) -> None:
        """Create a folder and its parents unless they are there, durably."""
        missing = [folder for folder in (path, *path.parents) if not folder.is_dir()]
        for folder in reversed(missing):
            folder.mkdir(exist_ok=True)
            self.sync_folder(folder.parent)

    def open(self, path: Path, flags: int) -> int:
        """A file descriptor; `flags` are those of `os.open`."""
        return os.open(path, flags | os.O_CLOEXEC, 0o640)

    def close(self, fd: int) -> None:
        """Give a descriptor back."""
        os.close(fd)

    def write_at(self, fd: int, buffers: Sequence[bytes], offset: int) -> int:
        """Write the buffers one after the other from `offset`; returns the bytes written, which may be fewer than given."""
        return os.pwritev(fd, buffers, offset)

    def read_at(self, fd: int, length: int, offset: int) -> bytes:
        """Up to `length` bytes from `offset`; fewer only at the end of the file."""
        return os.pread(fd, length, offset)

    def fdatasync(self, fd: int) -> None:
        """Return once the file's bytes and size are on stable storage."""
        os.fdatasync(fd)

    def sync_folder(self, path: Path) -> None:
        """Return once the folder's names are on stable storage."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def truncate(self, fd: int, length: int) -> None:
        """Cut the file to `length` bytes."""
        os.ftruncate(fd, length)

    def size(self, fd: int) -> int:
        """The file's bytes."""
        return os.fstat(fd).st_size

    def list_folder(self, path: Path) -> list[tuple[str, int]]:
        """Name and size of each plain file in a folder, in no order; a folder that isn't there is empty."""
        files: list[tuple[str, int]] = []
        with contextlib.suppress(FileNotFoundError), os.scandir(path) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # deleted by the writer while we looked
                    if entry.is_file(follow_symlinks=False):
                        files.append((entry.name, entry.stat(follow_symlinks=False).st_size))
        return files

    def rename(self, source: Path, target: Path) -> None:
        """Rename within a folder, replacing `target` atomically."""
        source.rename(target)

    def unlink(self, path: Path) -> None:
        """Remove a file."""
        path.unlink()

    def lock(self, fd: int) -> bool:
        """Take the exclusive lock of an open file until it is closed; False when another process holds it."""
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


DISK: Final = Filesystem()
"""The disk of this machine."""


def write_all(filesystem: Filesystem, fd: int, buffers: Sequence[bytes], offset: int) -> int:
    """Write every buffer from `offset`, going on after short writes; returns the bytes written. Raises OSError."""
    start = offset
    for first in range(0, len(buffers), MAX_BUFFERS):
        chunk = buffers[first : first + MAX_BUFFERS]
        wanted = sum(map(len, chunk))
        written = filesystem.write_at(fd, chunk, offset)
        while written < wanted:
            rest = b"".join(chunk)[written:]
            step = filesystem.write_at(fd, [rest], offset + written)
            if step <= 0:
                raise OSError(errno.EIO, "the disk took no byte of a write")
            written += step
        offset += wanted
    return offset - start


def read_file(filesystem: Filesystem, path: Path) -> bytes:
    """The whole of a small file. Raises OSError."""
    fd = filesystem.open(path, os.O_RDONLY)
    try:
        return filesystem.read_at(fd, filesystem.size(fd), 0)
    finally:
        filesystem.close(fd)


def replace_file(filesystem: Filesystem, path: Path, content: bytes, *, previous: Path | None = None) -> None:
    """Write a small file so that at any moment either the old or the new content is there, and the new one durably on return.

    With `previous`, the old file is kept under that name; between the two renames only it is there. Raises OSError.
    """
    aside = path.with_name(f".{path.name}.tmp")
    fd = filesystem.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        write_all(filesystem, fd, [content], 0)
        filesystem.fdatasync(fd)
    finally:
        filesystem.close(fd)
    if previous is not None:
        with contextlib.suppress(FileNotFoundError):  # the first one: nothing to keep
            filesystem.rename(path, previous)
    filesystem.rename(aside, path)
    filesystem.sync_folder(path.parent)
