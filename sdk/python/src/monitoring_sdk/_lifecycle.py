"""The ends of a process: exit, signals, forks. What is queued is sent or put on disk in each of them."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

from monitoring_sdk import _runs, _state

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_before: dict[int, Any] = {}
"""The handler that each of our handlers stands in front of."""

_hooked = False


def install() -> None:
    """Watch over the ends of this process. Signals can only be watched from the main thread."""
    global _hooked  # noqa: PLW0603 - hooks are a process's own
    if not _hooked:
        _hooked = True
        atexit.register(_close)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=_in_child)
    _close_in_workers_of_multiprocessing()
    if threading.current_thread() is threading.main_thread():
        for number in _SIGNALS:
            _watch(number)


def watch_executors() -> None:
    """Be called before the interpreter, ending, shuts down the executors that sinks need: that is long before `atexit`.

    What is registered last is called first, so this must come after the import of `concurrent.futures.thread`.
    """
    register = getattr(threading, "_register_atexit", None)
    if register is not None:
        with contextlib.suppress(RuntimeError):  # it has begun to end
            register(_before_exit)


def uninstall() -> None:
    """Give the signals back, where nobody else has taken them meanwhile."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number, handler in list(_before.items()):
        if signal.getsignal(number) is _on_signal:
            signal.signal(number, handler)
            del _before[number]


def _watch(number: int) -> None:
    handler = signal.getsignal(number)
    # Ignored: the process goes on. None: not Python's, can't be called. Python's own for Ctrl-C raises, and exit follows.
    if handler in (signal.SIG_IGN, None, _on_signal, signal.default_int_handler):
        return
    _before[number] = handler
    signal.signal(number, _on_signal)


def _on_signal(number: int, frame: FrameType | None) -> None:
    """Do what the process would have done without us, with its events safe."""
    handler = _before.get(number, signal.SIG_DFL)
    if callable(handler):
        for client in _state.running():
            client.wake()
        handler(number, frame)
        return
    if _state.client is not None:
        _runs.abort_open(signal.Signals(number).name, f"the process was ended by signal {number}")
    # The signal may have come in the middle of close(), which will not go on: do all of it again.
    retired = () if _state.retired is None else (_state.retired,)
    for client in (*_state.running(), *retired):
        client.close()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _before_exit() -> None:
    for client in _state.running():
        client.before_exit()


def _close() -> None:
    for router in list(_state.routers):
        router.close()
    client = _state.retire()
    if client is not None:
        client.close()


def _in_child() -> None:
    """After a fork: the child is an emitter of its own."""
    _runs.forget_open()
    _state.retired = None
    util = sys.modules.get("multiprocessing.util")
    for client in _state.running():
        client.start_in_child()
        if util is not None:  # it clears what was registered before the fork, so register when it has
            util.register_after_fork(client, _close_at_worker_end)


def _close_in_workers_of_multiprocessing() -> None:
    process: Any = sys.modules.get("multiprocessing.process")
    if process is not None and process.parent_process() is not None:
        _close_at_worker_end(None)


def _close_at_worker_end(_: object) -> None:
    """Workers of multiprocessing leave by os._exit, which skips atexit; they run these instead."""
    util: Any = sys.modules["multiprocessing.util"]
    util.Finalize(None, _close, exitpriority=-100)
