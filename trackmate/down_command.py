"""`trackmate down`: stop the stack that runs on a data folder."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import Annotated

import typer

from contract.errors import TrackMateError
from trackmate import terminal
from trackmate.data_folder import DEFAULT_DATA, DataFolder, DataOption


def down(
    data: DataOption = DEFAULT_DATA,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for a clean end.")] = 120.0,
) -> None:
    """Stop what 'trackmate up' or 'trackmate demo' started on this data folder, in order, and wait for its end.

    Example:

        trackmate down --data /srv/trackmate
    """
    folder = DataFolder(data)
    folder.require()
    running = folder.running()
    console = terminal.stdout()
    if running is None:
        console.print(f"Nothing runs on {folder.root}.", markup=False)
        return
    try:
        os.kill(running.pid, signal.SIGTERM)
    except PermissionError as error:
        raise TrackMateError(f"process {running.pid} belongs to another user: stop it as that user or as root") from error
    except ProcessLookupError:
        console.print("It has just stopped by itself.")
        return
    deadline = time.monotonic() + timeout
    while running.alive():
        if time.monotonic() > deadline:
            raise TrackMateError(
                f"process {running.pid} still stops its services after {timeout:g} s. Wait on with 'trackmate down', or ask it "
                f"to hurry with a second SIGTERM: kill {running.pid}"
            )
        with contextlib.suppress(ChildProcessError):
            os.waitpid(running.pid, os.WNOHANG)
        time.sleep(0.1)
    console.print(f"Stopped {', '.join(running.services)}.", markup=False)
