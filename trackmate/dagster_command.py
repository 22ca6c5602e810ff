"""`trackmate dagster`: Dagster's code server, web server and daemon alone, in the foreground."""

from __future__ import annotations

from trackmate.data_folder import DEFAULT_DATA, DataFolder, DataOption
from trackmate.services import read_stack
from trackmate.stack import run_until_stopped, running_stack, stop_signals
from trackmate.up_command import start_display


def dagster(data: DataOption = DEFAULT_DATA) -> None:
    """Run Dagster in the foreground until SIGTERM, for a stack whose other services run elsewhere; its logs go to stdout.

    Example:

        trackmate dagster --data /srv/trackmate
    """
    folder = DataFolder(data)
    stack = read_stack(folder)
    with (
        stop_signals() as stopper,
        start_display() as display,
        running_stack(stack, stopper, only=["dagster"], echo=True, on_event=display) as supervisor,
    ):
        display.finish()
        if not stopper.asked():
            run_until_stopped(supervisor, stopper)
