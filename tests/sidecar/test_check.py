"""`trackmate sidecar check`: what an operator is told before anything runs, and beside what runs."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sidecar.check import check_all
from sinks.base import DeliveryReport, Health, Refused, SinkBatch, Unavailable
from tests.services.base import free_port
from tests.sidecar.harness import RunningSidecar, event, files_backend, managed_backend, read_lines
from tests.sidecar.memory_log import ScriptedSink, backend_settings
from tests.sinks.gateway_double import GatewayDouble

NewSidecar = Callable[..., RunningSidecar]


def check(config: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "trackmate", "sidecar", "check", "--config", str(config), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def write(folder: Path, **settings: Any) -> Path:
    file = folder / "sidecar.yaml"
    file.write_text(json.dumps({"sidecar": {"spool": {"dir": "./spool"}, **settings}}))
    return file


def test_backend_that_fails_is_not_told_or_its_neighbour_with_it(tmp_path: Path, gateway: GatewayDouble) -> None:
    gateway.token = "right"
    wrong = managed_backend(gateway.url, "wrong-token", priority=3)
    wrong["config"]["token"] = "tm_quite_wrong"
    backends = [
        files_backend("files", priority=1),
        managed_backend(f"http://127.0.0.1:{free_port()}", "nobody", priority=2),
        wrong,
    ]
    file = write(tmp_path, backends=backends)
    done = check(file)
    assert done.returncode == 1, done.stderr
    lines = {words[0]: line for line in done.stdout.splitlines() if (words := line.replace("│", " ").split())}
    assert " ok " in lines["files"]
    assert "ms" in lines["files"]
    assert " failed " in lines["nobody"]
    assert "can't be reached" in done.stdout
    assert " failed " in lines["wrong-token"]
    assert "tm_quite_wrong" not in done.stdout + done.stderr
    assert not (tmp_path / "spool").exists()

    told = json.loads(check(file, "--json").stdout)["backends"]
    assert [(item["name"], item["ok"]) for item in told] == [("files", True), ("nobody", False), ("wrong-token", False)]
    assert told[0]["priority"] == 1


def test_test_event_is_not_delivered_or_not_alone(tmp_path: Path, gateway: GatewayDouble) -> None:
    file = write(tmp_path, backends=[files_backend("files"), managed_backend(gateway.url)])
    done = check(file, "--deliver", "--json")
    assert done.returncode == 0, done.stderr
    sent = {item["name"]: item["event_id"] for item in json.loads(done.stdout)["backends"]}
    assert list(gateway.events) == [sent["managed"]]
    (stored,) = read_lines(sorted((tmp_path / "out").glob("date=*/hour=*/*.jsonl")))
    assert (stored["event_id"], stored["kind"], stored["name"]) == (sent["files"], "log", "trackmate.check")
    assert sent["files"] != sent["managed"]


def test_check_delivers_though_nobody_asked(tmp_path: Path, gateway: GatewayDouble) -> None:
    assert check(write(tmp_path, backends=[files_backend("files"), managed_backend(gateway.url)])).returncode == 0
    assert gateway.events == {}
    assert list((tmp_path / "out").glob("**/*.jsonl*")) == []


def test_check_disturbs_a_running_agent(new_sidecar: NewSidecar, gateway: GatewayDouble) -> None:
    sidecar = new_sidecar(backends=[files_backend(), managed_backend(gateway.url)]).start()
    sidecar.post([event()])
    sidecar.wait_for_backend("files", position=1)
    assert check(sidecar.config, "--deliver").returncode == 0
    sidecar.post([event()])
    sidecar.wait_for_backend("files", position=2)
    sidecar.wait_for_backend("managed", position=2)
    assert sidecar.health()["spool"]["last_event"] == 2
    assert len(sidecar.delivered()) == 3
    assert len(gateway.events) == 3


def test_five_mistakes_are_named_one_at_a_time(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        listen="nowhere",
        colour="red",
        backends=[
            {"name": "a", "type": "carrier-pigeon"},
            files_backend("b", concurrency=7),
            {"name": "c", "type": "managed", "config": {"url": "ftp://x"}},
        ],
    )
    done = check(file)
    assert done.returncode == 2
    for path in ("listen", "colour", "backends[0].type", "backends[1].concurrency", "backends[2].config.url"):
        assert f"sidecar.{path}" in done.stderr
    assert "Traceback" not in done.stderr


def test_more_calls_than_a_sink_takes_are_configured(tmp_path: Path) -> None:
    done = check(write(tmp_path, backends=[files_backend("b", concurrency=7)]))
    assert done.returncode == 2
    assert "sidecar.backends[0].concurrency" in done.stderr
    assert "at most 1" in done.stderr


async def test_backends_are_tried_one_after_the_other() -> None:
    together = asyncio.Barrier(5)

    class Waits(ScriptedSink):
        async def check(self) -> Health:
            await together.wait()
            return Health(True, "works")

    results = await check_all([backend_settings(f"b{n}") for n in range(5)], new_sink=lambda _: Waits())  # type: ignore[arg-type,return-value]
    assert all(result.ok for result in results)


async def test_hung_or_faulty_backend_ends_the_check_of_the_others() -> None:
    class Hangs(ScriptedSink):
        async def open(self) -> None:
            await asyncio.Event().wait()

    class Breaks(ScriptedSink):
        async def check(self) -> Health:
            raise KeyError("a sink with a mistake")

        async def close(self) -> None:
            raise Unavailable("closing too")

    def refuses(batch: SinkBatch) -> DeliveryReport:
        return DeliveryReport(0, [Refused(0, None, "no such field")])

    def later(batch: SinkBatch) -> DeliveryReport:
        return DeliveryReport(0, retry=[0], message="the index is being made")

    sinks = {
        "hangs": Hangs(),
        "breaks": Breaks(),
        "refuses": ScriptedSink([refuses]),
        "later": ScriptedSink([later]),
        "good": ScriptedSink(),
    }
    told: list[str] = []
    results = await check_all(
        [backend_settings(name, timeout=0.2) for name in sinks],
        deliver=True,
        new_sink=lambda backend: sinks[backend.name],  # type: ignore[arg-type,return-value]
        done=lambda result: told.append(result.name),
    )
    details = {result.name: result.detail for result in results}
    assert [result.ok for result in results] == [False, False, False, False, True]
    assert "no answer within 0.2 s" in details["hangs"]
    assert "a sink with a mistake" in details["breaks"]
    assert "no such field" in details["refuses"]
    assert "the index is being made" in details["later"]
    assert sorted(told) == sorted(sinks)
    assert all(sink.closed for name, sink in sinks.items() if name != "breaks")
