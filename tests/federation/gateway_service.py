"""A gateway as its users run it: `trackmate gateway`, in a process of its own, on a free port."""

from __future__ import annotations

import datetime as dt
import json
import signal
import ssl
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import httpx

from contract.ids import uuid7
from federation.token_file import TokenFile
from tests.services.base import Service, free_port, wait_until


class GatewayService(Service):
    """One gateway over the hot store `dsn` and the lake in its folder; `start` returns when /ready says so.

    `tokens` are names with (scopes, sites); `plain[name]` is the token itself. Without any, loopback is open.
    """

    name = "gateway"

    def __init__(
        self, dsn: str, tokens: Mapping[str, tuple[Sequence[str], Sequence[str] | None]] | None = None, **sections: Any
    ) -> None:
        super().__init__()
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.config = self.folder / "trackmate.yaml"
        self.tokens = TokenFile(self.folder / "tokens.json")
        now = dt.datetime.now(dt.UTC)
        self.plain = {name: self.tokens.add(name, scopes, sites, None, now) for name, (scopes, sites) in (tokens or {}).items()}
        gateway = {"listen": f"127.0.0.1:{self.port}", **sections.pop("gateway", {})}
        self.verify: ssl.SSLContext | bool = True
        if "tls" in gateway:
            self.url = self.url.replace("http://", "https://")
            self.verify = ssl.create_default_context(cafile=gateway["tls"]["certificate"])
        tree = {"gateway": gateway, "hot": {"dsn": dsn}, "lake": {"root": "./lake"}, **sections}
        self.config.write_text(json.dumps(tree))
        self.wait_ready = True

    def start(self) -> Self:
        def ready() -> bool:
            path = "/ready" if self.wait_ready else "/health"
            return self.get(path).status_code == 200

        def answers() -> bool:
            try:
                return ready()
            except httpx.TransportError:
                return False

        self.spawn([sys.executable, "-m", "trackmate", "gateway", "--config", self.config], ready=answers)
        return self

    def client(self, token: str | None = None, **options: Any) -> httpx.Client:
        """An HTTP client that speaks for the token of this name."""
        headers = {"Authorization": f"Bearer {self.plain[token]}"} if token else {}
        return httpx.Client(base_url=self.url, headers=headers, trust_env=False, timeout=30, verify=self.verify, **options)

    def get(self, path: str, token: str | None = None, **parameters: Any) -> httpx.Response:
        """One GET."""
        with self.client(token) as client:
            return client.get(path, params=parameters)

    def ingest(self, body: Any, token: str | None = None, **headers: str) -> httpx.Response:
        """One POST to /v1/ingest/managed; bytes go as they are, all else as JSON."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        with self.client(token) as client:
            return client.post(
                "/v1/ingest/managed",
                content=content,
                headers={"content-type": "application/json", **{k.replace("_", "-").lower(): v for k, v in headers.items()}},
            )

    def sql(self, statement: str, token: str | None = None, **more: Any) -> httpx.Response:
        """One POST to /v1/sql."""
        with self.client(token) as client:
            return client.post("/v1/sql", json={"sql": statement, **more})

    def log(self) -> str:
        """What it has written to stderr."""
        return (self.folder / "log.txt").read_text(errors="replace")

    def terminate(self) -> int:
        """SIGTERM and wait; the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


def event(moment: dt.datetime | None = None, **fields: Any) -> dict[str, Any]:
    """A valid event, now or at `moment`."""
    at = moment or dt.datetime.now(dt.UTC)
    return {
        "event_id": uuid7(int(at.timestamp() * 1000)),
        "timestamp": at.isoformat(timespec="microseconds"),
        "kind": "log",
        "name": "etch",
        "site_id": "fab1",
        "app": {"name": "tests"},
        **fields,
    }


def events(count: int, start: dt.datetime, step: dt.timedelta = dt.timedelta(seconds=1), **fields: Any) -> list[dict[str, Any]]:
    """So many events, one every `step`."""
    return [event(start + index * step, **fields) for index in range(count)]


def eventually(condition: Any, what: str, seconds: float = 20) -> Any:
    """Wait for something true."""
    return wait_until(condition, seconds=seconds, what=what)


def error_of(response: httpx.Response) -> dict[str, Any]:
    """The error of a response, which must have the one shape."""
    error = response.json()["error"]
    assert set(error) == {"code", "message", "where", "hint"}
    assert response.status_code < 500 or response.status_code == 503, response.text
    return dict(error)


def lake_folder(gateway: GatewayService) -> Path:
    """The folder of the gateway's lake."""
    return gateway.folder / "lake"
