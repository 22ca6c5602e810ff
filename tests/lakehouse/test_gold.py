"""Gold against brute force, and which days it takes for out of date."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from statistics import median

import pytest

from contract.event import E10_STATES
from lakehouse import bronze, gold, silver
from lakehouse.gold import days as gold_days
from lakehouse.lake import ConcurrentWrite, Lake
from tests.lakehouse.lakes import EPOCH, an_event, local_lake, read, records, run_events, state_events

NOON = EPOCH.replace(hour=12)
MIDNIGHT = EPOCH.replace(hour=0)


def fill(lake: Lake, events: list[dict], spool: str = "s") -> None:
    bronze.append_spool(lake, spool, records(events, first=1 + bronze.spool_cursor(lake, spool)))
    silver.refresh_events(lake)
    silver.refresh_runs(lake)
    silver.refresh_tool_states(lake)


def change(at: datetime, to: str, tool: str = "A") -> dict:
    return an_event(at, kind="state", entities={"tool": tool}, state={"to": to})


@pytest.mark.parametrize("seed", range(3))
def test_hourly_runs_differ_from_counting_them(tmp_path, seed):
    lake = local_lake(tmp_path)
    fill(lake, run_events(random.Random(seed), 60))
    gold.refresh_run_hourly(lake)
    want = defaultdict(list)
    for run in read(lake, "silver.runs"):
        hour = (run["started_at"] or run["first_seen"]).replace(minute=0, second=0, microsecond=0)
        want[hour, run["name"], run["tool"]].append(run)
    rows = {(row["hour"], row["name"], row["tool"]): row for row in read(lake, "gold.run_hourly")}
    assert rows.keys() == want.keys()
    for key, runs in want.items():
        states = Counter(run["status"] for run in runs)
        row = rows[key]
        assert row["runs"] == len(runs) == sum(states.values())
        assert {name: row[name] for name in ("ok", "failed", "aborted", "lost", "running")} == {
            name: states[name] for name in ("ok", "failed", "aborted", "lost", "running")
        }
        durations = [run["duration_ms"] for run in runs if run["ended_at"] and run["duration_ms"] is not None]
        assert row["duration_p50_ms"] == (pytest.approx(median(durations)) if durations else None)
        assert row["duration_max_ms"] == (max(durations) if durations else None)
        assert row["duration_sum_ms"] == (pytest.approx(sum(durations)) if durations else None)


def test_shares_of_errors_do_not_add_up_or_are_out_of_order(tmp_path):
    lake = local_lake(tmp_path)
    events = [event for event in run_events(random.Random(1), 80) if "error" in event]
    events += [an_event(NOON, kind="error"), an_event(NOON, kind="error", site_id="fab2")]
    fill(lake, events)
    gold.refresh_error_pareto(lake)
    want = Counter(
        (
            event["timestamp"][:10],
            event["site_id"],
            event["name"],
            event.get("error", {}).get("type", "(none)"),
            event.get("entities", {}).get("tool"),
        )
        for event in events
    )
    rows = read(lake, "gold.error_pareto", "SELECT * FROM rows ORDER BY day, site_id, rank")
    names = ("site_id", "name", "error_type", "tool")
    assert {(row["day"].isoformat(), *(row[name] for name in names)): row["events"] for row in rows} == want
    by_day = defaultdict(list)
    for row in rows:
        by_day[row["day"], row["site_id"]].append(row)
    for group in by_day.values():
        assert [row["rank"] for row in group] == list(range(1, len(group) + 1))
        assert [row["events"] for row in group] == sorted((row["events"] for row in group), reverse=True)
        assert sum(row["share"] for row in group) == pytest.approx(1)
        assert group[-1]["cumulative_share"] == pytest.approx(1)


@pytest.mark.parametrize("seed", range(3))
def test_the_six_states_do_not_partition_a_tool_s_time(tmp_path, seed):
    lake = local_lake(tmp_path)
    events = state_events(random.Random(seed), 50)
    fill(lake, events)
    gold.refresh_tool_state(lake)
    until = max(datetime.fromisoformat(event["timestamp"]) for event in events).replace(tzinfo=None)
    want: Counter = Counter()
    for interval in read(lake, "silver.tool_states"):
        start, end = interval["started_at"], min(interval["ended_at"] or until, until)
        while start < end:
            midnight = datetime.combine(start.date(), datetime.min.time()) + timedelta(days=1)
            key = interval["tool"], interval["chamber"], start.date(), interval["state"]
            want[key] += (min(end, midnight) - start) / timedelta(microseconds=1)
            start = min(end, midnight)
    got = {
        (row["tool"], row["chamber"], row["day"], row["state"]): round(row["seconds"] * 1e6)
        for row in read(lake, "gold.tool_state")
        if row["seconds"]
    }
    assert got == {key: round(value) for key, value in want.items() if value}
    for day in read(lake, "gold.tool_state", "SELECT count(*) AS n, sum(share) AS share FROM rows GROUP BY tool, chamber, day"):
        assert day["n"] == len(E10_STATES)
        assert day["share"] is None or day["share"] == pytest.approx(1)


def test_a_day_that_passes_without_a_change_has_no_row(tmp_path):
    lake = local_lake(tmp_path)
    fill(lake, [change(MIDNIGHT, "standby")])
    gold.refresh_tool_state(lake)
    fill(lake, [an_event(MIDNIGHT + timedelta(days=3, hours=6))])
    gold.refresh_tool_state(lake)
    rows = read(lake, "gold.tool_state", "SELECT day, seconds FROM rows WHERE state = 'standby' ORDER BY day")
    assert [row["seconds"] for row in rows] == [86_400, 86_400, 86_400, 21_600]


def test_a_late_change_leaves_the_days_it_lasts_into_as_they_were(tmp_path):
    lake = local_lake(tmp_path)
    fill(lake, [change(MIDNIGHT, "standby"), change(MIDNIGHT + timedelta(days=2, hours=12), "productive")])
    gold.refresh_tool_state(lake)
    fill(lake, [change(MIDNIGHT + timedelta(hours=12), "unscheduled_down")])
    gold.refresh_tool_state(lake)
    rows = read(lake, "gold.tool_state", "SELECT day, seconds FROM rows WHERE state = 'unscheduled_down' ORDER BY day")
    assert [row["seconds"] for row in rows] == [43_200, 86_400, 43_200]


def test_only_days_that_changed_are_computed_and_none_is_left_out(tmp_path):
    lake = local_lake(tmp_path)
    days = [NOON + timedelta(days=n) for n in range(3)]
    fill(lake, [an_event(day, kind="error", error={"type": "Leak", "message": "m"}) for day in days])
    assert gold.dirty_dates(lake, "gold.error_pareto").dates == tuple(day.date() for day in days)
    assert len(gold.refresh_error_pareto(lake).dates) == 3
    assert gold.dirty_dates(lake, "gold.error_pareto").dates == ()
    fill(lake, [an_event(days[1], kind="error", error={"type": "Leak", "message": "m"})])
    step = gold.refresh_error_pareto(lake)
    assert step.dates == (days[1].date(),)
    assert [row["events"] for row in read(lake, "gold.error_pareto", "SELECT events FROM rows ORDER BY day")] == [1, 2, 1]


def test_computing_a_day_by_hand_changes_it_or_moves_the_cursor(tmp_path):
    lake = local_lake(tmp_path)
    fill(lake, run_events(random.Random(2), 30))
    gold.refresh_run_hourly(lake, [EPOCH.date()])
    assert gold.dirty_dates(lake, "gold.run_hourly").cursor is None
    gold.refresh_run_hourly(lake)
    before = read(lake, "gold.run_hourly", "SELECT * FROM rows ORDER BY ALL")
    gold.refresh_run_hourly(lake, [EPOCH.date(), EPOCH.date() + timedelta(days=1)])
    assert read(lake, "gold.run_hourly", "SELECT * FROM rows ORDER BY ALL") == before


@pytest.mark.parametrize("days", [None, [NOON.date()]])
def test_a_slow_run_puts_an_old_day_over_what_a_faster_one_computed_from_newer_events(tmp_path, monkeypatch, days):
    lake = local_lake(tmp_path)
    fill(lake, [an_event(NOON, kind="error")])
    if days is None:  # a run that brings the table up to date in several commits, of which only the last moves the cursor
        monkeypatch.setattr(gold_days, "DAYS_A_COMMIT", 1)
        fill(lake, [an_event(NOON + timedelta(days=1), kind="error")])
    replace = gold_days.replace_partitions

    def overtaken(*args, **options):
        monkeypatch.setattr(gold_days, "replace_partitions", replace)
        fill(lake, [an_event(NOON, kind="error")])
        gold.refresh_error_pareto(lake)
        return replace(*args, **options)

    monkeypatch.setattr(gold_days, "replace_partitions", overtaken)
    with pytest.raises(ConcurrentWrite):
        gold.refresh_error_pareto(lake, days)
    gold.refresh_error_pareto(lake)
    rows = read(lake, "gold.error_pareto")
    assert {row["events"] for row in rows if row["day"] == NOON.date()} == {2}


def test_a_clock_that_runs_ahead_fills_days_that_are_still_to_come(tmp_path):
    lake = local_lake(tmp_path)
    fill(lake, [change(MIDNIGHT, "standby"), an_event(MIDNIGHT + timedelta(days=900))])
    gold.refresh_tool_state(lake, now=(MIDNIGHT + timedelta(hours=1)).astimezone(UTC))
    rows = read(lake, "gold.tool_state", "SELECT day, seconds FROM rows WHERE state = 'standby'")
    assert [row["seconds"] for row in rows] == [3600]
