"""`trackmate ingest`: load existing data through the sidecar."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from contract.errors import TrackMateError
from trackmate import terminal
from trackmate.ingest.load import Loader, Summary, lacks_mapping
from trackmate.ingest.mapping import load_mapping
from trackmate.ingest.process_metrics import sample, samples_for
from trackmate.ingest.rows import guess_format
from trackmate.ingest.sender import Sender
from trackmate.ingest.suggest import suggest

DEFAULT_URL = "http://127.0.0.1:17000"
EXIT_QUARANTINED = 1


def ingest(
    files: Annotated[list[Path] | None, typer.Argument(help="NDJSON or CSV, plain, gzip or zstd.", show_default=False)] = None,
    mapping: Annotated[Path | None, typer.Option(help="Mapping file: which column becomes what. Needed for CSV.")] = None,
    url: Annotated[str, typer.Option(envvar="TRACKMATE_SIDECAR_URL", help="The sidecar.")] = DEFAULT_URL,
    token: Annotated[str | None, typer.Option(envvar="TRACKMATE_TOKEN", help="Token, where the sidecar wants one.")] = None,
    site: Annotated[str | None, typer.Option(help="The site, for events that name none; wins over the mapping's.")] = None,
    app: Annotated[str | None, typer.Option(help="The application's name, likewise.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read, map and check everything, send nothing.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where a load that was cut off stopped.")] = False,
    work_dir: Annotated[
        Path | None, typer.Option(help="Folder for the quarantine and resume files.", show_default="beside the file")
    ] = None,
    patience: Annotated[float, typer.Option(help="Seconds to wait for a sidecar that is busy or away.")] = 300.0,
    suggest_mapping: Annotated[Path | None, typer.Option(help="Print a mapping draft for this file and end.")] = None,
    process_metrics: Annotated[
        bool, typer.Option("--process-metrics", help="Send metrics of this machine's processes instead of files.")
    ] = False,
    pid: Annotated[list[int] | None, typer.Option(help="With --process-metrics: only this process; may be repeated.")] = None,
    seconds: Annotated[float, typer.Option(help="With --process-metrics: for how long.")] = 0.0,
    interval: Annotated[float, typer.Option(min=0.1, help="With --process-metrics: seconds between two samples.")] = 1.0,
) -> None:
    """Load existing data through the same path as live events.

    Rows get ids made from their own content, so that loading a file twice adds nothing. Bad rows go to
    FILE.quarantine.ndjson with their number and the reason. Exit code: 0 all rows loaded, 1 some are in quarantine, 2 not done.

    Examples:

        trackmate ingest events.ndjson.gz

        trackmate ingest --suggest-mapping history.csv > map.yaml

        trackmate ingest history.csv --mapping map.yaml --dry-run

        trackmate ingest --process-metrics --seconds 60
    """
    if suggest_mapping is not None:
        typer.echo(suggest(suggest_mapping), nl=False)
        return
    if process_metrics:
        _send_process_metrics(url, token, patience, pid or [], site, app, seconds, interval)
        return
    if not files:
        raise TrackMateError(
            "no file given. Name one or more, or use --process-metrics; 'trackmate ingest --help' shows examples"
        )
    missing = [str(path) for path in files if not path.exists()]
    if missing:
        raise TrackMateError(f"no such file: {', '.join(missing)}. Nothing was sent; check the names")
    checked = load_mapping(mapping, {"site_id": site, "app": app}) if mapping else None
    bare = next((path for path in files if checked is None and guess_format(path) == "csv"), None)
    if bare is not None:
        raise lacks_mapping(bare)
    sender = None if dry_run else Sender(url, token, patience=patience)
    if sender is not None:
        sender.check()
    try:
        loader = Loader(sender, checked, site=site, app=app, work_dir=work_dir, resume=resume)
        summaries = [_load(loader, path) for path in files]
    finally:
        if sender is not None:
            sender.close()
    _report(summaries, dry_run=dry_run)
    if any(summary.quarantined for summary in summaries):
        raise typer.Exit(EXIT_QUARANTINED)


def _load(loader: Loader, path: Path) -> Summary:
    size = path.stat().st_size if path.exists() else 0
    with terminal.bar(escape(path.name), size) as bar:
        began = loader.clock()

        def show(summary: Summary, position: int, _size: int) -> None:
            rate = (summary.rows - summary.resumed_at) / max(loader.clock() - began, 1e-3)
            bad = f", {summary.quarantined:,} in quarantine" if summary.quarantined else ""
            bar.update(position, f"{summary.rows:,} rows, {rate:,.0f} rows/s{bad}")

        loader.on_progress = show
        try:
            return loader.load(path)
        except KeyboardInterrupt:
            bar.say(f"{path.name}: stopped; go on later with --resume")
            raise


def _report(summaries: list[Summary], *, dry_run: bool) -> None:
    console = terminal.stdout()
    columns = ["file", "rows", "events", "checked" if dry_run else "accepted", "quarantined", "seconds", "rows/s"]
    rows = [
        (
            escape(summary.path.name),
            summary.rows,
            summary.events,
            summary.events if dry_run else summary.accepted,
            summary.quarantined,
            f"{summary.seconds:.1f}",
            round((summary.rows - summary.resumed_at) / max(summary.seconds, 1e-3)),
        )
        for summary in summaries
    ]
    console.print(terminal.table("", columns, rows, right=columns[1:]))
    for summary in summaries:
        if summary.resumed_at:
            console.print(f"{summary.path.name}: went on after row {summary.resumed_at:,}", markup=False)
        if summary.quarantine:
            console.print(f"{summary.path.name}: see {summary.quarantine} for the bad rows and why", markup=False)
        if summary.shared_ids:
            console.print(
                f"{summary.path.name}: {summary.shared_ids:,} events share their id with another and would become one: "
                "make the mapping's key more precise",
                markup=False,
            )
        for row, where, reason in summary.reasons:
            console.print(f"{summary.path.name}: row {row}: {f'{where}: ' if where else ''}{reason}", markup=False)
        if len(summary.reasons) < summary.quarantined and summary.reasons:
            console.print(f"{summary.path.name}: and {summary.quarantined - len(summary.reasons):,} more bad rows", markup=False)
        for event in summary.sample:
            console.print(f"would send {event.decode()}", markup=False)


def _send_process_metrics(
    url: str,
    token: str | None,
    patience: float,
    pids: list[int],
    site: str | None,
    app: str | None,
    seconds: float,
    interval: float,
) -> None:
    host = socket.gethostname()
    sent = rejected = rounds = 0
    sender = Sender(url, token, patience=patience)
    sender.check()

    def take() -> list[bytes]:
        return list(sample(pids, site or "local", app or "process-metrics", host=host))

    try:
        with terminal.bar("process metrics", max(seconds, interval)) as bar:
            for events in samples_for(seconds, interval, take):
                answer = sender.send(events)
                sent, rejected, rounds = sent + answer.accepted, rejected + len(answer.rejected), rounds + 1
                bar.update(rounds * interval, f"{sent:,} events")
    finally:
        sender.close()
    terminal.stdout().print(f"{sent:,} metric events accepted in {rounds} rounds, {rejected} rejected")
    if rejected:
        raise typer.Exit(EXIT_QUARANTINED)
