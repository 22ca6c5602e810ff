"""Runs the services of a Procfile under honcho: started in order, watched, restarted, stopped in order, none left behind."""

from __future__ import annotations

import contextlib
import ctypes
import os
import queue
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from logging import LogRecord
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

import psutil
from honcho.environ import parse_procfile
from honcho.manager import Manager
from honcho.printer import Message, Printer

from contract.errors import TrackMateError
from trackmate import child

_PR_SET_CHILD_SUBREAPER = 36
_LOG_BYTES = 10 * 1024 * 1024
_LOG_FILES = 3
_POLL = 0.1
_MAX_RESTARTS = 5
_RESTART_WINDOW = 300.0
_TAIL_LINES = 15
_YOUNG = 5.0
_STRAY_SECONDS = 10.0


@dataclass(frozen=True)
class Service:
    """One line of the Procfile, and what we know about it."""

    name: str
    command: Sequence[str]
    ready: Callable[[], str | None]
    """None once the service answers, else what it is doing."""
    address: str
    after: tuple[str, ...] = ()
    """Services that must be ready before this one starts."""
    uses: tuple[str, ...] = ()
    """Services that it is stopped before, besides those in `after`."""
    start_seconds: float = 120.0
    stop_seconds: float = 15.0


class ServiceDied(TrackMateError):
    """A service ended that should run."""


@dataclass
class _State:
    log: RotatingFileHandler
    tail: list[str] = field(default_factory=list)
    pid: int | None = None
    thread: threading.Thread | None = None
    code: int | None = None
    starts: list[float] = field(default_factory=list)
    restart_at: float | None = None

    @property
    def running(self) -> bool:
        return self.thread is not None and self.thread.is_alive()


def procfile_text(services: Sequence[Service]) -> str:
    """The Procfile that runs these services; also good for `honcho start` by hand."""
    return "".join(f"{service.name}: {shlex.join(service.command)}\n" for service in services)


class Supervisor(Manager):  # type: ignore[misc]  # honcho has no types
    """honcho's manager with an order: every service waits for those it needs, and is stopped before them."""

    def __init__(
        self,
        procfile: str,
        services: Sequence[Service],
        *,
        env: Mapping[str, str],
        cwd: Path,
        logs: Path,
        echo: bool = False,
        on_event: Callable[[str, str], None] = lambda _service, _what: None,
    ) -> None:
        """`on_event(service, what)` hears what happens; `echo` writes the services' output to stdout as honcho does."""
        super().__init__(Printer(sys.stdout))
        self.events: queue.Queue[Message] = queue.Queue()
        self._services = {service.name: service for service in services}
        self._echo = echo
        self._on_event = on_event
        self._cwd = cwd
        self._states: dict[str, _State] = {}
        self._failed: str | None = None
        self._started = self._stopping = self._done = False
        self._pump: threading.Thread | None = None
        self._lock = threading.RLock()
        own = f"exec {shlex.quote(sys.executable)} -I -S {shlex.quote(child.__file__)} {os.getpid()} "
        for name, command in parse_procfile(procfile).processes.items():
            self.add_process(name, own + command, env=dict(env), cwd=str(cwd))
            log = RotatingFileHandler(logs / f"{name}.log", maxBytes=_LOG_BYTES, backupCount=_LOG_FILES, encoding="utf-8")
            self._states[name] = _State(log)
        if sys.platform.startswith("linux"):
            # What a service leaves behind becomes our child, so that we find it and can end it.
            ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    # ----------------------------------------------------------------------------------------------------------- start

    def start(self, cancelled: Callable[[], bool] = lambda: False) -> None:
        """Start everything and return once all of it is ready, or once `cancelled` says so.

        Raises ServiceDied with the end of its log when a service ends instead, or is not ready in time.
        """
        self._pump = threading.Thread(target=self._pump_events, name="supervisor", daemon=True)
        self._pump.start()
        waiting, ready = dict(self._services), set[str]()
        while waiting and not cancelled():
            for name, state in self._states.items():
                if state.code is not None:
                    raise ServiceDied(f"{name} ended with code {state.code} while the stack started. {self._tail(name)}")
            for name, service in list(waiting.items()):
                state = self._states[name]
                if not ready.issuperset(set(service.after) & self._services.keys()):
                    continue
                if state.thread is None:
                    self._on_event(name, "starting")
                    self._launch(name)
                    continue
                problem = service.ready()
                if problem is None:
                    ready.add(name)
                    del waiting[name]
                    self._on_event(name, "ready")
                elif time.monotonic() - state.starts[-1] > service.start_seconds:
                    raise ServiceDied(f"{name} is not ready after {service.start_seconds:g} s: {problem}. {self._tail(name)}")
                else:
                    self._on_event(name, problem)
            time.sleep(_POLL)
        self._started = True

    def _launch(self, name: str) -> None:
        state = self._states[name]
        state.code = state.pid = state.restart_at = None
        state.starts.append(time.monotonic())
        runner = self._processes[name]["obj"]
        state.thread = threading.Thread(target=runner.run, args=(self.events,), name=f"run {name}", daemon=True)
        state.thread.start()

    def _tail(self, name: str) -> str:
        state = self._states[name]
        lines = "\n  ".join(state.tail[-_TAIL_LINES:])
        return f"The end of {state.log.baseFilename}:\n  {lines}" if lines else f"Its log {state.log.baseFilename} is empty"

    # ----------------------------------------------------------------------------------------------------------- watch

    def failure(self) -> str | None:
        """Why the stack can't go on: a service that died again and again; None while all is well."""
        return self._failed

    def pids(self) -> dict[str, int]:
        """The process of each service that runs."""
        return {name: state.pid for name, state in self._states.items() if state.pid is not None and state.code is None}

    def _pump_events(self) -> None:
        while not self._done:
            try:
                message = self.events.get(timeout=_POLL)
            except queue.Empty:
                self._restart_due()
                continue
            state = self._states[message.name]
            if message.type == "line":
                self._write(state, message)
            elif message.type == "start":
                state.pid = message.data["pid"]
            elif message.type == "stop":
                self._stopped(message.name, state, message.data["returncode"])

    def _write(self, state: _State, message: Message) -> None:
        text = message.data.decode("utf-8", "replace").rstrip("\n")
        state.log.emit(LogRecord("", 0, "", 0, text, (), None))
        state.tail = [*state.tail[-_TAIL_LINES:], text]
        if self._echo:
            self._printer.write(message)

    def _stopped(self, name: str, state: _State, code: int) -> None:
        state.code = code
        if self._stopping:
            self._on_event(name, "stopped")
            return
        if not self._started:
            # During the first start that is an error, which `start` reports.
            self._on_event(name, f"ended with code {code}")
            return
        now = time.monotonic()
        recent = [moment for moment in state.starts if now - moment < _RESTART_WINDOW]
        if len(recent) > _MAX_RESTARTS:
            self._failed = f"{name} ended {len(recent)} times within {_RESTART_WINDOW:g} s. {self._tail(name)}"
            return
        state.restart_at = now + min(30.0, 0.5 * 2 ** len(recent))
        self._on_event(name, f"ended with code {code}; starting it again")

    def _restart_due(self) -> None:
        with self._lock:
            if self._stopping:
                return
            for name, state in self._states.items():
                if state.restart_at is not None and time.monotonic() >= state.restart_at:
                    self._end_orphans()
                    self._launch(name)
                elif state.restart_at is None and state.running and not _lives(state.pid):
                    # It is gone, and what it has left holds its output: honcho would wait for that.
                    self._end_orphans()

    # ------------------------------------------------------------------------------------------------------------ stop

    def stop(self, hurry: Callable[[], bool] = lambda: False) -> None:
        """Stop everything in order, each service before those it needs; then end whatever they left behind.

        `hurry` says whether waiting for a clean end is no longer wanted.
        """
        with self._lock:
            self._stopping = True
        for wave in self._stop_waves():
            began = time.monotonic()
            for name in wave:
                if self._states[name].running:
                    self._on_event(name, "stopping")
                    self._signal(self._states[name], signal.SIGTERM)
            for name in wave:
                self._await_end(name, began, hurry)
        self._sweep()
        self._done = True
        if self._pump is not None:
            self._pump.join(5)
        for state in self._states.values():
            state.log.close()

    def _await_end(self, name: str, began: float, hurry: Callable[[], bool]) -> None:
        state, service = self._states[name], self._services[name]
        while state.running and _lives(state.pid) and time.monotonic() - began < service.stop_seconds and not hurry():
            time.sleep(_POLL / 2)
        if state.running and _lives(state.pid):
            self._on_event(name, "did not stop in time: killed")
            self._kill_tree(state.pid)
        if state.thread is not None:
            state.thread.join(_POLL)
            if state.thread.is_alive():
                # The service is gone, and something that it started still holds its output.
                self._end_orphans(oldest=time.time())
                state.thread.join(5)

    def _stop_waves(self) -> list[list[str]]:
        """The services in groups that are stopped together, each before those it needs."""
        waves: list[list[str]] = []
        left = dict(self._services)
        while left:
            needed = {need for service in left.values() for need in (*service.after, *service.uses)}
            waves.append([name for name in left if name not in needed])
            for name in waves[-1]:
                del left[name]
        return waves

    @staticmethod
    def _signal(state: _State, number: int) -> None:
        if state.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(state.pid, number)

    @staticmethod
    def _kill_tree(pid: int | None) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            root = psutil.Process(pid)
            below = root.children(recursive=True)
            for process in [*below, root]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(below, timeout=2)

    def _sweep(self) -> None:
        """End the processes that services started in sessions of their own and did not wait for."""
        mine = {state.pid for state in self._states.values()}
        left = [p for p in psutil.Process().children(recursive=True) if p.pid in mine or self._left_behind(p)]
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.terminate()
        _gone, alive = psutil.wait_procs(left, timeout=5)
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(alive, timeout=5)

    def _end_orphans(self, oldest: float | None = None) -> None:
        """End what services that died left running: by now it is our own child. Only what was started before `oldest`."""
        services = {state.pid for state in self._states.values()}
        # A service that starts this very moment is not in our books yet.
        before = time.time() - _YOUNG if oldest is None else oldest
        for process in psutil.Process().children():
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.pid not in services and process.create_time() < before and self._left_behind(process):
                    self._kill_tree(process.pid)
                    # It became our child when its parent died, so it is for us to take its exit code.
                    process.wait(2)

    def _left_behind(self, process: psutil.Process) -> bool:
        """Whether a process works in our folder's environment: told by the variable that only services are given."""
        try:
            return process.environ().get(MARK) == str(os.getpid())
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            return False


def _lives(pid: int | None) -> bool:
    """Whether a service's own process still runs; one that has only just been asked for counts as living."""
    if pid is None:
        return True
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


MARK = "TRACKMATE_SUPERVISOR"
"""Environment variable of every service: the process id of its supervisor."""


def end_strays(variable: str, value: str) -> int:
    """End the services of a supervisor that was killed and that have not ended by themselves yet; how many there were.

    They are known by the mark in their environment, together with `variable` being `value`. Only for one who knows that no
    supervisor of theirs lives.
    """
    strays = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            environment = process.environ()
            if MARK in environment and environment.get(variable) == value and process.pid != os.getpid():
                strays.append(process)
    for process in strays:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    deadline = time.monotonic() + _STRAY_SECONDS
    while (alive := [process for process in strays if _lives(process.pid)]) and time.monotonic() < deadline:
        time.sleep(_POLL)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    return len(strays)


def service_environment(folder_variables: Mapping[str, str]) -> dict[str, Any]:
    """The environment that services run in: ours, with these variables, and the mark by which stray processes are known."""
    return {**os.environ, **folder_variables, MARK: str(os.getpid()), "PYTHONUNBUFFERED": "1"}
