"""`trackmate backfill`: compute past partitions of a table again, through Dagster."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from contract.errors import TrackMateError
from trackmate import terminal
from trackmate.dagster_api import DagsterApi
from trackmate.data_folder import DEFAULT_DATA, DataFolder, DataOption
from trackmate.services import read_stack

_POLL = 1.0


def backfill(
    assets: Annotated[list[str], typer.Argument(help="Tables with partitions, such as gold.run_hourly.")],
    start: Annotated[
        str | None, typer.Option("--from", help="First partition, such as 2026-01-31.", show_default="the first")
    ] = None,
    end: Annotated[str | None, typer.Option("--to", help="Last partition, itself included.", show_default="the last")] = None,
    partition: Annotated[list[str] | None, typer.Option(help="Only this partition; may be repeated.", show_default=False)] = None,
    url: Annotated[str | None, typer.Option(help="Dagster.", show_default="from the data folder")] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for its end with a progress display.")] = True,
    data: DataOption = DEFAULT_DATA,
) -> None:
    """Compute partitions of gold tables again, for instance after late data or a new version of a rule.

    Exit code: 0 all done, 1 some partitions failed.

    Examples:

        trackmate backfill gold.run_hourly --from 2026-01-01 --to 2026-01-31

        trackmate backfill gold.error_pareto gold.tool_state --partition 2026-02-14
    """
    api = DagsterApi(url or read_stack(DataFolder(data)).endpoints["dagster"].url)
    try:
        keys = choose_partitions(api.partitions(assets[0]), start, end, partition or [], assets[0])
        backfill_id = api.launch_backfill(assets, keys, {"trackmate/started_by": "trackmate backfill"})
        console = terminal.stdout()
        console.print(
            f"Backfill {backfill_id}: {len(keys)} partitions of {', '.join(assets)}, {api.url}/overview/backfills", markup=False
        )
        if wait:
            _follow(api, backfill_id, len(keys) * len(assets))
    finally:
        api.close()


def choose_partitions(known: list[str], start: str | None, end: str | None, named: list[str], asset: str) -> list[str]:
    """The partitions that are meant; raises TrackMateError for one that doesn't exist and for an empty choice."""
    if not known:
        raise TrackMateError(f"{asset} has no partitions: materialise it in Dagster, or name a table that has")
    wrong = [name for name in (*named, *(edge for edge in (start, end) if edge)) if name not in known]
    if wrong:
        raise TrackMateError(f"{asset} has no partition {', '.join(wrong)}: it has {known[0]} to {known[-1]}")
    if named:
        return named
    first, last = known.index(start or known[0]), known.index(end or known[-1])
    if first > last:
        raise TrackMateError(f"--from {start} comes after --to {end}: nothing to do. Exchange them")
    return known[first : last + 1]


def _follow(api: DagsterApi, backfill_id: str, wanted: int) -> None:
    with terminal.bar("backfill", wanted) as bar:
        state = api.backfill(backfill_id)
        while not state.over:
            bar.update(state.done + state.failed, f"{state.done} done, {state.failed} failed")
            time.sleep(_POLL)
            state = api.backfill(backfill_id)
    console = terminal.stdout()
    console.print(f"{state.status}: {state.done} of {state.wanted} done, {state.failed} failed", markup=False)
    if state.problem:
        console.print(state.problem, markup=False)
    if state.failed or not state.status.startswith("COMPLETED_SUCCESS"):
        raise typer.Exit(1)
