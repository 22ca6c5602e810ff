"""A disk in memory that fails on request and forgets what was never synced when the power goes.

What a real disk may do and this one does: short writes; errors from any call; a failed sync that drops the dirty pages, so
that the next one succeeds without them (fsyncgate); at a power cut, un-synced writes kept whole, in part (by sector, in any
order) or not at all, file lengths and cuts likewise, and un-synced names up to any point of their order.
"""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sidecar.spool.filesystem import Filesystem

SECTOR = 64
"""Small, so that small records tear too."""

Choose = Callable[[int], int]
"""Picks a number from 0 to its argument, both included."""


@dataclass
class Write:
    offset: int
    data: bytes


@dataclass
class Cut:
    length: int


@dataclass
class Inode:
    content: bytearray = field(default_factory=bytearray)
    durable: bytearray = field(default_factory=bytearray)
    dirty: list[Write | Cut] = field(default_factory=list)
    dropped: list[Write | Cut] = field(default_factory=list)
    locked: bool = False


@dataclass
class Name:
    path: Path
    inode: Inode | None
    replaces: Path | None = None
    """The old name of a rename, which goes in the same step."""


@dataclass
class Fault:
    operation: str
    error: int | None = None
    short: int | None = None
    skip: int = 0
    """Calls that succeed before."""
    times: int = 1


class PowerCut(OSError):
    """Every call after the power is gone."""


def _apply(content: bytearray, change: Write | Cut) -> None:
    if isinstance(change, Cut):
        del content[change.length :]
        content.extend(bytes(max(change.length - len(content), 0)))
        return
    content.extend(bytes(max(change.offset - len(content), 0)))
    content[change.offset : change.offset + len(change.data)] = change.data


def _superseded(old: Write | Cut, new: Write | Cut) -> bool:
    """Whether what was dropped can't come back because something later stands in its place on the disk."""
    if isinstance(new, Cut) or isinstance(old, Cut):
        return True
    return old.offset < new.offset + len(new.data) and new.offset < old.offset + len(old.data)


class MemoryDisk:
    """The medium; `mount()` gives the file system that a process sees until the next power cut."""

    def __init__(self) -> None:
        self.names: dict[Path, Inode] = {}
        self.durable_names: dict[Path, Inode] = {}
        self.pending_names: dict[Path, list[Name]] = {}
        self.faults: list[Fault] = []
        self.calls: Counter[str] = Counter()
        self.power_off_after: int | None = None
        self.mounted: MemoryFilesystem | None = None

    def mount(self) -> MemoryFilesystem:
        self.mounted = MemoryFilesystem(self)
        return self.mounted

    def fail(self, operation: str, error: int | None = None, *, short: int | None = None, skip: int = 0, times: int = 1) -> None:
        """Let a coming call of `operation` fail with `error`, or write only `short` bytes."""
        self.faults.append(Fault(operation, error, short, skip, times))

    def heal(self) -> None:
        self.faults.clear()
        self.power_off_after = None

    def fault(self, operation: str) -> Fault | None:
        self.calls[operation] += 1
        if self.power_off_after is not None:
            self.power_off_after -= 1
            if self.power_off_after < 0 and self.mounted is not None:
                self.mounted.alive = False
        for fault in self.faults:
            if fault.operation == operation:
                if fault.skip:
                    fault.skip -= 1
                    return None
                fault.times -= 1
                if fault.times <= 0:
                    self.faults.remove(fault)
                return fault
        return None

    def power_cut(self, choose: Choose) -> None:
        """Lose what was not synced, as `choose` decides."""
        if self.mounted is not None:
            self.mounted.alive = False
        self.heal()
        for pending in self.pending_names.values():
            for name in pending[: choose(len(pending))]:
                self._name(self.durable_names, name)
        self.pending_names.clear()
        self.names = dict(self.durable_names)
        for inode in self.names.values():
            for change in inode.dropped + inode.dirty:
                self._tear(inode.durable, change, choose)
            inode.dropped.clear()
            inode.dirty.clear()
            inode.content = bytearray(inode.durable)
            inode.locked = False

    @staticmethod
    def _tear(content: bytearray, change: Write | Cut, choose: Choose) -> None:
        match choose(2):
            case 0:
                return
            case 1:
                _apply(content, change)
            case _ if isinstance(change, Write):
                start = change.offset
                end = start + len(change.data)
                while start < end:
                    stop = min((start // SECTOR + 1) * SECTOR, end)
                    if choose(1):
                        _apply(content, Write(start, change.data[start - change.offset : stop - change.offset]))
                    start = stop

    @staticmethod
    def _name(names: dict[Path, Inode], name: Name) -> None:
        if name.replaces is not None:
            names.pop(name.replaces, None)
        if name.inode is None:
            names.pop(name.path, None)
        else:
            names[name.path] = name.inode

    def change_name(self, name: Name) -> None:
        self._name(self.names, name)
        self.pending_names.setdefault(name.path.parent, []).append(name)

    def sync_names(self, folder: Path) -> None:
        for name in self.pending_names.pop(folder, []):
            self._name(self.durable_names, name)


class MemoryFilesystem(Filesystem):
    """One process's view of a `MemoryDisk`."""

    def __init__(self, disk: MemoryDisk) -> None:
        self._disk = disk
        self._fds: dict[int, Inode] = {}
        self._next_fd = 100
        self.alive = True

    def _enter(self, operation: str) -> Fault | None:
        fault = self._disk.fault(operation)
        if not self.alive:
            raise PowerCut(errno.ENODEV, "the power is gone")
        if fault is not None and fault.error is not None and operation != "fdatasync":
            raise OSError(fault.error, os.strerror(fault.error))
        return fault

    def _inode(self, path: Path) -> Inode:
        try:
            return self._disk.names[path]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, "no such file", str(path)) from None

    def make_folder(self, path: Path) -> None:
        self._enter("make_folder")

    def open(self, path: Path, flags: int) -> int:
        self._enter("create" if flags & os.O_CREAT else "open")
        inode = self._disk.names.get(path)
        if inode is None:
            if not flags & os.O_CREAT:
                raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
            inode = Inode()
            self._disk.change_name(Name(path, inode))
        elif flags & os.O_EXCL:
            raise FileExistsError(errno.EEXIST, "file exists", str(path))
        if flags & os.O_TRUNC and inode.content:
            self._change(inode, Cut(0))
        self._next_fd += 1
        self._fds[self._next_fd] = inode
        return self._next_fd

    def close(self, fd: int) -> None:
        inode = self._fds.pop(fd)
        if inode.locked and self.alive:
            inode.locked = False

    def write_at(self, fd: int, buffers: Sequence[bytes], offset: int) -> int:
        fault = self._enter("write_at")
        data = b"".join(buffers)
        if fault is not None and fault.short is not None:
            data = data[: fault.short]
        if data:
            self._change(self._fds[fd], Write(offset, data))
        return len(data)

    def read_at(self, fd: int, length: int, offset: int) -> bytes:
        self._enter("read_at")
        return bytes(self._fds[fd].content[offset : offset + length])

    def fdatasync(self, fd: int) -> None:
        fault = self._enter("fdatasync")
        inode = self._fds[fd]
        if fault is not None and fault.error is not None:
            inode.dropped += inode.dirty
            inode.dirty = []
            raise OSError(fault.error, os.strerror(fault.error))
        for change in inode.dirty:
            _apply(inode.durable, change)
            inode.dropped = [old for old in inode.dropped if not _superseded(old, change)]
        inode.dirty.clear()

    def sync_folder(self, path: Path) -> None:
        self._enter("sync_folder")
        self._disk.sync_names(path)

    def truncate(self, fd: int, length: int) -> None:
        self._enter("truncate")
        if len(self._fds[fd].content) != length:
            self._change(self._fds[fd], Cut(length))

    def size(self, fd: int) -> int:
        self._enter("size")
        return len(self._fds[fd].content)

    def list_folder(self, path: Path) -> list[tuple[str, int]]:
        self._enter("list_folder")
        return [(name.name, len(inode.content)) for name, inode in self._disk.names.items() if name.parent == path]

    def rename(self, source: Path, target: Path) -> None:
        self._enter("rename")
        self._disk.change_name(Name(target, self._inode(source), replaces=source))

    def unlink(self, path: Path) -> None:
        self._enter("unlink")
        self._inode(path)
        self._disk.change_name(Name(path, None))

    def lock(self, fd: int) -> bool:
        inode = self._fds[fd]
        if inode.locked:
            return False
        inode.locked = True
        return True

    @staticmethod
    def _change(inode: Inode, change: Write | Cut) -> None:
        _apply(inode.content, change)
        inode.dirty.append(change)
