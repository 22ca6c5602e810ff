"""The command line: `trackmate --help` lists what it can do."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

import typer

from trackmate.lazy import LazyCommand, lazy_group

RUN = "Run it"
LOAD = "Load and look"
CARE = "Look after it"
ALONE = "Each service alone, in the foreground"

COMMANDS = (
    LazyCommand("demo", "trackmate.demo_command", "demo", "Start everything, let a simulated fab work, show what arrived.", RUN),
    LazyCommand("up", "trackmate.up_command", "up", "Start the embedded stack on this machine.", RUN),
    LazyCommand("down", "trackmate.down_command", "down", "Stop a stack that is running.", RUN),
    LazyCommand("status", "trackmate.status_command", "status", "Show each service, its health, lag and counts.", RUN),
    LazyCommand("doctor", "trackmate.doctor_command", "doctor", "Check this installation and say what to do.", RUN),
    LazyCommand(
        "ingest", "trackmate.ingest_command", "ingest", "Load existing data: NDJSON of events, or CSV with a mapping.", LOAD
    ),
    LazyCommand("sql", "trackmate.sql_command", "sql", "Ask in SQL, once or at a prompt.", LOAD),
    LazyCommand("trace", "trackmate.trace_command", "trace", "Tell every place where one event is.", LOAD),
    LazyCommand("spool", "trackmate.spool_commands", "spool_app", "Look into the sidecar's spool.", CARE),
    LazyCommand("replay", "trackmate.sidecar_commands", "replay", "Send again what a backend refused.", CARE),
    LazyCommand("backfill", "trackmate.backfill_command", "backfill", "Compute past partitions of a table again.", CARE),
    LazyCommand("migrate", "trackmate.migrate_command", "migrate", "Bring the hot store's schema up to date.", CARE),
    LazyCommand("token", "trackmate.gateway_commands", "token", "Make an access token.", CARE),
    LazyCommand("sidecar", "trackmate.sidecar_commands", "sidecar", "The agent that applications send to.", ALONE),
    LazyCommand("gateway", "trackmate.gateway_commands", "gateway", "The API: managed ingest, queries, SQL.", ALONE),
    LazyCommand("dagster", "trackmate.dagster_command", "dagster", "The orchestration: web server and daemon.", ALONE),
    LazyCommand("postgres", "trackmate.postgres_command", "postgres", "The embedded PostgreSQL.", ALONE),
)

app = typer.Typer(
    cls=lazy_group(COMMANDS),
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,
    epilog="Start with [bold]trackmate demo[/bold]. Every command has [bold]--help[/bold] with an example.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"trackmate {version('trackmate')}")
        raise typer.Exit


@app.callback()
def main(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and end.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", envvar="TRACKMATE_DEBUG", help="Show the traceback of an error too.")] = False,
) -> None:
    """TrackMate: what your tools and programs do, from three lines in a program to SQL over a lakehouse."""
