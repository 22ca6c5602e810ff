"""Drives one language's harness: a child process that is told by JSON Lines what to do with its SDK (see HARNESS.md)."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

PROTOCOL = 1


class HarnessEnded(AssertionError):
    """The harness ended, or said nothing, where an answer was due."""


class Harness:
    """A running harness in the folder `cwd`; its standard error goes to `stderr.txt` there."""

    def __init__(self, command: Sequence[str | Path], *, cwd: Path, env: Mapping[str, str]) -> None:
        self.stderr_path = cwd / "stderr.txt"
        with self.stderr_path.open("ab") as log:
            self.process = subprocess.Popen(
                [str(part) for part in command],
                cwd=cwd,
                env=dict(env),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._number = 0
        self.hello = self._next(60.0)
        assert self.hello.get("harness") == PROTOCOL, f"not a harness of protocol {PROTOCOL}: {self.hello}"

    @property
    def capabilities(self) -> frozenset[str]:
        """What the harness says that it can do."""
        return frozenset(self.hello["capabilities"])

    def ask(self, command: Mapping[str, Any], seconds: float = 60.0) -> dict[str, Any]:
        """The answer to a command. Raises HarnessEnded when none comes within `seconds`."""
        self.tell(command)
        answer = self._next(seconds)
        assert answer.get("id") == self._number, f"the answer to another command: {answer}"
        return answer

    def tell(self, command: Mapping[str, Any]) -> None:
        """Send a command whose answer is not waited for: `crash`."""
        self._number += 1
        assert self.process.stdin is not None
        line = json.dumps({"id": self._number, **command}).encode() + b"\n"
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(line)
            self.process.stdin.flush()

    def end(self, seconds: float = 30.0) -> tuple[int, float]:
        """End its input and wait for its end: exit status, and how many seconds that took."""
        started = time.monotonic()
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        return self.wait(seconds), time.monotonic() - started

    def wait(self, seconds: float = 30.0) -> int:
        """Wait for its end: exit status."""
        try:
            status = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            message = f"the harness goes on after {seconds} s; {self._said()}"
            raise HarnessEnded(message) from None
        self._reader.join(5)
        return status

    def kill(self) -> None:
        """SIGKILL, to it and to its children."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(30)

    def close(self) -> None:
        """Whatever became of the test: nothing of it goes on."""
        self.kill()
        self._reader.join(5)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with contextlib.suppress(ValueError):  # closed by the test's end
            for line in self._stdout():
                self._lines.put(line)
        self._lines.put(b"")

    def _stdout(self) -> Iterator[bytes]:
        assert self.process.stdout is not None
        yield from self.process.stdout

    def _next(self, seconds: float) -> dict[str, Any]:
        try:
            line = self._lines.get(timeout=seconds)
        except queue.Empty:
            message = f"the harness said nothing for {seconds} s; {self._said()}"
            raise HarnessEnded(message) from None
        if not line:
            self._lines.put(b"")
            message = f"the harness ended with {self.process.wait(10)}; {self._said()}"
            raise HarnessEnded(message)
        try:
            answer: dict[str, Any] = json.loads(line)
        except ValueError:
            message = f"the harness said what is no JSON: {line[:300]!r}"
            raise HarnessEnded(message) from None
        return answer

    def _said(self) -> str:
        return "its standard error ends: " + self.stderr_path.read_text(errors="replace")[-2000:]
