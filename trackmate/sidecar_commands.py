"""`trackmate sidecar`, `trackmate sidecar check` and `trackmate replay`."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.markup import escape

from contract.errors import ConfigError, TrackMateError
from contract.settings import parse_duration
from sidecar import config
from trackmate import terminal

if TYPE_CHECKING:
    from rich.table import Table

    from sidecar.check import CheckResult
    from sidecar.replay import ReplayResult, Survey

ConfigOption = Annotated[
    Path,
    typer.Option("--config", "-c", envvar="TRACKMATE_SIDECAR_CONFIG", help="The sidecar's configuration.", show_default=True),
]
DEFAULT_CONFIG = Path("trackmate-data/sidecar.yaml")

sidecar = typer.Typer(
    help="The agent that applications send to, in the foreground. Example: [bold]trackmate sidecar --config sidecar.yaml[/bold]",
    rich_markup_mode="rich",
    add_completion=False,
)


@sidecar.callback(invoke_without_command=True)
def run(context: typer.Context, config_file: ConfigOption = DEFAULT_CONFIG) -> None:
    """Run the sidecar until SIGTERM; SIGHUP takes new configuration. Logs are JSON lines on stderr."""
    context.obj = config_file
    if context.invoked_subcommand is None:
        from sidecar.main import serve

        _require(config_file)
        serve(config_file)


@sidecar.command()
def check(
    context: typer.Context,
    config_file: Annotated[
        Path | None, typer.Option("--config", "-c", help="The sidecar's configuration.", show_default=str(DEFAULT_CONFIG))
    ] = None,
    deliver: Annotated[
        bool, typer.Option("--deliver", help="Also send each backend a test event (log, trackmate.check).")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Check the configuration, then try every backend at once: can it be reached, would it take events?

    Needs no spool and disturbs no running sidecar. With --deliver each backend gets one event of its own, whatever its `match`.
    Exit code 1 when one fails, 2 when the configuration is wrong: all its mistakes are named.

    Example:

        trackmate sidecar check --config sidecar.yaml --deliver
    """
    from sidecar import tls
    from sidecar.check import check_all

    file = config_file or context.obj
    _require(file)
    settings = config.load(file)
    if settings.tls is not None and (problems := tls.problems(settings.tls)):
        raise ConfigError(str(file), problems)
    if not settings.backends and not as_json:
        terminal.stdout().print("the configuration is good; it names no backend: events would stay in the spool")
        return
    with terminal.bar("trying the backends", len(settings.backends)) as bar:
        done: list[str] = []

        def tell(result: CheckResult) -> None:
            done.append(result.name)
            bar.update(len(done), result.name)

        results = asyncio.run(check_all(settings.backends, deliver=deliver, done=tell))
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode({"backends": results})).decode())
    else:
        terminal.stdout().print(_check_table(results))
    if not all(result.ok for result in results):
        raise typer.Exit(1)


def _require(file: Path) -> None:
    """Raise TrackMateError with what to do when the configuration is not there."""
    if not file.exists():
        raise TrackMateError(
            f"there is no {file}: name the sidecar's configuration with --config, or make one with 'trackmate up'"
        )


def _check_table(results: list[CheckResult]) -> Table:
    rows = [
        (
            result.name,
            result.type,
            result.priority,
            result.delivery,
            "[green]ok[/green]" if result.ok else "[red]failed[/red]",
            "" if result.latency_ms is None else f"{result.latency_ms:.1f} ms",
            escape(result.detail),
        )
        for result in results
    ]
    columns = ["backend", "type", "priority", "delivery", "", "latency", "what was found, what to do"]
    return terminal.table("", columns, rows, right=["priority", "latency"])


def replay(
    backend: Annotated[str, typer.Option("--backend", "-b", help="Name of the backend whose dead letters are sent again.")],
    config_file: ConfigOption = DEFAULT_CONFIG,
    since: Annotated[
        str | None, typer.Option(help="Only those refused since then: RFC 3339, or how long ago, such as 2h.")
    ] = None,
    until: Annotated[str | None, typer.Option(help="Only those refused before then.")] = None,
    reason: Annotated[str | None, typer.Option(help="Only those with this text in their reason.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count them by reason, and send nothing.")] = False,
) -> None:
    """Send again what a backend refused for good, beside a running sidecar.

    What is refused once more stays, with the new reason; then the exit code is 1.

    Example:

        trackmate replay -b elk --since 2h --reason "mapper_parsing" --dry-run
    """
    from sidecar.replay import Selection, survey
    from sidecar.replay import replay as send_again

    _require(config_file)
    settings = config.load(config_file)
    chosen = next((item for item in settings.backends if item.name == backend), None)
    if chosen is None:
        names = ", ".join(item.name for item in settings.backends) or "none"
        message = f"no backend '{backend}' in {config_file}; there are: {names}"
        raise TrackMateError(message)
    now = datetime.now(UTC)
    selection = Selection(_moment("--since", since, now), _moment("--until", until, now), reason)
    found = survey(settings.spool.dir, backend, selection)
    console = terminal.stdout()
    if dry_run:
        _show_survey(found)
        return
    with terminal.bar("sending dead letters again", found.events) as bar:

        def show(result: ReplayResult) -> None:
            bar.update(result.delivered + result.refused, f"{result.delivered} delivered, {result.refused} refused again")

        result = asyncio.run(send_again(settings.spool.dir, chosen, selection=selection, progress=show))
    left_out = f", {result.left_out} left out" if result.left_out else ""
    console.print(f"{result.delivered} events delivered, {result.refused} refused again{left_out}, from {result.files} files")
    for words in result.reasons:
        console.print(f"  refused: {words}", markup=False)
    if result.unreadable:
        console.print(f"{result.unreadable} lines are no dead letters; they are kept beside the others as .unreadable-…")
    if result.refused:
        raise typer.Exit(1)


def _show_survey(found: Survey) -> None:
    console = terminal.stdout()
    rows = [(count.events, count.first_at, count.last_at, escape(count.reason)) for count in found.reasons]
    if rows:
        console.print(terminal.table("", ["events", "first refused", "last refused", "reason"], rows, right=["events"]))
    left_out = f", {found.left_out} left out" if found.left_out else ""
    console.print(f"{found.events} events would be sent again{left_out}, from {found.files} files; nothing was sent")


def _moment(option: str, text: str | None, now: datetime) -> datetime | None:
    """A moment given as RFC 3339 (UTC unless it says otherwise) or as a time before now. Raises TrackMateError."""
    if text is None:
        return None
    with suppress(ValueError):
        return now - timedelta(seconds=parse_duration(text))
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        message = f"{option} {text!r}: expected a moment such as 2026-07-01T09:00:00Z, or how long ago, such as 2h"
        raise TrackMateError(message) from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
