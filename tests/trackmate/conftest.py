"""Fixtures of the command line's tests: a real sidecar, and the program itself as a user runs it."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from sidecar.spool.reader import SpoolReader
from tests.services.base import Service, free_port
from tests.services.certificates import Certificate

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
    """A sidecar of its own, whose backend never answers: everything it accepts stays in its spool.

    With a `certificate`, which `authority` has signed, it speaks TLS.
    """

    name = "sidecar"

    def __init__(self, certificate: Certificate | None = None, authority: Path | None = None) -> None:
        super().__init__()
        self.port = free_port()
        self.url = f"{'http' if certificate is None else 'https'}://127.0.0.1:{self.port}"
        self._settings: dict[str, Any] = {"listen": f"127.0.0.1:{self.port}", "spool": {"dir": "./spool"}, "readers": ["lake"]}
        if certificate is not None:
            self._settings["tls"] = {"cert_file": str(certificate.cert_file), "key_file": str(certificate.key_file)}
        self._verify = ssl.create_default_context(cafile=authority) if authority is not None else False

    def start(self) -> SidecarService:
        config = self.folder / "sidecar.yaml"
        config.write_text(json.dumps({"sidecar": self._settings}))
        self.spawn([*TRACKMATE, "sidecar", "--config", config], ready=self._ready)
        return self

    def _ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/ready", timeout=1, verify=self._verify, trust_env=False).status_code == 200
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
def gateway() -> Iterator[str]:
    """A gateway that knows of no event."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            places = [{"place": place, "status": "absent"} for place in ("hot", "bronze", "silver", "custody")]
            body = json.dumps({"event_id": "", "found": False, "made_at": None, "places": places}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def roomy(tmp_path: Path) -> Path:
    """A folder whose name has a space in it."""
    folder = tmp_path / "with a space"
    folder.mkdir()
    return folder
