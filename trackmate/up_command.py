"""`trackmate up`: start the embedded stack and keep it running."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.live import Live
from rich.text import Text

from contract.errors import TrackMateError
from trackmate import terminal
from trackmate.data_folder import DEFAULT_DATA, DataFolder, DataOption
from trackmate.generated_config import generate
from trackmate.services import StackConfig, named_groups, read_stack
from trackmate.stack import run_until_stopped, running_stack, stop_signals

_DETACH_SECONDS = 300.0
PortOffset = Annotated[
    int | None, typer.Option("--port-offset", help="For a new data folder: move every port by this much.", show_default=False)
]


def up(
    data: DataOption = DEFAULT_DATA,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", help="Start only these: postgres, gateway, sidecar, dagster.", show_default=False),
    ] = None,
    port_offset: PortOffset = None,
    detach: Annotated[bool, typer.Option("--detach", help="Return once all is ready; 'trackmate down' stops it.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show what the services write.")] = False,
) -> None:
    """Start PostgreSQL, sidecar, gateway and Dagster on this machine, and keep them running until Ctrl-C.

    The data folder gets its configuration files at the first start; they are yours to change.

    Examples:

        trackmate up

        trackmate up --data /srv/trackmate --detach

        trackmate up --only sidecar --only gateway --only postgres
    """
    named_groups(only)
    folder = DataFolder(data)
    made = generate(folder, port_offset)
    stack = read_stack(folder)
    if detach:
        _detach(folder, only or [])
        return
    console = terminal.stdout()
    if made:
        console.print(f"Made {', '.join(path.name for path in made)} in {folder.root}", markup=False)
    with (
        stop_signals() as stopper,
        start_display() as display,
        running_stack(stack, stopper, only=only, echo=verbose, on_event=display) as supervisor,
    ):
        display.finish()
        if not stopper.asked():
            print_addresses(stack, only)
            console.print("Ctrl-C stops everything.")
            run_until_stopped(supervisor, stopper)
        console.print("Stopping: the sidecar first hands over what it holds.")


class StartDisplay:
    """What each service is doing: one line each that changes on a terminal until `finish`; a line for each change elsewhere."""

    def __init__(self) -> None:
        self._console = terminal.stderr()
        self._began = time.monotonic()
        self._doing: dict[str, str] = {}
        # Refreshed by hand: it changes only when a service does.
        self._live = Live(console=self._console, auto_refresh=False) if self._console.is_terminal else None
        if self._live is not None:
            self._live.start()

    def __call__(self, service: str, what: str) -> None:
        """Take note of what a service does now."""
        if self._doing.get(service) == what:
            return
        self._doing[service] = what
        if self._live is None:
            self._console.print(f"{time.monotonic() - self._began:6.1f} s  {service}: {what}", markup=False)
            return
        lines = Text()
        for name, state in self._doing.items():
            lines.append("✔ " if state == "ready" else "… ", style="green" if state == "ready" else "yellow")
            lines.append(f"{name:<16}{state}\n")
        self._live.update(lines, refresh=True)

    def finish(self) -> None:
        """From now on every change is a line of its own."""
        if self._live is not None:
            self._live.stop()
            self._live = None


@contextmanager
def start_display() -> Iterator[StartDisplay]:
    """A display that leaves the terminal in order whatever happens."""
    display = StartDisplay()
    try:
        yield display
    finally:
        display.finish()


def print_addresses(stack: StackConfig, only: list[str] | None = None) -> None:
    """Print where everything answers."""
    from trackmate.services import chosen_groups

    ends = stack.endpoints
    rows = {
        "sidecar": ("your programs send here", ends["sidecar"].url),
        "gateway": ("API: try /docs, /v1/catalog", ends["gateway"].url),
        "dagster": ("assets, runs, backfills", ends["dagster"].url),
    }
    groups = chosen_groups(stack, only)
    listed = [(name, url, what) for name, (what, url) in rows.items() if name in groups]
    if "postgres" in groups:
        end = ends["postgres"]
        listed.append(("postgres", f"{end.host}:{end.port}", "the hot store; its URL is hot.dsn in trackmate.yaml"))
    terminal.stdout().print(terminal.table("", ["service", "address", "what"], listed))


def _detach(folder: DataFolder, only: list[str]) -> None:
    command = [sys.executable, "-P", "-m", "trackmate", "up", "--data", str(folder.root)]
    for name in only:
        command += ["--only", name]
    log = folder.logs / "up.log"
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - our own command line
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        _await_ready(folder, process, log, only)
    except KeyboardInterrupt:
        # It has a session of its own, so Ctrl-C did not reach it.
        terminal.stderr().print("Stopping what has started.")
        process.terminate()
        process.wait()
        raise


def _await_ready(folder: DataFolder, process: subprocess.Popen[bytes], log: Path, only: list[str]) -> None:
    deadline = time.monotonic() + _DETACH_SECONDS
    shown = 0
    while process.poll() is None and time.monotonic() < deadline:
        shown = _copy_lines(log, shown)
        running = folder.running()
        if running is not None and running.pid == process.pid and running.ready:
            print_addresses(read_stack(folder), only)
            terminal.stdout().print(
                f"Running in the background as process {process.pid}; 'trackmate down' stops it.", markup=False
            )
            return
        time.sleep(0.1)
    if process.poll() is None:
        process.terminate()
        process.wait()
        raise TrackMateError(f"the stack was not ready after {_DETACH_SECONDS:g} s; see {log}")
    text = log.read_text(encoding="utf-8", errors="replace")
    # What a service wrote before its end is quoted further in.
    _, found, reason = ("\n" + text).rpartition("\nerror: ")
    raise TrackMateError(reason.strip() if found else f"the stack ended with code {process.returncode}; see {log}")


def _copy_lines(log: Path, shown: int) -> int:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    for line in lines[shown:]:
        if " s  " in line:
            terminal.stderr().print(line, markup=False)
    return len(lines)
