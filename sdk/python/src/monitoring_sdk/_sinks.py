"""Backends that other packages bring: the sinks of TrackMate and of third parties, each on an event loop and a thread of its own.

The sinks are asynchronous; a lane is not. A loop of its own for each means that a sink which blocks where it should await holds
up itself alone. Nothing of TrackMate is imported by name: the entry point `v1` of the group `trackmate.direct` gives the module
that makes any sink of the group `trackmate.sinks` usable with plain Python types.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import concurrent.futures.thread
import contextlib
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Callable

from monitoring_sdk import _lifecycle
from monitoring_sdk._batch import Batch
from monitoring_sdk._config import BackendSettings, schema
from monitoring_sdk._plugins import entry_points
from monitoring_sdk._transport import Answer, Bounds, Outcome, Rejection

_lifecycle.watch_executors()

GROUP = "trackmate.direct"
VERSION = "v1"

_CLOSE_SECONDS = 0.3
"""How long a sink may take to let go of its connections, and its loop to end."""

_inherited: list[object] = []
"""What belongs to the parents of this process: kept, because letting a loop or a client go would close what the parent uses."""


def problems(kind: str, config: Mapping[str, Any], base: Path | None) -> Iterable[tuple[str, str]]:
    """What is wrong with a backend's type or config block: places below the backend, and messages."""
    if kind not in entry_points("trackmate.sinks") or VERSION not in entry_points(GROUP):
        return [("type", f"the package for '{kind}' backends is missing or too old; {_advice(kind)}")]
    found: list[tuple[str, str]] = []
    for place, message in _seam().problems(kind, config, base):
        found.append(
            (place, f"the sink for '{kind}' can't be loaded ({message}); {_advice(kind)}" if place == "type" else message)
        )
    return found


def _seam() -> Any:
    return entry_points(GROUP)[VERSION].load()


def _advice(kind: str) -> str:
    if kind in schema()["$defs"]["backend"]["properties"]["type"]["enum"]:
        return f"install it with: pip install 'monitoring-sdk[{kind}]' (Python 3.11 or later)"
    return "install the package that brings it, and trackmate itself"


class SinkBackend:
    """One sink. `send` may be called from one thread at a time; the loop starts with the first call."""

    keeps_rejected = False
    outlives_executors = False

    def __init__(self, settings: BackendSettings) -> None:
        self._name = settings.name
        self._sink = _seam().make(settings.type, settings.name, settings.config, settings.base)
        self.bounds = Bounds(self._sink.max_events, self._sink.max_bytes)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._idle = threading.Event()
        self._idle.set()
        self._call: _Call | None = None
        self._interrupted = False

    def send(self, batch: Batch, timeout: float) -> Answer:
        """Have the sink deliver a batch; see `Transport.send`."""
        if self._interrupted:
            return Answer(Outcome.RETRY, "the SDK is closing")
        if not self._idle.wait(timeout):
            return Answer(Outcome.KEEP, f"it hangs: an earlier call still runs after another {timeout:g} s")
        call = _Call(self._sink, batch, self._idle)
        loop = self._running()
        self._call = call
        self._idle.clear()
        loop.call_soon_threadsafe(call.start)
        if self._interrupted:
            self.interrupt()
        try:
            return _judge(call.answer.result(timeout))
        except (TimeoutError, concurrent.futures.TimeoutError):
            loop.call_soon_threadsafe(call.cancel)
            return Answer(Outcome.KEEP, f"it did not answer within {timeout:g} s: it is hung or overloaded")
        except concurrent.futures.CancelledError:
            return Answer(Outcome.RETRY, "the SDK is closing")

    def interrupt(self) -> None:
        """Cancel the call that is under way."""
        self._interrupted = True
        call, loop = self._call, self._loop
        if call is not None and loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(call.cancel)
            call.answer.cancel()

    def tick(self) -> None:
        """The sink does by itself, on its loop, what has to be done now and then."""

    def close(self) -> None:
        """Close the sink and end its loop, as far as it lets us."""
        loop, thread = self._loop, self._thread
        if loop is None or thread is None:
            return
        self._loop = self._thread = None
        with contextlib.suppress(Exception):  # what is open then goes with the process; every event is safe by now
            asyncio.run_coroutine_threadsafe(self._sink.close(), loop).result(_CLOSE_SECONDS)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(_CLOSE_SECONDS)

    def forget(self) -> None:
        """Keep what is the parent's from being let go of."""
        _inherited.append((self._sink, self._loop, self._thread, self._call))

    def _running(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            loop = self._loop = asyncio.new_event_loop()
            loop.set_default_executor(_Threads())
            self._thread = threading.Thread(target=_run, args=(loop,), name=f"monitoring-sdk-{self._name}-loop", daemon=True)
            self._thread.start()
        return self._loop


class _Call:
    """One delivery on the loop; `idle` is set when the sink is done with it, which may be long after nobody waits any more."""

    def __init__(self, sink: Any, batch: Batch, idle: threading.Event) -> None:
        self.answer: concurrent.futures.Future[Mapping[str, Any]] = concurrent.futures.Future()
        self._sink = sink
        self._batch = batch
        self._idle = idle
        self._task: asyncio.Task[Mapping[str, Any]] | None = None

    def start(self) -> None:
        """Begin; called on the loop."""
        batch = self._batch
        coroutine = self._sink.deliver(batch.lines, batch.first_seq, batch.log)
        self._task = asyncio.get_running_loop().create_task(coroutine)
        self._task.add_done_callback(self._done)

    def cancel(self) -> None:
        """Have it end; called on the loop."""
        if self._task is not None:
            self._task.cancel()

    def _done(self, task: asyncio.Task[Mapping[str, Any]]) -> None:
        if task.cancelled():
            self.answer.cancel()
        elif self.answer.set_running_or_notify_cancel():
            error = task.exception()
            if error is not None:
                self.answer.set_exception(error)
            else:
                self.answer.set_result(task.result())
        self._idle.set()


def _run(loop: asyncio.AbstractEventLoop) -> None:
    """Run a loop until it is stopped, then let go of all that it has."""
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.wait(left, timeout=_CLOSE_SECONDS))
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()


class _Threads(concurrent.futures.ThreadPoolExecutor):
    """Runs each call (resolving a name, say) on a daemon thread of its own: one that hangs does not keep the process alive."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[Any]:
        """Run the call."""
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = fn(*args, **kwargs)
            except BaseException as error:  # noqa: BLE001 - the caller gets it, as from every executor
                future.set_exception(error)
            else:
                future.set_result(result)

        threading.Thread(target=run, name="monitoring-sdk-call", daemon=True).start()
        return future


def _judge(answer: Mapping[str, Any]) -> Answer:
    detail = answer["error"] or ""
    if not answer["taken"]:
        return Answer(Outcome.RETRY, detail, answer["retry_after"], alive=answer["alive"])
    return Answer(
        Outcome.ACCEPTED,
        detail,
        answer["retry_after"],
        rejected=tuple(Rejection(place, "", reason) for place, reason in answer["refused"]),
        retry=tuple(answer["retry"]),
        alive=True,
    )
