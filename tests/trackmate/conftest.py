"""Fixtures of the command line's tests: a real sidecar, and the program itself as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from sidecar.spool.reader import SpoolReader
from tests.services.base import Service, free_port

TRACKMATE = (sys.executable, "-m", "trackmate")


def trackmate(*arguments: object, timeout: float = 120, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the program and wait for its end."""
    return subprocess.run(
        [*TRACKMATE, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
    )


class SidecarService(Service):
    """A sidecar of its own, whose backend never answers: everything it accepts stays in its spool."""

    name = "sidecar"

    def __init__(self) -> None:
        super().__init__()
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self) -> SidecarService:
        config = self.folder / "sidecar.yaml"
        config.write_text(f"sidecar: {{listen: '127.0.0.1:{self.port}', spool: {{dir: ./spool}}, readers: [lake]}}\n")
        self.spawn([*TRACKMATE, "sidecar", "--config", config], ready=self._ready)
        return self

    def _ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/ready", timeout=1).status_code == 200
        except httpx.HTTPError:
            return False

    def events(self) -> list[dict[str, Any]]:
        """Everything in the spool, in order, repetitions included."""
        reader = SpoolReader(self.folder / "spool")
        records = reader.read(0, max_events=10**9, max_bytes=1 << 40, closed_only=False)
        return [json.loads(line) for record in records for line in record.ndjson().splitlines()]


@pytest.fixture
def sidecar() -> Iterator[SidecarService]:
    with SidecarService() as service:
        yield service


@pytest.fixture
def roomy(tmp_path: Path) -> Path:
    """A folder whose name has a space in it."""
    folder = tmp_path / "with a space"
    folder.mkdir()
    return folder
