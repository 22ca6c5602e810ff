"""A Zabbix host for tests of the sink: what should stand there of an event, worked out a second time, and what does."""

from __future__ import annotations

import json
import re
import time
import zlib
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from zabbix_utils import ItemValue

from contract.settings import Secret
from sinks.base import DeliveryReport, SinkBatch
from sinks.zabbix import ZabbixConfig, ZabbixSink
from tests.services.base import wait_until
from tests.services.toxiproxy import Link
from tests.services.zabbix import Zabbix
from tests.sidecar.harness import event
from tests.sinks.suite import LinkedTarget, batch_of

LONGEST_HISTORY = 9125
STATES = {"ok": "2", "failed": "3", "aborted": "4"}
SEVERITIES = {"debug": "10", "info": "1", "warning": "2", "error": "4", "critical": "9"}
NOT_FOR_ZABBIX = ("1970-", "2099-")
"""Moments that the golden vectors hold and Zabbix does not: before its longest history, and beyond its 32-bit clock."""


def micros_of(item: dict[str, Any]) -> int:
    text, fraction = re.sub(r"\.(\d+)", "", item["timestamp"].upper()), re.search(r"\.(\d+)", item["timestamp"])
    moment = datetime.fromisoformat(text) - datetime(1970, 1, 1, tzinfo=UTC)
    micros = round(int(fraction[1].ljust(9, "0")) / 1000) if fraction else 0
    return (moment.days * 86400 + moment.seconds) * 10**6 + micros


def moment_of(item: dict[str, Any]) -> tuple[str, str]:
    tie = item["emitter"]["seq"] if "emitter" in item else zlib.crc32(item["event_id"].encode())
    clock, ns = divmod(micros_of(item) * 1000 + tie % 1000, 10**9)
    return str(clock), str(ns)


def log_text(item: dict[str, Any]) -> str:
    about = [f"{name}={value}" for name, value in sorted(item.get("entities", {}).items())] + [f"event_id={item['event_id']}"]
    about += [f"run_id={item['run_id']}"] if "run_id" in item else []
    message = f": {item['message']}" if "message" in item else ""
    error = item.get("error")
    lines = [f"{item['name']}{message} [{', '.join(about)}]"]
    lines += [f"{error['type']}: {error['message']}", *([error["stack"]] if "stack" in error else [])] if error else []
    return "\n".join(lines)


def as_values(item: dict[str, Any]) -> list[tuple[str, ...]]:
    """Key, clock, ns and value of everything that Zabbix should have of an event; a log line has its source and severity too."""
    site, app, name, kind = item["site_id"], item["app"]["name"], item["name"], item["kind"]
    tool = item.get("entities", {}).get("tool", "")
    run, moment = f"[{site},{app},{name},{tool}]", moment_of(item)
    values: list[tuple[str, ...]] = []
    if kind == "start":
        values.append((f"trackmate.run.state{run}", *moment, "1"))
    if kind == "finish" or (kind == "error" and "run_id" in item):
        values.append((f"trackmate.run.state{run}", *moment, STATES[item.get("status", "ok" if kind == "finish" else "failed")]))
    if "progress" in item:
        values.append((f"trackmate.run.progress{run}", *moment, f"{item['progress'] * 100:g}"))
    if "duration_ms" in item:
        values.append((f"trackmate.run.duration{run}", *moment, f"{item['duration_ms'] / 1000:g}"))
    if kind == "state":
        values.append((f"trackmate.state{run}", *moment, item["state"]["to"]))
    for metric, value in item.get("metrics", {}).items():
        values.append((f"trackmate.metric[{site},{app},{name},{metric},{tool}]", *moment, repr(float(value))))
    if kind in {"log", "error"} or "message" in item or "error" in item:
        severity = SEVERITIES[item.get("severity", "error" if kind == "error" else "info")]
        values.append((f"trackmate.log[{site},{app}]", *moment, log_text(item), item["name"][:64], severity))
    return sorted(values)


class Recorder(ZabbixSink):
    """Notes what it was given, so that values without an id in them can be told apart."""

    seen: dict[str, dict[str, Any]]

    async def deliver(self, batch: SinkBatch) -> DeliveryReport:
        report = await super().deliver(batch)
        kept = set(range(batch.count)) - {refused.index for refused in report.refused} - set(report.retry)
        for index in kept:
            item = json.loads(batch.lines[index])
            self.seen[item["event_id"]] = item
        return report


class ZabbixTarget(LinkedTarget):
    """A host of its own on the shared server, behind a proxy that can be cut."""

    def __init__(self, server: Zabbix, link: Link) -> None:
        super().__init__(link)
        self.server = server
        self.host = server.fresh_name()
        self.seen: dict[str, dict[str, Any]] = {}

    def sink(self, *, credential: str | None = None) -> Recorder:
        config = ZabbixConfig(
            url=f"http://127.0.0.1:{self.link.port}", host=self.host, api_url=self.server.api_url,
            api_key=Secret(credential or self.server.token), history_days=LONGEST_HISTORY, connect_timeout=2,
        )  # fmt: skip
        sink = Recorder("zabbix", config)
        sink.seen = self.seen
        return sink

    async def read_back(self) -> list[dict[str, Any]]:
        sent = Counter(value[0] for item in self.seen.values() for value in as_values(item))
        self.server.flush(max(sent.values(), default=1))
        owners = {value[:3]: event_id for event_id, item in self.seen.items() for value in as_values(item)}
        found: dict[str, list[tuple[str, ...]]] = {id_: [] for id_, item in self.seen.items() if not as_values(item)}
        for key, stored in self.server.history(self.host):
            value = stored["value"]
            if key.startswith(("trackmate.metric", "trackmate.run.")) and "state" not in key:
                value = repr(float(value)) if "metric" in key else value
            row = (key, stored["clock"], stored["ns"], value)
            if key.startswith("trackmate.log"):
                row = (*row, stored["source"], stored["severity"])
                assert stored["timestamp"] == stored["clock"]
                owner = re.search(r"event_id=([-0-9a-f]{36})", value)[1]  # type: ignore[index]
            else:
                owner = owners.get(row[:3], f"nobody's: {row}")
            found.setdefault(owner, []).append(row)
        return [{"event_id": event_id, "values": sorted(values)} for event_id, values in found.items()]

    def takes(self, item: dict[str, Any]) -> bool:
        return not item["timestamp"].startswith(NOT_FOR_ZABBIX) and max(item.get("metrics", {}).values(), default=0) <= 1e308

    def refuse(self, items: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        self.server.make_host(self.host)
        for family, value_type in (("progress", 0), ("state", 3)):
            self.server.make_item(self.host, f"trackmate.run.{family}[fab1,switched off,etch,]", value_type, status=1)
        return [{**item, "app": {"name": "switched off"}} for item in items]

    def as_stored(self, item: dict[str, Any]) -> dict[str, Any]:
        return {"event_id": item["event_id"], "values": as_values(item)}


TEMPLATE = Path(__file__).parents[2] / "deploy" / "zabbix" / "trackmate_template.yaml"
NOW = int(time.time())


def recent(seconds_ago: float = 60, **fields: Any) -> dict[str, Any]:
    """A valid event of a moment ago."""
    moment = datetime.fromtimestamp(NOW - seconds_ago, UTC)
    return event(timestamp=moment.isoformat().replace("+00:00", "Z"), **fields)


def metric(value: float, seconds_ago: float = 60, **fields: Any) -> dict[str, Any]:
    return recent(seconds_ago, kind="metric", **{"metrics": {"depth": value}, **fields})


async def deliver(sink: ZabbixSink, items: Sequence[dict[str, Any]], first: int = 1) -> DeliveryReport:
    """Deliver as the agent does: again what is to be retried."""
    batch = batch_of(items, first)
    refused, delivered = [], 0
    for _ in range(20):
        report = await sink.deliver(batch)
        delivered += report.delivered
        refused += report.refused
        if not report.retry:
            return DeliveryReport(delivered, refused)
        batch = batch.subset(report.retry)
    return DeliveryReport(delivered, refused, report.retry)


def template_sink(zabbix: Zabbix, host: str, **settings: Any) -> ZabbixSink:
    return ZabbixSink("zabbix", ZabbixConfig(url=f"http://127.0.0.1:{zabbix.port}", host=host, **settings))


def host_with_template(zabbix: Zabbix, **fields: Any) -> str:
    """A host that an operator made, and that the server knows."""
    host = zabbix.fresh_name()
    zabbix.make_host(host, templates=[{"templateid": zabbix.import_template(TEMPLATE)}], **fields)
    check = [ItemValue(host, "trackmate.check", "1")]
    wait_until(lambda: zabbix.send(check) == (1, 0), seconds=30, what="the new host to take values")
    return host


def stored(zabbix: Zabbix, host: str) -> dict[str, list[str]]:
    """Values by key, without the template's own item."""
    zabbix.flush()
    found: dict[str, list[str]] = {}
    for key, value in zabbix.history(host):
        if key != "trackmate.check":
            found.setdefault(key, []).append(value["value"])
    return found


def config_of(target: ZabbixTarget) -> dict[str, Any]:
    return {
        "url": f"http://127.0.0.1:{target.link.port}", "host": target.host,
        "api_url": target.server.api_url, "api_key": Secret(target.server.token),
    }  # fmt: skip
