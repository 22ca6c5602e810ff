"""docs/reference/metrics.md against what `/metrics` exposes, in both directions."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.parser import text_string_to_metric_families

from federation.gateway.metrics import Metrics as GatewayMetrics
from tests.services.base import free_port, wait_until
from tests.sidecar.harness import RunningSidecar, event, events, files_backend, managed_backend
from tests.sinks.gateway_double import GatewayDouble

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "metrics.md"
ROW = re.compile(r"^\| `(\w+)` \| (\w+) \| ([^|]*) \| ([^|]+) \| (.+) \| (.+) \|$", re.MULTILINE)
Facts = tuple[str, frozenset[str]]


def documented(prefix: str) -> dict[str, Facts]:
    """Type and labels by name."""
    rows = [row for row in ROW.findall(PAGE.read_text()) if row[0].startswith(prefix)]
    assert len({row[0] for row in rows}) == len(rows), "a metric stands there twice"
    return {name: (kind, frozenset(re.findall(r"`(\w+)`", labels))) for name, kind, labels, *_ in rows}


def exposed(families: Iterable[Metric]) -> dict[str, Facts]:
    found = {}
    for family in families:
        if family.name.endswith("_created"):
            continue
        labels = {label for sample in family.samples for label in sample.labels if label != "le"}
        found[family.name + ("_total" if family.type == "counter" else "")] = (family.type, frozenset(labels))
    return found


def test_sidecar_metric_is_missing_on_the_page_or_in_the_agent(
    new_sidecar: Callable[..., RunningSidecar], gateway: GatewayDouble
) -> None:
    refused = event()
    gateway.refuse = {refused["event_id"]}
    dead = managed_backend(f"http://127.0.0.1:{free_port()}", "dead")
    backends = [files_backend(), managed_backend(gateway.url), dead]
    sidecar = new_sidecar(backends=backends, readers=["lake"]).start()
    sidecar.post([refused, *events(5)])
    sidecar.post(b"nonsense")
    sidecar.wait_for_backend("managed", lag_events=0)
    sidecar.wait_for_backend("files", lag_events=0)
    text = sidecar.get("/metrics").text
    assert exposed(text_string_to_metric_families(text)) == documented("sidecar_")


def test_gateway_metric_is_missing_on_the_page_or_in_the_gateway() -> None:
    metrics = GatewayMetrics()
    metrics.request("/v1/sql", "POST", 200, 0.1)
    metrics.refused("unknown_token")
    metrics.events(inserted=1, duplicates=1, rejected=1)
    metrics.source("lake", 0.1, failed=True)
    metrics.cache("hit")
    registry: CollectorRegistry = metrics.registry
    assert exposed(registry.collect()) == documented("trackmate_gateway_")


def test_metric_stands_on_the_page_without_a_meaning() -> None:
    rows = ROW.findall(PAGE.read_text())
    names = re.findall(r"^\| `(\w+)`", PAGE.read_text(), re.MULTILINE)
    assert [row[0] for row in rows] == names
    assert all(row[4].strip() and row[5].strip() for row in rows)


def test_what_was_done_is_counted_wrong(new_sidecar: Callable[..., RunningSidecar], gateway: GatewayDouble) -> None:
    sent = events(10, severity="error")
    gateway.refuse = {sent[0]["event_id"]}
    sidecar = new_sidecar(backends=[managed_backend(gateway.url, match={"severity": "error"})]).start()
    sidecar.post([*sent, *events(7)])
    sidecar.wait_for_backend("managed", lag_events=0)
    assert sidecar.metric("sidecar_delivered_events_total", backend="managed") == 9
    assert sidecar.metric("sidecar_refused_events_total", backend="managed") == 1
    assert sidecar.metric("sidecar_unmatched_events_total", backend="managed") == 7
    assert sidecar.metric("sidecar_delivery_seconds_count", backend="managed") == 1
    assert sidecar.metric("sidecar_concurrency_limit", backend="managed") == 1
    assert sidecar.metric("sidecar_calls_in_flight", backend="managed") == 0
    assert sidecar.metric("sidecar_bytes_in_flight", backend="managed") == 0
    assert sidecar.metric("sidecar_backend_lag_seconds", backend="managed") == 0
    sizes = [len(line) + 1 for line in gateway.requests[-1]["body"].splitlines()[1:10]]
    assert sidecar.metric("sidecar_delivered_bytes_total", backend="managed") == sum(sizes)
    assert sidecar.metric("sidecar_dropped_events_total", reason="damaged") == 0


def test_breaker_of_a_backend_that_was_taken_out_alarms_for_ever(new_sidecar: Callable[..., RunningSidecar]) -> None:
    sidecar = new_sidecar(backends=[managed_backend(f"http://127.0.0.1:{free_port()}", "gone"), files_backend()]).start()
    sidecar.post(events(3))
    sidecar.wait_for_backend("gone", seconds=60, state="down", breaker="open")
    assert sidecar.metric("sidecar_breaker_state", backend="gone") == 2
    sidecar.settings["backends"] = [files_backend()]
    sidecar.write_config()
    sidecar.hang_up()
    wait_until(lambda: len(sidecar.health()["backends"]) == 1, seconds=60, what="the reload")
    assert re.findall('sidecar_breaker_state{backend="(.*)"}', sidecar.get("/metrics").text) == ["files"]
