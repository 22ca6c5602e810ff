"""The Python SDK's harness: does what it is told by JSON Lines (sdk/conformance/HARNESS.md)."""

from __future__ import annotations

import base64
import json
import os
import signal
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Callable

import monitoring_sdk as monitoring

CAPABILITIES = [
    "sidecar", "direct", "threads", "fork", "background", "int64", "bytes", "nan",
    "backend:sidecar", "backend:filesystem", "backend:webhook", "backend:s3", "backend:elk", "backend:zabbix",
]  # fmt: skip

Answer = dict[str, Any]
Command = dict[str, Any]


def value_of(value: Any) -> Any:
    """A value of the protocol as one of Python's."""
    if isinstance(value, list):
        return [value_of(item) for item in value]
    if isinstance(value, dict):
        if set(value) == {"$float"}:
            return float(value["$float"])
        if set(value) == {"$bytes"}:
            return base64.b64decode(value["$bytes"]).decode("utf-8", "surrogateescape")
        if set(value) == {"$surrogate"}:
            return chr(int(value["$surrogate"], 16))
        return {key: value_of(item) for key, item in value.items()}
    return value


class Harness:
    """The state between two commands: the contexts that are open."""

    def __init__(self) -> None:
        self._contexts: dict[str, tuple[ExitStack, monitoring.Run]] = {}

    def initialize(self, command: Command) -> Answer:
        monitoring.initialize(command.get("file") or command.get("config"))
        return {}

    def emit_event(self, command: Command) -> Answer:
        return {"event_id": monitoring.emit_event(value_of(command["event"]))}

    def emit_batch(self, command: Command) -> Answer:
        return {"event_ids": list(monitoring.emit_batch(value_of(command["events"])))}

    def repeat(self, command: Command) -> Answer:
        return {"slowest_us": _repeat(value_of(command["event"]), command["times"], {})}

    def threads(self, command: Command) -> Answer:
        event, slowest = value_of(command["event"]), []

        def emit(number: int) -> None:
            slowest.append(_repeat(event, command["times"], {"thread": number}))

        threads = [threading.Thread(target=emit, args=(number,)) for number in range(command["threads"])]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return {"slowest_us": max(slowest)}

    def context_start(self, command: Command) -> Answer:
        stack = ExitStack()
        run = stack.enter_context(monitoring.monitored_context(command["name"], value_of(command.get("metadata"))))
        self._contexts[command["context"]] = stack, run
        return {"run_id": run.run_id}

    def progress(self, command: Command) -> Answer:
        _, run = self._contexts[command["context"]]
        return {"event_id": run.progress(command["progress"], command.get("message"))}

    def finish(self, command: Command) -> Answer:
        stack, _ = self._contexts.pop(command["context"])
        stack.close()
        return {}

    def error(self, command: Command) -> Answer:
        stack, _ = self._contexts.pop(command["context"])
        kind: type[Exception] = type(command["type"], (Exception,), {"__module__": "builtins"})
        try:
            with stack:
                raise kind(command["message"])
        except kind:
            return {"raised": True}
        return {"raised": False}

    def flush(self, command: Command) -> Answer:
        result = monitoring.flush(command["timeout"])
        answer: Answer = {"flushed": bool(result)}
        backends = getattr(result, "backends", None)
        if backends:
            answer["backends"] = {
                name: {field: getattr(counts, field) for field in ("delivered", "spooled", "failed")}
                for name, counts in backends.items()
            }
        return answer

    def stats(self, command: Command) -> Answer:
        counts = monitoring.stats()
        fields = ("emitted", "sent", "spooled", "replayed", "rejected", "failed", "dropped", "queued")
        return {"stats": {field: getattr(counts, field) for field in fields}}

    def sleep(self, command: Command) -> Answer:
        time.sleep(command["seconds"])
        return {}

    idle = sleep

    def fork(self, command: Command) -> Answer:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            with os.fdopen(writing, "w") as out:
                out.write(json.dumps([self.answer(each) for each in command["commands"]]))
            sys.exit(0)
        os.close(writing)
        with os.fdopen(reading) as answers:
            said = answers.read()
        _, status = os.waitpid(child, 0)
        return {"answers": json.loads(said or "[]"), "status": os.waitstatus_to_exitcode(status)}

    def close(self, command: Command) -> Answer:
        monitoring.close()
        return {}

    def resources(self, command: Command) -> Answer:
        return {"threads": len(list(Path("/proc/self/task").iterdir())), "files": len(list(Path("/proc/self/fd").iterdir())) - 1}

    def crash(self, command: Command) -> Answer:
        how = command["how"]
        if how == "exit":
            sys.exit(0)
        if how == "exception":
            message = "as the suite wants"
            raise _Crash(message)
        os.kill(os.getpid(), signal.SIGKILL if how == "kill" else signal.SIGABRT)
        return {}

    def answer(self, command: Command) -> Answer:
        """What came of one command."""
        do: Callable[[Command], Answer] | None = None
        if not command["do"].startswith("_") and command["do"] != "answer":
            do = getattr(self, command["do"], None)
        if do is None:
            return _failed("other", message=f"no such command: {command['do']}")
        try:
            return {"ok": True, **do(command)}
        except monitoring.ConfigurationError as error:
            problems = [{"path": problem.path, "message": problem.message} for problem in error.problems]
            return _failed("config", message=str(error), problems=problems)
        except monitoring.InvalidEventError as error:
            return _failed("event", path=error.path, message=error.error)
        except monitoring.NotInitializedError as error:
            return _failed("state", message=str(error))


class _Crash(Exception):
    """What nobody catches."""


def _failed(kind: str, **fields: Any) -> Answer:
    return {"ok": False, "error": {"kind": kind, **fields}}


def _repeat(event: dict[str, Any], times: int, attributes: dict[str, Any]) -> float:
    slowest = 0
    for number in range(times):
        mine = {**event, "attributes": {**event.get("attributes", {}), **attributes, "n": number}}
        started = time.perf_counter_ns()
        monitoring.emit_event(mine)
        slowest = max(slowest, time.perf_counter_ns() - started)
    return slowest / 1000


def main() -> None:
    """Answer until the end of the input."""
    harness = Harness()
    _say({"harness": 1, "language": "python", "version": "0.1.0", "capabilities": CAPABILITIES})
    for line in sys.stdin:
        command = json.loads(line)
        answer = harness.answer(command)
        _say({"id": command["id"], **answer} if "id" in command else answer)


def _say(answer: Answer) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
