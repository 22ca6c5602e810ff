"""How each service is, asked of the services themselves; what `status` and `doctor` show."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import httpx

from contract.errors import TrackMateError
from trackmate.dagster_api import DagsterApi
from trackmate.gateway_api import GatewayApi
from trackmate.services import StackConfig

_OK = 200
_COUNT_TIMEOUT = "3s"


@dataclass(frozen=True)
class State:
    """One service: whether it works, in one word, and more in a few."""

    service: str
    address: str
    ok: bool
    state: str
    detail: str = ""


def all_states(stack: StackConfig) -> list[State]:
    """Every service of the configuration."""
    token = os.environ.get("TRACKMATE_TOKEN")
    ends = stack.endpoints
    return [
        _postgres(stack),
        _sidecar(ends["sidecar"].url),
        _gateway(ends["gateway"].url, token),
        _lake(ends["gateway"].url, token),
        _dagster(ends["dagster"].url),
    ]


def _postgres(stack: StackConfig) -> State:
    import psycopg

    dsn = stack.config.hot.dsn.reveal()
    place = "hot.dsn"
    try:
        parts = psycopg.conninfo.conninfo_to_dict(dsn)
        place = f"{parts.get('host', 'localhost')}:{parts.get('port', 5432)}"
        with psycopg.connect(dsn, connect_timeout=3, autocommit=True) as connection:
            connection.execute(f"SET statement_timeout = '{_COUNT_TIMEOUT}'")
            try:
                row = connection.execute("SELECT count(*), max(ingested_at) FROM trackmate.events").fetchone()
            except psycopg.errors.UndefinedTable:
                return State("postgres", place, True, "up", "no tables yet: 'trackmate migrate' makes them")
            except psycopg.errors.QueryCanceled:
                return State("postgres", place, True, "up", f"more events than can be counted in {_COUNT_TIMEOUT}")
    except psycopg.Error as error:
        return State("postgres", place, False, "down", " ".join(str(error).split())[:200])
    count, latest = row or (0, None)
    seen = f", the last at {latest:%Y-%m-%d %H:%M:%S %Z}" if latest else ""
    return State("postgres", place, True, "up", f"{count:,} events in hot{seen}")


def fetch_json(url: str, timeout: float = 3.0) -> tuple[int, Any]:
    """Status and JSON of an address; status 0 and the reason as text when nothing answers."""
    try:
        response = httpx.get(url, timeout=timeout, trust_env=False)
    except httpx.HTTPError as error:
        return 0, str(error)
    try:
        return response.status_code, response.json()
    except ValueError:
        return response.status_code, response.text


def _sidecar(url: str) -> State:
    status, said = fetch_json(f"{url}/health")
    if status == 0 or not isinstance(said, dict) or "spool" not in said:
        return State("sidecar", url, False, "down", f"{said}"[:200])
    lag = said["spool"].get("lag", {})
    behind = ", ".join(f"{reader} {count:,} behind" for reader, count in lag.items()) or "no readers"
    detail = f"{said['spool']['last_event']:,} events taken; {behind}"
    for backend in said.get("backends", []):
        if backend.get("error") and backend.get("state") != "up":
            detail += f"; {backend['name']} {backend['state']}: {backend['error']}"
    return State("sidecar", url, status == _OK and bool(said.get("accepting")), said["status"], detail)


def _gateway(url: str, token: str | None) -> State:
    status, said = fetch_json(f"{url}/ready", timeout=8.0)
    if status == 0:
        return State("gateway", url, False, "down", f"{said}"[:200])
    checks = said.get("checks", {}) if isinstance(said, dict) else {}
    detail = ", ".join(f"{name} {state}" for name, state in checks.items())
    return State(
        "gateway", url, status == _OK, "up" if status == _OK else "not ready", detail + (", with your token" if token else "")
    )


def _lake(url: str, token: str | None) -> State:
    api = GatewayApi(url, token, timeout=15.0)
    try:
        counts = {table: api.count(table) for table in ("bronze.events", "silver.events")}
    except TrackMateError as error:
        return State("lake", f"{url}/v1/sql", False, "unknown", str(error)[:200])
    finally:
        api.close()
    return State("lake", f"{url}/v1/sql", True, "up", ", ".join(f"{count:,} in {table}" for table, count in counts.items()))


def _dagster(url: str) -> State:
    api = DagsterApi(url, timeout=8.0)
    try:
        problems = api.problems()
        runs = api.runs(limit=20)
    except TrackMateError as error:
        return State("dagster", url, False, "down", str(error)[:200])
    finally:
        api.close()
    if problems:
        return State("dagster", url, False, "not ready", "; ".join(problems)[:300])
    failed = sum(run.status == "FAILURE" for run in runs)
    going = sum(not run.over for run in runs)
    return State("dagster", url, True, "up", f"of the last {len(runs)} runs {failed} failed, {going} going on")
