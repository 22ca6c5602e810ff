"""`trackmate doctor`: check this installation and say what to do."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil
import typer

from contract.errors import TrackMateError
from trackmate import terminal
from trackmate.data_folder import DEFAULT_DATA, DataFolder, DataOption
from trackmate.health import all_states
from trackmate.ports import holder, is_taken
from trackmate.services import StackConfig, read_stack

_PYTHON = (3, 11)
_DISK_WARN = 5 * 1024**3
_DISK_FAIL = 512 * 1024**2
_MEMORY_WARN = 1024**3
_CLOCK_SECONDS = 2.0
_SPOOL_WARN = 0.5
_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@dataclass(frozen=True)
class Finding:
    """One check: how it went, what was seen, and what to do about it."""

    check: str
    verdict: Literal["ok", "warn", "fail"]
    seen: str
    advice: str = ""


def doctor(data: DataOption = DEFAULT_DATA) -> None:
    """Check Python, disk, ports, configuration, services, clock, spool and Dagster, and say what to do. Changes nothing.

    Exit code: 0 nothing is broken, 1 something is.

    Example:

        trackmate doctor --data /srv/trackmate
    """
    findings = list(examine(DataFolder(data)))
    rows = [
        (f.check, f"[{_COLOURS[f.verdict]}]{f.verdict}[/]", f.seen.replace("[", r"\["), f.advice.replace("[", r"\["))
        for f in findings
    ]
    console = terminal.stdout()
    console.print(terminal.table("", ["check", "", "seen", "what to do"], rows))
    broken = sum(finding.verdict == "fail" for finding in findings)
    console.print(f"{broken} broken, {sum(f.verdict == 'warn' for f in findings)} to look at, of {len(findings)} checks")
    if broken:
        raise typer.Exit(1)


def examine(folder: DataFolder) -> Iterator[Finding]:
    """All checks, from the machine up to the services."""
    yield _python()
    yield _memory()
    yield _disk(folder.root)
    if not folder.trackmate_yaml.exists():
        yield Finding("data folder", "warn", f"{folder.root} is not set up", "'trackmate up' makes it; or name yours with --data")
        return
    try:
        stack = read_stack(folder)
    except TrackMateError as error:
        yield Finding("configuration", "fail", str(error), "correct these in the files; every mistake is listed")
        return
    yield Finding("configuration", "ok", f"{folder.trackmate_yaml.name}, {folder.sidecar_yaml.name}")
    yield _exposure(stack)
    if folder.running() is None:
        yield Finding(
            "stack",
            "warn",
            "no 'trackmate up' runs on this folder",
            "start it with 'trackmate up', unless its services run alone",
        )
        yield from _ports(stack)
    else:
        yield Finding("stack", "ok", "'trackmate up' runs")
    yield from _services(stack)
    yield _clock(stack)
    yield _spool(stack)
    yield from _left_events(folder)


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < _PYTHON:
        return Finding("python", "fail", version, "install Python 3.11 or newer")
    return Finding("python", "ok", version)


def _memory() -> Finding:
    free = psutil.virtual_memory().available
    seen = f"{free / 1024**3:.1f} GiB free"
    if free < _MEMORY_WARN:
        return Finding("memory", "warn", seen, "the whole stack wants about 1.5 GiB; start a part with --only")
    return Finding("memory", "ok", seen)


def _disk(root: Path) -> Finding:
    at = next(path for path in (root, *root.parents) if path.exists())
    free = shutil.disk_usage(at).free
    seen = f"{free / 1024**3:.1f} GiB free at {at}"
    if free < _DISK_FAIL:
        return Finding("disk", "fail", seen, "make room: the sidecar refuses events on a full disk")
    if free < _DISK_WARN:
        return Finding("disk", "warn", seen, "make room, or lower spool.max_bytes and hot.retention")
    return Finding("disk", "ok", seen)


def _exposure(stack: StackConfig) -> Finding:
    from sidecar.config import is_loopback

    open_ends = [end.service for end in stack.endpoints.values() if not is_loopback(end.host)]
    guarded = {"sidecar": bool(stack.sidecar.tokens), "gateway": bool(stack.config.tokens)}
    bare = [name for name in open_ends if not guarded.get(name, False)]
    if bare:
        return Finding(
            "access", "warn", f"{', '.join(bare)} listens beyond this machine without tokens", "see 'trackmate token --help'"
        )
    return Finding("access", "ok", "tokens" if open_ends else "this machine only")


def _ports(stack: StackConfig) -> Iterator[Finding]:
    for end in stack.endpoints.values():
        if is_taken(end):
            who = holder(end.port) or "another process"
            yield Finding(
                f"port {end.port}", "fail", f"wanted by {end.service}, held by {who}", f"stop that, or set {end.setting}"
            )
        else:
            yield Finding(f"port {end.port}", "ok", f"free for {end.service}")


def _services(stack: StackConfig) -> Iterator[Finding]:
    runs = stack.folder.running() is not None
    advised = f"see {stack.folder.logs} and 'trackmate status'" if runs else "start it with 'trackmate up', or by itself"
    for state in all_states(stack):
        advice = "" if state.ok else advised
        yield Finding(state.service, "ok" if state.ok else "fail", f"{state.state}: {state.detail}", advice)


def _clock(stack: StackConfig) -> Finding:
    """Compare our clock with the database's: events carry the sender's time, `ingested_at` the server's."""
    import psycopg

    try:
        with psycopg.connect(stack.config.hot.dsn.reveal(), connect_timeout=3) as connection:
            before = time.time()
            row = connection.execute("SELECT extract(epoch FROM clock_timestamp())::float8").fetchone()
            after = time.time()
    except psycopg.Error:
        return Finding("clock", "warn", "the hot store can't be asked for its time", "start it, then run this again")
    skew = 0.0 if row is None else max(0.0, row[0] - after, before - row[0])
    if skew > _CLOCK_SECONDS:
        return Finding("clock", "fail", f"differs from the hot store's by {skew:.1f} s", "set both by NTP")
    return Finding("clock", "ok", f"within {max(skew, 0.001):.3f} s of the hot store's")


def _spool(stack: StackConfig) -> Finding:
    from sidecar.spool.errors import SpoolError
    from sidecar.spool.reader import SpoolReader

    settings = stack.sidecar.spool
    if not settings.dir.exists():
        return Finding("spool", "ok", "empty")
    try:
        segments = SpoolReader(settings.dir).segments()
    except (SpoolError, OSError) as error:
        return Finding("spool", "fail", str(error), "see 'trackmate spool verify'")
    size = sum(segment.bytes for segment in segments)
    damaged = sum(1 for _ in (settings.dir / "corrupt").glob("*")) if (settings.dir / "corrupt").is_dir() else 0
    seen = f"{len(segments)} segments, {size / 1024**2:.1f} MiB of {settings.max_bytes / 1024**3:.1f} GiB"
    if damaged:
        return Finding("spool", "warn", f"{seen}; {damaged} damaged pieces kept aside", "see 'trackmate spool verify'")
    if size > _SPOOL_WARN * settings.max_bytes:
        return Finding("spool", "warn", seen, "a reader is far behind: see 'trackmate status'")
    return Finding("spool", "ok", seen)


def _left_events(folder: DataFolder) -> Iterator[Finding]:
    waiting = [path for path in folder.sdk_spool.glob("*") if path.is_file()]
    if waiting:
        yield Finding("sdk spool", "warn", f"{len(waiting)} files wait for a sidecar to adopt them", "they go out once one runs")
    refused = list((folder.spool / "dead").glob("*/*"))
    if refused:
        yield Finding(
            "dead letters", "warn", f"{len(refused)} files of events that a backend refused", "see 'trackmate replay --help'"
        )
