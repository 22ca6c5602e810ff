"""The quarantine: durable before the answer, bounded, and readable line by line."""

from __future__ import annotations

import asyncio
import base64
import errno
import json
from pathlib import Path
from typing import Any

import pytest

from contract.codec import Rejection
from sidecar.spool.errors import SpoolUnavailable
from sidecar.spool.filesystem import Filesystem
from sidecar.spool.quarantine import Quarantine
from tests.sidecar.spool.memory_disk import MemoryDisk


def rejection(index: int, raw: bytes = b'{"bad": 1}') -> Rejection:
    return Rejection(index, None, "kind", "expected one of …", raw)


def lines(folder: Path) -> list[dict[str, Any]]:
    files = sorted((folder / "quarantine").glob("*.ndjson"))
    return [json.loads(line) for file in files for line in file.read_bytes().splitlines()]


async def test_a_rejected_event_loses_its_text_or_reason(tmp_path: Path) -> None:
    quarantine = Quarantine(tmp_path, clock=lambda: 1_750_000_000.0)
    await quarantine.keep(
        [Rejection(3, "an-id", "metrics.temp", "expected a number", b'{"ts": 1,\n "x": "\xc3\xa9"}')], "sidecar"
    )
    await quarantine.keep([rejection(0, b"\xff{")], "adopted file")
    await quarantine.close()
    first, second = lines(tmp_path)
    assert first == {
        "quarantined_at": "2025-06-15T15:06:40.000+00:00",
        "source": "sidecar",
        "index": 3,
        "event_id": "an-id",
        "path": "metrics.temp",
        "error": "expected a number",
        "event": '{"ts": 1,\n "x": "é"}',
    }
    assert base64.b64decode(second["event_base64"]) == b"\xff{"
    assert second["source"] == "adopted file"


async def test_an_answer_goes_out_before_the_sync() -> None:
    disk = MemoryDisk()
    quarantine = Quarantine(Path("/spool"), filesystem=disk.mount())
    await quarantine.keep([rejection(0)], "sidecar")
    disk.power_cut(lambda most: 0)
    (content,) = [bytes(inode.durable) for name, inode in disk.durable_names.items() if name.suffix == ".ndjson"]
    assert json.loads(content)["index"] == 0


async def test_each_rejection_costs_a_sync(tmp_path: Path) -> None:
    class Counting(Filesystem):
        syncs = 0

        def fdatasync(self, fd: int) -> None:
            self.syncs += 1
            super().fdatasync(fd)

    disk = Counting()
    quarantine = Quarantine(tmp_path, filesystem=disk)
    await asyncio.gather(*(quarantine.keep([rejection(index)], "sidecar") for index in range(50)))
    assert disk.syncs <= 2
    assert sorted(line["index"] for line in lines(tmp_path)) == list(range(50))
    await quarantine.close()


@pytest.mark.parametrize("operation", ["create", "write_at", "fdatasync", "sync_folder"])
async def test_a_full_disk_is_acknowledged_or_breaks_the_quarantine(operation: str) -> None:
    disk = MemoryDisk()
    quarantine = Quarantine(Path("/spool"), filesystem=disk.mount())
    disk.fail(operation, errno.ENOSPC)
    results = await asyncio.gather(
        *(quarantine.keep([rejection(index)], "sidecar") for index in range(3)), return_exceptions=True
    )
    assert [type(result) for result in results] == [SpoolUnavailable] * 3
    await quarantine.keep([rejection(9)], "sidecar")
    content = b"".join(bytes(inode.content) for name, inode in disk.names.items() if name.suffix == ".ndjson")
    assert [json.loads(line)["index"] for line in content.splitlines()] == [9]
    await quarantine.close()


async def test_a_sender_that_hangs_up_leaves_half_a_line(tmp_path: Path) -> None:
    quarantine = Quarantine(tmp_path)
    first = asyncio.create_task(quarantine.keep([rejection(0)], "sidecar"))
    await asyncio.sleep(0)
    first.cancel()
    await quarantine.keep([rejection(1)], "sidecar")
    await quarantine.close()
    assert [line["index"] for line in lines(tmp_path)] == [0, 1]


async def test_the_quarantine_grows_without_bound(tmp_path: Path) -> None:
    quarantine = Quarantine(tmp_path, max_bytes=5_000, file_bytes=1_000)
    for index in range(100):
        await quarantine.keep([rejection(index)], "sidecar")
    await quarantine.close()
    kept = [line["index"] for line in lines(tmp_path)]
    assert kept == list(range(100))[-len(kept) :]
    assert 10 < len(kept) < 60
    assert quarantine.dropped_files > 0


async def test_a_restart_appends_to_a_torn_line(tmp_path: Path) -> None:
    for index in range(2):
        quarantine = Quarantine(tmp_path)
        await quarantine.keep([rejection(index)], "sidecar")
        await quarantine.close()
    assert len(list((tmp_path / "quarantine").iterdir())) == 2


async def test_nothing_rejected_makes_a_file(tmp_path: Path) -> None:
    quarantine = Quarantine(tmp_path)
    await quarantine.keep([], "sidecar")
    await quarantine.close()
    assert not (tmp_path / "quarantine").exists()
