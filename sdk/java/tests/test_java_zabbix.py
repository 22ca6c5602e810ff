"""The Java SDK's Zabbix backend on a real server, beside what TrackMate's sink would have sent there."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from sdk.conformance.harness import Harness
from sdk.conformance.languages import capabilities, language_named
from tests.services.base import wait_until
from tests.services.zabbix import Zabbix
from tests.sinks.zabbix_target import as_values, host_with_template

JAVA = language_named("java")
NUMBERS = ("trackmate.metric", "trackmate.run.progress", "trackmate.run.duration")


def row(key: str, clock: str, ns: str, value: str) -> tuple[str, str, str, Any]:
    """A value as `as_values` writes it: without quotes in the key, and of a number the first digits."""
    return (key.replace('"', ""), clock, ns, f"{float(value):.5g}" if key.startswith(NUMBERS) else value)


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    assert "backend:zabbix" in capabilities(JAVA)


def test_value_is_missing_in_zabbix_or_is_not_the_sinks(zabbix: Zabbix, tmp_path: Path) -> None:
    host = host_with_template(zabbix)
    backends = [
        {"type": "zabbix", "priority": 1, "config": {"url": f"http://127.0.0.1:{zabbix.port}", "host": host}},
        {"type": "filesystem", "priority": 2, "config": {"path": str(tmp_path / "out")}},
    ]
    settings = {
        "mode": "direct",
        "direct_backends": backends,
        "app": {"name": "etcher", "site_id": "fab1"},
        "sidecar": {"spool_dir": str(tmp_path / "spool")},
    }
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MONITORING_")}
    harness = Harness([JAVA.program], cwd=tmp_path, env=clean)
    try:
        for command in (
            {"do": "initialize", "config": {"sdk": settings}},
            {"do": "context_start", "context": "wafer", "name": "etch, main", "metadata": {"lot": "L1", "tool": "E-7"}},
            {"do": "progress", "context": "wafer", "progress": 0.25, "message": "half of it"},
            {"do": "finish", "context": "wafer"},
            {"do": "context_start", "context": "broken", "name": "etch, main", "metadata": {"tool": "E-7"}},
            {"do": "error", "context": "broken", "type": "PlasmaError", "message": "no plasma"},
            {"do": "emit_event", "event": {"kind": "state", "name": "E-7", "state": {"from": "standby", "to": "productive"}}},
            {"do": "emit_event", "event": {"kind": "log", "name": "pump", "severity": "warning", "message": "Öl é⚙"}},
            {"do": "repeat", "event": {"kind": "metric", "name": "chuck", "metrics": {"t": 21.5, "p[1]": -3e-7}}, "times": 300},
        ):
            answer = harness.ask(command)
            assert answer["ok"], answer

        def all_taken() -> bool:
            # What comes before Zabbix has discovered the items waits on disk, and is delivered from there.
            harness.ask({"do": "flush", "timeout": 50})
            counts = harness.ask({"do": "stats"})["stats"]
            return bool(counts["sent"] + counts["replayed"] == counts["emitted"] == 307)

        wait_until(all_taken, seconds=90, what="Zabbix to take every event")
        assert harness.ask({"do": "close"})["ok"]
    finally:
        harness.close()
    files = (tmp_path / "out").rglob("*.jsonl")
    events = [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    assert len(events) == 307
    zabbix.flush(values=300)
    found = [
        row(key, value["clock"], value["ns"], value["value"]) for key, value in zabbix.history(host) if key != "trackmate.check"
    ]
    expected = [row(*value[:4]) for event in events for value in as_values(event)]
    assert sorted(found) == sorted(expected)
