"""Which ports the embedded stack uses, and who holds one that is taken."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass

import psutil

from contract.errors import TrackMateError
from trackmate.trust import OwnCertificate


@dataclass(frozen=True)
class Ports:
    """The ports of a fresh data folder."""

    sidecar: int = 17000
    gateway: int = 17080
    dagster: int = 3000
    postgres: int = 55432

    def shifted(self, offset: int) -> Ports:
        """All ports moved by `offset`; raises TrackMateError when one leaves 1-65535."""
        moved = Ports(self.sidecar + offset, self.gateway + offset, self.dagster + offset, self.postgres + offset)
        for name, port in vars(moved).items():
            if not 0 < port < 65536:
                raise TrackMateError(
                    f"--port-offset {offset} moves {name} to port {port}; ports are 1 to 65535. Give a smaller one"
                )
        return moved


@dataclass(frozen=True)
class Endpoint:
    """Where one service listens, and which setting says so."""

    service: str
    host: str
    port: int
    setting: str
    certificate: OwnCertificate | None = None
    """What it serves with, where it speaks TLS."""

    @property
    def url(self) -> str:
        """The address as a URL that this machine can reach."""
        scheme = "https" if self.certificate else "http"
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host, self.host)  # noqa: S104 - compared, not bound
        return f"{scheme}://{f'[{host}]' if ':' in host and not host.startswith('[') else host}:{self.port}"

    def verify(self) -> ssl.SSLContext | bool:
        """What httpx is to believe there. Raises TrackMateError when the certificate's file can't be read."""
        return self.certificate.context() if self.certificate else False


def parse_listen(service: str, listen: str, setting: str) -> Endpoint:
    """An endpoint from `host:port`."""
    host, _, port = listen.rpartition(":")
    return Endpoint(service, host.strip("[]"), int(port), setting)


def is_taken(endpoint: Endpoint) -> bool:
    """Whether the port can't be bound now."""
    family = socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((endpoint.host, endpoint.port))
        except OSError:
            return True
    return False


def holder(port: int) -> str | None:
    """The process that listens on a port, as `name (process 123)`; None when this user may not know."""
    try:
        connections = psutil.net_connections("tcp")
    except psutil.AccessDenied:
        return None
    for connection in connections:
        if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port and connection.pid:
            try:
                return f"{psutil.Process(connection.pid).name()} (process {connection.pid})"
            except psutil.NoSuchProcess:
                return None
    return None


def refuse_taken(endpoints: list[Endpoint]) -> None:
    """Raise TrackMateError that names every port that is taken, who holds it, and the setting to change."""
    taken = [endpoint for endpoint in endpoints if is_taken(endpoint)]
    if not taken:
        return
    lines = [
        f"port {endpoint.port}, wanted by {endpoint.service}, is taken by {holder(endpoint.port) or 'another process'}; "
        f"set {endpoint.setting} to use another"
        for endpoint in taken
    ]
    raise TrackMateError(
        "\n  ".join(lines) + "\nStop what holds it, change the setting, or start with another --data folder and --port-offset 100"
    )
