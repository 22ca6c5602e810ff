"""Takes over what SDKs left on disk: watches their spool folders, claims files by renaming, appends, then deletes.

An SDK that can't reach the sidecar writes `<emitter id>.<pid>.<first seq, 20 digits>.jsonl` (`….tmp` while it writes). Whoever
renames such a file to `<name>.claimed-<pid>` owns it, be its writer alive or dead; so a file is adopted after a short grace, and
a claim is taken over when its claimer is dead. A crash between append and delete repeats events, which their `event_id` makes
harmless.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from contract import codec
from contract.codec import BodyFormat, Rejection
from contract.errors import InvalidBody
from contract.limits import MAX_EVENT_BYTES
from sidecar.intake import Quarantine, Spool
from sidecar.metrics import Metrics
from sidecar.spool.errors import SpoolBusy, SpoolUnavailable
from sidecar.spool.format import Flags
from sinks.base import describe, event_id_of

POLL_SECONDS: Final = 0.5
BATCH_EVENTS: Final = 1_000
BATCH_BYTES: Final = 1024 * 1024
_FINAL: Final = re.compile(r"^[^/]+\.jsonl$")
_CLAIM: Final = re.compile(r"^(?P<name>[^/]+\.jsonl)\.claimed-(?P<pid>\d+)$")
_TOO_LONG: Final = "the line has more than {limit} bytes"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some lines of an adopted file."""

    lines: list[bytes]
    oversized: list[tuple[int, bytes]]
    """Lines over the limit of an event, by line number, cut."""
    first_line: int


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
            for path in await asyncio.to_thread(self._candidates, folder):
                claimed = self._claim(path)
                if claimed is not None:
                    adopted += await self._adopt(claimed)
        except OSError as error:
            self._complain(folder, describe(error))
        return adopted

    def _candidates(self, folder: Path) -> list[Path]:
        """Complete files past their grace, and claims whose claimer is dead, oldest first."""
        found: list[tuple[float, Path]] = []
        try:
            entries = list(os.scandir(folder))
        except FileNotFoundError:
            return []
        for entry in entries:
            claim = _CLAIM.match(entry.name)
            if claim is None and not _FINAL.match(entry.name):
                continue
            try:
                if not entry.is_file(follow_symlinks=False):
                    continue
                modified = entry.stat(follow_symlinks=False).st_mtime
            except FileNotFoundError:
                continue
            free = _dead(int(claim["pid"])) if claim else self._clock() - modified >= self._grace
            if free:
                found.append((modified, Path(entry.path)))
        return [path for _, path in sorted(found)]

    def _claim(self, path: Path) -> Path | None:
        """The file under our name; None when another was quicker."""
        claim = _CLAIM.match(path.name)
        name = claim["name"] if claim else path.name
        claimed = path.with_name(f"{name}.claimed-{os.getpid()}")
        try:
            path.rename(claimed)
        except FileNotFoundError:
            return None
        return claimed

    async def _adopt(self, claimed: Path) -> int:
        """Append a claimed file's events and delete it; on trouble give it back. 1 when it was taken over, else 0."""
        events = rejected = 0
        try:
            for chunk in _chunks(claimed):
                taken, refused = await self._append(claimed, chunk)
                events += taken
                rejected += refused
            await asyncio.to_thread(claimed.unlink)
        except (SpoolBusy, SpoolUnavailable) as error:
            self._give_back(claimed)
            self._complain(claimed.parent, str(error))
            await self._sleep(error.retry_after)
            return 0
        except BaseException:
            self._give_back(claimed)
            raise
        self._complained.discard(str(claimed.parent))
        logger.info("adopted a spool file of an SDK", extra={"file": claimed.name, "events": events, "rejected": rejected})
        return 1

    async def _append(self, claimed: Path, chunk: Chunk) -> tuple[int, int]:
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
            await self._quarantine.keep(rejected, f"adopted {claimed.name.partition('.claimed-')[0]}")
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

    def _give_back(self, claimed: Path) -> None:
        try:
            claimed.rename(claimed.with_name(claimed.name.partition(".claimed-")[0]))
        except OSError as error:
            self._complain(claimed.parent, describe(error))

    def _complain(self, folder: Path, message: str) -> None:
        """Warn once until the folder works again."""
        if str(folder) not in self._complained:
            self._complained.add(str(folder))
            logger.warning(
                "spool files of an SDK can't be adopted now; they stay where they are",
                extra={"folder": str(folder), "error": message},
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
    """Whether the claimer is no more; a claim of ours from before this start carries a process id that is now ours or free."""
    if pid == os.getpid():
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
