"""Events that break the contract, kept with their reasons until someone mends the schema or the sender.

A line of `quarantine/<time>-<number>.ndjson` is one event:
`{"quarantined_at", "source", "index", "event_id", "path", "error", "event": <its own JSON text as a string>}`; an event that is
not UTF-8 has its bytes in `event_base64` as well. Files are only appended to, by one process; a new one starts at
`FILE_BYTES` and at each start, and the oldest go when all together exceed the bound.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from base64 import b64encode
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from sidecar.spool.errors import SpoolUnavailable
from sidecar.spool.filesystem import DISK, Filesystem, write_all

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from contract.codec import Rejection

FOLDER: Final = "quarantine"
SUFFIX: Final = ".ndjson"
FILE_BYTES: Final = 16 * 1024 * 1024
MAX_BYTES: Final = 1024 * 1024 * 1024

logger = logging.getLogger(__name__)


class QuarantinedEvent(msgspec.Struct, omit_defaults=True):
    """One line of a quarantine file."""

    quarantined_at: str
    source: str
    index: int
    event_id: str | None
    path: str
    error: str
    event: str
    event_base64: str | None = None


@dataclass(slots=True)
class _File:
    fd: int
    path: Path
    size: int


class Quarantine:
    """The quarantine of the spool in `folder`, written by one process from one event loop."""

    def __init__(
        self,
        folder: Path,
        *,
        max_bytes: int = MAX_BYTES,
        file_bytes: int = FILE_BYTES,
        filesystem: Filesystem = DISK,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.folder = folder / FOLDER
        self.dropped_files = 0
        """Files deleted because of the bound."""
        self._max_bytes = max_bytes
        self._file_bytes = file_bytes
        self._filesystem = filesystem
        self._clock = clock
        self._file: _File | None = None
        self._files = 0
        self._waiting: list[tuple[bytes, asyncio.Future[None]]] = []
        self._writer: asyncio.Task[None] | None = None

    async def keep(self, rejected: Sequence[Rejection], source: str) -> None:
        """Store rejected events durably; `source` says who sent them in. Raises SpoolUnavailable when the disk refuses.

        Callers that wait share one write and one sync.
        """
        if not rejected:
            return
        now = datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="milliseconds")
        lines = b"".join(_line(now, source, rejection) for rejection in rejected)
        stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((lines, stored))
        if self._writer is None:
            self._writer = asyncio.create_task(self._write_waiting())
        await stored

    async def close(self) -> None:
        """Finish what was handed in and let the current file go."""
        if self._writer is not None:
            await self._writer
        self._let_go()

    async def _write_waiting(self) -> None:
        """A task of its own: a caller that gives up must not leave a write half done."""
        while self._waiting:
            group, self._waiting = self._waiting, []
            failure = None
            try:
                await asyncio.to_thread(self._store, [lines for lines, _ in group])
            except OSError as error:
                failure = f"rejected events can't be kept in {self.folder}: {error.strerror or error}"
            for _, stored in group:
                if stored.done():
                    continue
                if failure is None:
                    stored.set_result(None)
                else:
                    stored.set_exception(SpoolUnavailable(failure))
        self._writer = None

    def _store(self, lines: list[bytes]) -> None:
        file = self._file or self._start()
        try:
            written = write_all(self._filesystem, file.fd, lines, file.size)
            self._filesystem.fdatasync(file.fd)
        except OSError:
            # Never trusted again; what was not acknowledged is cut off if the disk still lets us.
            with contextlib.suppress(OSError):
                self._filesystem.truncate(file.fd, file.size)
            self._let_go()
            raise
        file.size += written
        if file.size >= self._file_bytes:
            self._let_go()
            self._drop_oldest()

    def _start(self) -> _File:
        self._filesystem.make_folder(self.folder)
        self._files += 1
        path = self.folder / f"{int(self._clock() * 1_000_000):020d}-{os.getpid()}-{self._files}{SUFFIX}"
        fd = self._filesystem.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            self._filesystem.sync_folder(self.folder)
        except OSError:
            self._filesystem.close(fd)
            raise
        self._file = _File(fd, path, 0)
        return self._file

    def _let_go(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._filesystem.close(self._file.fd)
            self._file = None

    def _drop_oldest(self) -> None:
        files = sorted((name, size) for name, size in self._filesystem.list_folder(self.folder) if name.endswith(SUFFIX))
        total = sum(size for _, size in files)
        for name, size in files[:-1]:
            if total <= self._max_bytes:
                return
            logger.warning("quarantine %s is over %d bytes: the oldest file %s goes", self.folder, self._max_bytes, name)
            try:
                self._filesystem.unlink(self.folder / name)
            except OSError as error:
                logger.warning("quarantine file %s can't be deleted: %s", name, error)
                return
            self.dropped_files += 1
            total -= size


def _line(now: str, source: str, rejection: Rejection) -> bytes:
    text = rejection.raw.decode("utf-8", "replace")
    exact = None if text.encode() == rejection.raw else b64encode(rejection.raw).decode()
    line = QuarantinedEvent(now, source, rejection.index, rejection.event_id, rejection.path, rejection.error, text, exact)
    return msgspec.json.encode(line) + b"\n"
