"""`trackmate gateway` and `trackmate token new|list|revoke|rotate`."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from contract.errors import TrackMateError
from contract.settings import parse_duration
from federation.auth import SCOPES
from federation.config import find_config, load_config
from federation.token_file import TokenFile, TokenRecord

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="trackmate.yaml.", show_default="TRACKMATE_CONFIG, else in the data folder or here"),
]

token = typer.Typer(
    help="Access tokens of the gateway. Example: [bold]trackmate token new fab1-sidecar --scope ingest --site fab1[/bold]",
    rich_markup_mode="rich",
    no_args_is_help=True,
    add_completion=False,
)


def gateway(config: ConfigOption = None) -> None:
    """Run the API in the foreground until SIGTERM. Logs are JSON lines on stderr.

    It creates or upgrades the hot store's tables first, waiting for the database if it must; GET /ready says when it is done.

    Example: trackmate gateway --config trackmate.yaml
    """
    from federation.gateway.main import serve

    serve(find_config(config))


@token.command("new")
def new(
    token_id: Annotated[str, typer.Argument(metavar="ID", help="A name for it, such as who will use it.")],
    scope: Annotated[list[str], typer.Option("--scope", help=f"What it may do; repeat for more: {', '.join(SCOPES)}.")],
    site: Annotated[
        list[str] | None, typer.Option("--site", help="A site it may see and send for; repeat for more.", show_default="all")
    ] = None,
    expires: Annotated[str | None, typer.Option(help="How long it is valid, such as 90d.", show_default="until revoked")] = None,
    config: ConfigOption = None,
) -> None:
    """Make a token and print it: this once, for only its SHA-256 is kept. A running gateway takes it within seconds.

    Example: trackmate token new dashboards --scope query --expires 365d
    """
    unknown = sorted(set(scope) - set(SCOPES))
    if unknown:
        raise TrackMateError(f"--scope {' '.join(unknown)}: no such right; there are {', '.join(SCOPES)}")
    now = dt.datetime.now(dt.UTC)
    until = None if expires is None else now + _duration(expires)
    loaded = load_config(find_config(config))
    file = TokenFile(loaded.gateway.tokens_file)
    first = not loaded.tokens and not file.read()
    typer.echo(file.add(token_id, scope, site, until, now))
    if first:
        typer.echo(
            "This is the first token: from now on the gateway answers nobody without one. Give the sidecar one with the scope "
            "ingest, as `token` of its backend 'managed'; until then its events wait in its spool.",
            err=True,
        )


@token.command("list")
def show(config: ConfigOption = None) -> None:
    """Show the tokens that there are: names, rights and dates, never the tokens themselves.

    Example: trackmate token list
    """
    loaded = load_config(find_config(config))
    table = Table("id", "scopes", "sites", "made", "expires", "state", "kept in")
    now = dt.datetime.now(dt.UTC)
    for source, records in (
        (str(loaded.gateway.tokens_file), TokenFile(loaded.gateway.tokens_file).read()),
        (str(loaded.file), loaded.tokens),
    ):
        for record in records:
            sites = "all" if record.sites is None else ", ".join(record.sites)
            dates = (_date(record.created), _date(record.expires) or "never")
            table.add_row(record.id, ", ".join(record.scopes), sites, *dates, _state(record, now), source)
    Console().print(table)


@token.command("revoke")
def revoke(token_id: Annotated[str, typer.Argument(metavar="ID", help="The token's name.")], config: ConfigOption = None) -> None:
    """End a token. Every running gateway that reads the same file refuses it within 5 seconds.

    Example: trackmate token revoke fab1-sidecar
    """
    _file(config).revoke(token_id, dt.datetime.now(dt.UTC))
    typer.echo(f"token {token_id} is revoked")


@token.command("rotate")
def rotate(
    token_id: Annotated[str, typer.Argument(metavar="ID", help="The token's name.")],
    grace: Annotated[str, typer.Option(help="How long the old one goes on working, such as 1h.")] = "0s",
    config: ConfigOption = None,
) -> None:
    """Give a token a new secret and print it; rights stay as they are.

    Example: trackmate token rotate fab1-sidecar --grace 1h
    """
    typer.echo(_file(config).rotate(token_id, dt.datetime.now(dt.UTC), _duration(grace)))


def _file(config: Path | None) -> TokenFile:
    return TokenFile(load_config(find_config(config)).gateway.tokens_file)


def _duration(text: str) -> dt.timedelta:
    try:
        return dt.timedelta(seconds=parse_duration(text))
    except (ValueError, OverflowError) as error:
        raise TrackMateError(str(error)) from error


def _date(moment: dt.datetime | None) -> str:
    return "" if moment is None else f"{moment:%Y-%m-%d %H:%M}"


def _state(record: TokenRecord, now: dt.datetime) -> str:
    if record.revoked is not None:
        return "[red]revoked[/red]"
    if record.expires is not None and record.expires <= now:
        return "[yellow]expired[/yellow]"
    return "[green]valid[/green]"
