"""`trackmate spool ls | cat | verify | export`: look into a sidecar's spool, beside a running sidecar or after it."""

from __future__ import annotations

import json
import os
import sys
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from contract.errors import TrackMateError
from trackmate import terminal
from trackmate.data_folder import DEFAULT_DATA, DataFolder, DataOption

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidecar.spool.inspection import Overview

spool_app = typer.Typer(
    help="Look into the sidecar's spool, also while the sidecar runs. Example: [bold]trackmate spool ls[/bold]",
    no_args_is_help=True,
    rich_markup_mode="rich",
    add_completion=False,
)

SpoolOption = Annotated[
    Path | None,
    typer.Option(
        "--spool", envvar="TRACKMATE_SPOOL", help="The spool's folder; by default `spool` in the data folder.", show_default=False
    ),
]
AfterOption = Annotated[int, typer.Option("--after", min=0, help="Start after the event with this sequence number.")]
_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


@spool_app.command("ls")
def list_spool(
    spool: SpoolOption = None,
    data: DataOption = DEFAULT_DATA,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Show segments, and readers with how far each has come.

    Example: [bold]trackmate spool ls --spool /var/lib/trackmate/spool[/bold]
    """
    from sidecar.spool.inspection import overview

    folder = _folder(spool, data)
    found = overview(folder)
    if as_json:
        typer.echo(json.dumps(_as_json(folder, found), indent=2))
        return
    console = terminal.stdout()
    rows = [
        (
            "closed" if segment.closed else "open",
            segment.first_seq,
            max(segment.last_seq, 0),
            segment.events,
            segment.bytes,
            segment.path.name,
        )
        for segment in found.segments
    ]
    numbers = ("first event", "last event", "events", "bytes")
    console.print(terminal.table("Segments", ("state", *numbers, "file"), rows, right=numbers))
    now = datetime.now(UTC)
    readers = [
        (
            reader.name,
            reader.seq,
            reader.lag,
            _duration((now - reader.waiting_since).total_seconds()) if reader.waiting_since else "",
            reader.problem or "",
        )
        for reader in found.readers
    ]
    columns = ("reader", "delivered up to", "lag in events", "waiting for", "problem")
    console.print(terminal.table("Readers", columns, readers, right=columns[1:4]))
    console.print(
        f"{found.events:,} events, {_size(found.bytes)} in {len(found.segments)} segments; spool {found.spool_id} in {folder}"
    )
    if found.kept_pieces:
        console.print(f"{found.kept_pieces} damaged pieces lie in {folder / 'corrupt'}: see trackmate spool verify")


@spool_app.command("cat")
def print_events(
    spool: SpoolOption = None,
    data: DataOption = DEFAULT_DATA,
    after: AfterOption = 0,
    limit: Annotated[
        int | None, typer.Option("--limit", "-n", min=0, help="Print at most so many events.", show_default="all")
    ] = None,
) -> None:
    """Print events as NDJSON, each with its own text, oldest first.

    Example: [bold]trackmate spool cat --after 41000 --limit 5 | jq .name[/bold]
    """
    from sidecar.spool.inspection import events

    out = sys.stdout.buffer
    try:
        for _, line in events(_folder(spool, data), after, limit):
            out.write(line + b"\n")
        out.flush()
    except BrokenPipeError:
        # Whoever read us has seen enough; without this the interpreter complains when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@spool_app.command("verify")
def verify_spool(
    spool: SpoolOption = None,
    data: DataOption = DEFAULT_DATA,
    bodies: Annotated[bool, typer.Option("--bodies/--checksums-only", help="Also open each body and count its events.")] = True,
) -> None:
    """Check every record; name what is damaged. Exit code 1 when anything is.

    Example: [bold]trackmate spool verify --spool /var/lib/trackmate/spool[/bold]
    """
    from sidecar.spool.inspection import overview, verify

    folder = _folder(spool, data)
    console = terminal.stdout()
    with terminal.bar("verifying", overview(folder).bytes) as bar:
        result = verify(folder, bodies=bodies, progress=lambda done, events: bar.update(done, f"{events:,} events"))
    for problem in result.problems:
        console.print(problem, markup=False)
    summary = f"{result.events:,} events in {result.records:,} records, {_size(result.bytes)}"
    if not result.problems:
        console.print(f"{summary}: all whole")
        return
    count = "1 problem" if len(result.problems) == 1 else f"{len(result.problems)} problems"
    console.print(f"{summary} are whole; {count}, {result.lost_events:,} events lost")
    raise typer.Exit(1)


@spool_app.command("export")
def export_events(
    to: Annotated[Path, typer.Option("--to", help="The file to write; with --events-per-file, the folder.", show_default=False)],
    spool: SpoolOption = None,
    data: DataOption = DEFAULT_DATA,
    after: AfterOption = 0,
    limit: Annotated[
        int | None, typer.Option("--limit", "-n", min=0, help="Export at most so many events.", show_default="all")
    ] = None,
    events_per_file: Annotated[
        int | None,
        typer.Option("--events-per-file", min=1, help="Write files of so many events, named by the first event's number."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
) -> None:
    """Write events to NDJSON files; a file has its name only when it is complete.

    Example: [bold]trackmate spool export --to backlog --events-per-file 1000000[/bold]
    """
    from sidecar.spool.inspection import events, overview

    folder = _folder(spool, data)
    found = overview(folder)
    first = max(after, found.segments[0].first_seq - 1 if found.segments else 0)
    total = min(max(found.last_seq - first, 0), limit if limit is not None else found.last_seq)
    written = files = 0
    stream = events(folder, after, limit)
    with terminal.bar("exporting", total) as bar:
        following = next(stream, None)
        while following is not None:
            target = to if events_per_file is None else to / f"{following[0]:020d}.ndjson"
            with _complete_file(target, force=force) as file:
                files += 1
                in_file = 0
                while following is not None and (events_per_file is None or in_file < events_per_file):
                    file.write(following[1] + b"\n")
                    in_file += 1
                    written += 1
                    if written % 1000 == 0:
                        bar.update(written, f"{written:,} events")
                    following = next(stream, None)
    terminal.stderr().print(f"{written:,} events in {files} {'file' if files == 1 else 'files'}: {to}", markup=False)


@contextmanager
def _complete_file(target: Path, *, force: bool) -> Iterator[BinaryIO]:
    if target.exists() and not force:
        message = f"{target} is there already: name another --to, or replace it with --force"
        raise TrackMateError(message)
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}.tmp")
    try:
        with aside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)


def _folder(spool: Path | None, data: Path) -> Path:
    folder = (spool or DataFolder(data).spool).expanduser().absolute()
    if not folder.is_dir():
        message = f"no spool in {folder}: name its folder with --spool (`sidecar.spool.dir` in sidecar.yaml)"
        raise TrackMateError(message)
    return folder


def _as_json(folder: Path, found: Overview) -> dict[str, object]:
    return {
        "folder": str(folder),
        "spool_id": found.spool_id,
        "bytes": found.bytes,
        "events": found.events,
        "last_seq": found.last_seq,
        "damaged_pieces_kept": found.kept_pieces,
        "segments": [
            {
                "file": segment.path.name,
                "closed": segment.closed,
                "first_seq": segment.first_seq,
                "last_seq": segment.last_seq,
                "events": segment.events,
                "bytes": segment.bytes,
            }
            for segment in found.segments
        ],
        "readers": [
            {
                "name": reader.name,
                "seq": reader.seq,
                "lag": reader.lag,
                "waiting_since": reader.waiting_since.isoformat() if reader.waiting_since else None,
                "problem": reader.problem,
            }
            for reader in found.readers
        ],
    }


def _size(count: float) -> str:
    unit = 0
    while count >= 1024 and unit < len(_UNITS) - 1:
        count /= 1024
        unit += 1
    return f"{count:,.0f} {_UNITS[unit]}" if unit == 0 else f"{count:,.1f} {_UNITS[unit]}"


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(max(seconds, 0.0), 60)
    hours, minutes = divmod(int(minutes), 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds:.0f} s" if minutes else f"{seconds:.1f} s"
