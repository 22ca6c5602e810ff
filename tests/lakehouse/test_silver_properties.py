"""Runs and tool states kept up step by step must equal what all events at once give, however they arrive."""

from __future__ import annotations

import random
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from contract.event import E10_STATES
from lakehouse import bronze, silver
from lakehouse.lake import Lake
from tests.lakehouse.lakes import EPOCH, delivered, local_lake, read, records, run_events, state_events

SEEDS = range(4)


def moment(event: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(event["timestamp"]).astimezone(UTC).replace(tzinfo=None)


def order(event: dict[str, Any]) -> tuple[datetime, str]:
    return moment(event), event["event_id"]


def bring(lake: Lake, batches: list[list[dict[str, Any]]], rng: random.Random) -> None:
    """Feed the batches one by one through two spools, refreshing at random moments and at the end."""
    numbers = {"a": 1, "b": 1}
    for batch in batches:
        spool = rng.choice("ab")
        bronze.append_spool(lake, spool, records(batch, first=numbers[spool]))
        numbers[spool] += len(batch)
        if rng.random() < 0.7:
            silver.refresh_events(lake, max_rows=rng.choice([1, 1000]))
        if rng.random() < 0.5:
            silver.refresh_runs(lake, max_rows=rng.choice([1, 1000]))
            silver.refresh_tool_states(lake, max_rows=rng.choice([1, 1000]))
    for refresh in (silver.refresh_events, silver.refresh_runs, silver.refresh_tool_states, silver.refresh_metrics):
        while refresh(lake).more:
            pass


def expected_run(events: list[dict[str, Any]]) -> dict[str, Any]:
    def rank(event: dict[str, Any]) -> int:
        if event["kind"] == "start":
            return 0
        if event["kind"] == "finish" or (event["kind"] == "error" and ("status" in event or "duration_ms" in event)):
            return 1
        return 2 if event["kind"] == "progress" else 3

    identity = min(events, key=lambda e: (rank(e), *order(e)))
    starts = [moment(e) for e in events if rank(e) == 0]
    ends = sorted((e for e in events if rank(e) == 1), key=order)
    progress = sorted((e for e in events if e["kind"] == "progress"), key=order)
    errors = sorted((e for e in events if "error" in e), key=order)
    start = min(starts) if starts else None
    end = ends[-1] if ends else None
    duration = None
    if end:
        duration = end.get("duration_ms")
        if duration is None and start:
            duration = (moment(end) - start) / timedelta(milliseconds=1)
    default = "failed" if end and end["kind"] == "error" else "ok"
    return {
        "name": identity["name"] if rank(identity) < 3 else None,
        "tool": identity["entities"]["tool"],
        "started_at": start,
        "ended_at": moment(end) if end else None,
        "status": end.get("status", default) if end else "running",
        "duration_ms": pytest.approx(duration) if duration is not None else None,
        "last_progress": progress[-1]["progress"] if progress else None,
        "error_type": errors[-1]["error"]["type"] if errors else None,
        "events": len(events),
        "first_seen": min(map(moment, events)),
        "last_seen": max(map(moment, events)),
        "run_date": (start or min(map(moment, events))).date(),
    }


@pytest.mark.parametrize("seed", SEEDS)
def test_runs_differ_when_events_come_late_twice_or_out_of_order(tmp_path, seed):
    rng = random.Random(seed)
    events = run_events(rng, 30)
    lake = local_lake(tmp_path)
    bring(lake, delivered(rng, events), rng)
    by_run = defaultdict(list)
    for event in events:
        by_run[event["run_id"]].append(event)
    rows = {row["run_id"]: row for row in read(lake, "silver.runs")}
    assert len(rows) == len(read(lake, "silver.runs"))
    assert rows.keys() == by_run.keys()
    for run_id, run in by_run.items():
        want = expected_run(run)
        assert {name: rows[run_id][name] for name in want} == want


@pytest.mark.parametrize("seed", SEEDS)
def test_tool_states_overlap_or_leave_gaps_when_changes_come_late(tmp_path, seed):
    rng = random.Random(seed)
    events = state_events(rng, 60)
    lake = local_lake(tmp_path)
    bring(lake, delivered(rng, events), rng)
    by_key = defaultdict(list)
    for event in events:
        if event["state"]["to"] in E10_STATES:
            by_key[event["entities"]["tool"], event["entities"].get("chamber")].append(event)
    want = []
    for (tool, chamber), changes in by_key.items():
        changes.sort(key=order)
        for change, following in zip(changes, [*changes[1:], None], strict=True):
            want.append((
                tool, chamber, change["state"]["to"], change["state"]["from"], moment(change),
                moment(following) if following else None, change["event_id"], moment(change).date(),
            ))  # fmt: skip
    names = ("tool", "chamber", "state", "from_state", "started_at", "ended_at", "event_id", "state_date")
    rows = [tuple(row[name] for name in names) for row in read(lake, "silver.tool_states")]
    assert sorted(rows, key=str) == sorted(want, key=str)


def test_a_silent_run_is_never_called_lost_or_stays_lost_when_its_end_comes(tmp_path):
    rng = random.Random(1)
    start, finish = (event for event in run_events(random.Random(0), 40) if event["kind"] in {"start", "finish"}), None
    first = next(start)
    lake = local_lake(tmp_path)
    bring(lake, [[first]], rng)
    late = EPOCH + timedelta(days=2)
    assert silver.mark_lost(lake, EPOCH, timedelta(hours=1)).rows == 0
    assert silver.mark_lost(lake, late, timedelta(hours=1)).read_rows == 1
    assert read(lake, "silver.runs")[0]["status"] == "lost"
    assert silver.mark_lost(lake, late, timedelta(hours=1)).read_rows == 0
    finish = first | {"event_id": first["event_id"][:-1] + "0", "kind": "finish", "status": "failed"}
    bronze.append_spool(lake, "late", records([finish]))
    silver.refresh_events(lake)
    silver.refresh_runs(lake)
    assert [row["status"] for row in read(lake, "silver.runs")] == ["failed"]
