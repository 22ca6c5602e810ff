"""A shift of the whole simulated fab: a process for each tool, started together, and their ledgers at the end."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from contract.errors import TrackMateError
from trackmate.fab.layout import TOOLS
from trackmate.fab.ledger import Ledger, Orders

LEAD_SECONDS = 3.0
"""From the order to the shift's start: a tool's process must be up by then."""
_STOP_SECONDS = 10.0


@dataclass(frozen=True)
class ShiftOrders:
    """What a shift is: how long, from which seed, who it says it is, and where it reports."""

    seed: int
    seconds: float
    site: str
    instance: str
    sidecar: str
    sdk_config: Path
    folder: Path
    """For orders, ledgers and logs."""


@dataclass
class Shift:
    """A shift that goes on."""

    orders: ShiftOrders
    starts_at: float
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def going_on(self) -> bool:
        """Whether a tool still works; raises TrackMateError when one has crashed."""
        for tool, process in self.processes.items():
            code = process.poll()
            if code:
                log = self.orders.folder / f"{tool}.log"
                tail = log.read_text(encoding="utf-8", errors="replace").strip()[-1500:]
                raise TrackMateError(f"the simulated tool {tool} ended with code {code}. The end of {log}:\n{tail}")
        return any(process.poll() is None for process in self.processes.values())

    def ledgers(self) -> list[Ledger]:
        """What every tool did; call it when none works any more."""
        folder = self.orders.folder
        return [msgspec.json.decode((folder / f"{tool}.ledger.json").read_bytes(), type=Ledger) for tool in self.processes]


@contextmanager
def shift(orders: ShiftOrders, tools: Sequence[str] = tuple(tool.name for tool in TOOLS)) -> Iterator[Shift]:
    """Start a shift; at the end of the block its processes are ended, whatever happened."""
    orders.folder.mkdir(parents=True, exist_ok=True)
    going = Shift(orders, time.time() + LEAD_SECONDS)
    try:
        for tool in tools:
            going.processes[tool] = _start(orders, tool, going.starts_at)
        yield going
    finally:
        for process in going.processes.values():
            process.terminate()
        for process in going.processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_SECONDS)
            process.kill()
            process.wait()


def _start(orders: ShiftOrders, tool: str, starts_at: float) -> subprocess.Popen[bytes]:
    told = Orders(
        tool=tool,
        seed=orders.seed,
        seconds=orders.seconds,
        starts_at=starts_at,
        site=orders.site,
        instance=orders.instance,
        sidecar=orders.sidecar,
        sdk_config=str(orders.sdk_config),
        ledger=str(orders.folder / f"{tool}.ledger.json"),
    )
    file = orders.folder / f"{tool}.orders.json"
    file.write_bytes(msgspec.json.encode(told))
    with (orders.folder / f"{tool}.log").open("wb") as log:
        # A group of its own: Ctrl-C at the terminal reaches us alone, and we end the tools.
        return subprocess.Popen(  # noqa: S603 - our own command line
            [sys.executable, "-P", "-m", "trackmate.fab.tool", str(file)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
