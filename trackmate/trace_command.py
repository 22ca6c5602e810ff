"""`trackmate trace`: every place where one event is, the files of this machine included."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import httpx
import msgspec
import typer

from contract.errors import InvalidBody, TrackMateError
from contract.ids import is_uuid
from trackmate import terminal
from trackmate.data_folder import DEFAULT_DATA, DataFolder, DataOption
from trackmate.gateway_api import GatewayApi
from trackmate.services import StackConfig, read_stack

_EXIT_NOWHERE = 1
_SIDECAR_SECONDS = 15.0
_EVERYTHING = 1 << 62
_SHOWN = 4
_OBVIOUS = frozenset({"ingested_at", "site_id", "timestamp", "kind"})
"""Details that are the event's own, or stand in another column."""


def trace(
    event_id: Annotated[str, typer.Argument(help="The event's id.")],
    data: DataOption = DEFAULT_DATA,
    url: Annotated[str | None, typer.Option(help="The gateway.", show_default="from the data folder")] = None,
    token: Annotated[str | None, typer.Option(envvar="TRACKMATE_TOKEN", help="Token, where the gateway wants one.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Tell where an event is and since when: SDK spool, sidecar spool, dead letters, hot store, bronze, silver, custody.

    Exit code 1 when it is nowhere.

    Example:

        trackmate trace 01939c5e-7c1a-7f6e-9d2b-3f4a5b6c7d8e
    """
    if not is_uuid(event_id):
        raise TrackMateError(f"{event_id[:64]!r} is not an event id: expected a UUID in lower case, as in the column event_id")
    folder = DataFolder(data)
    stack = read_stack(folder) if folder.trackmate_yaml.exists() else None
    if url is None and stack is None:
        folder.require()
    places = list(_local(stack, event_id, token)) if stack is not None else []
    own = stack.endpoints["gateway"] if stack is not None and url is None else None
    api = GatewayApi(own.url, token, certificate=own.certificate) if own is not None else GatewayApi(url or "", token)
    try:
        said = api.trace(event_id)
    finally:
        api.close()
    places += said["places"]
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode({**said, "places": places})).decode())
    else:
        _show(event_id, said.get("made_at"), places)
    if not any(place["status"] == "found" and place["place"] != "custody" for place in places):
        raise typer.Exit(_EXIT_NOWHERE)


def _local(stack: StackConfig, event_id: str, token: str | None) -> Iterator[dict[str, Any]]:
    """What this machine's own files say."""
    yield _in_files("sdk spool", [path for folder in stack.sidecar.adopt for path in folder.glob("*.jsonl*")], event_id)
    yield _told_by_sidecar(stack, event_id, token) or _in_spool(stack, event_id)
    spool = stack.sidecar.spool.dir
    yield _in_files("quarantine", sorted((spool / "quarantine").glob("*.ndjson")), event_id)
    yield _in_files("dead letters", sorted((spool / "dead").glob("*/*")), event_id)


def _told_by_sidecar(stack: StackConfig, event_id: str, token: str | None) -> dict[str, Any] | None:
    """What the running sidecar says of its spool, each backend included; None when it can't be asked: its files are read then."""
    end = stack.endpoints["sidecar"]
    try:
        answer = httpx.get(
            f"{end.url}/v1/events/{event_id}",
            headers={"Authorization": f"Bearer {token}"} if token else {},
            verify=end.verify(),
            timeout=_SIDECAR_SECONDS,
            trust_env=False,
        )
        said = answer.json()
        if answer.status_code == httpx.codes.NOT_FOUND and said["searched"]["complete"]:
            return {"place": "spool", "status": "absent"}
        if answer.status_code != httpx.codes.OK or said["spool"] is None:
            return None
        copy = {key: said["spool"][key] for key in ("seq", "segment", "received_at")}
        backends = [f"{backend['name']} {backend['state'].replace('_', ' ')}" for backend in said["backends"]]
    except (httpx.HTTPError, TrackMateError, ValueError, KeyError, TypeError):
        return None
    passed = [
        r["name"] for r in (*said["backends"], *said["readers"]) if r["state"] in {"delivered", "refused", "skipped", "passed"}
    ]
    return {"place": "spool", "status": "found", "copies": [{**copy, "passed": passed, "backends": backends}], "sidecar": said}


def _in_spool(stack: StackConfig, event_id: str) -> dict[str, Any]:
    from sidecar.spool.errors import SpoolError
    from sidecar.spool.reader import SpoolReader, load_checkpoint

    place: dict[str, Any] = {"place": "spool", "status": "absent"}
    folder = stack.sidecar.spool.dir
    if not folder.exists():
        return place
    wanted = event_id.encode()
    try:
        for record in SpoolReader(folder).read(0, max_events=_EVERYTHING, max_bytes=_EVERYTHING, closed_only=False):
            lines = record.ndjson()
            if wanted not in lines:
                continue
            offset = next((n for n, line in enumerate(lines.splitlines()) if wanted in line), 0)
            readers = {name: load_checkpoint(folder, name) for name in _readers(stack)}
            place["status"] = "found"
            place.setdefault("copies", []).append(
                {"seq": record.seq + offset, "passed": [n for n, at in readers.items() if at >= record.seq + offset]}
            )
    except (SpoolError, InvalidBody, OSError) as error:
        return {"place": "spool", "status": "unknown", "error": str(error)}
    return place


def _readers(stack: StackConfig) -> list[str]:
    return [*(backend.name for backend in stack.sidecar.backends), *stack.sidecar.readers]


def _in_files(name: str, paths: list[Path], event_id: str) -> dict[str, Any]:
    wanted = event_id.encode()
    copies = []
    for path in paths:
        try:
            with path.open("rb") as file:
                copies += [{"file": os.fspath(path), "line": number} for number, line in enumerate(file, 1) if wanted in line]
        except FileNotFoundError:
            # Replayed and deleted while we looked: it is found where it went.
            continue
        except OSError as error:
            return {"place": name, "status": "unknown", "error": f"{path}: {error.strerror}"}
    return {"place": name, "status": "found" if copies else "absent", "copies": copies}


def _show(event_id: str, made_at: str | None, places: list[dict[str, Any]]) -> None:
    colours = {"found": "green", "absent": "dim", "unknown": "yellow"}
    rows = []
    for place in places:
        detail = place.get("error") or "; ".join(_details(copy) for copy in (place.get("copies") or [])[:_SHOWN])
        status = f"[{colours.get(place['status'], 'white')}]{place['status']}[/]"
        rows.append((place["place"], status, place.get("at") or "", detail.replace("[", r"\[")))
    console = terminal.stdout()
    console.print(terminal.table("", ["place", "", "since", "details"], rows))
    if made_at:
        console.print(f"{event_id} was made at {made_at}", markup=False)


def _details(copy: dict[str, Any]) -> str:
    return ", ".join(f"{key} {_short(value)}" for key, value in copy.items() if value is not None and key not in _OBVIOUS)


def _short(value: object) -> str:
    if isinstance(value, list):
        return " and ".join(map(str, value)) or "none"
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value)
