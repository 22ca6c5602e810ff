"""`trackmate sidecar`, `trackmate sidecar check` and `trackmate replay`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from contract.errors import TrackMateError
from sidecar import config

if TYPE_CHECKING:
    from sidecar.config import BackendSettings, SidecarSettings
    from sidecar.replay import ReplayResult
    from sinks.base import Health

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

        serve(config_file)


@sidecar.command()
def check(context: typer.Context, config_file: Annotated[Path | None, typer.Option("--config", "-c")] = None) -> None:
    """Check the configuration, and ask every backend whether it would take events. Sends no event."""
    settings = config.load(config_file or context.obj)
    results = asyncio.run(_check_all(settings))
    table = Table("backend", "type", "works", "detail")
    for backend, health in results:
        table.add_row(backend.name, backend.type, "[green]yes[/green]" if health.ok else "[red]no[/red]", health.detail)
    Console().print(table)
    if not all(health.ok for _, health in results):
        raise typer.Exit(1)


async def _check_all(settings: SidecarSettings) -> list[tuple[BackendSettings, Health]]:
    return list(zip(settings.backends, await asyncio.gather(*map(_check, settings.backends)), strict=True))


async def _check(backend: BackendSettings) -> Health:
    from sidecar.router import open_sink
    from sinks.base import Health, describe

    sink = open_sink(backend)
    try:
        async with asyncio.timeout(backend.timeout):
            await sink.open()
            return await sink.check()
    except TimeoutError:
        return Health(False, f"no answer within {backend.timeout:g} s")
    except TrackMateError as error:
        return Health(False, str(error))
    except Exception as error:  # noqa: BLE001 - sinks of other packages may raise anything; it is what the operator wants to see
        return Health(False, describe(error))
    finally:
        await sink.close()


def replay(
    backend: Annotated[str, typer.Option("--backend", "-b", help="Name of the backend whose dead letters are sent again.")],
    config_file: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Send again what a backend refused for good, beside a running sidecar. Example: [bold]trackmate replay -b elk[/bold]"""
    from sidecar.replay import replay as send_again

    settings = config.load(config_file)
    chosen = next((item for item in settings.backends if item.name == backend), None)
    if chosen is None:
        names = ", ".join(item.name for item in settings.backends) or "none"
        message = f"no backend '{backend}' in {config_file}; there are: {names}"
        raise TrackMateError(message)
    console = Console()
    with console.status("sending dead letters again") as status:

        def show(result: ReplayResult) -> None:
            status.update(f"{result.files} files, {result.delivered} events delivered, {result.refused} refused again")

        result = asyncio.run(send_again(settings.spool.dir, chosen, progress=show))
    console.print(f"{result.delivered} events delivered, {result.refused} refused again, from {result.files} files")
    for reason in result.reasons:
        console.print(f"  refused: {reason}", markup=False)
    if result.unreadable:
        console.print(f"{result.unreadable} lines are no dead letters; they are kept beside the others as .unreadable-…")
    if result.refused:
        raise typer.Exit(1)
