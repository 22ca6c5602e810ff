"""The whole chain as separate processes on loopback, each of which can be killed, with a bad network between them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import psycopg
import yaml

from tests.services.base import free_port, wait_until
from tests.services.toxiproxy import Link, Toxiproxy
from trackmate.data_folder import DataFolder
from trackmate.embedded_postgres import EmbeddedPostgres

PYTHON = (sys.executable, "-m")


class Part:
    """One process in a process group of its own; `kill` is SIGKILL to all of the group."""

    def __init__(self, name: str, command: Sequence[str], log: Path, env: Mapping[str, str]) -> None:
        self.name = name
        self.kills = 0
        self._command = [*PYTHON, *command]
        self._log = log
        self.env = {**os.environ, **env}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process; its output is appended to its log."""
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def kill(self) -> None:
        """End it as a power cut would."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(30)
            self.kills += 1

    def stop(self) -> None:
        """End it in good order."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.kill()

    def tail(self) -> str:
        """The end of its log."""
        return self._log.read_text(errors="replace")[-3000:] if self._log.exists() else ""


class Chain:
    """Sidecar, gateway, PostgreSQL and replication over one data folder, with a proxy on every link."""

    def __init__(self, root: Path, spool: Path, proxy: Toxiproxy) -> None:
        self.folder = DataFolder(root)
        self.folder.make()
        self.spool = spool
        self.ports = {name: free_port() for name in ("sidecar", "gateway", "postgres")}
        self.links: dict[str, Link] = {
            "program-sidecar": proxy.link(f"program-sidecar-{root.name}", self.ports["sidecar"]),
            "sidecar-gateway": proxy.link(f"sidecar-gateway-{root.name}", self.ports["gateway"]),
            "gateway-postgres": proxy.link(f"gateway-postgres-{root.name}", self.ports["postgres"]),
        }
        self._configure()
        commands = {
            "postgres": ("tests.conservation.postgres", str(self.folder.postgres), str(self.ports["postgres"])),
            "gateway": ("trackmate", "gateway", "--config", str(self.folder.trackmate_yaml)),
            "sidecar": ("trackmate", "sidecar", "--config", str(self.folder.sidecar_yaml)),
            "replicator": ("tests.conservation.replicator",),
        }
        env = {"TRACKMATE_CONFIG": str(self.folder.trackmate_yaml), "PYTHONPATH": str(Path(__file__).parents[2])}
        self.parts = {name: Part(name, command, root / "logs" / f"{name}.log", env) for name, command in commands.items()}
        self._client = httpx.Client(trust_env=False, timeout=5)

    def _configure(self) -> None:
        dsn = EmbeddedPostgres(self.folder.postgres, self.ports["postgres"]).dsn().reveal()
        self.dsn = dsn
        through = dsn.replace(f":{self.ports['postgres']}/", f":{self.links['gateway-postgres'].port}/")
        trackmate: dict[str, Any] = {
            "gateway": {"listen": f"127.0.0.1:{self.ports['gateway']}"},
            "hot": {"dsn": through},
            "lake": {"root": str(self.folder.lake), "spools": [str(self.spool)]},
        }
        sidecar: dict[str, Any] = {
            "listen": f"127.0.0.1:{self.ports['sidecar']}",
            "spool": {"dir": str(self.spool), "max_bytes": "4GiB", "segment_bytes": "4MiB", "segment_age": "2s"},
            "readers": ["lake"],
            "adopt": [str(self.folder.sdk_spool)],
            "shutdown_grace": "1s",
            "backends": [
                {"name": "managed", "type": "managed", "priority": 1, "timeout": "10s", "probe_interval": "1s",
                 "config": {"url": f"http://127.0.0.1:{self.links['sidecar-gateway'].port}"}},
            ],
        }  # fmt: skip
        self.folder.trackmate_yaml.write_text(yaml.safe_dump(trackmate))
        self.folder.sidecar_yaml.write_text(yaml.safe_dump({"sidecar": sidecar}))

    def sdk_config(self) -> dict[str, Any]:
        """What a program that reports through the SDK is configured with."""
        sidecar = {
            "url": f"http://127.0.0.1:{self.links['program-sidecar'].port}",
            "timeout": 2.0, "retries": 2, "spool_dir": str(self.folder.sdk_spool),
        }  # fmt: skip
        return {"sdk": {"sidecar": sidecar, "app": {"name": "sdk-sender", "site_id": "fab1"}}}

    def start(self) -> None:
        """Start everything and wait until each part is ready."""
        for name in ("postgres", "gateway", "sidecar"):
            self.parts[name].start()
            self.wait_ready(name)
        self.parts["replicator"].start()

    def wait_ready(self, name: str, seconds: float = 60) -> None:
        """Wait until the part answers; its log is in the error when it does not."""
        try:
            wait_until(lambda: self.ready(name), seconds=seconds, what=f"{name} to be ready", interval=0.1)
        except TimeoutError as error:
            raise AssertionError(f"{error}\n{self.parts[name].tail()}") from error

    def ready(self, name: str) -> bool:
        """Whether the part answers now, asked past the proxies."""
        if name == "postgres":
            try:
                with psycopg.connect(self.dsn, connect_timeout=2):
                    return True
            except psycopg.Error:
                return False
        if name == "replicator":
            return self.parts[name].process is not None
        try:
            return self._client.get(f"http://127.0.0.1:{self.ports[name]}/ready").status_code == 200
        except httpx.HTTPError:
            return False

    def health(self) -> dict[str, Any]:
        """The sidecar's view of its spool and backends."""
        answer: dict[str, Any] = self._client.get(f"http://127.0.0.1:{self.ports['sidecar']}/health").json()
        return answer

    def heal(self) -> None:
        """Take every disturbance off the network."""
        for link in self.links.values():
            link.heal()

    def stop(self) -> None:
        """End everything."""
        for name in ("replicator", "sidecar", "gateway", "postgres"):
            self.parts[name].stop()
        self._client.close()
