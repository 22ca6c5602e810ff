"""Takes over what SDKs left on disk: watches their spool folders, claims files, appends them to the log, then deletes them.

The folder's rules stand in the Python SDK's SPOOL_FORMAT.md. In short: a batch is `<emitter id>.<pid>.<first seq>.jsonl`; who
renames it to `<name>.claimed-<pid>`, holding an exclusive `flock` on it, owns it, be its writer alive or dead. So a batch is
adopted after a short grace; a claim is taken over when its lock is free and its claimer is dead; a `.tmp` file is taken when its
writer is dead. A crash between append and delete repeats events, which their `event_id` makes harmless.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import re
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from contract import codec
from contract.codec import Rejection
from contract.errors import InvalidBody
from contract.framing import BodyFormat
from contract.limits import MAX_EVENT_BYTES
from sidecar.intake import Quarantine, Spool
from sidecar.metrics import Metrics
from sidecar.spool.errors import SpoolBusy, SpoolUnavailable
from sidecar.spool.format import Flags
from sinks.base import describe, event_id_of

POLL_SECONDS: Final = 0.5
BATCH_EVENTS: Final = 1_000
BATCH_BYTES: Final = 1024 * 1024
CLAIM_SECONDS: Final = 3600.0
"""A claim whose lock is free is stale after this long even if its process id is in use: ids are used again."""

MAX_COMPLAINTS: Final = 1_000
_BATCH: Final = re.compile(r"^(?P<name>[^/]+\.jsonl)(?:(?P<tmp>\.tmp)|\.claimed-(?P<pid>\d+))?$")
_OWNER: Final = re.compile(r"^[^.]+\.[^.]+")
_TOO_LONG: Final = "the line has more than {limit} bytes"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some lines of an adopted file."""

    lines: list[bytes]
    oversized: list[tuple[int, bytes]]
    """Lines over the limit of an event, by line number, cut."""
    first_line: int


@dataclass(frozen=True, slots=True)
class Claim:
    """A file that is ours alone as long as `descriptor`, which holds the lock, is open."""

    path: Path
    original: Path
    descriptor: int

    @property
    def name(self) -> str:
        """The batch's own name as text, whatever bytes it is made of."""
        return os.fsencode(self.original.name).decode("utf-8", "replace")


class Adoption:
    """Watches folders; `clock` is Unix time in seconds."""

    def __init__(
        self,
        folders: Sequence[Path],
        spool: Spool,
        quarantine: Quarantine,
        metrics: Metrics,
        *,
        grace: float,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.folders = tuple(folders)
        self._spool = spool
        self._quarantine = quarantine
        self._metrics = metrics
        self._grace = grace
        self._clock = clock
        self._sleep = sleep
        self._complained: set[str] = set()

    async def run(self) -> None:
        """Adopt until cancelled."""
        while True:
            for folder in self.folders:
                await self.adopt_folder(folder)
            await self._sleep(POLL_SECONDS)

    async def adopt_folder(self, folder: Path) -> int:
        """Take over every file that may be taken now; how many were."""
        adopted = 0
        try:
            candidates = await asyncio.to_thread(self._candidates, folder)
        except Exception as error:  # noqa: BLE001 - others write there: nothing that they leave may end the adoption of the rest
            self._complain(folder, describe(error))
            return 0
        for path in candidates:
            try:
                claim = self._claim(path)
                adopted += 0 if claim is None else await self._adopt(claim)
            except Exception as error:  # noqa: BLE001 - as above
                self._complain(path, describe(error))
        return adopted

    def _candidates(self, folder: Path) -> list[Path]:
        """Batches past their grace, claims of the dead, and what the dead were writing, oldest first."""
        found: list[tuple[float, Path]] = []
        try:
            entries = list(os.scandir(folder))
        except FileNotFoundError:
            return []
        for entry in entries:
            batch = _BATCH.match(entry.name)
            if batch is None:
                continue
            try:
                if not entry.is_file(follow_symlinks=False):
                    continue
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            if self._free(Path(entry.path), batch, status):
                found.append((status.st_mtime, Path(entry.path)))
        return [path for _, path in sorted(found)]

    def _free(self, path: Path, batch: re.Match[str], status: os.stat_result) -> bool:
        if batch["pid"]:
            return _dead(int(batch["pid"])) or self._clock() - status.st_ctime >= CLAIM_SECONDS
        if self._clock() - status.st_mtime < self._grace:
            return False
        return not batch["tmp"] or _owner_dead(path)

    def _claim(self, path: Path) -> Claim | None:
        """The file under our name and lock; None when another was quicker or is at it."""
        batch = _BATCH.match(path.name)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            same = os.path.samestat(os.fstat(descriptor), path.stat())
            if batch is not None and same:
                claimed = path.with_name(f"{batch['name']}.claimed-{os.getpid()}")
                path.rename(claimed)
                return Claim(claimed, path.with_name(batch["name"]), descriptor)
        except (BlockingIOError, FileNotFoundError):
            pass  # somebody is at it, or was quicker
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        return None

    async def _adopt(self, claim: Claim) -> int:
        """Append a claimed file's events and delete it; on trouble give it back. 1 when it was taken over, else 0."""
        events = rejected = 0
        try:
            for chunk in _chunks(claim.path):
                taken, refused = await self._append(claim.name, chunk)
                events += taken
                rejected += refused
            await asyncio.to_thread(claim.path.unlink)
        except (SpoolBusy, SpoolUnavailable) as error:
            self._give_back(claim)
            self._complain(claim.original, str(error))
            await self._sleep(error.retry_after)
            return 0
        except BaseException:
            self._give_back(claim)
            raise
        finally:
            os.close(claim.descriptor)
        self._complained.discard(str(claim.original))
        logger.info("adopted a spool file of an SDK", extra={"file": claim.name, "events": events, "rejected": rejected})
        return 1

    async def _append(self, name: str, chunk: Chunk) -> tuple[int, int]:
        rejected = [
            Rejection(number, event_id_of(line), "", _TOO_LONG.format(limit=MAX_EVENT_BYTES), line)
            for number, line in chunk.oversized
        ]
        taken = 0
        if chunk.lines:
            body = b"\n".join(chunk.lines) + b"\n"
            try:
                batch = await asyncio.to_thread(codec.decode_batch, body, "application/x-ndjson")
            except InvalidBody as error:  # not one line is JSON
                rejected += [Rejection(chunk.first_line + i, None, "", str(error), line) for i, line in enumerate(chunk.lines)]
            else:
                taken = len(batch.events)
                rejected += batch.rejected
                if taken:
                    await self._wait_for_room()
                    payload = body if not batch.rejected else batch.accepted_ndjson()
                    await self._spool.append(payload, taken, Flags.of(None, BodyFormat.NDJSON))
        if rejected:
            await self._quarantine.keep(rejected, f"adopted {name}")
            self._metrics.quarantined.inc(len(rejected))
        self._metrics.adopted.inc(taken)
        return taken, len(rejected)

    async def _wait_for_room(self) -> None:
        """Above the high-water mark senders come first: wait, the file is safe where it is."""
        while True:
            try:
                self._spool.check()
            except SpoolBusy as error:
                await self._sleep(error.retry_after)
            else:
                return

    def _give_back(self, claim: Claim) -> None:
        try:
            claim.path.rename(claim.original)
        except OSError as error:
            self._complain(claim.original, describe(error))

    def _complain(self, path: Path, message: str) -> None:
        """Warn once of each file or folder."""
        if str(path) not in self._complained and len(self._complained) < MAX_COMPLAINTS:
            self._complained.add(str(path))
            logger.warning(
                "what an SDK left can't be adopted now; it stays where it is", extra={"path": str(path), "error": message}
            )


def _chunks(path: Path) -> Iterator[Chunk]:
    """The file's lines in pieces of bounded size, whatever the file holds."""
    lines: list[bytes] = []
    oversized: list[tuple[int, bytes]] = []
    size = number = first = 0
    with path.open("rb") as handle:
        while True:
            line = handle.readline(MAX_EVENT_BYTES + 2)
            if not line:
                break
            if len(line) > MAX_EVENT_BYTES + 1 and not line.endswith(b"\n"):
                oversized.append((number, line))
                while line and not line.endswith(b"\n"):
                    line = handle.readline(MAX_EVENT_BYTES)
            elif line.strip():
                lines.append(line.rstrip(b"\r\n"))
                size += len(line)
            number += 1
            if len(lines) + len(oversized) >= BATCH_EVENTS or size >= BATCH_BYTES:
                yield Chunk(lines, oversized, first)
                lines, oversized, size, first = [], [], 0, number
    if lines or oversized:
        yield Chunk(lines, oversized, first)


def _dead(pid: int) -> bool:
    """Whether a claimer is no more; a claim under our own id is from before this start (or its lock is not free)."""
    if pid == os.getpid():
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):  # nobody, or a number that no process can have
        return True
    except PermissionError:
        return False
    return False


def _owner_dead(path: Path) -> bool:
    """Whether the writer of a batch is no more: its lock file is gone, or nobody holds the lock."""
    owner = _OWNER.match(path.name)
    try:
        descriptor = os.open(path.with_name(f"{owner[0] if owner else path.name}.lock"), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True
