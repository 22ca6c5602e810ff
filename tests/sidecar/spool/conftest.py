"""What the spool's tests share: logs on real and simulated disks, records that tell who they are."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from sidecar.spool.admission import SpoolConfig
from sidecar.spool.filesystem import DISK, Filesystem
from sidecar.spool.log import SpoolLog

OpenLog = Callable[..., SpoolLog]


@pytest.fixture
async def open_log(tmp_path: Path) -> AsyncIterator[OpenLog]:
    """Opens logs in the test's own folder and closes them afterwards; nothing happens by itself unless asked for."""
    opened: list[SpoolLog] = []

    def opener(*, filesystem: Filesystem = DISK, monotonic: Callable[[], float] | None = None, **settings: Any) -> SpoolLog:
        defaults: dict[str, Any] = {"dir": tmp_path / "spool", "tick_interval": 3600.0, "retry_pause": 0.0}
        clocks: dict[str, Any] = {} if monotonic is None else {"monotonic": monotonic}
        log = SpoolLog.open(SpoolConfig(**(defaults | settings)), filesystem=filesystem, **clocks)
        opened.append(log)
        return log

    yield opener
    for log in opened:
        await log.close()


async def fill(log: SpoolLog, records: int, *, size: int = 100, events: int = 3) -> list[tuple[int, bytes]]:
    """Append `records` batches one after the other; returns their numbers and bodies."""
    written = []
    for index in range(records):
        body = f"record {index} ".encode().ljust(size, b".")
        written.append((await log.append(body, events), body))
    return written


Fill = Callable[..., Awaitable[list[tuple[int, bytes]]]]
