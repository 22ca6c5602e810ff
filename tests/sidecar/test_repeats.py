"""A batch that comes again stands in the log once, and no batch is ever taken for another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from sidecar.repeats import REMEMBERED, Repeats, newest_records
from sidecar.spool.errors import SpoolUnavailable
from sidecar.spool.format import Flags
from sidecar.spool.log import SpoolConfig, SpoolLog
from tests.services.base import wait_until
from tests.sidecar.harness import RunningSidecar, events, files_backend, ndjson

MIDDLE = 10_000


def body(text: bytes) -> bytes:
    """Two of these differ in the middle only."""
    return b"a" * MIDDLE + text + b"z" * MIDDLE


@asynccontextmanager
async def stored(folder: Path, **settings: int) -> AsyncIterator[tuple[Repeats, SpoolLog, list[int]]]:
    log = SpoolLog.open(SpoolConfig(dir=folder, **settings))
    counted: list[int] = []
    repeats = Repeats(log, newest_records(log.reader()), counted.append)
    try:
        yield repeats, log, counted
    finally:
        await log.close()


async def test_batch_sent_twice_is_stored_twice(tmp_path: Path) -> None:
    async with stored(tmp_path) as (repeats, log, counted):
        assert [await repeats.append(body(b"1"), 5), await repeats.append(body(b"1"), 5)] == [1, 1]
        assert log.durable_seq == 5
        assert counted == [5]


async def test_batch_sent_again_after_a_restart_is_stored_twice(tmp_path: Path) -> None:
    for number in range(3):
        async with stored(tmp_path) as (repeats, log, _):
            assert [await repeats.append(body(b"%d" % each), 5) for each in range(number + 1)] == [1, 6, 11][: number + 1]
            assert log.durable_seq == 5 * (number + 1)


async def test_segments_of_before_the_start_are_not_looked_at(tmp_path: Path) -> None:
    bodies = [b"%d" % number + body(b"") for number in range(20)]
    async with stored(tmp_path, segment_bytes=4 * MIDDLE) as (repeats, _, _):
        for each in bodies:
            await repeats.append(each, 1)
    async with stored(tmp_path, segment_bytes=4 * MIDDLE) as (repeats, log, counted):
        for number, each in enumerate(bodies):
            assert await repeats.append(each, 1) == number + 1
        assert log.durable_seq == sum(counted) == 20


async def test_two_that_come_at_once_are_both_stored(tmp_path: Path) -> None:
    async with stored(tmp_path) as (repeats, log, counted):
        assert await asyncio.gather(*(repeats.append(body(b"1"), 3) for _ in range(10))) == [1] * 10
        assert log.durable_seq == 3
        assert counted == [3] * 9


async def test_batch_is_taken_for_another_that_begins_and_ends_alike(tmp_path: Path) -> None:
    async with stored(tmp_path) as (repeats, log, _):
        seqs = await asyncio.gather(*(repeats.append(body(b"%d" % number), 1) for number in (1, 2, 1, 2, 3)))
        assert seqs[0] == seqs[2] != seqs[1] == seqs[3] != seqs[4]
        stored_bodies = {record.payload for record in log.reader().read(0, 100, 10**6, closed_only=False)}
        assert stored_bodies == {body(b"1"), body(b"2"), body(b"3")}


async def test_same_bytes_in_another_encoding_are_taken_for_the_same(tmp_path: Path) -> None:
    async with stored(tmp_path) as (repeats, log, _):
        await repeats.append(body(b"1"), 1, Flags.of(None, Flags().format))
        await repeats.append(body(b"1"), 1, Flags.of("gzip", Flags().format))
        assert log.durable_seq == 2


class FailingOnce:
    """A log whose first append fails."""

    def __init__(self) -> None:
        self.taken: list[bytes] = []
        self.failures = 1

    def check(self, size: int = 0, shed: object = None) -> None:
        return

    async def append(self, payload: bytes, count: int, flags: Flags = Flags()) -> int:  # noqa: B008 - an immutable tuple
        await asyncio.sleep(0)
        if self.failures:
            self.failures -= 1
            raise SpoolUnavailable("the disk is full")
        self.taken.append(payload)
        return len(self.taken)


async def test_batch_that_could_not_be_stored_is_acknowledged_when_it_comes_again() -> None:
    log = FailingOnce()
    repeats = Repeats(log, (), lambda events: None)
    outcomes = await asyncio.gather(*(repeats.append(b"x", 1) for _ in range(2)), return_exceptions=True)
    assert isinstance(outcomes[0], SpoolUnavailable)
    assert outcomes[1] == 1
    assert log.taken == [b"x"]


async def test_sender_that_goes_away_has_its_batch_stored_twice(tmp_path: Path) -> None:
    async with stored(tmp_path) as (repeats, log, _):
        first = asyncio.ensure_future(repeats.append(body(b"1"), 2))
        await asyncio.sleep(0)
        first.cancel()
        assert await repeats.append(body(b"1"), 2) == 1
        assert log.durable_seq == 2


async def test_memory_of_batches_grows_without_end() -> None:
    log = FailingOnce()
    log.failures = 0
    repeats = Repeats(log, (), lambda events: None)
    for number in range(REMEMBERED + 100):
        await repeats.append(b"%d" % number, 1)
    assert len(repeats._seqs) == REMEMBERED


@pytest.fixture
def sidecar() -> Iterator[RunningSidecar]:
    server = RunningSidecar(backends=[files_backend()])
    with server:
        yield server
        server.client.close()


def test_acknowledgement_lost_in_a_kill_leaves_two_copies_in_files(sidecar: RunningSidecar) -> None:
    batch = ndjson(events(50))
    headers = {"Content-Type": "application/x-ndjson"}
    assert sidecar.post(batch, headers=headers).status_code == 202
    sidecar.kill()
    sidecar.start()
    answer = sidecar.post(batch, headers=headers)
    assert (answer.status_code, answer.json()["accepted"]) == (202, 50)
    sidecar.wait_for_backend("files", lag_events=0)
    wait_until(lambda: len(sidecar.delivered()) >= 50, seconds=30, what="50 events in the files")
    assert len(sidecar.delivered()) == 50
    assert sidecar.metric("sidecar_repeated_events_total") == 50
