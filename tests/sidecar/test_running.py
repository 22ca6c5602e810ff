"""A sidecar as a process: started, reloaded, stopped, killed, with backends that fail."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.services.base import free_port, wait_until
from tests.sidecar.harness import PATH, RunningSidecar, event, events, files_backend, managed_backend, ndjson
from tests.sinks.gateway_double import GatewayDouble

NewSidecar = Callable[..., RunningSidecar]


def ids(items: list[dict[str, Any]]) -> set[str]:
    return {item["event_id"] for item in items}


def test_event_arrives_changed(new_sidecar: NewSidecar, gateway: GatewayDouble) -> None:
    sidecar = new_sidecar(backends=[managed_backend(gateway.url), files_backend()]).start()
    sent = [event(attributes={"z": 1.10, "a": [1, 2, {"b": None}], "text": "µ\u2028"}, metrics={"t": 65.25}) for _ in range(3)]
    for body, kind in (
        (sent[:1], "application/json"),
        ({"events": sent[1:2]}, "application/json"),
        (sent[2], "application/json"),
    ):
        assert sidecar.post(body, headers={"Content-Type": kind}).json() == {"accepted": 1, "rejected": []}
    sidecar.wait_for_backend("managed", position=3, lag_events=0, state="ok")
    sidecar.wait_for_backend("files", position=3)
    expected = {item["event_id"]: item for item in sent}
    assert gateway.events == expected
    assert {item["event_id"]: item for item in sidecar.delivered()} == expected


def test_dead_backend_delays_another(new_sidecar: NewSidecar) -> None:
    dead = free_port()
    sidecar = new_sidecar(backends=[managed_backend(f"http://127.0.0.1:{dead}", probe_interval="200ms"), files_backend()]).start()
    sent = events(50)
    sidecar.post(sent)
    sidecar.wait_for_backend("files", position=50)
    state = sidecar.wait_for_backend("managed", state="down")
    assert state["lag_events"] == 50
    assert "can't be reached" in state["error"]
    assert sidecar.get("/health").json()["status"] == "degraded"
    assert sidecar.get("/ready").status_code == 200
    assert sidecar.metric("sidecar_backend_lag_events", backend="managed") == 50
    with GatewayDouble(dead) as gateway:
        sidecar.wait_for_backend("managed", lag_events=0, state="ok", breaker="closed")
        assert set(gateway.events) == ids(sent)


def test_hung_backend_delays_another(new_sidecar: NewSidecar, gateway: GatewayDouble) -> None:
    gateway.delay = 60
    sidecar = new_sidecar(
        backends=[managed_backend(gateway.url, timeout="300ms", probe_interval="200ms"), files_backend()]
    ).start()
    sidecar.post(events(50))
    sidecar.wait_for_backend("files", position=50)
    assert "hung" in sidecar.wait_for_backend("managed", state="down")["error"]
    gateway.delay = 0
    gateway.released.set()
    sidecar.wait_for_backend("managed", lag_events=0, state="ok")


def test_slow_backend_delays_another(new_sidecar: NewSidecar, gateway: GatewayDouble) -> None:
    gateway.delay = 2
    sidecar = new_sidecar(backends=[managed_backend(gateway.url), files_backend()]).start()
    for _ in range(10):
        sidecar.post(events(5))
    sidecar.wait_for_backend("files", position=50)
    assert sidecar.backend("managed")["lag_events"] > 0


def test_wrong_credential_fills_the_dead_letters(new_sidecar: NewSidecar, gateway: GatewayDouble) -> None:
    gateway.token = "right"
    backend = managed_backend(gateway.url, probe_interval="100ms")
    backend["config"]["token"] = "${GATEWAY_TOKEN}"
    sidecar = new_sidecar(backends=[backend])
    sidecar.environment = {"GATEWAY_TOKEN": "tm_quite_wrong"}
    sidecar.start()
    state = sidecar.wait_for_backend("managed", state="retrying")
    assert "token" in state["error"]
    sidecar.post(events(3))
    sidecar.wait_for_backend("managed", state="down")
    assert sidecar.dead("managed") == []
    shown = (sidecar.folder / "log.txt").read_text() + sidecar.get("/health").text + sidecar.get("/metrics").text
    assert "tm_quite_wrong" not in shown
    gateway.token = None
    sidecar.wait_for_backend("managed", lag_events=0, state="ok")


def test_refused_event_is_lost_or_holds_up_the_rest(new_sidecar: NewSidecar, gateway: GatewayDouble) -> None:
    sent = events(20)
    gateway.refuse = {sent[4]["event_id"], sent[17]["event_id"]}
    sidecar = new_sidecar(backends=[managed_backend(gateway.url)]).start()
    sidecar.post(sent)
    sidecar.wait_for_backend("managed", lag_events=0)
    assert set(gateway.events) == ids(sent) - gateway.refuse
    letters = sidecar.dead("managed")
    assert [(letter["seq"], letter["event_id"]) for letter in letters] == [(5, sent[4]["event_id"]), (18, sent[17]["event_id"])]
    assert [json.loads(letter["event"]) for letter in letters] == [sent[4], sent[17]]
    assert all("unknown here" in letter["reason"] for letter in letters)

    replay = [sys.executable, "-m", "trackmate", "replay", "--backend", "managed", "--config", str(sidecar.config)]
    again = subprocess.run(replay, capture_output=True, text=True, timeout=60)
    assert again.returncode == 1, again.stderr
    assert "2 refused again" in again.stdout
    assert len(sidecar.dead("managed")) == 2
    gateway.refuse = set()
    done = subprocess.run(replay, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert set(gateway.events) == ids(sent)
    assert sidecar.dead("managed") == []


def test_fallback_takes_over_and_the_primary_misses_events(new_sidecar: NewSidecar) -> None:
    dead = free_port()
    primary = managed_backend(f"http://127.0.0.1:{dead}", priority=1, probe_interval="200ms")
    sidecar = new_sidecar(backends=[primary, files_backend("backup", priority=2, delivery="fallback")]).start()
    sent = events(30)
    sidecar.post(sent)
    sidecar.wait_for_backend("backup", position=30)
    assert ids(sidecar.delivered()) == ids(sent)
    assert sidecar.backend("backup")["owed"] == [[1, 30]]
    with GatewayDouble(dead) as gateway:
        sidecar.wait_for_backend("managed", lag_events=0, state="ok")
        assert set(gateway.events) == ids(sent)
        sidecar.wait_for_backend("backup", owed=[], state="waiting")
        later = events(5)
        sidecar.post(later)
        sidecar.wait_for_backend("managed", lag_events=0)
        sidecar.wait_for_backend("backup", position=35)
        assert ids(sidecar.delivered()) == ids(sent)


def test_new_configuration_needs_a_restart(new_sidecar: NewSidecar, gateway: GatewayDouble) -> None:
    sidecar = new_sidecar(backends=[files_backend()]).start()
    sent = events(10)
    sidecar.post(sent)
    sidecar.wait_for_backend("files", position=10)
    sidecar.settings["backends"] = [files_backend(), managed_backend(gateway.url)]
    sidecar.write_config()
    sidecar.hang_up()
    wait_until(lambda: len(sidecar.health()["backends"]) == 2, seconds=10, what="the new backend")
    sidecar.wait_for_backend("managed", lag_events=0, state="ok")
    assert set(gateway.events) == ids(sent)

    sidecar.settings["backends"] = [managed_backend(gateway.url)]
    sidecar.write_config()
    sidecar.hang_up()
    wait_until(lambda: len(sidecar.health()["backends"]) == 1, seconds=10, what="the old backend's end")
    more = events(7)
    sidecar.post(more)
    sidecar.wait_for_backend("managed", lag_events=0)
    assert set(gateway.events) == ids(sent + more)
    assert ids(sidecar.delivered()) == ids(sent)


def test_bad_configuration_stops_a_running_agent(new_sidecar: NewSidecar) -> None:
    sidecar = new_sidecar(backends=[files_backend()]).start()
    sidecar.settings |= {"listen": "nowhere", "adopt": 3}
    sidecar.write_config()
    sidecar.hang_up()
    line = wait_until(
        lambda: next((line for line in sidecar.log_lines() if "old one stays" in line["message"]), None),
        seconds=10,
        what="the complaint",
    )
    assert len(line["problems"]) == 2
    sidecar.post(events(3))
    sidecar.wait_for_backend("files", position=3)


def test_what_only_a_restart_changes_is_taken_silently(new_sidecar: NewSidecar) -> None:
    sidecar = new_sidecar().start()
    sidecar.settings |= {"spool": {"dir": "./other"}}
    sidecar.write_config()
    sidecar.hang_up()
    wait_until(
        lambda: any(line.get("setting") == "sidecar.spool" and "restart" in line["message"] for line in sidecar.log_lines()),
        seconds=10,
        what="the warning",
    )
    assert sidecar.post(events(1)).status_code == 202


def test_sigterm_loses_what_waits(new_sidecar: NewSidecar, gateway: GatewayDouble) -> None:
    gateway.delay = 30
    sidecar = new_sidecar(backends=[managed_backend(gateway.url), files_backend()], shutdown_grace="500ms").start()
    sent = events(40)
    sidecar.post(sent)
    sidecar.wait_for_backend("files", position=40)
    assert sidecar.terminate() == 0
    text = (sidecar.folder / "log.txt").read_text()
    assert "Traceback" not in text
    assert "panicked" not in text
    assert sidecar.log_lines()[-1]["message"] == "stopped"
    assert sidecar.log_lines()[-1]["waiting"] == {"managed": 40}
    gateway.delay = 0
    gateway.released.set()
    sidecar.start()
    sidecar.wait_for_backend("managed", lag_events=0, state="ok")
    assert set(gateway.events) == ids(sent)
    assert Counter(item["event_id"] for item in sidecar.delivered()) == Counter(ids(sent))


def test_taken_port_is_shared_or_unexplained(new_sidecar: NewSidecar) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        sidecar = new_sidecar(listen=f"127.0.0.1:{port}")
        sidecar.write_config()
        command = [sys.executable, "-m", "trackmate", "sidecar", "--config", str(sidecar.config)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=sidecar.folder)
    assert done.returncode != 0
    assert "sidecar.listen" in done.stderr
    assert str(port) in done.stderr
    assert "Traceback" not in done.stderr


def test_two_agents_write_one_spool(new_sidecar: NewSidecar) -> None:
    first = new_sidecar().start()
    second = new_sidecar(spool={"dir": str(first.spool)})
    second.write_config()
    command = [sys.executable, "-m", "trackmate", "sidecar", "--config", str(second.config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert str(first.spool) in done.stderr
    assert "Traceback" not in done.stderr


def test_full_spool_acknowledges_or_never_recovers(new_sidecar: NewSidecar, gateway: GatewayDouble) -> None:
    gateway.fault = lambda _: (503, {"Retry-After": "0"}, b"{}")
    spool = {"dir": "./spool", "max_bytes": "2MiB", "segment_bytes": "128KiB", "high_water": 0.5}
    sidecar = new_sidecar(spool=spool, backends=[managed_backend(gateway.url, probe_interval="100ms")]).start()
    headers = {"Content-Type": "application/x-ndjson"}
    accepted = 0
    for _ in range(60):
        body = ndjson(events(200, message="x" * 300))
        answer = sidecar.post(body, headers=headers)
        if answer.status_code != 202:
            break
        accepted += 200
    assert answer.status_code == 429
    assert int(answer.headers["Retry-After"]) >= 1
    assert sidecar.get("/health").status_code == 503
    gateway.fault = None
    wait_until(lambda: sidecar.get("/ready").status_code == 200, seconds=15, what="room in the spool")
    assert sidecar.post(body, headers=headers).status_code == 202
    sidecar.wait_for_backend("managed", lag_events=0)
    assert sum(request["count"] for request in gateway.requests if request["count"]) >= accepted + 200


def test_health_of_a_failing_disk_claims_to_accept(new_sidecar: NewSidecar) -> None:
    sidecar = new_sidecar(backends=[files_backend(path="/proc/nowhere")]).start()
    sidecar.post(events(1))
    state = sidecar.wait_for_backend("files", state="down")
    assert "can't write to" in state["error"]


def test_metrics_lie(new_sidecar: NewSidecar, gateway: GatewayDouble) -> None:
    sent = events(10)
    gateway.refuse = {sent[0]["event_id"]}
    sidecar = new_sidecar(backends=[managed_backend(gateway.url)]).start()
    sidecar.post([*sent, event(colour="red")])
    sidecar.post(b"nonsense")
    sidecar.wait_for_backend("managed", lag_events=0)
    assert sidecar.metric("sidecar_accepted_events_total") == 10
    assert sidecar.metric("sidecar_rejected_events_total") == 1
    assert sidecar.metric("sidecar_quarantined_events_total") == 1
    assert sidecar.metric("sidecar_delivered_events_total", backend="managed") == 9
    assert sidecar.metric("sidecar_refused_events_total", backend="managed") == 1
    assert sidecar.metric("sidecar_breaker_state", backend="managed") == 0
    assert sidecar.metric("sidecar_request_seconds_count", status="202") == 1
    assert sidecar.metric("sidecar_request_seconds_count", status="400") == 1
    assert sidecar.metric("sidecar_spool_bytes") > 0


class Sender(threading.Thread):
    """Sends numbered batches as an SDK does: again until acknowledged."""

    def __init__(self, url: str, size: int) -> None:
        super().__init__(daemon=True)
        self.url = url
        self.size = size
        self.ended = threading.Event()
        self.acknowledged: list[str] = []

    def run(self) -> None:
        with httpx.Client(trust_env=False, verify=False, timeout=5) as client:
            while not self.ended.is_set():
                batch = events(self.size)
                while not self.ended.is_set():
                    try:
                        answer = client.post(f"{self.url}{PATH}", json=batch)
                    except httpx.TransportError:
                        time.sleep(0.02)
                        continue
                    if answer.status_code == 202:
                        assert answer.json()["accepted"] == self.size
                        self.acknowledged += [item["event_id"] for item in batch]
                        break
                    time.sleep(0.02)


def kill_and_restart(sidecar: RunningSidecar, rounds: int, size: int) -> None:
    sidecar.start()
    sender = Sender(sidecar.url, size)
    sender.start()
    for _ in range(rounds):
        known = len(sender.acknowledged)
        wait_until(lambda k=known: len(sender.acknowledged) > k + size * 3, seconds=20, what="acknowledgements")
        sidecar.kill(signal.SIGKILL)
        sidecar.start()
    sender.ended.set()
    sender.join(10)
    sidecar.wait_for_backend("files", seconds=60, lag_events=0)
    counts = Counter(item["event_id"] for item in sidecar.delivered())
    missing = set(sender.acknowledged) - set(counts)
    assert not missing, f"{len(missing)} of {len(sender.acknowledged)} acknowledged events are lost"
    resent = {event_id for event_id, times in counts.items() if times > 1}
    last_seqs = sidecar.backend("files")["position"]
    assert sum(counts.values()) == last_seqs, f"{len(resent)} events stand more than once for one place in the log"


def test_kill_loses_what_was_acknowledged(new_sidecar: NewSidecar) -> None:
    """Every place in the log stands once in the files: what is there twice was sent twice, before its acknowledgement came."""
    kill_and_restart(new_sidecar(backends=[files_backend()]), rounds=3, size=20)


@pytest.mark.full
def test_many_kills_lose_what_was_acknowledged(new_sidecar: NewSidecar) -> None:
    kill_and_restart(new_sidecar(backends=[files_backend()]), rounds=40, size=50)


def test_hang_up_before_the_sidecar_runs_ends_it(new_sidecar: NewSidecar) -> None:
    sidecar = new_sidecar(backends=[])
    file, held = sidecar.config, sidecar.folder / "held"
    os.mkfifo(held)
    file.symlink_to(held)

    def hang_up_while_it_reads() -> None:
        with held.open("w") as pipe:  # opens when the sidecar opens the other end
            sidecar.hang_up()
            sidecar.settings["backends"] = [files_backend()]
            complete = json.dumps({"sidecar": sidecar.settings})
            (sidecar.folder / "complete").write_text(complete)
            (sidecar.folder / "complete").replace(file)
            pipe.write(complete)

    reader = threading.Thread(target=hang_up_while_it_reads)
    reader.start()
    sidecar.start(written=True)
    reader.join()
    wait_until(
        lambda: any("took the new" in line["message"] for line in sidecar.log_lines()), seconds=30, what="the early reload"
    )


def test_file_that_a_killed_sidecar_left_growing_waits_for_the_next_event(new_sidecar: NewSidecar) -> None:
    late = {"path": "./out", "rotate_seconds": 5}  # at the kill the file still grows
    sidecar = new_sidecar(backends=[files_backend(config=late)]).start()
    sent = events(3)
    sidecar.post(sent)
    sidecar.wait_for_backend("files", position=3)
    sidecar.kill(signal.SIGKILL)
    out = sidecar.folder / "out"
    assert [path.suffix for path in out.glob("date=*/hour=*/*")] == [".open"]
    sidecar.start()
    wait_until(lambda: list(out.glob("date=*/hour=*/*.jsonl")), seconds=90, what="the complete file")
    assert ids(sidecar.delivered()) == ids(sent)
