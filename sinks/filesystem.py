"""Writes events as JSON Lines or Parquet files in `date=…/hour=…` folders (UTC, by the event's timestamp).

Files are rotated by size and age. A Parquet file can't grow, so events are kept as synced JSON lines until their file is full or
old enough, and are made into rows then.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Annotated, ClassVar, Final, Literal
from weakref import WeakValueDictionary

import msgspec
from msgspec import Meta

from contract.errors import TrackMateError
from contract.limits import MAX_BATCH_EVENTS, MAX_BODY_BYTES
from sinks.base import DeliveryReport, Health, SinkBatch, SinkLimits, Unavailable, describe
from sinks.jsonl_files import RENAMED, Completion, JsonlFolder, is_busy
from sinks.left_behind import LeftBehind
from sinks.parquet_completion import IN_OWN_PROCESS, IN_THIS_PROCESS

_MEGABYTE: Final = 1024 * 1024
_ROTATION_TICK_SECONDS: Final = 1.0
_LEFT_BEHIND_TICKS: Final = 10
"""Every so many of them it is looked for files that nobody completes."""

_WHAT_TO_DO: Final = {
    errno.ENOSPC: "the disk is full: make room or point `path` to another disk",
    errno.EDQUOT: "the quota is used up: make room or raise the quota",
    errno.EROFS: "the file system is read-only: mount it for writing or change `path`",
    errno.EACCES: "permission denied: let the agent's user write there or change `path`",
    errno.EPERM: "not permitted: let the agent's user write there or change `path`",
    errno.ENOTDIR: "a part of `path` is a file, not a folder: change `path`",
    errno.ENOENT: "a folder or file below it was removed: the next try makes it anew",
    errno.EAGAIN: "another process does not let go of this log's files: see who writes there; if it hangs, end it",
    errno.EIO: "the disk reports an input/output error: check the disk",
}

_turns: Final[WeakValueDictionary[Path, threading.Lock]] = WeakValueDictionary()
"""By folder: a sink whose closing took too long may still write there when the next one begins, such as after a reload."""

logger = logging.getLogger(__name__)


class FilesystemConfig(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The `config` block of a `filesystem` backend."""

    path: Path
    """Folder to write to; made when it is missing."""
    format: Literal["jsonl", "parquet"] = "jsonl"
    """`jsonl`: each event's own JSON text on a line; `parquet`: the flat layout, one row an event."""
    rotate_size_mb: Annotated[float, Meta(gt=0)] = 100
    """A file is completed when it has grown to this many MiB of JSON text."""
    rotate_seconds: Annotated[float, Meta(gt=0)] = 60
    """A file is completed when its first batch is this old; Parquet can be read from then on."""
    own_process: bool = True
    """Whether Parquet files are made in a process of their own, at the lowest priority; in direct mode they are not."""


class FilesystemSink:
    """One folder of files; what is reported delivered is synced, and a batch delivered twice stands once."""

    Config: ClassVar[type[msgspec.Struct]] = FilesystemConfig
    limits: ClassVar[SinkLimits] = SinkLimits(MAX_BATCH_EVENTS, MAX_BODY_BYTES)

    def __init__(self, name: str, config: FilesystemConfig, *, clock: Callable[[], float] = time.time) -> None:
        self.name = name
        self._config = config
        self._clock = clock
        self._completion = _completion(config)
        self._turn = _turns.setdefault(config.path.absolute(), threading.Lock())
        self._folders: dict[str, JsonlFolder | None] = {}
        """By log; None after a failure: the next try starts from what the state on disk says."""
        self._left_behind = LeftBehind(config.path)
        self._disk: ThreadPoolExecutor | None = None
        self._rotation: asyncio.Task[None] | None = None
        self._trouble: str | None = None

    async def open(self) -> None:
        """Make the folder and begin to rotate by age. Raises Unavailable when the folder can't be made or written."""
        health = await self.check()
        if not health.ok:
            raise Unavailable(health.detail)
        if self._rotation is None:
            self._rotation = asyncio.create_task(self._rotate_by_age(), name=f"rotate {self.name}")

    async def deliver(self, batch: SinkBatch) -> DeliveryReport:
        """Append the batch and sync. Raises Unavailable when the disk is full, read-only or failing."""
        await self._on_disk(self._append, batch)
        return DeliveryReport(delivered=batch.count)

    async def check(self) -> Health:
        """Write, sync and remove a small file."""
        started = time.perf_counter()
        try:
            await self._on_disk(self._probe)
        except Unavailable as error:
            return Health(False, str(error))
        return Health(True, f"{self._config.path} can be written", (time.perf_counter() - started) * 1000)

    async def close(self) -> None:
        """Complete every growing file."""
        if self._rotation is not None:
            self._rotation.cancel()
            await asyncio.gather(self._rotation, return_exceptions=True)
            self._rotation = None
        if self._disk is not None:
            try:
                await self._on_disk(self._rotate, True)
            finally:
                self._disk.shutdown(wait=False, cancel_futures=True)
                self._disk = None

    async def _on_disk(self, work: Callable[..., None], *args: object) -> None:
        """Run blocking work in this sink's own thread: a hung disk holds up nobody else, and never two jobs at once."""
        if self._disk is None:
            self._disk = ThreadPoolExecutor(1, thread_name_prefix=f"files-{self.name}")
        try:
            await asyncio.get_running_loop().run_in_executor(self._disk, work, *args)
        except OSError as error:
            raise Unavailable(self._explain(error)) from error

    async def _rotate_by_age(self) -> None:
        for tick in count():
            await asyncio.sleep(_ROTATION_TICK_SECONDS)
            try:
                await self._on_disk(self._rotate, False)
                if tick % _LEFT_BEHIND_TICKS == 0:
                    await self._on_disk(self._complete_left_behind)
            except Exception as error:  # noqa: BLE001 - whatever it is, the next file may do better
                self._rotation_failed(str(error) if isinstance(error, Unavailable) else describe(error))
            else:
                self._trouble = None

    def _rotation_failed(self, message: str) -> None:
        """Tell it once: what is not rotated is kept and readable by this sink, but not by others yet."""
        if message != self._trouble:
            logger.warning("files could not be completed; that is tried again", extra={"backend": self.name, "error": message})
        self._trouble = message

    def _append(self, batch: SinkBatch) -> None:
        partitions: dict[str, list[tuple[int, bytes]]] = {}
        for seq, line, partition in zip(batch.seqs, batch.lines, partitions_of(batch), strict=True):
            partitions.setdefault(partition, []).append((seq, line))
        try:
            with self._turn:
                self._folder(batch.spool_id).append(partitions, batch.first_seq, batch.last_seq, self._clock())
        except OSError:
            self._folders[batch.spool_id] = None
            raise

    def _rotate(self, everything: bool) -> None:
        failure: OSError | None = None
        with self._turn:
            for spool_id in list(self._folders):
                try:
                    self._folder(spool_id).rotate(self._clock(), everything=everything)
                except OSError as error:
                    self._folders[spool_id] = None
                    failure = failure or error
                else:
                    if everything:
                        del self._folders[spool_id]
        if failure is not None:
            raise failure

    def _complete_left_behind(self) -> None:
        """Complete what others should have and did not, such as a process that was killed."""
        failure: OSError | None = None
        for spool_id in self._left_behind.logs(self._clock()):
            try:
                with self._turn:
                    if spool_id not in self._folders and not is_busy(self._config.path, spool_id):
                        self._made(spool_id).rotate(self._clock(), everything=True)
            except OSError as error:  # one log that can't be completed must not hold up the others
                failure = failure or error
        if failure is not None:
            raise failure

    def _folder(self, spool_id: str) -> JsonlFolder:
        folder = self._folders.get(spool_id)
        if folder is None:
            folder = self._folders[spool_id] = self._made(spool_id)
        return folder

    def _made(self, spool_id: str) -> JsonlFolder:
        return JsonlFolder(
            self._config.path,
            spool_id,
            rotate_bytes=int(self._config.rotate_size_mb * _MEGABYTE),
            rotate_seconds=self._config.rotate_seconds,
            completion=self._completion,
        )

    def _probe(self) -> None:
        self._config.path.mkdir(parents=True, exist_ok=True)
        probe = self._config.path / f".probe-{os.getpid()}"
        try:
            with probe.open("wb") as handle:
                handle.write(b"trackmate\n")
                handle.flush()
                os.fsync(handle.fileno())
        finally:
            probe.unlink(missing_ok=True)

    def _explain(self, error: OSError) -> str:
        advice = _WHAT_TO_DO.get(error.errno or 0, describe(error))
        return f"backend '{self.name}' can't write to {self._config.path}: {advice}"


def _completion(config: FilesystemConfig) -> Completion:
    if config.format == "jsonl":
        return RENAMED
    if find_spec("pyarrow") is None:
        message = "format 'parquet' can't be written without pyarrow. Install it: pip install 'trackmate[filesystem]'"
        raise TrackMateError(message)
    return IN_OWN_PROCESS if config.own_process else IN_THIS_PROCESS


class _Moment(msgspec.Struct):
    timestamp: str


_MOMENT_DECODER = msgspec.json.Decoder(_Moment)
_UTC_TIMESTAMP = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d):.*Z")
_HOUR_LENGTH: Final = len("2026-07-01T09:")


def partition_of(line: bytes) -> str:
    """The folder of an event, from its timestamp in UTC: `date=2026-07-01/hour=09`."""
    return _partition(_MOMENT_DECODER.decode(line).timestamp)


def partitions_of(batch: SinkBatch) -> Iterator[str]:
    """The folder of each event of a batch."""
    known: dict[str, str] = {}
    for moment in _MOMENT_DECODER.decode_lines(batch.ndjson):
        text = moment.timestamp
        hour = text[:_HOUR_LENGTH] if text.endswith("Z") else text
        yield known.get(hour) or known.setdefault(hour, _partition(text))


def _partition(timestamp: str) -> str:
    utc = _UTC_TIMESTAMP.fullmatch(timestamp)
    if utc is not None:
        return f"date={utc[1]}/hour={utc[2]}"
    moment = msgspec.convert(timestamp, datetime).astimezone(UTC)
    return f"date={moment:%Y-%m-%d}/hour={moment:%H}"
