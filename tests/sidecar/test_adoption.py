"""Taking over what SDKs left on disk, once and completely, whoever else is there."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from contract.ids import uuid7
from contract.limits import MAX_EVENT_BYTES
from sidecar.adoption import BATCH_EVENTS, Adoption
from sidecar.metrics import Metrics
from sidecar.spool.errors import SpoolBusy, SpoolUnavailable
from sidecar.spool.log import SpoolConfig, SpoolLog
from sidecar.spool.quarantine import Quarantine
from tests.services.base import wait_until
from tests.sidecar.harness import RunningSidecar, event, events, files_backend, ndjson, read_lines


class Setup:
    def __init__(self, folder: Path) -> None:
        self.sdk = folder / "sdk"
        self.sdk.mkdir()
        self.spool = folder / "spool"
        self.log = SpoolLog.open(SpoolConfig(dir=self.spool))
        self.quarantine = Quarantine(self.spool)
        self.now = 0.0
        self.slept: list[float] = []

    def adoption(self, grace: float = 0.0, log: Any = None) -> Adoption:
        return Adoption(
            [self.sdk],
            log or self.log,
            self.quarantine,
            Metrics(),
            grace=grace,
            clock=lambda: self.now or 4_000_000_000.0,
            sleep=self.sleep,
        )

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    def leave(self, items: list[dict[str, Any]] | bytes, name: str | None = None) -> Path:
        path = self.sdk / (name or f"{uuid7()}.4711.{1:020}.jsonl")
        path.write_bytes(items if isinstance(items, bytes) else ndjson(items))
        return path

    def in_log(self) -> list[str]:
        records = self.log.reader().read(0, 10**9, 10**9, closed_only=False)
        return [json.loads(line)["event_id"] for record in records for line in record.ndjson().splitlines()]

    def quarantined(self) -> list[dict[str, Any]]:
        return read_lines(sorted((self.spool / "quarantine").glob("*.ndjson")))


@pytest.fixture
async def setup(tmp_path: Path) -> AsyncIterator[Setup]:
    made = Setup(tmp_path)
    yield made
    await made.quarantine.close()
    await made.log.close()


def ended_process() -> int:
    """The id of a process that is no more."""
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


def ids(items: list[dict[str, Any]]) -> list[str]:
    return [item["event_id"] for item in items]


async def test_file_is_deleted_without_its_events_in_the_log(setup: Setup) -> None:
    items = events(5)
    setup.leave(items)
    assert await setup.adoption().adopt_folder(setup.sdk) == 1
    assert setup.in_log() == ids(items)
    assert list(setup.sdk.iterdir()) == []


async def test_large_file_is_one_unbounded_batch(setup: Setup) -> None:
    items = events(BATCH_EVENTS * 2 + 7)
    setup.leave(items)
    await setup.adoption().adopt_folder(setup.sdk)
    assert setup.in_log() == ids(items)
    counts = [record.count for record in setup.log.reader().read(0, 10**9, 10**9, closed_only=False)]
    assert max(counts) <= BATCH_EVENTS


async def test_file_that_is_being_written_is_taken(setup: Setup) -> None:
    owner = f"{uuid7()}.1"
    setup.leave(events(3), f"{owner}.{1:020}.jsonl.tmp")
    setup.leave(b"x", "notes.txt")
    setup.leave(b"x", f"{owner}.{5:020}.jsonl.refused")
    with setup.leave(b"", f"{owner}.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert await setup.adoption().adopt_folder(setup.sdk) == 0
    assert len(list(setup.sdk.iterdir())) == 4


@pytest.mark.parametrize("lock_is_left", [True, False])
async def test_file_that_a_dead_process_was_writing_is_left_for_ever(setup: Setup, lock_is_left: bool) -> None:
    owner = f"{uuid7()}.1"
    items = events(3)
    setup.leave(ndjson(items) + b'{"event_id": "torn', f"{owner}.{1:020}.jsonl.tmp")
    if lock_is_left:
        setup.leave(b"", f"{owner}.lock")
    assert await setup.adoption().adopt_folder(setup.sdk) == 1
    assert setup.in_log() == ids(items)
    assert [line["event"] for line in setup.quarantined()] == ['{"event_id": "torn']


async def test_file_that_another_reads_under_its_lock_is_taken(setup: Setup) -> None:
    path = setup.leave(events(3))
    with path.open() as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        assert await setup.adoption().adopt_folder(setup.sdk) == 0
    assert await setup.adoption().adopt_folder(setup.sdk) == 1


async def test_old_claim_under_a_process_id_that_is_used_again_is_left_for_ever(setup: Setup) -> None:
    items = events(3)
    path = setup.leave(items, f"{uuid7()}.1.{1:020}.jsonl.claimed-{os.getppid()}")
    setup.now = path.stat().st_ctime + 3599
    adoption = setup.adoption()
    assert await adoption.adopt_folder(setup.sdk) == 0
    setup.now += 2
    assert await adoption.adopt_folder(setup.sdk) == 1
    assert setup.in_log() == ids(items)


async def test_fresh_file_is_taken_before_its_owner_can(setup: Setup) -> None:
    path = setup.leave(events(3))
    written = path.stat().st_mtime
    setup.now = written + 1
    adoption = setup.adoption(grace=5.0)
    assert await adoption.adopt_folder(setup.sdk) == 0
    setup.now = written + 5
    assert await adoption.adopt_folder(setup.sdk) == 1


async def test_claim_of_a_living_process_is_taken(setup: Setup) -> None:
    path = setup.leave(events(3), f"{uuid7()}.1.{1:020}.jsonl.claimed-{os.getppid()}")
    setup.now = path.stat().st_ctime + 60
    assert await setup.adoption().adopt_folder(setup.sdk) == 0


async def test_claim_of_a_dead_process_is_left_for_ever(setup: Setup) -> None:
    dead = ended_process()
    items = events(3)
    name = f"{uuid7()}.1.{1:020}.jsonl"
    setup.leave(items, f"{name}.claimed-{dead}")
    assert await setup.adoption().adopt_folder(setup.sdk) == 1
    assert setup.in_log() == ids(items)


async def test_malformed_lines_are_lost_or_stop_the_others(setup: Setup) -> None:
    good = events(4)
    lines = ndjson(good).splitlines(keepends=True)
    body = lines[0] + b"{broken\n" + lines[1] + b'{"kind":"log"}\n\n' + lines[2] + b"\xff\xfe\n" + lines[3].rstrip(b"\n")
    setup.leave(body)
    await setup.adoption().adopt_folder(setup.sdk)
    assert setup.in_log() == ids(good)
    kept = setup.quarantined()
    assert len(kept) == 3
    assert kept[0]["event"] == "{broken"
    assert all(line["error"] and line["source"].startswith("adopted ") for line in kept)


async def test_file_of_nothing_but_garbage_stays_or_is_lost(setup: Setup) -> None:
    setup.leave(b"garbage\nmore garbage\n")
    assert await setup.adoption().adopt_folder(setup.sdk) == 1
    assert setup.in_log() == []
    assert [line["event"] for line in setup.quarantined()] == ["garbage", "more garbage"]
    assert list(setup.sdk.iterdir()) == []


async def test_endless_line_fills_the_memory(setup: Setup) -> None:
    good = events(2)
    lines = ndjson(good).splitlines(keepends=True)
    setup.leave(lines[0] + b"x" * (MAX_EVENT_BYTES * 40) + b"\n" + lines[1])
    await setup.adoption().adopt_folder(setup.sdk)
    assert setup.in_log() == ids(good)
    (kept,) = setup.quarantined()
    assert "bytes" in kept["error"]
    assert len(kept["event"]) <= MAX_EVENT_BYTES + 2


async def test_event_of_exactly_the_largest_size_is_refused(setup: Setup) -> None:
    item = event(attributes={"fill": ""})
    item["attributes"]["fill"] = "x" * (MAX_EVENT_BYTES - len(json.dumps(item)))
    assert len(json.dumps(item)) == MAX_EVENT_BYTES
    setup.leave([item])
    await setup.adoption().adopt_folder(setup.sdk)
    assert setup.in_log() == ids([item])


class BusyLog:
    """Refuses until it is told otherwise."""

    def __init__(self, log: SpoolLog, error: Exception) -> None:
        self.log = log
        self.error: Exception | None = error
        self.asked = 0

    def check(self, *_: Any) -> None:
        self.asked += 1
        if self.error is not None and isinstance(self.error, SpoolBusy):
            if self.asked > 3:
                self.error = None
                return
            raise self.error

    async def append(self, *args: Any) -> int:
        if self.error is not None:
            raise self.error
        return await self.log.append(*args)


async def test_full_spool_loses_the_file(setup: Setup) -> None:
    items = events(3)
    setup.leave(items)
    busy = BusyLog(setup.log, SpoolBusy(1.5, "above the high-water mark"))
    assert await setup.adoption(log=busy).adopt_folder(setup.sdk) == 1
    assert setup.slept == [1.5, 1.5, 1.5]
    assert setup.in_log() == ids(items)


async def test_failing_disk_loses_the_file(setup: Setup) -> None:
    path = setup.leave(events(3))
    failing = BusyLog(setup.log, SpoolUnavailable("the disk is full", 2.0))
    assert await setup.adoption(log=failing).adopt_folder(setup.sdk) == 0
    assert path.exists()
    assert await setup.adoption().adopt_folder(setup.sdk) == 1


async def test_folder_that_is_not_there_ends_the_watch(setup: Setup) -> None:
    adoption = setup.adoption()
    assert await adoption.adopt_folder(setup.sdk / "missing") == 0
    (setup.sdk / "a-file").write_bytes(b"")
    assert await adoption.adopt_folder(setup.sdk / "a-file") == 0


async def test_file_that_can_not_be_read_keeps_the_others_waiting(setup: Setup) -> None:
    """Root may read everything, so a symbolic link that leads nowhere and a folder stand in for it."""
    items = events(3)
    setup.leave(items)
    (setup.sdk / f"{uuid7()}.1.{1:020}.jsonl").mkdir()
    (setup.sdk / f"{uuid7()}.1.{2:020}.jsonl").symlink_to("/nowhere")
    adoption = setup.adoption()
    real, seen = adoption._claim, 0

    def claim(path: Path) -> Any:
        nonlocal seen
        seen += 1
        if seen == 1:
            raise PermissionError(13, "Permission denied")
        return real(path)

    adoption._claim = claim  # type: ignore[method-assign]
    setup.leave(events(2))
    assert await adoption.adopt_folder(setup.sdk) == 1


@pytest.mark.parametrize("name", [b"x.1.1.jsonl.claimed-99999999999999999999", b"\xff.1.1.jsonl"], ids=["claimer", "bytes"])
async def test_name_that_nobody_thought_of_ends_all_adoption(setup: Setup, name: bytes) -> None:
    (setup.sdk / os.fsdecode(name)).write_bytes(b"garbage\n")
    items = events(3)
    setup.leave(items)
    assert await setup.adoption().adopt_folder(setup.sdk) == 2
    assert setup.in_log() == ids(items)
    assert [line["event"] for line in setup.quarantined()] == ["garbage"]
    assert list(setup.sdk.iterdir()) == []


async def test_file_that_trips_over_a_fault_of_ours_ends_all_adoption(
    setup: Setup, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    tripping, items = setup.leave(b"garbage\n", "a.1.1.jsonl"), events(3)
    setup.leave(items, "b.1.1.jsonl")

    async def trip(*_: object) -> None:
        message = "nobody thought of it"
        raise RuntimeError(message)

    monkeypatch.setattr(setup.quarantine, "keep", trip)
    assert await setup.adoption().adopt_folder(setup.sdk) == 1
    assert setup.in_log() == ids(items)
    assert list(setup.sdk.iterdir()) == [tripping]
    assert [record.error for record in caplog.records if record.levelname == "WARNING"] == ["RuntimeError: nobody thought of it"]  # type: ignore[attr-defined]


async def test_two_agents_adopt_one_file_twice(setup: Setup) -> None:
    items = [events(3) for _ in range(20)]
    for batch in items:
        setup.leave(batch)
    first, second = setup.adoption(), setup.adoption()
    adopted = await asyncio.gather(first.adopt_folder(setup.sdk), second.adopt_folder(setup.sdk))
    assert sum(adopted) == 20
    assert sorted(setup.in_log()) == sorted(event_id for batch in items for event_id in ids(batch))


def test_running_agent_adopts_nothing(new_sidecar: Callable[..., RunningSidecar], tmp_path: Path) -> None:
    sidecar = new_sidecar(backends=[files_backend()], adopt=[str(tmp_path)], adopt_grace="0s").start()
    items = events(12)
    aside = tmp_path / "x.jsonl.tmp"
    aside.write_bytes(ndjson(items))
    aside.rename(tmp_path / f"{uuid7()}.1.{1:020}.jsonl")
    sidecar.wait_for_backend("files", position=12)
    assert sorted(ids(sidecar.delivered())) == sorted(ids(items))
    wait_until(lambda: not list(tmp_path.iterdir()), seconds=5, what="the file to be deleted")
    assert sidecar.metric("sidecar_adopted_events_total") == 12
