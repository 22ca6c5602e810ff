"""Sends a backend's dead letters again, each file under a claim, beside a running sidecar or without one."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec

from contract.errors import TrackMateError
from sidecar.config import BackendSettings
from sidecar.dead_letters import ClaimedFile, DeadLetter, DeadLetters
from sidecar.router import open_sink
from sidecar.sender import checked
from sidecar.spool.filesystem import DISK
from sidecar.spool.identity import read_spool_id
from sinks.base import Sink, SinkBatch, SinkError, Throttled

TRIES: Final = 6
"""How often in a row a backend may ask for patience before it is left alone."""

LONGEST_WAIT_SECONDS: Final = 120.0
"""Whoever asks for more patience than this is tried again by a later replay."""

REASONS_TOLD: Final = 5


@dataclass(frozen=True)
class Selection:
    """Which dead letters are meant; without conditions all are."""

    since: datetime | None = None
    """Refused at or after this moment."""
    until: datetime | None = None
    """Refused before it."""
    reason: str | None = None
    """Text in the reason, in any case."""

    def takes(self, letter: DeadLetter) -> bool:
        """Whether a letter is meant."""
        if self.reason is not None and self.reason.casefold() not in letter.reason.casefold():
            return False
        moment = datetime.fromisoformat(letter.dead_at)
        return (self.since is None or moment >= self.since) and (self.until is None or moment < self.until)


EVERYTHING: Final = Selection()


class ReasonCount(msgspec.Struct):
    """Dead letters with one reason."""

    reason: str
    events: int
    first_at: str
    """When the first of them was refused."""
    last_at: str


@dataclass
class Survey:
    """What a replay would send."""

    files: int = 0
    events: int = 0
    left_out: int = 0
    """Events that the selection doesn't take."""
    reasons: list[ReasonCount] = field(default_factory=list)
    """Most events first."""


@dataclass
class ReplayResult:
    """What a replay did: counts of events."""

    delivered: int = 0
    refused: int = 0
    left_out: int = 0
    files: int = 0
    unreadable: int = 0
    reasons: list[str] = field(default_factory=list)
    """Some reasons of what was refused once more."""


class ReplayFailed(TrackMateError):
    """The backend does not take events; what was not delivered is still among its dead letters."""


def survey(spool: Path, backend: str, selection: Selection = EVERYTHING) -> Survey:
    """Count a backend's dead letters, without claiming or sending any. Blocking I/O. Raises OSError."""
    found = Survey()
    reasons: dict[str, ReasonCount] = {}
    for letters in DeadLetters(spool, backend).peek():
        meant = [letter for letter in _once_each(letters) if selection.takes(letter)]
        found.files += 1
        found.events += len(meant)
        found.left_out += len(_once_each(letters)) - len(meant)
        for letter in meant:
            known = reasons.setdefault(letter.reason, ReasonCount(letter.reason, 0, letter.dead_at, letter.dead_at))
            known.events += 1
            known.first_at, known.last_at = min(known.first_at, letter.dead_at), max(known.last_at, letter.dead_at)
    found.reasons = sorted(reasons.values(), key=lambda count: -count.events)
    return found


async def replay(
    spool: Path,
    backend: BackendSettings,
    *,
    selection: Selection = EVERYTHING,
    new_sink: Callable[[BackendSettings], Sink] = open_sink,
    progress: Callable[[ReplayResult], None] = lambda _: None,
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> ReplayResult:
    """Send the dead letters of `backend` that are meant again; those refused once more stay, with the new reason.

    Raises ReplayFailed when the backend is down: what was not delivered stays.
    """
    sink = new_sink(backend)
    dead = DeadLetters(spool, backend.name)
    result = ReplayResult()
    spool_id = await asyncio.to_thread(read_spool_id, spool, DISK)
    try:
        await sink.open()
        for file in dead.claim():
            await _File(sink, dead, file, backend, result, progress, pause).replay(f"{spool_id}.dead-{file.name}", selection)
    except (SinkError, TimeoutError) as error:
        reason = str(error) or f"no answer within {backend.timeout:g} s"
        message = (
            f"backend '{backend.name}' does not take events: {reason}. Delivered so far: {result.delivered}; the rest is kept"
        )
        raise ReplayFailed(message) from error
    finally:
        await sink.close()
    return result


@dataclass
class _File:
    """One claimed file on its way."""

    sink: Sink
    dead: DeadLetters
    file: ClaimedFile
    backend: BackendSettings
    result: ReplayResult
    progress: Callable[[ReplayResult], None]
    pause: Callable[[float], Awaitable[None]]
    kept: list[DeadLetter] = field(default_factory=list)
    """Refused again, or not meant."""
    unsent: list[DeadLetter] = field(default_factory=list)

    async def replay(self, log_id: str, selection: Selection) -> None:
        letters = _once_each(self.file.letters)
        self.unsent = [letter for letter in letters if selection.takes(letter)]
        self.kept = [letter for letter in letters if not selection.takes(letter)]
        self.result.left_out += len(self.kept)
        if not self.unsent:
            await asyncio.to_thread(self.dead.give_back, self.file)
            return
        if self.kept:
            # A window of a log always holds the same events for the same sink: another choice of them is another log.
            numbers = ",".join(str(letter.seq) for letter in self.unsent)
            log_id += f"-{hashlib.sha256(numbers.encode()).hexdigest()[:16]}"
        try:
            while self.unsent:
                part = _fitting(self.unsent, self.sink.limits.max_events, self.sink.limits.max_bytes)
                await self._send(part, self.unsent[len(part) :], log_id)
        finally:
            await asyncio.to_thread(self.dead.finish, self.file, self.kept + self.unsent)
        self.result.files += 1
        self.result.unreadable += self.file.unreadable
        self.progress(self.result)

    async def _send(self, part: list[DeadLetter], rest: list[DeadLetter], log_id: str) -> None:
        """Until every letter of the part is delivered or refused again. Raises SinkError or TimeoutError."""
        batch = SinkBatch(
            [letter.event.encode() for letter in part],
            first_seq=part[0].seq,
            last_seq=part[-1].seq,
            spool_id=log_id,
            seqs=[letter.seq for letter in part],
        )
        tries = 0
        while part:
            try:
                async with asyncio.timeout(self.backend.timeout):
                    report = checked(batch, await self.sink.deliver(batch))
            except Throttled as error:
                tries += 1
                await self._be_patient(tries, error.retry_after, error)
                continue
            refused = [msgspec.structs.replace(part[item.index], reason=item.reason) for item in report.refused]
            self.kept += refused
            self.result.delivered += report.delivered
            self.result.refused += len(refused)
            self.result.reasons += [letter.reason for letter in refused[: REASONS_TOLD - len(self.result.reasons)]]
            tries = 0 if report.delivered else tries + 1
            batch, part = batch.subset(report.retry), [part[index] for index in sorted(set(report.retry))]
            self.unsent = part + rest
            self.progress(self.result)
            if part:
                words = report.message or f"{len(part)} events are to be sent again"
                await self._be_patient(tries, report.retry_after, Throttled(words, report.retry_after))

    async def _be_patient(self, tries: int, asked: float | None, error: SinkError) -> None:
        if tries >= TRIES or (asked or 0) > LONGEST_WAIT_SECONDS:
            raise error
        await self.pause(asked if asked is not None else min(30.0, 0.5 * 2**tries))


def _once_each(letters: Sequence[DeadLetter]) -> list[DeadLetter]:
    unique = {(letter.seq, letter.event_id): letter for letter in letters}
    return sorted(unique.values(), key=lambda letter: letter.seq)


def _fitting(letters: list[DeadLetter], max_events: int, max_bytes: int) -> list[DeadLetter]:
    """The first letters that fit into one delivery, at least one."""
    size = 0
    for index, letter in enumerate(letters[:max_events]):
        size += len(letter.event.encode()) + 1
        if index and size > max_bytes:
            return letters[:index]
    return letters[:max_events]
