"""Who answers `trackmate sql`: the engine in this process over the lake itself, or a gateway over HTTP."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec
import pyarrow as pa

from contract.errors import TrackMateError
from federation.auth import LOOPBACK
from federation.config import load_config
from federation.engines.base import Limits, Stats
from federation.engines.catalog import described
from federation.engines.duckdb_engine import DuckDBEngine
from trackmate.trust import advice, machine

if TYPE_CHECKING:
    import httpx

_OK: Final = 200
_UNAUTHORIZED: Final = 401
_ARROW: Final = "application/vnd.apache.arrow.stream"


@dataclass(frozen=True)
class Answer:
    """A table, and what it cost: `rows`, `seconds`, `files`, `files_total`, `bytes`, `bytes_total`, `cache`, `truncated`."""

    table: pa.Table
    costs: dict[str, Any] = field(default_factory=dict)


class SqlClient(Protocol):
    """Something that answers statements."""

    def ask(self, sql: str, *, limit: int | None = None, as_of: datetime | None = None) -> Answer:
        """Run one statement; at most `limit` rows of its answer (None: as many as are allowed). Raises TrackMateError."""

    def tables(self) -> list[dict[str, Any]]:
        """The catalog, a table an entry."""

    def close(self) -> None:
        """Let go of everything."""


class EmbeddedClient:
    """The engine in this process: nothing else needs to run, and the bounds are the machine's, not a gateway's."""

    def __init__(self, config_file: Path) -> None:
        config = load_config(config_file)
        self._defaults = config.engines.duckdb
        # whoever may run this may read the files anyway: only the time and the memory stay bounded
        engine = replace(config.engines.duckdb, max_rows=2**31, max_bytes=2**50)
        self._engine = DuckDBEngine.open(replace(config, engines=replace(config.engines, duckdb=engine)))
        self._runner = asyncio.Runner()

    def ask(self, sql: str, *, limit: int | None = None, as_of: datetime | None = None) -> Answer:
        """Run one statement here; Ctrl-C stops it."""
        return self._runner.run(self._ask(sql, limit or self._defaults.max_rows, as_of))

    async def _ask(self, sql: str, limit: int, as_of: datetime | None) -> Answer:
        limits = Limits(self._defaults.timeout, limit, 2**50)
        async with await self._engine.query(sql, principal=LOOPBACK, limits=limits, as_of=as_of) as result:
            table = await result.read_all()
            return Answer(table, _costs(result.stats))

    def tables(self) -> list[dict[str, Any]]:
        """The catalog of the lake and the hot store."""
        return described(self._engine.catalog.describe(LOOPBACK))

    def close(self) -> None:
        """Stop the engine."""
        self._runner.run(self._engine.close())
        self._runner.close()


class GatewayClient:
    """A gateway, with the rights and bounds of a token."""

    def __init__(self, url: str, token: str | None, *, timeout: float = 300.0) -> None:
        import httpx

        self._url = url.rstrip("/")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._client = httpx.Client(timeout=timeout, trust_env=False, headers=headers, verify=machine(url))
        self._errors = httpx.HTTPError

    def ask(self, sql: str, *, limit: int | None = None, as_of: datetime | None = None) -> Answer:
        """Send one statement to the gateway."""
        body: dict[str, Any] = {"sql": sql}
        if limit is not None:
            body["limit"] = limit
        if as_of is not None:
            body["as_of"] = as_of.isoformat()
        response = self._call("POST", "/v1/sql", body)
        with pa.ipc.open_stream(response.content) as reader:
            table = reader.read_all()
        return Answer(table, msgspec.json.decode(response.headers.get("X-TrackMate-Stats", "{}"), type=dict[str, Any]))

    def tables(self) -> list[dict[str, Any]]:
        """What the token may read."""
        tables: list[dict[str, Any]] = self._call("GET", "/v1/catalog").json()["tables"]
        return tables

    def close(self) -> None:
        """Drop the connections."""
        self._client.close()

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
        accept = _ARROW if path == "/v1/sql" else "application/json"
        try:
            response = self._client.request(method, self._url + path, json=body, headers={"Accept": accept})
        except self._errors as error:
            what = f"no gateway answers at {self._url} ({error}{advice(error)})"
            raise TrackMateError(f"{what}: check --url, or leave it out to ask the lake directly") from error
        if response.status_code != _OK:
            raise TrackMateError(_refusal(response))
        return response


def _costs(stats: Stats) -> dict[str, Any]:
    names = ("rows", "seconds", "cache", "files", "files_total", "bytes", "bytes_total", "truncated")
    return {name: getattr(stats, name) for name in names}


def _refusal(response: httpx.Response) -> str:
    try:
        error = response.json()["error"]
        parts = [str(error["message"]), *(str(error[name]) for name in ("where", "hint") if error.get(name))]
    except (ValueError, KeyError, TypeError):
        parts = [response.text[:300]]
    advice = ": set TRACKMATE_TOKEN or --token" if response.status_code == _UNAUTHORIZED else ""
    return f"the gateway refuses ({response.status_code}): {', '.join(parts)}{advice}"
