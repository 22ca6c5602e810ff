"""Real agents whose backends are slow, full, busy or gone, and whose configuration changes under load."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from tests.services.base import free_port, wait_until
from tests.services.certificates import TestAuthority
from tests.services.proxy import Proxy
from tests.services.scripted_http import ScriptedHttp
from tests.services.toxiproxy import Toxiproxy
from tests.sidecar.harness import RunningSidecar, events, files_backend, managed_backend
from tests.sidecar.test_running import Sender, ids
from tests.sinks.gateway_double import Answer, GatewayDouble

NewSidecar = Callable[..., RunningSidecar]


def test_answer_that_comes_after_half_a_minute_holds_up_another_backend(
    new_sidecar: NewSidecar, gateway: GatewayDouble, toxiproxy: Toxiproxy
) -> None:
    link = toxiproxy.link(f"gateway-{gateway.port}", gateway.port)
    link.poison("latency", latency=30_000)
    slow = managed_backend(f"http://127.0.0.1:{link.port}", "slow", timeout="500ms", probe_interval="200ms")
    sidecar = new_sidecar(backends=[slow, files_backend()]).start()
    sent = events(50)
    sidecar.post(sent)
    sidecar.wait_for_backend("files", position=50)
    state = sidecar.wait_for_backend("slow", state="down")
    assert "did not answer" in state["error"]
    assert state["latency_ms"] >= 400
    link.heal()
    sidecar.wait_for_backend("slow", seconds=60, lag_events=0, state="ok")
    assert set(gateway.events) == ids(sent)


def test_connections_that_are_cut_in_the_middle_lose_or_double_events(
    new_sidecar: NewSidecar, gateway: GatewayDouble, toxiproxy: Toxiproxy
) -> None:
    link = toxiproxy.link(f"cut-{gateway.port}", gateway.port)
    sidecar = new_sidecar(
        backends=[managed_backend(f"http://127.0.0.1:{link.port}", probe_interval="100ms", timeout="2s")]
    ).start()
    sent: list[dict[str, Any]] = []
    cuts: list[dict[str, Any]] = [
        {"kind": "reset_peer", "timeout": 5},
        {"kind": "limit_data", "bytes": 60},
        {"kind": "limit_data", "bytes": 900, "stream": "upstream"},  # in the middle of the request's body
    ]
    for toxic in cuts:
        link.poison(**toxic)
        batch = events(30)
        sent += batch
        sidecar.post(batch)
        wait_until(lambda: sidecar.backend("managed")["error"], seconds=30, what="the backend's trouble")
        link.heal()
        sidecar.wait_for_backend("managed", seconds=60, lag_events=0, state="ok")
    assert set(gateway.events) == ids(sent)


@pytest.mark.parametrize(
    "answer",
    [
        (500, {"Content-Type": "text/html"}, b"<html>oops</html>"),
        (200, {"Content-Type": "text/html"}, b"<html>Log in to the hotel's network</html>"),
        (202, {"Content-Type": "application/json"}, b'{"accepted": 3'),
        (202, {}, b""),
    ],
    ids=["500", "another page", "cut JSON", "nothing"],
)
def test_answer_that_is_not_json_swallows_events_or_makes_dead_letters(
    answer: Answer, new_sidecar: NewSidecar, gateway: GatewayDouble
) -> None:
    gateway.fault = lambda _: answer
    sidecar = new_sidecar(backends=[managed_backend(gateway.url, probe_interval="100ms"), files_backend()]).start()
    sent = events(30)
    sidecar.post(sent)
    told = sidecar.wait_for_backend("managed", seconds=60, state="down")
    assert gateway.url in told["error"]
    assert (told["lag_events"], told["refused"]) == (30, 0)
    sidecar.wait_for_backend("files", seconds=60, position=30)
    gateway.fault = None
    sidecar.wait_for_backend("managed", seconds=60, lag_events=0, state="ok")
    assert set(gateway.events) == ids(sent)
    assert sidecar.dead("managed") == []


def test_name_that_does_not_resolve_holds_up_others_or_needs_a_restart(new_sidecar: NewSidecar, gateway: GatewayDouble) -> None:
    lost = managed_backend("http://no-such-host.invalid:17080", probe_interval="200ms")
    sidecar = new_sidecar(backends=[lost, files_backend()]).start()
    sent = events(30)
    sidecar.post(sent)
    sidecar.wait_for_backend("files", seconds=60, position=30)
    told = sidecar.wait_for_backend("managed", seconds=60, state="down")
    assert "no-such-host.invalid" in told["error"]
    assert "DNS" in told["error"]
    assert told["lag_events"] == 30
    sidecar.settings["backends"] = [managed_backend(gateway.url), files_backend()]
    sidecar.write_config()
    sidecar.hang_up()
    sidecar.wait_for_backend("managed", seconds=60, lag_events=0, state="ok")
    assert set(gateway.events) == ids(sent)


def test_certificate_that_expires_midway_is_taken_or_loses_events(new_sidecar: NewSidecar, tmp_path: Path) -> None:
    authority, port = TestAuthority(tmp_path), free_port()
    config = {"url": f"https://127.0.0.1:{port}/hook", "allow_private": True, "tls": {"ca_file": str(authority.file)}}
    webhook = {"name": "hook", "type": "webhook", "probe_interval": "200ms", "config": config}
    sidecar = new_sidecar(backends=[webhook, files_backend()])
    with ScriptedHttp(port=port, certificate=authority.issue("127.0.0.1")) as server:
        sidecar.start()
        first = events(10)
        sidecar.post(first)
        sidecar.wait_for_backend("hook", seconds=60, position=10)
        assert received(server) == ids(first)
    later = events(20)
    with ScriptedHttp(port=port, certificate=authority.expired("127.0.0.1")) as server:
        sidecar.post(later)
        told = wait_until(
            lambda: next((error for error in [sidecar.backend("hook")["error"]] if error and "expired" in error), None),
            seconds=60,
            what="the certificate's end to be told",
        )
        assert "certificate" in told
        sidecar.wait_for_backend("files", seconds=60, position=30)
        assert server.asked == []
    with ScriptedHttp(port=port, certificate=authority.issue("127.0.0.1")) as server:
        sidecar.wait_for_backend("hook", seconds=60, lag_events=0, state="ok")
        assert received(server) == ids(later)
    assert sidecar.dead("hook") == []


def received(server: ScriptedHttp) -> set[str]:
    """The ids of the events that were posted there."""
    return {line["event_id"] for asked in server.asked for line in asked.lines}


def test_nine_dead_backends_keep_the_tenth_from_anything(new_sidecar: NewSidecar) -> None:
    with ExitStack() as stack:
        busy = stack.enter_context(GatewayDouble())
        busy.fault = lambda _: (503, {}, b"{}")
        hung = stack.enter_context(Proxy(busy.port))
        hung.deaf()
        urls = [f"http://127.0.0.1:{port}" for port in (free_port(), hung.port, busy.port)] * 3
        dead = [
            managed_backend(url, f"dead-{number}", priority=number + 1, timeout="300ms", probe_interval="300ms")
            for number, url in enumerate(urls)
        ]
        sidecar = new_sidecar(backends=[*dead, files_backend(priority=10)], shutdown_grace="500ms").start()
        sent: list[dict[str, Any]] = []
        for _ in range(30):
            batch = events(20)
            assert sidecar.post(batch).status_code == 202
            sent += batch
        sidecar.wait_for_backend("files", seconds=60, position=600)
        assert Counter(item["event_id"] for item in sidecar.delivered()) == Counter(ids(sent))
        for number in range(9):
            assert sidecar.wait_for_backend(f"dead-{number}", seconds=60, state="down")["lag_events"] == 600
        assert sidecar.terminate(60) == 0
        last = sidecar.log_lines()[-1]
        assert (last["message"], last["drained"]) == ("stopped", False)
        assert last["waiting"] == {f"dead-{number}": 600 for number in range(9)}


def test_agent_says_that_it_drained_though_events_wait(new_sidecar: NewSidecar) -> None:
    backends = [
        managed_backend(f"http://127.0.0.1:{free_port()}", "away", priority=1, probe_interval="1h"),
        files_backend("backup", priority=2, delivery="fallback"),
        files_backend("files", "./files", priority=3),
    ]
    sidecar = new_sidecar(backends=backends).start()
    sidecar.post(events(12))
    sidecar.wait_for_backend("away", seconds=60, state="down", lag_events=12)
    sidecar.wait_for_backend("backup", seconds=60, position=12)
    sidecar.wait_for_backend("files", seconds=60, position=12)
    assert sidecar.terminate(60) == 0
    last = sidecar.log_lines()[-1]
    assert (last["drained"], last["waiting"]) == (False, {"away": 12})


def test_agent_with_nothing_left_says_that_it_did_not_drain(new_sidecar: NewSidecar) -> None:
    sidecar = new_sidecar(backends=[files_backend()]).start()
    sidecar.post(events(500))
    assert sidecar.terminate(60) == 0
    last = sidecar.log_lines()[-1]
    assert (last["drained"], last["waiting"]) == (True, {})
    assert len(sidecar.delivered()) == 500


def in_seconds(seconds: int) -> str:
    return str(seconds)


def as_a_date(seconds: int) -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds + 1), usegmt=True)


@pytest.mark.parametrize(("status", "form"), [(429, in_seconds), (429, as_a_date), (503, as_a_date)])
def test_call_comes_before_the_system_asked_for_it(
    form: Callable[[int], str], status: int, new_sidecar: NewSidecar, gateway: GatewayDouble
) -> None:
    answered: list[float] = []

    def once(_: list[dict[str, Any]]) -> Answer | None:
        if answered:
            return None
        answered.append(time.monotonic())
        return status, {"Retry-After": form(2)}, b"{}"

    gateway.fault = once
    sidecar = new_sidecar(backends=[managed_backend(gateway.url, probe_interval="10ms")]).start()
    sidecar.post(events(3))
    state = wait_until(
        lambda: next((s for s in [sidecar.backend("managed")] if s["retry_at"]), None), seconds=30, what="the wait to be told"
    )
    assert datetime.fromisoformat(state["retry_at"]) > datetime.now(UTC) - timedelta(seconds=1)
    sidecar.post(events(3))
    sidecar.wait_for_backend("managed", seconds=60, lag_events=0)
    calls = [request["at"] for request in gateway.requests if request["count"]]
    assert calls[1] - answered[0] >= 1.99
    assert len(gateway.events) == 6


def test_reload_under_load_loses_a_batch(new_sidecar: NewSidecar) -> None:
    """One backend changed, one added, one taken out, one as it was; then a file that is wrong, which changes nothing."""
    with GatewayDouble() as first, GatewayDouble() as second:
        sidecar = new_sidecar(
            backends=[
                files_backend("steady"),
                managed_backend(first.url, "changed"),
                files_backend("leaving", "./leaving"),
            ]
        ).start()
        sender = Sender(sidecar.url, 20)
        sender.start()

        def more(batches: int) -> None:
            known = len(sender.acknowledged)
            wait_until(lambda: len(sender.acknowledged) >= known + batches * 20, seconds=60, what="acknowledgements")

        def names() -> list[str]:
            return sorted(backend["name"] for backend in sidecar.health()["backends"])

        more(5)
        before = len(sender.acknowledged)
        sidecar.settings["backends"] = [
            files_backend("steady"),
            managed_backend(second.url, "changed", timeout="7s"),
            files_backend("added", "./added"),
        ]
        sidecar.write_config()
        sidecar.hang_up()
        wait_until(lambda: names() == ["added", "changed", "steady"], seconds=60, what="the new configuration")
        more(5)
        good = sidecar.config.read_text()
        sidecar.config.write_text("{broken")
        sidecar.hang_up()
        wait_until(
            lambda: any("old one stays" in line["message"] for line in sidecar.log_lines()), seconds=60, what="the complaint"
        )
        more(5)
        assert names() == ["added", "changed", "steady"]
        for number in range(5):
            sidecar.config.write_text(good.replace('"7s"', f'"{8 + number}s"'))
            sidecar.hang_up()
            more(2)
        sender.ended.set()
        sender.join(30)
        for name in ("steady", "changed", "added"):
            sidecar.wait_for_backend(name, seconds=60, lag_events=0)
        sent = set(sender.acknowledged)
        late = set(sender.acknowledged[before:])
        position = sidecar.backend("steady")["position"]
        assert len(sidecar.delivered()) == position, "a place in the log stands more than once, or not at all"
        assert sent <= {item["event_id"] for item in sidecar.delivered()}
        assert sent <= first.events.keys() | second.events.keys()
        assert late <= {item["event_id"] for item in sidecar.delivered("added")}
        assert sidecar.metric("sidecar_dropped_events_total", reason="damaged") == 0
        assert not [line for line in sidecar.log_lines() if line["level"] == "error" and "old one stays" not in line["message"]]


def test_reload_while_a_backend_hangs_keeps_the_agent_from_stopping(new_sidecar: NewSidecar, gateway: GatewayDouble) -> None:
    gateway.delay = 600
    sidecar = new_sidecar(backends=[managed_backend(gateway.url, timeout="500s"), files_backend()], shutdown_grace="30s").start()
    sidecar.post(events(5))
    sidecar.wait_for_backend("managed", seconds=60, in_flight=1)
    sidecar.settings["backends"] = [managed_backend(gateway.url, timeout="501s"), files_backend()]
    sidecar.settings["shutdown_grace"] = "500ms"
    sidecar.write_config()
    sidecar.hang_up()
    wait_until(lambda: "new configuration" in (sidecar.folder / "log.txt").read_text(), seconds=60, what="the reload")
    assert sidecar.post(events(5)).status_code == 202
    sidecar.wait_for_backend("files", seconds=60, position=10)
    assert sidecar.terminate(60) == 0
    assert "Traceback" not in (sidecar.folder / "log.txt").read_text()
    assert sidecar.log_lines()[-1]["waiting"] == {"managed": 10}


def test_health_leaves_out_how_a_backend_is_called(new_sidecar: NewSidecar, gateway: GatewayDouble, tmp_path: Path) -> None:
    sidecar = new_sidecar(backends=[managed_backend(gateway.url)]).start()
    sidecar.post(events(5))
    state = sidecar.wait_for_backend("managed", seconds=60, lag_events=0, in_flight=0)
    assert (state["concurrency"], state["concurrency_max"], state["bytes_in_flight"], state["retry_at"]) == (1, 1, 0, None)
    assert state["latency_ms"] > 0
    assert json.dumps(state)
