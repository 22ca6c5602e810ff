"""The services of the embedded stack: how each is started, what it needs, and how it says that it is ready."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import httpx

from contract.errors import TrackMateError
from federation.config import TrackMateConfig, load_config
from sidecar.config import SidecarSettings
from sidecar.config import load as load_sidecar
from trackmate import dagster_home
from trackmate.dagster_api import DagsterApi
from trackmate.data_folder import DataFolder
from trackmate.ports import Endpoint, parse_listen
from trackmate.supervisor import Service
from trackmate.trust import OwnCertificate, wants_certificate

GROUPS: Final = {
    "postgres": ("postgres",),
    "sidecar": ("sidecar",),
    "gateway": ("gateway",),
    "dagster": ("dagster-code", "dagster-web", "dagster-daemon"),
}
"""What `--only` takes, and the services that each stands for."""

_PYTHON: Final = (sys.executable, "-P", "-m")
_OK: Final = 200


@dataclass(frozen=True)
class StackConfig:
    """The configuration files of a data folder, read and checked."""

    folder: DataFolder
    config: TrackMateConfig
    sidecar: SidecarSettings

    @property
    def endpoints(self) -> dict[str, Endpoint]:
        """Where each service listens, by the names of GROUPS."""
        trackmate_yaml, sidecar_yaml = self.folder.trackmate_yaml, self.folder.sidecar_yaml
        gateway, served = self.config.gateway, self.sidecar.tls
        of_sidecar = None if served is None else OwnCertificate(served.cert_file, served.key_file)
        of_gateway = None if gateway.tls is None else OwnCertificate(gateway.tls.certificate, gateway.tls.key)
        ends = {
            "sidecar": Endpoint("sidecar", self.sidecar.host, self.sidecar.port, f"sidecar.listen in {sidecar_yaml}", of_sidecar),
            "gateway": Endpoint("gateway", gateway.host, gateway.port, f"gateway.listen in {trackmate_yaml}", of_gateway),
            "dagster": parse_listen("dagster", self.config.stack.dagster_listen, f"stack.dagster_listen in {trackmate_yaml}"),
        }
        if self.config.stack.embedded_postgres:
            dsn = urlsplit(self.config.hot.dsn.reveal())
            ends["postgres"] = Endpoint("postgres", dsn.hostname or "127.0.0.1", dsn.port or 5432, f"hot.dsn in {trackmate_yaml}")
        return ends


def read_stack(folder: DataFolder) -> StackConfig:
    """Read the folder's configuration; raises TrackMateError with everything that is wrong in its files."""
    folder.require()
    problems = []
    config = sidecar = None
    try:
        config = load_config(folder.trackmate_yaml)
    except TrackMateError as error:
        problems.append(str(error))
    try:
        sidecar = load_sidecar(folder.sidecar_yaml)
    except TrackMateError as error:
        problems.append(str(error))
    if config is None or sidecar is None:
        raise TrackMateError("\n".join(problems))
    return StackConfig(folder, config, sidecar)


def named_groups(only: list[str] | None) -> list[str]:
    """The groups that `--only` names, one or several an option; raises TrackMateError for one that does not exist."""
    wanted = [name for entry in only or [] for name in entry.replace(",", " ").split()]
    unknown = sorted(set(wanted) - GROUPS.keys())
    if unknown:
        raise TrackMateError(f"--only {' '.join(unknown)}: no such service; there are {', '.join(GROUPS)}")
    return wanted


def chosen_groups(stack: StackConfig, only: list[str] | None) -> list[str]:
    """The groups to start: those named, or all that the configuration has; raises TrackMateError for an unknown name."""
    wanted = named_groups(only)
    return [name for name in GROUPS if name in stack.endpoints and (not wanted or name in wanted)]


def make_services(stack: StackConfig, groups: list[str]) -> list[Service]:
    """The services of these groups, in the order in which they start."""
    folder, ends = stack.folder, stack.endpoints
    made: list[Service] = []
    if "postgres" in groups:
        end = ends["postgres"]
        command = (*_PYTHON, "trackmate", "postgres", "--data", str(folder.root))
        ready = _answers_sql(stack.config.hot.dsn.reveal())
        made.append(Service("postgres", command, ready, f"{end.host}:{end.port}", stop_seconds=40))
    if "gateway" in groups:
        command = (*_PYTHON, "trackmate", "gateway", "--config", str(folder.trackmate_yaml))
        made.append(
            Service(
                "gateway",
                command,
                _answers_http(ends["gateway"], "/ready"),
                ends["gateway"].url,
                ("postgres",),
                stop_seconds=30,
            )
        )
    if "sidecar" in groups:
        command = (*_PYTHON, "trackmate", "sidecar", "--config", str(folder.sidecar_yaml))
        grace = stack.sidecar.shutdown_grace + 10
        # It needs no gateway to start, but is stopped before it, so that it can still deliver what it holds.
        ready = _answers_http(ends["sidecar"], "/ready")
        made.append(Service("sidecar", command, ready, ends["sidecar"].url, uses=("gateway",), stop_seconds=grace))
    if "dagster" in groups:
        made += _dagster(stack, groups)
    return made


def _dagster(stack: StackConfig, groups: list[str]) -> list[Service]:
    home, end = stack.folder.dagster, stack.endpoints["dagster"]
    port = _free_port()
    workspace = str(dagster_home.prepare(home, port))
    web = (*_PYTHON, "dagster_webserver", "-h", end.host, "-p", str(end.port), "-w", workspace)
    api = DagsterApi(end.url, timeout=5.0)
    code = (*_PYTHON, "trackmate.dagster_home", str(home), str(port))
    # The hot store's tables are there once the gateway is ready.
    stores = ("gateway",) if "gateway" in groups else ("postgres",)
    daemon = (*_PYTHON, "dagster._daemon", "run", "-w", workspace)
    return [
        Service("dagster-code", code, _listens(port), f"127.0.0.1:{port}", uses=stores),
        Service("dagster-web", web, _answers_http(end, "/server_info"), end.url, ("dagster-code",)),
        Service("dagster-daemon", daemon, _dagster_ready(api), "", ("dagster-code", *stores)),
    ]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _answers_http(end: Endpoint, path: str) -> Callable[[], str | None]:
    client = httpx.Client(timeout=2.0, trust_env=False, verify=end.verify())

    def ready() -> str | None:
        try:
            response = client.get(end.url + path)
        except httpx.HTTPError as error:
            # It serves; we are just not one of those who may ask it.
            return None if wants_certificate(error) else "starting"
        if response.status_code == _OK:
            return None
        return f"not ready yet{_missing(response)}"

    return ready


def _missing(response: httpx.Response) -> str:
    """What a service says it waits for."""
    try:
        checks = response.json()["checks"]
    except (ValueError, KeyError, TypeError):
        return ""
    waiting = [name for name, state in checks.items() if state != "ok"]
    return f": waits for {', '.join(waiting)}" if waiting else ""


def _answers_sql(dsn: str) -> Callable[[], str | None]:
    def ready() -> str | None:
        import psycopg

        try:
            with psycopg.connect(dsn, connect_timeout=2) as connection:
                connection.execute("SELECT 1")
        except psycopg.Error:
            return "starting"
        return None

    return ready


def _listens(port: int) -> Callable[[], str | None]:
    def ready() -> str | None:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return None
        except OSError:
            return "loading the assets"

    return ready


def _dagster_ready(api: DagsterApi) -> Callable[[], str | None]:
    def ready() -> str | None:
        try:
            problems = api.problems()
        except TrackMateError:
            return "starting"
        return problems[0] if problems else None

    return ready
