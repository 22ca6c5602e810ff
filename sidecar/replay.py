"""Sends a backend's dead letters again, each file under a claim, beside a running sidecar or without one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from contract.errors import TrackMateError
from sidecar.config import BackendSettings
from sidecar.dead_letters import ClaimedFile, DeadLetter, DeadLetters
from sidecar.router import open_sink
from sidecar.spool.filesystem import DISK
from sidecar.spool.identity import read_spool_id
from sinks.base import Refused, Sink, SinkBatch, SinkError


@dataclass
class ReplayResult:
    """What a replay did: counts of events."""

    delivered: int = 0
    refused: int = 0
    files: int = 0
    unreadable: int = 0
    reasons: list[str] = field(default_factory=list)
    """Some reasons of what was refused once more."""


class ReplayFailed(TrackMateError):
    """The backend does not take events; what was not delivered is still among its dead letters."""


async def replay(
    spool: Path,
    backend: BackendSettings,
    *,
    new_sink: Callable[[BackendSettings], Sink] = open_sink,
    progress: Callable[[ReplayResult], None] = lambda _: None,
) -> ReplayResult:
    """Send every dead letter of `backend` again; those refused once more stay, with the new reason.

    Raises ReplayFailed when the backend is down: what was not delivered stays.
    """
    sink = new_sink(backend)
    dead = DeadLetters(spool, backend.name)
    result = ReplayResult()
    spool_id = await asyncio.to_thread(read_spool_id, spool, DISK)
    try:
        await sink.open()
        for file in dead.claim():
            await _replay_file(sink, dead, file, f"{spool_id}.dead-{file.name}", backend, result)
            result.files += 1
            progress(result)
    except (SinkError, TimeoutError) as error:
        reason = str(error) or f"no answer within {backend.timeout:g} s"
        message = (
            f"backend '{backend.name}' does not take events: {reason}. Delivered so far: {result.delivered}; the rest is kept"
        )
        raise ReplayFailed(message) from error
    finally:
        await sink.close()
    return result


async def _replay_file(
    sink: Sink, dead: DeadLetters, file: ClaimedFile, log_id: str, backend: BackendSettings, result: ReplayResult
) -> None:
    left: list[DeadLetter] = []
    letters = list({(letter.seq, letter.event_id): letter for letter in file.letters}.values())
    letters.sort(key=lambda letter: letter.seq)
    done = 0
    try:
        while done < len(letters):
            part = _fitting(letters[done:], sink.limits.max_events, sink.limits.max_bytes)
            refused, again = await _deliver(sink, part, log_id, backend)
            left += [msgspec.structs.replace(part[item.index], reason=item.reason) for item in refused]
            left += [part[index] for index in again]
            result.delivered += len(part) - len(refused) - len(again)
            result.refused += len(refused)
            result.reasons += [item.reason for item in refused[: 5 - len(result.reasons)]]
            done += len(part)
    except BaseException:
        await asyncio.to_thread(dead.finish, file, left + letters[done:])
        raise
    result.unreadable += file.unreadable
    await asyncio.to_thread(dead.finish, file, left)


def _fitting(letters: list[DeadLetter], max_events: int, max_bytes: int) -> list[DeadLetter]:
    """The first letters that fit into one delivery, at least one."""
    size = 0
    for index, letter in enumerate(letters[:max_events]):
        size += len(letter.event.encode()) + 1
        if index and size > max_bytes:
            return letters[:index]
    return letters[:max_events]


async def _deliver(sink: Sink, part: list[DeadLetter], log_id: str, backend: BackendSettings) -> tuple[list[Refused], list[int]]:
    batch = SinkBatch(
        [letter.event.encode() for letter in part],
        first_seq=part[0].seq,
        last_seq=part[-1].seq,
        spool_id=log_id,
        seqs=[letter.seq for letter in part],
    )
    async with asyncio.timeout(backend.timeout):
        report = await sink.deliver(batch)
    return report.refused, report.retry
