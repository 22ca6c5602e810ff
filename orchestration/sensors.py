"""What starts a run by itself: closed spool segments, new transactions in the hot store, days of gold that have changed."""

import logging
from collections.abc import Sequence
from datetime import date, timedelta
from itertools import pairwise
from typing import Final

import dagster as dg

from contract.errors import TrackMateError
from lakehouse import gold
from lakehouse.hot import reader as hot_reader
from orchestration.assets.gold import TABLES_WITH_CURSOR
from orchestration.jobs import compute_gold, replicate
from orchestration.partitions import FIRST_DAY, daily
from orchestration.resources import LAKE_READER, Site
from sidecar.spool.checkpoint import load_checkpoint
from sidecar.spool.identity import IDENTITY
from sidecar.spool.reader import SpoolReader

LOG = logging.getLogger(__name__)

TICK_SECONDS: Final = 10
FAILURE_SECONDS: Final = 30
MAX_RANGES: Final = 5
"""Runs that one tick asks for, at most."""

UNDER_WAY: Final = (
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
)

Answer = dg.SkipReason | dg.RunRequest | Sequence[dg.RunRequest]


def _under_way(context: dg.SensorEvaluationContext, job: str) -> bool:
    """Whether a run of the job is waiting or working: what it finds at its end is more than what was here at its start."""
    return bool(context.instance.get_run_ids(dg.RunsFilter(job_name=job, statuses=UNDER_WAY), limit=1))


@dg.sensor(job=replicate, minimum_interval_seconds=TICK_SECONDS, default_status=dg.DefaultSensorStatus.RUNNING)
def spool_segments(context: dg.SensorEvaluationContext, site: Site) -> Answer:
    """Replicate when a sidecar's spool has closed a segment that the lake has not read."""
    if _under_way(context, replicate.name):
        return dg.SkipReason("a replication is under way")
    waiting: list[str] = []
    problems: list[str] = []
    for folder in site.spools:
        if not (folder / IDENTITY).exists():
            continue
        try:
            closed = SpoolReader(folder).closed_segments()
            behind = closed[-1].last_seq - load_checkpoint(folder, LAKE_READER) if closed else 0
        except (TrackMateError, OSError) as error:
            problems.append(f"{folder.name}: {error}")
            continue
        if behind > 0:
            waiting.append(f"{folder.name}: {behind} events")
    if waiting:
        return dg.RunRequest(tags={"trackmate/because": "; ".join(waiting)[:255]})
    return dg.SkipReason("; ".join(problems) or "every closed segment is in the lake")


@dg.sensor(job=replicate, minimum_interval_seconds=TICK_SECONDS, default_status=dg.DefaultSensorStatus.RUNNING)
def hot_store_transactions(context: dg.SensorEvaluationContext, site: Site) -> Answer:
    """Replicate when the hot store has committed what the lake has not read."""
    if _under_way(context, replicate.name):
        return dg.SkipReason("a replication is under way")
    try:
        if hot_reader.has_unconfirmed(site.dsn, LAKE_READER):
            return dg.RunRequest(tags={"trackmate/because": "the hot store has new transactions"})
    except TrackMateError as error:
        return dg.SkipReason(f"the hot store can't be asked: {error}")
    return dg.SkipReason("every finished transaction is in the lake")


@dg.sensor(job=compute_gold, minimum_interval_seconds=TICK_SECONDS, default_status=dg.DefaultSensorStatus.RUNNING)
def changed_days(context: dg.SensorEvaluationContext, site: Site) -> Answer:
    """Compute the days of gold that events have come for since they were computed, however old they are."""
    if _under_way(context, compute_gold.name):
        return dg.SkipReason("gold is being computed")
    # What only time has made old (a tool still in its state) is computed along with the next events, not in a run of its own.
    stands = [gold.dirty_dates(site.lake, name) for name in TABLES_WITH_CURSOR]
    changed = {day for stand in stands if stand.version != stand.cursor for day in stand.dates}
    first, last = date.fromisoformat(FIRST_DAY), date.fromisoformat(daily.get_last_partition_key() or FIRST_DAY)
    within = sorted(day for day in changed if first <= day <= last)
    if not within:
        outside = f"; {len(changed)} lie outside {first} to {last}" if changed else ""
        return dg.SkipReason(f"no day has changed{outside}")
    return [_range_request(start, end) for start, end in ranges(within, MAX_RANGES)]


def ranges(days: Sequence[date], most: int) -> list[tuple[date, date]]:
    """Sorted days as at most `most` ranges, parted where the longest pauses are; neighbours are never parted."""
    pauses = sorted(((later - earlier, n) for n, (earlier, later) in enumerate(pairwise(days), 1)), reverse=True)
    cuts = sorted(n for pause, n in pauses[: most - 1] if pause > timedelta(days=1))
    starts, ends = [0, *cuts], [*cuts, len(days)]
    return [(days[start], days[end - 1]) for start, end in zip(starts, ends, strict=True)]


def _range_request(first: date, last: date) -> dg.RunRequest:
    """One run for all partitions of a range; in it each table computes whichever of its days are out of date."""
    changed = {"config": {"changed": True}}
    return dg.RunRequest(
        run_config={"ops": {name.replace(".", "__"): changed for name in TABLES_WITH_CURSOR}},
        tags={
            "dagster/asset_partition_range_start": first.isoformat(),
            "dagster/asset_partition_range_end": last.isoformat(),
        },
    )


@dg.run_failure_sensor(
    name="failed_runs",
    minimum_interval_seconds=FAILURE_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Logs every run that failed, with its step and its reason, to the log of the code server and of this sensor.",
)
def failed_runs(context: dg.RunFailureSensorContext) -> None:
    """One line a failed step, or one for a run that failed outside any."""
    run = context.dagster_run
    reasons = [(f"step {event.step_key}", _reason(event)) for event in context.get_step_failure_events()]
    for where, reason in reasons or [("the run", " ".join((context.failure_event.message or "no reason was told").split()))]:
        line = f"{run.job_name}, run {run.run_id}: {where} failed: {reason}"
        LOG.error(line)
        context.log.error(line)


def _reason(event: dg.DagsterEvent) -> str:
    """The words of whoever failed first: Dagster puts its own error around an asset's."""
    failure = event.step_failure_data
    if failure.user_failure_data is not None and failure.user_failure_data.description:
        return " ".join(failure.user_failure_data.description.split())
    error = failure.error
    while error is not None and error.cause is not None:
        error = error.cause
    return "no reason was told" if error is None else " ".join(error.message.split())


SENSORS: Final = [spool_segments, hot_store_transactions, changed_days, failed_runs]
