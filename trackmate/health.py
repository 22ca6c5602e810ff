"""How each service is, asked of the services themselves; what `status` and `doctor` show."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import httpx

from contract.errors import TrackMateError
from trackmate.dagster_api import DagsterApi
from trackmate.gateway_api import GatewayApi
from trackmate.ports import Endpoint
from trackmate.services import StackConfig
from trackmate.trust import advice
from trackmate.unreachable import Unreachable

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
        _sidecar(ends["sidecar"]),
        _gateway(ends["gateway"], token),
        _lake(ends["gateway"], token),
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


def fetch_json(end: Endpoint, path: str, timeout: float = 3.0) -> tuple[int, Any]:
    """Status and JSON of one of our own services; status 0 and the reason as text when nothing answers."""
    try:
        response = httpx.get(end.url + path, timeout=timeout, trust_env=False, verify=end.verify())
    except httpx.HTTPError as error:
        return 0, f"{error}{advice(error, end.certificate)}"
    except TrackMateError as error:
        return 0, str(error)
    try:
        return response.status_code, response.json()
    except ValueError:
        return response.status_code, response.text


def _sidecar(end: Endpoint) -> State:
    url = end.url
    status, said = fetch_json(end, "/health")
    if status == 0 or not isinstance(said, dict) or "spool" not in said:
        return State("sidecar", url, False, "down", f"{said}"[:400])
    lag = said["spool"].get("lag", {})
    behind = ", ".join(f"{reader} {count:,} behind" for reader, count in lag.items()) or "no readers"
    detail = f"{said['spool']['last_event']:,} events taken; {behind}"
    for backend in said.get("backends", []):
        if backend.get("error") and backend.get("state") != "up":
            detail += f"; {backend['name']} {backend['state']}: {backend['error']}"
    return State("sidecar", url, status == _OK and bool(said.get("accepting")), said["status"], detail)


def _gateway(end: Endpoint, token: str | None) -> State:
    url = end.url
    status, said = fetch_json(end, "/ready", timeout=8.0)
    if status == 0:
        return State("gateway", url, False, "down", f"{said}"[:400])
    checks = said.get("checks", {}) if isinstance(said, dict) else {}
    detail = ", ".join(f"{name} {state}" for name, state in checks.items())
    return State(
        "gateway", url, status == _OK, "up" if status == _OK else "not ready", detail + (", with your token" if token else "")
    )


def _lake(end: Endpoint, token: str | None) -> State:
    url = end.url
    try:
        api = GatewayApi(url, token, timeout=15.0, certificate=end.certificate)
    except TrackMateError as error:
        return State("lake", f"{url}/v1/sql", False, "unknown", str(error)[:400])
    try:
        counts = {table: api.count(table) for table in ("bronze.events", "silver.events")}
    except Unreachable as error:
        return State("lake", f"{url}/v1/sql", False, "unknown", error.what[:400])
    except TrackMateError as error:
        return State("lake", f"{url}/v1/sql", False, "unknown", str(error)[:400])
    finally:
        api.close()
    return State("lake", f"{url}/v1/sql", True, "up", ", ".join(f"{count:,} in {table}" for table, count in counts.items()))


def _dagster(url: str) -> State:
    api = DagsterApi(url, timeout=8.0)
    try:
        problems = api.problems()
        runs = api.runs(limit=20)
    except Unreachable as error:
        return State("dagster", url, False, "down", error.what[:200])
    except TrackMateError as error:
        return State("dagster", url, False, "down", str(error)[:200])
    finally:
        api.close()
    if problems:
        return State("dagster", url, False, "not ready", "; ".join(problems)[:300])
    failed = sum(run.status == "FAILURE" for run in runs)
    going = sum(not run.over for run in runs)
    return State("dagster", url, True, "up", f"of the last {len(runs)} runs {failed} failed, {going} going on")
