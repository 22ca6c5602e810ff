"""`trackmate status`: each service, its health, lag and counts."""

from __future__ import annotations

import time
from typing import Annotated

import msgspec
import typer

from trackmate import terminal
from trackmate.data_folder import DEFAULT_DATA, DataFolder, DataOption
from trackmate.health import all_states
from trackmate.services import read_stack


def status(
    data: DataOption = DEFAULT_DATA, as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False
) -> None:
    """Show each service of a data folder: its address, health, lag and event counts. Exit code 1 when one is not well.

    Examples:

        trackmate status

        trackmate status --json | jq '.services[] | select(.ok | not)'
    """
    folder = DataFolder(data)
    stack = read_stack(folder)
    running = folder.running()
    states = all_states(stack)
    if as_json:
        found = {"data": str(folder.root), "pid": running.pid if running else None, "services": states}
        typer.echo(msgspec.json.format(msgspec.json.encode(found)).decode())
    else:
        console = terminal.stdout()
        rows = [
            (s.service, s.address, f"[{'green' if s.ok else 'red'}]{s.state}[/]", s.detail.replace("[", r"\[")) for s in states
        ]
        console.print(terminal.table("", ["service", "address", "state", "detail"], rows))
        if running is None:
            console.print(f"No 'trackmate up' runs on {folder.root}.", markup=False)
        else:
            minutes = (time.time() - running.started_at) / 60
            console.print(
                f"'trackmate up' runs on {folder.root} as process {running.pid}, for {minutes:.0f} minutes.", markup=False
            )
    if not all(state.ok for state in states):
        raise typer.Exit(1)
