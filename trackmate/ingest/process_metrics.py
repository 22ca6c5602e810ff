"""This machine's own processes as a source: their processor time, memory and files as metric events."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import psutil

from contract.errors import TrackMateError
from contract.ids import stable_id

_ATTRIBUTES = ("pid", "name", "username", "status", "create_time", "num_threads", "cpu_times", "memory_info")


def sample(
    pids: Sequence[int], site: str, app: str, *, host: str, now: Callable[[], datetime] = lambda: datetime.now(UTC)
) -> Iterator[bytes]:
    """One metric event for each process that may be looked at, all processes when `pids` is empty."""
    for process in _processes(pids):
        try:
            seen = process.as_dict(_ATTRIBUTES)
        except psutil.NoSuchProcess:
            continue
        moment = now()
        times, memory = seen["cpu_times"], seen["memory_info"]
        metrics = {"threads": seen["num_threads"]}
        if times is not None:
            metrics |= {"cpu_user_seconds": times.user, "cpu_system_seconds": times.system}
        if memory is not None:
            metrics |= {"resident_bytes": memory.rss, "virtual_bytes": memory.vms}
        key = f"{host}\0{seen['pid']}\0{seen['create_time']}"
        event: dict[str, Any] = {
            "event_id": stable_id(key, moment),
            "timestamp": moment,
            "kind": "metric",
            "name": "process",
            "site_id": site,
            "app": {"name": app, "instance_id": host},
            "entities": {"process": seen["name"] or "unknown", "pid": str(seen["pid"])},
            "metrics": {name: float(value) for name, value in metrics.items() if value is not None},
            "attributes": {"status": seen["status"], "user": seen["username"]},
        }
        yield msgspec.json.encode(event)


def _processes(pids: Sequence[int]) -> Iterator[psutil.Process]:
    if not pids:
        yield from psutil.process_iter()
        return
    for pid in pids:
        try:
            yield psutil.Process(pid)
        except psutil.NoSuchProcess as error:
            raise TrackMateError(f"there is no process {pid}. 'ps -e' lists those that run") from error


def samples_for(
    seconds: float, interval: float, take: Callable[[], list[bytes]], *, sleep: Callable[[float], None] = time.sleep
) -> Iterator[list[bytes]]:
    """Take a sample every `interval` seconds for `seconds` seconds, one at least."""
    end = time.monotonic() + seconds
    while True:
        began = time.monotonic()
        yield take()
        if began + interval > end:
            return
        sleep(max(0.0, began + interval - time.monotonic()))
