"""One tool of the simulated fab as a process of its own: plays its plan against the clock and reports through the real SDK.

`python -m trackmate.fab.tool ORDERS.json`; at the end it writes its ledger: what it emitted, and what the SDK says of it.
"""

from __future__ import annotations

import json
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import monitoring_sdk as monitoring
import msgspec
import yaml

from contract.ids import uuid7
from trackmate.fab.ledger import Ledger, Orders
from trackmate.fab.plan import LotPlan, StateChange, StepPlan, ToolPlan, WaferPlan, plan_fab

_LEGACY_TRIES = 20
_LEGACY_PAUSE = 0.5
_ACCEPTED = 202
_FLUSH_SECONDS = 60.0


class EquipmentError(Exception):
    """What goes wrong at a tool."""


def fault_class(name: str) -> type[EquipmentError]:
    """The exception class for a fault of that name."""
    return type(name, (EquipmentError,), {"__module__": "equipment"})


class ToolProcess:
    """Plays one tool's plan."""

    def __init__(self, orders: Orders, plan: ToolPlan) -> None:
        self._orders = orders
        self._plan = plan
        self._lock = threading.Lock()
        self._ids: list[str] = []
        self._contexts = 0
        self._legacy = 0
        self._legacy_acknowledged = 0

    def play(self) -> None:
        """Work through the shift: the tool's states beside its lots, every chamber in a thread of its own."""
        states = threading.Thread(target=self._play_states, name="states")
        states.start()
        for lot in self._plan.lots:
            self._play_lot(lot)
        states.join()

    def ledger(self, sdk: dict[str, int]) -> Ledger:
        """What was done; `sdk` is what the SDK counted."""
        return Ledger(
            tool=self._plan.tool.name,
            application=self._plan.tool.application,
            planned=self._plan.events(),
            emitted=len(self._ids) + self._contexts,
            event_ids=self._ids,
            legacy=self._legacy,
            legacy_acknowledged=self._legacy_acknowledged,
            sdk=sdk,
        )

    # ------------------------------------------------------------------------------------------------------------ the shift

    def _wait_until(self, at: float) -> None:
        left = self._orders.starts_at + at - time.time()
        if left > 0:
            time.sleep(left)

    def _play_states(self) -> None:
        changes: Sequence[StateChange] = [change for lot in self._plan.lots for change in lot.states] + [self._plan.final]
        for change in sorted(changes, key=lambda change: change.at):
            self._wait_until(change.at)
            self._emit(
                {
                    "kind": "state",
                    "name": "equipment",
                    "entities": {"tool": self._plan.tool.name},
                    "state": {"from": change.before, "to": change.after},
                    "severity": "warning" if change.after == "unscheduled_down" else "info",
                    "attributes": {"reason": change.reason},
                }
            )

    def _play_lot(self, lot: LotPlan) -> None:
        self._wait_until(lot.at)
        about = {"lot": lot.lot, "tool": self._plan.tool.name, "product": lot.product, "recipe": self._plan.tool.recipe}
        self._count(2)
        with monitoring.monitored_context("lot", {**about, "operator": lot.operator}):
            chambers = {wafer.chamber for wafer in lot.wafers}
            threads = []
            for chamber in sorted(chambers):
                wafers = [wafer for wafer in lot.wafers if wafer.chamber == chamber]
                # A thread starts outside any run: hand the lot over.
                work = monitoring.carry(self._play_chamber)
                threads.append(threading.Thread(target=work, args=(wafers,), name=chamber))
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

    def _play_chamber(self, wafers: list[WaferPlan]) -> None:
        for wafer in wafers:
            self._wait_until(wafer.at)
            self._count(2)
            try:
                with monitoring.monitored_context("wafer", {"wafer": f"{wafer.wafer:02}", "chamber": wafer.chamber}):
                    self._play_wafer(wafer)
            except EquipmentError:
                # Reported by the contexts it passed through; the chamber goes on with the next wafer.
                continue

    def _play_wafer(self, wafer: WaferPlan) -> None:
        if wafer.late_hours:
            # An offline measurement that is only typed in now.
            when = datetime.now(UTC) - timedelta(hours=wafer.late_hours)
            metrics = {"defects_cm2": wafer.late_value}
            self._emit({"kind": "metric", "name": "offline_inspection", "timestamp": when.isoformat(), "metrics": metrics})
        if wafer.duplicate:
            self._send_twice(wafer)
        for step in wafer.steps:
            self._play_step(step)

    def _play_step(self, step: StepPlan) -> None:
        self._wait_until(step.at)
        self._count(2)
        with monitoring.monitored_context(step.name, {"step": step.name}) as run:
            if step.progress:
                time.sleep(step.seconds / 2)
                run.progress(0.5)
                self._count(1)
            if step.metrics:
                self._emit({"kind": "metric", "name": step.name, "metrics": step.metrics})
            if step.fault:
                raise fault_class(step.fault.type)(step.fault.message)
            time.sleep(step.seconds / 2 if step.progress else step.seconds)

    # ------------------------------------------------------------------------------------------------------------ reporting

    def _count(self, contexts: int) -> None:
        with self._lock:
            self._contexts += contexts

    def _emit(self, event: dict[str, Any]) -> None:
        event_id = monitoring.emit_event(event)
        with self._lock:
            self._ids.append(event_id)

    def _send_twice(self, wafer: WaferPlan) -> None:
        """Report as an old program without the SDK does that misses the first acknowledgement: twice, by plain HTTP.

        The second time the event goes in a list: the sidecar would know the same bytes again, and the stores are to tell.
        """
        event = {
            "event_id": uuid7(),
            "timestamp": datetime.now(UTC).isoformat(),
            "kind": "log",
            "name": "wafer_handler",
            "site_id": self._orders.site,
            "app": {"name": "wafer-handler", "version": "0.9", "instance_id": self._orders.instance},
            "entities": {"tool": self._plan.tool.name, "chamber": wafer.chamber, "wafer": f"{wafer.wafer:02}"},
            "message": f"wafer {wafer.wafer:02} placed in {wafer.chamber}",
        }
        sent = [self._post(event), self._post([event])]
        with self._lock:
            self._ids.append(str(event["event_id"]))
            self._legacy += 1
            self._legacy_acknowledged += any(sent)

    def _post(self, body: dict[str, Any] | list[dict[str, Any]]) -> bool:
        request = urllib.request.Request(  # noqa: S310 - the sidecar of our own configuration
            f"{self._orders.sidecar}/v1/ingest/events", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        for _ in range(_LEGACY_TRIES):
            try:
                with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310 - the same
                    return bool(response.status == _ACCEPTED)
            except OSError:
                time.sleep(_LEGACY_PAUSE)
        return False


def main(orders_file: Path) -> None:
    """Play one tool's shift and write its ledger."""
    orders = msgspec.json.decode(orders_file.read_bytes(), type=Orders)
    plan = next(plan for plan in plan_fab(orders.seed, orders.seconds) if plan.tool.name == orders.tool)
    config = yaml.safe_load(Path(orders.sdk_config).read_text(encoding="utf-8"))
    config["sdk"]["app"] = {
        "name": plan.tool.application,
        "version": "1.4.2",
        "site_id": orders.site,
        "instance_id": orders.instance,
    }
    monitoring.initialize(config)
    process = ToolProcess(orders, plan)
    process.play()
    # A program need not wait for this; here the counts shall say what was acknowledged, not what waits on disk.
    monitoring.flush(_FLUSH_SECONDS)
    monitoring.close()
    stats = monitoring.stats()
    counts = {name: value for name, value in vars(stats).items() if isinstance(value, int)}
    Path(orders.ledger).write_bytes(msgspec.json.encode(process.ledger(counts)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
