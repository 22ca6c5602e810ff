"""`trackmate sql`: ask the lake and the hot store in SQL, once or at a prompt."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import typer

from contract.errors import TrackMateError
from federation.config import find_config
from trackmate.sql_client import Answer, EmbeddedClient, GatewayClient, SqlClient
from trackmate.sql_output import Format, footer, write
from trackmate.sql_prompt import Prompt
from trackmate.terminal import stderr, stdout

SHOWN_ROWS: Final = 200
"""Rows of a table for people unless --limit says otherwise."""


def sql(
    statement: Annotated[str | None, typer.Argument(help="One SELECT; none: a prompt, or what comes on standard input.")] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", envvar="TRACKMATE_CONFIG", help="trackmate.yaml of the lake to ask.")
    ] = None,
    url: Annotated[str | None, typer.Option("--url", help="Ask a gateway instead, with a token's rights.")] = None,
    token: Annotated[str | None, typer.Option("--token", envvar="TRACKMATE_TOKEN", help="The token for the gateway.")] = None,
    form: Annotated[Format, typer.Option("--format", "-f", help="How the answer is written.")] = Format.TABLE,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the answer to this file.")] = None,
    as_of: Annotated[
        str | None, typer.Option("--as-of", help="Read the lake as it was then: 2026-05-01 or 2026-05-01T12:00:00Z (UTC).")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", "-n", min=1, help="Rows at most; 200 for tables on the screen.")] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Say how it would be run, and don't.")] = False,
) -> None:
    """Ask in SQL: bronze.*, silver.*, gold.* (the lake), hot.* (the last days), unified.events (both, each event once).

    Examples:

      trackmate sql "SELECT kind, count(*) FROM silver.events GROUP BY kind"

      trackmate sql "SELECT * FROM silver.runs WHERE status = 'failed'" --format csv --output failed.csv

      trackmate sql "SELECT count(*) FROM silver.events" --as-of 2026-05-01

      trackmate sql --explain "SELECT * FROM silver.events WHERE timestamp >= now() - INTERVAL '1 hour'"

      trackmate sql --url http://127.0.0.1:17080 "SELECT * FROM gold.run_hourly"

      trackmate sql        (a prompt: .tables, .schema silver.events, .help)
    """
    moment = None if as_of is None else parse_moment(as_of)
    client: SqlClient = GatewayClient(url, token) if url else EmbeddedClient(find_config(config))
    try:
        session = _Session(client, form, output, moment, limit, explain=explain)
        if statement is not None:
            session.run(statement)
        elif Prompt(session.run, client.tables, stderr()).loop():
            raise typer.Exit(1)
    finally:
        client.close()


class _Session:
    """The options, applied to each statement."""

    def __init__(
        self, client: SqlClient, form: Format, output: Path | None, as_of: datetime | None, limit: int | None, *, explain: bool
    ) -> None:
        self._client = client
        self._form = form
        self._output = output
        self._as_of = as_of
        self._limit = limit or (SHOWN_ROWS if form is Format.TABLE and output is None else None)
        self._explain = explain
        self._written = False

    def run(self, statement: str) -> None:
        """Ask, show the answer, and tell on standard error what it cost."""
        if self._written and not sys.stdin.isatty():
            message = f"{self._output} has the answer to the statement before: --output takes one statement, run the others apart"
            raise TrackMateError(message)
        answer = self._ask(f"EXPLAIN {statement}" if self._explain else statement)
        write(answer, self._form, self._output, stdout())
        self._written = self._output is not None
        explained = answer.table.column_names == ["explain"]
        if not explained and (sys.stderr.isatty() or self._form is Format.TABLE):
            stderr().print(footer(answer), style="dim", highlight=False)

    def _ask(self, statement: str) -> Answer:
        console = stderr()
        with console.status("asking …", spinner="dots") if console.is_terminal else nullcontext():
            return self._client.ask(statement, limit=self._limit, as_of=self._as_of)


def parse_moment(text: str) -> datetime:
    """A moment as people write it: ISO 8601, UTC unless it says otherwise. Raises TrackMateError."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        message = f"--as-of {text!r} is no moment: write 2026-05-01, 2026-05-01T12:00:00Z or 2026-05-01T14:00:00+02:00"
        raise TrackMateError(message) from None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
