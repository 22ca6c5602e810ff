"""What one case runs in: its folder, its servers, its harness processes, and how they are asked."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sdk.conformance import backends
from sdk.conformance.harness import Harness
from sdk.conformance.matching import mismatch
from sdk.conformance.misbehaving import MisbehavingSidecar
from tests.sidecar.harness import RunningSidecar

WAIT_SECONDS = 30.0
"""How long anything that must come about may take; nothing is slow on purpose, the machine may be."""


class Stage:
    """One run of one case in one language, before any step."""

    def __init__(self, program: Path, folder: Path, services: backends.Services) -> None:
        self.program = program
        self.folder = folder
        self.spool = folder / "sdk-spool"
        self.work = folder / "work"
        self.work.mkdir()
        self.services = services
        self.receiver: MisbehavingSidecar | None = None
        self.sidecar: RunningSidecar | None = None
        self.processes: dict[str, Harness] = {}
        self.saved: dict[str, Any] = {}
        self.environment: dict[str, str] = {}
        self.targets: dict[str, backends.Target] = {}
        self.url = ""
        self.not_before = 0.0
        self._endings: list[Callable[[], Any]] = []

    def close(self) -> None:
        """End everything."""
        for process in self.processes.values():
            process.close()
        if self.receiver is not None:
            self.receiver.close()
        if self.sidecar is not None:
            self.sidecar.client.close()
            self.sidecar.stop()
        for target in self.targets.values():
            target.close()
        for ending in self._endings:
            ending()

    def on_close(self, ending: Callable[[], Any]) -> None:
        """Do this at the very end."""
        self._endings.append(ending)

    def command(self, do: str, argument: dict[str, Any], step: Mapping[str, Any], seconds: float = 60.0) -> None:
        answer = self.process(step.get("as", "main")).ask({"do": do, **argument}, seconds)
        if "fails" in step:
            assert answer["ok"] is False, f"it was taken: {answer}"
            problem = mismatch(answer["error"], self.filled(step["fails"]))
        else:
            assert answer["ok"] is True, f"it failed: {answer}"
            problem = mismatch(answer, self.filled(step.get("expect", {})))
        assert problem is None, f"{problem}; the answer: {json.dumps(answer)[:1500]}"
        if "save" in step:
            self.saved[step["save"]] = answer

    def process(self, name: str) -> Harness:
        """The harness of this name, started when it is first asked for."""
        if name not in self.processes:
            self.processes[name] = self._start()
        return self.processes[name]

    def _start(self) -> Harness:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("MONITORING_")}
        # Where a program that is killed leaves what it would have tidied up.
        temporary = self.folder / "tmp"
        temporary.mkdir(exist_ok=True)
        return Harness([self.program], cwd=self.work, env={**environment, "TMPDIR": str(temporary), **self.environment})

    def filled(self, value: Any) -> Any:
        """A step's value with `$…` replaced by what is meant: `$URL`, `$SPOOL`, `$WORK`, `$CLOSED_PORT`, and what was saved."""
        if isinstance(value, dict):
            return {self.filled(key): self.filled(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.filled(item) for item in value]
        if not isinstance(value, str):
            return value
        known = {"$URL": self.url, "$SPOOL": str(self.spool), "$WORK": str(self.work)}
        for name, text in known.items():
            value = value.replace(name, text)
        found = re.fullmatch(r"\$([a-z_]+)\.([a-z_0-9.]+)", value)
        if found and found[1] in self.saved:
            item: Any = self.saved[found[1]]
            for part in found[2].split("."):
                item = item[int(part)] if isinstance(item, list) else item[part]
            return item
        return value

    def misbehaving(self) -> MisbehavingSidecar:
        assert self.receiver is not None, "the case has no receiver"
        return self.receiver

    def events(self) -> list[dict[str, Any]]:
        """Every event that arrived, as often as it did."""
        if self.sidecar is not None:
            return self.sidecar.delivered()
        receiver = self.misbehaving()
        return list(receiver.accepted)

    def spooled(self) -> list[dict[str, Any]]:
        """The events in the complete files of the spool folder."""
        found: list[dict[str, Any]] = []
        for path in sorted(self.spool.glob("*.jsonl")) if self.spool.exists() else ():
            try:
                found += [json.loads(line) for line in path.read_bytes().splitlines()]
            except FileNotFoundError:
                continue  # replayed meanwhile
        return found

    def wait_until(self, condition: Callable[[], bool], what: str, interval: float = 0.02) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while not condition():
            assert time.monotonic() < deadline, f"waited {WAIT_SECONDS:.0f} s in vain for {what}"
            time.sleep(interval)
