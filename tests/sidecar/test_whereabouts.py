"""Where one event is: asked of a running agent for every fate an event can have, and of searches with too little to spend."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from contract.ids import uuid7
from contract.tokens import new_token
from sidecar.spool.damage import DamageLedger
from sidecar.spool.filesystem import DISK
from sidecar.spool.log import SpoolConfig, SpoolLog
from sidecar.spool.search import Budget, find_event
from tests.services.base import free_port, wait_until
from tests.sidecar.harness import RunningSidecar, event, events, files_backend, managed_backend, ndjson
from tests.sinks.gateway_double import GatewayDouble
from trackmate.data_folder import DataFolder
from trackmate.generated_config import generate

NewSidecar = Callable[..., RunningSidecar]


def ask(sidecar: RunningSidecar, event_id: str) -> dict[str, Any]:
    answer = sidecar.get(f"/v1/events/{event_id}")
    assert answer.status_code == 200, answer.text
    content: dict[str, Any] = answer.json()
    return {**content, "states": {backend["name"]: backend["state"] for backend in content["backends"]}}


def test_fate_of_an_event_is_told_wrong(new_sidecar: NewSidecar, gateway: GatewayDouble) -> None:
    dead = free_port()
    sidecar = new_sidecar(
        backends=[
            managed_backend(gateway.url, "good", priority=1),
            managed_backend(f"http://127.0.0.1:{dead}", "down", priority=2, probe_interval="200ms", match={"site_id": "fab1"}),
            files_backend("backup", priority=3, delivery="fallback", match={"site_id": "fab1"}),
            files_backend("alarms", "./alarms", match={"severity": "error"}),
        ],
        readers=["lake"],
    ).start()
    assert [b["stands_in_for"] for b in sidecar.health()["backends"] if b["name"] == "backup"] == [["good", "down"]]
    fine, refused, alarm = event(), event(), event(severity="error")
    gateway.refuse = {refused["event_id"]}
    sidecar.post([fine, refused, alarm])
    sidecar.wait_for_backend("good", lag_events=0)
    sidecar.wait_for_backend("alarms", lag_events=0)
    sidecar.wait_for_backend("down", state="down")

    told = ask(sidecar, fine["event_id"])
    assert told["spool"]["seq"] == 1
    assert told["spool"]["segment"] == "00000000000000000001.open"
    assert told["spool"]["received_at"] >= told["made_at"][:16]
    assert told["searched"]["complete"]
    assert told["states"] == {"good": "delivered", "down": "under_way", "backup": "standby", "alarms": "skipped"}
    down = next(backend for backend in told["backends"] if backend["name"] == "down")
    assert down["lag_events"] == 3
    assert "can't be reached" in down["error"]
    assert told["readers"] == [{"name": "lake", "state": "waiting", "position": 0}]

    told = ask(sidecar, refused["event_id"])
    assert told["states"]["good"] == "refused"
    assert "unknown here" in next(b["reason"] for b in told["backends"] if b["name"] == "good")
    assert ask(sidecar, alarm["event_id"])["states"]["alarms"] == "delivered"

    sidecar.post(events(2000))
    last = event()
    sidecar.post([last])
    assert ask(sidecar, last["event_id"])["spool"]["seq"] == 2004


def test_event_that_a_fallback_took_counts_as_delivered_or_waiting(new_sidecar: NewSidecar) -> None:
    dead = free_port()
    primary = managed_backend(f"http://127.0.0.1:{dead}", priority=1, probe_interval="200ms")
    sidecar = new_sidecar(backends=[primary, files_backend("backup", priority=2, delivery="fallback")]).start()
    sent = event()
    sidecar.post([sent])
    sidecar.wait_for_backend("backup", position=1)
    told = ask(sidecar, sent["event_id"])
    assert told["states"] == {"managed": "owed", "backup": "delivered"}
    assert told["backends"][0]["taken_by"] == ["backup"]
    assert told["backends"][1]["owed_to"] == ["managed"]
    with GatewayDouble(dead):
        sidecar.wait_for_backend("managed", lag_events=0, state="ok")
        sidecar.wait_for_backend("backup", owed=[], state="waiting")
        assert ask(sidecar, sent["event_id"])["states"] == {"managed": "delivered", "backup": "standby"}


def test_what_is_no_id_or_not_here_is_told_apart_badly(shared_sidecar: RunningSidecar) -> None:
    for wrong in ("it", "", "01939C5E-7C1A-7F6E-9D2B-3F4A5B6C7D8E", f"{uuid7()}/x"):
        answer = shared_sidecar.get(f"/v1/events/{wrong}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "bad_event_id")
    answer = shared_sidecar.get(f"/v1/events/{uuid7()}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_in_spool")
    assert answer.json()["searched"]["complete"]
    assert shared_sidecar.client.delete(f"/v1/events/{uuid7()}").status_code == 405


def test_event_is_shown_to_somebody_without_a_token(new_sidecar: NewSidecar) -> None:
    token, digest = new_token()
    sidecar = new_sidecar(tokens=[digest]).start()
    sent, headers = event(), {"Authorization": f"Bearer {token}"}
    assert sidecar.post([sent], headers=headers).status_code == 202
    assert sidecar.get(f"/v1/events/{sent['event_id']}").status_code == 401
    assert sidecar.get(f"/v1/events/{sent['event_id']}", headers={"Authorization": "Bearer x"}).status_code == 401
    assert sidecar.get(f"/v1/events/{sent['event_id']}", headers=headers).status_code == 200


def test_refused_event_is_forgotten_once_the_spool_has_let_go_of_it(new_sidecar: NewSidecar, gateway: GatewayDouble) -> None:
    refused = event()
    gateway.refuse = {refused["event_id"]}
    spool = {"dir": "./spool", "segment_bytes": "64KiB", "max_bytes": "4MiB"}
    sidecar = new_sidecar(spool=spool, backends=[managed_backend(gateway.url)]).start()
    sidecar.post([refused])
    body = ndjson(events(100, message="x" * 500))
    for _ in range(8):
        sidecar.post(body, headers={"Content-Type": "application/x-ndjson"})
    wait_until(lambda: sidecar.health()["spool"]["first_event"] > 1, seconds=30, what="the first segment to be deleted")
    told = ask(sidecar, refused["event_id"])
    assert told["spool"] is None
    assert told["states"] == {"managed": "refused"}


def test_trace_does_not_say_what_the_sidecar_knows(new_sidecar: NewSidecar, tmp_path: Path) -> None:
    sidecar = new_sidecar(backends=[files_backend()]).start()
    sent = event()
    sidecar.post([sent])
    sidecar.wait_for_backend("files", lag_events=0)
    folder = DataFolder(tmp_path / "data")
    generate(folder)
    folder.sidecar_yaml.write_text(sidecar.config.read_text().replace("./spool", str(sidecar.spool)))
    command = [sys.executable, "-m", "trackmate", "trace", sent["event_id"], "--data", str(folder.root), "--json"]
    with TraceGateway() as url:
        done = subprocess.run([*command, "--url", url], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    (spool,) = [place for place in json.loads(done.stdout)["places"] if place["place"] == "spool"]
    (copy,) = spool["copies"]
    assert (copy["seq"], copy["segment"], copy["backends"]) == (1, "00000000000000000001.open", ["files delivered"])


class TraceGateway:
    """A gateway that knows of no event."""

    def __enter__(self) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = b'{"event_id": "", "found": false, "made_at": null, "places": []}'
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                return

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()
        return f"http://127.0.0.1:{self._server.server_port}"

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


# ------------------------------------------------------------------------------------------------------------- the search alone


class Clock:
    """Unix time that the test sets."""

    def __init__(self) -> None:
        self.now = 1_790_000_000.0

    def __call__(self) -> float:
        return self.now


def budget(seconds: float = 60, max_bytes: int = 10**12) -> Budget:
    return Budget(time.monotonic() + seconds, max_bytes)


async def filled(folder: Path, clock: Clock, segments: int) -> tuple[SpoolLog, list[str]]:
    """One record of 10 events in each segment, each a minute after the other."""
    log = SpoolLog.open(SpoolConfig(dir=folder, segment_age=0.001, tick_interval=3600), wall=clock)
    ids = []
    for _ in range(segments):
        items = [event(event_id=uuid7(int(clock.now * 1000)), message="x" * 500) for _ in range(10)]
        ids.append(items[3]["event_id"])
        await log.append(ndjson(items), len(items))
        await log.tick()
        clock.now += 60
    return log, ids


def quiet(log: SpoolLog) -> Any:
    return log.reader(DamageLedger(None, DISK, lambda _: None))


async def test_search_reads_the_whole_spool_though_the_id_tells_the_time(tmp_path: Path) -> None:
    log, ids = await filled(tmp_path, Clock(), 20)
    for index, event_id in enumerate(ids):
        spent = budget()
        place = find_event(quiet(log), event_id, spent)
        assert place is not None
        assert place.seq == index * 10 + 4
        assert spent.segments <= 2
    await log.close()


@pytest.mark.parametrize("shift", [-30, 30], ids=["waited an hour", "clock ahead"])
async def test_event_whose_id_tells_another_time_is_not_found(tmp_path: Path, shift: int) -> None:
    clock = Clock()
    log, _ = await filled(tmp_path, clock, 10)
    odd = event(event_id=uuid7(int((clock.now + shift * 60) * 1000)))
    await log.append(ndjson([odd]), 1)
    clock.now += 60
    await log.tick()
    for _ in range(5):
        await log.append(ndjson(events(5)), 5)
        clock.now += 60
        await log.tick()
    place = find_event(quiet(log), odd["event_id"], budget())
    assert place is not None
    assert place.seq == 101
    await log.close()


async def test_search_goes_on_when_its_bytes_or_its_time_are_spent(tmp_path: Path) -> None:
    log, _ = await filled(tmp_path, Clock(), 20)
    spent = budget(max_bytes=20_000)
    assert find_event(quiet(log), uuid7(), spent) is None
    assert spent.ended_early is not None
    assert "20000 bytes" in spent.ended_early
    assert spent.bytes < 40_000
    spent = budget(seconds=-1)
    assert find_event(quiet(log), uuid7(), spent) is None
    assert spent.ended_early == "its time was over"
    await log.close()


async def test_id_in_a_field_of_another_event_passes_for_the_event(tmp_path: Path) -> None:
    log = SpoolLog.open(SpoolConfig(dir=tmp_path))
    wanted = event()
    await log.append(ndjson([event(parent_run_id=wanted["event_id"]), event(), wanted]), 3)
    place = find_event(quiet(log), wanted["event_id"], budget())
    assert place is not None
    assert place.seq == 3
    await log.close()
