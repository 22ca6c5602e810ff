"""Asking the gateway: SQL, and how it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx

from contract.errors import TrackMateError
from trackmate.trust import OwnCertificate, advice, machine
from trackmate.unreachable import Unreachable

_OK = 200


@dataclass(frozen=True)
class Answer:
    """A table: column names, rows, and the cap that cut it if one did."""

    columns: list[str]
    rows: list[list[Any]]
    truncated: str | None = None

    @property
    def value(self) -> Any:
        """The only value of an answer of one row and one column."""
        return self.rows[0][0]


class GatewayApi:
    """One gateway; `token` where it wants one; `certificate` is what it serves with, where it is one of our own."""

    def __init__(
        self, url: str, token: str | None = None, *, timeout: float = 60.0, certificate: OwnCertificate | None = None
    ) -> None:
        self.url = url
        self._certificate = certificate
        self._client = httpx.Client(
            timeout=timeout,
            trust_env=False,
            headers={"Authorization": f"Bearer {token}"} if token else {},
            verify=machine(url) if certificate is None else certificate.context(),
        )

    def close(self) -> None:
        """Drop the connections."""
        self._client.close()

    def sql(self, statement: str) -> Answer:
        """The answer to one SELECT; raises TrackMateError when there is none."""
        body = self._ask("POST", "/v1/sql", json={"sql": statement})
        return Answer([column["name"] for column in body["columns"]], body["rows"], body.get("truncated"))

    def trace(self, event_id: str) -> dict[str, Any]:
        """Where an event is, place by place, as `GET /v1/events/{event_id}/trace` tells it."""
        return self._ask("GET", f"/v1/events/{event_id}/trace")

    def count(self, table: str, where: str = "") -> int:
        """How many rows a table has."""
        return int(self.sql(f"SELECT count(*) FROM {table} {where}").value)  # noqa: S608 - our own table names

    def _ask(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        try:
            response = self._client.request(method, self.url + path, headers={"Accept": "application/json"}, **options)
        except httpx.HTTPError as error:
            raise Unreachable(f"no gateway answers at {self.url} ({error}{advice(error, self._certificate)})") from error
        if response.status_code != _OK:
            raise TrackMateError(f"the gateway refused {method} {path} with status {response.status_code}: {_message(response)}")
        body: dict[str, Any] = response.json()
        return body


def _message(response: httpx.Response) -> str:
    try:
        error = response.json()["error"]
    except (ValueError, KeyError, TypeError):
        return response.text[:300]
    return " ".join(str(error[part]) for part in ("message", "where", "hint") if error.get(part))
