"""The embedded stack as one thing: set up, start, run, stop."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from contract.errors import TrackMateError
from trackmate.ports import refuse_taken
from trackmate.services import StackConfig, chosen_groups, make_services
from trackmate.supervisor import ServiceDied, Supervisor, end_strays, procfile_text, service_environment

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_FOLDER_VARIABLE = "TRACKMATE_DATA"
EventListener = Callable[[str, str], None]


class Stopper:
    """Hears Ctrl-C and SIGTERM: the first asks for an orderly stop, the second for a quick one."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._count = 0
        self._asked = threading.Event()

    def asked(self) -> bool:
        """Whether to stop."""
        return self._asked.is_set()

    def hurry(self) -> bool:
        """Whether to stop at once."""
        return self._count > 1

    def wait(self, seconds: float) -> bool:
        """Wait, but not longer than until a stop is asked for; tells whether one is."""
        return self._asked.wait(seconds)

    def hear(self, number: int, _frame: FrameType | None) -> None:
        """The signal handler."""
        self.signal = self.signal or number
        self._count += 1
        self._asked.set()


@contextmanager
def stop_signals() -> Iterator[Stopper]:
    """Turn SIGINT, SIGTERM and SIGHUP into a Stopper while the block runs; only in the main thread."""
    stopper = Stopper()
    before = {number: signal.signal(number, stopper.hear) for number in _SIGNALS}
    try:
        yield stopper
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def running_stack(
    stack: StackConfig, stopper: Stopper, *, only: list[str] | None = None, echo: bool = False, on_event: EventListener
) -> Iterator[Supervisor]:
    """Start the stack, give it to the block once it is ready, and stop it in order whatever happens then.

    When a stop is asked for while it starts, the block runs all the same and should look at `stopper` first.
    Raises TrackMateError when the folder is in use, a port is taken, or a service does not come up.
    """
    folder = stack.folder
    groups = chosen_groups(stack, only)
    with folder.locked():
        # The lock is ours, so whoever had it is dead.
        strays = end_strays(_FOLDER_VARIABLE, str(folder.root))
        if strays:
            on_event("leftovers", f"ended {strays} processes of a stack that was killed")
        refuse_taken([end for name, end in stack.endpoints.items() if name in groups])
        services = make_services(stack, groups)
        text = "# Written by 'trackmate up' at each start.\n" + procfile_text(services)
        folder.procfile.write_text(text, encoding="utf-8")
        addresses = {service.name: service.address for service in services}
        folder.announce(addresses, ready=False)
        environment = service_environment(
            {
                "DAGSTER_HOME": str(folder.dagster),
                "TRACKMATE_CONFIG": str(folder.trackmate_yaml),
                _FOLDER_VARIABLE: str(folder.root),
            }
        )
        supervisor = Supervisor(text, services, env=environment, cwd=folder.root, logs=folder.logs, echo=echo, on_event=on_event)
        try:
            supervisor.start(stopper.asked)
            if not stopper.asked():
                folder.announce(addresses, ready=True)
            yield supervisor
        finally:
            supervisor.stop(stopper.hurry)


def run_until_stopped(supervisor: Supervisor, stopper: Stopper) -> None:
    """Wait for a stop; raises ServiceDied when the stack can't go on."""
    while not stopper.wait(0.5):
        failure = supervisor.failure()
        if failure is not None:
            raise ServiceDied(failure)


def wait_for(what: str, condition: Callable[[], bool], *, seconds: float, stopper: Stopper, interval: float = 0.2) -> bool:
    """Wait until `condition` holds; False when a stop was asked for, TrackMateError when it takes longer than `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if stopper.wait(interval):
            return False
        if time.monotonic() > deadline:
            raise TrackMateError(f"waited {seconds:g} s in vain for {what}. See 'trackmate status' and the logs")
    return True
