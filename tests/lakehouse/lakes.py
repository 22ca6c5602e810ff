"""Small lakes for tests: spool records, random streams of events with all that goes wrong on the way, and plain reading."""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from contract.event import E10_STATES
from contract.ids import uuid7
from lakehouse.config import LakeConfig
from lakehouse.files import active_files
from lakehouse.lake import Lake, scan

EPOCH = datetime(2026, 3, 1, 22, 0, tzinfo=UTC)


def local_lake(folder: Path) -> Lake:
    """An empty lake in a folder."""
    return Lake(LakeConfig(root=str(folder / "lake")), threads=1)


@dataclass
class SpoolRecord:
    """What a spool's reader gives: a batch of events and the number of its first."""

    seq: int
    events: Sequence[dict[str, Any] | bytes]

    @property
    def count(self) -> int:
        return len(self.events)

    def ndjson(self) -> bytes:
        return b"".join(each if isinstance(each, bytes) else json.dumps(each).encode() + b"\n" for each in self.events)


def records(events: Sequence[dict[str, Any]], size: int = 7, first: int = 1) -> Iterator[SpoolRecord]:
    """The events as a spool's records of `size` events, numbered from `first`."""
    for start in range(0, len(events), size):
        yield SpoolRecord(first + start, events[start : start + size])


def an_event(at: datetime = EPOCH, *, rng: random.Random | None = None, foreign: bool = False, **fields: Any) -> dict[str, Any]:
    """A valid event; `foreign` gives it an id that is no UUIDv7."""
    event_id = str(uuid.UUID(int=rng.getrandbits(128), version=4)) if rng and foreign else uuid7(int(at.timestamp() * 1000))
    if rng and not foreign:
        event_id = event_id[:24] + f"{rng.getrandbits(48):012x}"
    event = {
        "event_id": event_id,
        "timestamp": at.isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "kind": "log",
        "name": "etch",
        "site_id": "fab1",
        "app": {"name": "recipe-server"},
    }
    return event | fields


def read(lake: Lake, name: str, sql: str = "SELECT * FROM rows") -> list[dict[str, Any]]:
    """Rows of a table, `rows` in the query, as dicts."""
    table = lake.table(name)
    files = [file.uri for file in active_files(lake, name, table)]
    with lake.connect() as connection:
        cursor = connection.execute(f"WITH rows AS (SELECT * FROM {scan(lake.declaration(name), files)}) {sql}")
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def count(lake: Lake, name: str) -> int:
    """How many rows a table has."""
    return int(read(lake, name, "SELECT count(*) AS n FROM rows")[0]["n"])


def run_events(rng: random.Random, runs: int) -> list[dict[str, Any]]:
    """Events of random runs: some without start or end, with errors in the middle, two ends, the same moments, over midnight."""
    events = []
    for _ in range(runs):
        run_id = str(uuid.UUID(int=rng.getrandbits(128), version=4)) if rng.random() < 0.2 else uuid7(rng.randrange(2**40))
        at = EPOCH + timedelta(minutes=rng.randrange(0, 300), microseconds=rng.randrange(3))
        common = {
            "run_id": run_id,
            "name": rng.choice(["etch", "clean", "litho"]),
            "entities": {"tool": rng.choice("AB"), "lot": "L1"},
        }

        def step() -> datetime:
            nonlocal at
            at += timedelta(seconds=rng.choice([0, 0, 1, 600]))
            return at

        if rng.random() < 0.85:
            events.append(an_event(step(), rng=rng, kind="start", **common))
        events += [an_event(step(), rng=rng, kind="progress", progress=rng.random(), **common) for _ in range(rng.randrange(3))]
        if rng.random() < 0.3:
            events.append(an_event(step(), rng=rng, kind="metric", metrics={"t": 1.5}, **common | {"name": "thermo"}))
        if rng.random() < 0.3:
            detail = {"type": rng.choice(["Leak", "Arc"]), "message": "m"}
            events.append(an_event(step(), rng=rng, kind="error", error=detail, **common))
        for _ in range(rng.choice([0, 1, 1, 1, 2])):
            if rng.random() < 0.7:
                events.append(an_event(step(), rng=rng, kind="finish", status=rng.choice(["ok", "failed", "aborted"]), **common))
            else:
                detail = {"type": "Abort", "message": "stopped"}
                events.append(an_event(step(), rng=rng, kind="error", error=detail, duration_ms=rng.random() * 1e4, **common))
    return events


def state_events(rng: random.Random, changes: int) -> list[dict[str, Any]]:
    """Random state changes of few tools over days, with the same moments, chambers, and states that are not SEMI E10's."""
    events = []
    for _ in range(changes):
        at = EPOCH + timedelta(hours=rng.randrange(0, 120), seconds=rng.choice([0, 0, 0.000001, 1]))
        entities = {"tool": rng.choice("AB")} | ({"chamber": "1"} if rng.random() < 0.3 else {})
        state = {"to": "open"} if rng.random() < 0.1 else {"from": rng.choice(E10_STATES), "to": rng.choice(E10_STATES)}
        events.append(an_event(at, rng=rng, foreign=rng.random() < 0.2, kind="state", name="e10", entities=entities, state=state))
    return events


def delivered(rng: random.Random, events: Iterable[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The events as they may arrive: shuffled, some twice or more, cut into random batches."""
    stream = [event for event in events for _ in range(rng.choice([1, 1, 1, 2, 3]))]
    rng.shuffle(stream)
    batches = []
    while stream:
        size = rng.randrange(1, max(2, len(stream)))
        batches.append(stream[:size])
        stream = stream[size:]
    return batches
