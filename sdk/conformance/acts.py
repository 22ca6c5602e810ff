"""The steps that make something happen: servers come and go, programs start, emit and end."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import re
import signal
import subprocess
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

from sdk.conformance.misbehaving import MisbehavingSidecar
from sdk.conformance.stage import Stage
from tests.services.base import free_port
from tests.sidecar.harness import RunningSidecar, files_backend

APP = {"name": "etcher", "site_id": "fab1"}

Step = Mapping[str, Any]


class Acts(Stage):
    """Each method `step_NAME` is a step."""

    def step_receiver(self, script: list[dict[str, Any]] | None) -> None:
        """Start a server that takes events, and answers its first requests as scripted."""
        self.receiver = MisbehavingSidecar()
        self.url = self.receiver.url
        self.receiver.then(*(script or []))

    def step_then(self, script: list[dict[str, Any]]) -> None:
        """Script the next answers."""
        self.misbehaving().then(*script)

    def step_default(self, answer: dict[str, Any]) -> None:
        """Answer like this whenever nothing is scripted."""
        self.misbehaving().default = answer

    def step_gone(self, gone: bool) -> None:
        """The server goes away, or comes back on the same port."""
        if gone:
            self.misbehaving().stop()
        else:
            self.misbehaving().start()

    def step_nobody(self, _: Any) -> None:
        """Nobody listens where the sidecar should be."""
        self.url = f"http://127.0.0.1:{free_port()}"

    def step_sidecar(self, settings: dict[str, Any] | None) -> None:
        """Start a real sidecar that writes to files."""
        settings = {"adopt_grace": "100ms", **(settings or {}), "backends": [files_backend()]}
        self.sidecar = RunningSidecar(**settings).start()
        self.url = self.sidecar.url

    def step_kill_sidecar(self, _: Any) -> None:
        """SIGKILL."""
        assert self.sidecar is not None
        self.sidecar.kill()

    def step_restart_sidecar(self, _: Any) -> None:
        """Start it again where it was."""
        assert self.sidecar is not None
        self.sidecar.start()

    def step_files(self, files: dict[str, str]) -> None:
        """Write files into the working folder."""
        for name, text in files.items():
            (self.work / name).write_text(text, encoding="utf-8")

    def step_environment(self, variables: dict[str, str]) -> None:
        """Set variables for processes that are started from now on."""
        self.environment.update(variables)

    def step_initialize(self, changes: dict[str, Any] | None, step: Mapping[str, Any]) -> None:
        """Initialize with the settings of a quick test, changed below `sdk` as given."""
        settings = {
            "sidecar": {"url": self.url or f"http://127.0.0.1:{free_port()}", "spool_dir": str(self.spool), "timeout": 5.0},
            "queue": {"flush_interval": 0.05},
            "app": dict(APP),
        }
        self.command("initialize", {"config": {"sdk": merged(settings, changes or {})}}, step)

    def step_initialize_with(self, argument: dict[str, Any], step: Mapping[str, Any]) -> None:
        """Initialize with exactly this: `config`, or `file`, or neither."""
        self.command("initialize", argument or {}, step)

    def step_direct(self, argument: dict[str, Any]) -> None:
        """Initialize direct mode with backends on real servers: `backends` is a list of {type, and what differs}."""
        chosen = []
        for number, backend in enumerate(argument["backends"]):
            name = backend.get("name", backend["type"])
            target = self.targets.get(name) or self.services.target(backend["type"], self.folder / name)
            self.targets[name] = target
            block = {"type": backend["type"], "name": name, "priority": number + 1, "config": target.config}
            chosen.append(merged(block, {key: value for key, value in backend.items() if key != "type"}))
        settings = {"mode": "direct", "direct_backends": chosen, **argument.get("sdk", {})}
        self.step_initialize(settings, argument)

    def step_end(self, expected: dict[str, Any] | None) -> None:
        """End a harness's input and wait for its end: `status`, and `within` seconds."""
        expected = expected or {}
        process = self.processes.pop(expected.get("as", "main"))
        status, seconds = process.end()
        process.close()
        assert status == expected.get("status", 0), f"it ended with {status}"
        # A busy machine may stretch two seconds; what hangs takes far longer than this.
        assert seconds < expected.get("within", 30.0), f"it took {seconds:.1f} s to end"

    def step_crash(self, argument: dict[str, Any]) -> None:
        """End a process in the middle: `how`, and the `status` that it ends with."""
        process = self.processes.pop(argument.get("as", "main"))
        process.tell({"do": "crash", "how": argument["how"]})
        status = process.wait()
        process.close()
        if "status" in argument:
            assert status == argument["status"], f"it ended with {status}"
        elif argument["how"] == "exception":
            assert status != 0, "an error that nobody caught ended with status 0"

    def step_signal(self, argument: dict[str, Any]) -> None:
        """Send a signal, and wait for the end: it must come `within` seconds."""
        process = self.processes.pop(argument.get("as", "main"))
        started = time.monotonic()
        process.process.send_signal(signal.Signals[argument["name"]])
        process.wait()
        assert time.monotonic() - started < argument.get("within", 30.0)
        process.close()

    def step_break_backend(self, name: str) -> None:
        """The backend's server refuses connections."""
        self.targets[name].stop()

    def step_mend_backend(self, name: str) -> None:
        """It takes them again."""
        self.targets[name].start()

    def step_spool_file(self, argument: dict[str, Any]) -> None:
        """Put a file into the spool folder as another process left it: `name`, and `events` or `text`."""
        self.spool.mkdir(exist_ok=True)
        text = argument.get("text")
        if text is None:
            text = "".join(json.dumps(event) + "\n" for event in argument["events"])
        (self.spool / argument["name"]).write_text(text, encoding="utf-8")

    def step_direct_spool_files(self, argument: dict[str, Any]) -> None:
        """Lay files that a dead process left for a backend: `files` are lists of lines, each an event, text or `$bytes`."""
        folder = self.spool / "direct" / program_folder(APP) / argument["name"]
        folder.mkdir(parents=True)
        number = 1
        for lines in argument["files"]:
            name = f"01890a5d-ac96-774b-8cce-0000000000aa.999999.{number:020}.jsonl"
            (folder / name).write_bytes(b"".join(_line(line) + b"\n" for line in lines))
            number += len(lines)

    def step_spool_is_a_file(self, _: Any) -> None:
        """Where the spool folder should be stands a file: nothing can be written there."""
        self.spool.write_text("")

    def step_emit_long_message(self, argument: dict[str, Any]) -> None:
        """Emit a log whose message has so many characters."""
        event = {"kind": "log", "name": "long", "message": argument["of"] * argument["characters"]}
        self.command("emit_event", {"event": event}, {})

    def step_emit_large(self, argument: dict[str, Any], step: Step) -> None:
        """Emit events with so many bytes of attributes."""
        event = {"kind": "log", "name": "large", "attributes": {"text": "x" * argument["bytes"]}}
        for _ in range(argument.get("times", 1)):
            self.command("emit_event", {"event": event}, step)

    def step_emit_nested(self, argument: dict[str, Any], step: Step) -> None:
        """Emit an event that nests so deep, counted as the contract does: the event itself is the first level."""
        value: Any = 1
        for _ in range(argument["levels"] - 1):
            value = {"a": value}
        self.command("emit_event", {"event": {"kind": "log", "name": "deep", "attributes": value}}, step)

    def step_retry_after_date(self, argument: dict[str, Any]) -> None:
        """Answer the next request by 503 with a date so many seconds from now."""
        moment = (datetime.now(UTC) + timedelta(seconds=argument["seconds"])).replace(microsecond=0)
        self.not_before = time.monotonic() + argument["at_least"]
        self.misbehaving().then({"status": 503, "headers": {"Retry-After": format_datetime(moment, usegmt=True)}})

    def step_until_replayed(self, argument: dict[str, Any]) -> None:
        """Emit and flush now and then, until so many events have come from the spool folder."""

        def replayed() -> bool:
            stats = self.process("main").ask({"do": "stats"})["stats"]
            if stats["replayed"] >= argument["events"]:
                return True
            self.command("emit_event", argument["by"], {})
            self.command("flush", {"timeout": 10}, {})
            return False

        self.wait_until(replayed, f"{argument['events']} events replayed", interval=0.3)

    def step_until_backend(self, argument: dict[str, Any]) -> None:
        """Emit and flush now and then, until a backend holds so many events besides those."""
        event = argument["by"]["event"]
        target = self.targets[argument["name"]]

        def there() -> bool:
            events = [each for each in target.read_back() if each["name"] != event["name"]]
            if len(events) >= argument["count"]:
                ids = {each["event_id"] for each in events}
                assert len(events) == len(ids) == argument["count"], f"{len(events)} events, {len(ids)} different"
                return True
            self.command("emit_event", {"event": event}, {})
            self.command("flush", {"timeout": 10}, {})
            return False

        self.wait_until(there, f"{argument['count']} events in {argument['name']}", interval=0.3)

    def step_until_refused_or_delivered(self, argument: dict[str, Any]) -> None:
        """Emit and flush until the spooled event of this name is kept aside or was delivered, and nothing waits."""

        def settled() -> bool:
            self.command("emit_event", argument["by"], {})
            self.command("flush", {"timeout": 10}, {})
            aside = [path for path in self.spool.glob("*.refused") if argument["name"] in path.read_text()]
            delivered = [event for event in self.events() if event["name"] == argument["name"]]
            return bool(aside or delivered) and not self.spooled()

        self.wait_until(settled, "the refused file", interval=0.2)

    def step_until_flushed(self, _: Any) -> None:
        """Flush until nothing waits in memory or on disk."""

        def empty() -> bool:
            flushed = self.process("main").ask({"do": "flush", "timeout": 10}).get("flushed")
            stats = self.process("main").ask({"do": "stats"})["stats"]
            return bool(flushed) and stats["queued"] == 0 and not self.spooled()

        self.wait_until(empty, "an empty queue and spool folder", interval=0.2)

    def step_tiny_disk(self, argument: dict[str, Any]) -> None:
        """Make the spool folder a file system of so many kilobytes."""
        self.spool.mkdir(exist_ok=True)
        size = f"size={argument['kilobytes']}k"
        subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", self.spool], check=True)
        self.on_close(lambda: subprocess.run(["umount", "--lazy", self.spool], check=True))

    def step_leaks(self, argument: dict[str, Any]) -> None:
        """Initialize, emit and close again and again: threads and open files don't grow."""
        first: dict[str, Any] = {}
        for number in range(argument["rounds"]):
            self.step_initialize({}, {})
            self.command("emit_event", {"event": {"kind": "log", "name": "a"}}, {})
            self.command("flush", {"timeout": 30}, {})
            self.command("close", {}, {})
            if number == 1:  # the first round loads what stays
                first = self.process("main").ask({"do": "resources"})
        for kind in ("threads", "files"):

            def settled(kind: str = kind) -> bool:
                return bool(self.process("main").ask({"do": "resources"})[kind] <= first[kind] + 1)

            self.wait_until(settled, f"as many {kind} as after the second round ({first[kind]})")


def program_folder(app: Mapping[str, str]) -> str:
    """What `sdk/python/SPOOL_FORMAT.md` calls a program's folder of direct mode."""
    digest = hashlib.sha256(f"{app['site_id']}\0{app['name']}".encode()).hexdigest()
    return f"{re.sub('[^A-Za-z0-9_-]', '_', app['name'])[:80]}-{digest[:8]}"


def _line(line: str | Mapping[str, Any]) -> bytes:
    """A line of a spool file: an event in the form of the SDKs, or what damage made of one."""
    if isinstance(line, str):
        return line.encode()
    if line.keys() == {"$bytes"}:
        return base64.b64decode(line["$bytes"])
    return json.dumps(line, separators=(",", ":")).encode()


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `changes` laid over it, level by level; a change to null removes."""
    result = copy.deepcopy(dict(base))
    for key, value in changes.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = merged(result[key], value)
        else:
            result[key] = value
    return result
