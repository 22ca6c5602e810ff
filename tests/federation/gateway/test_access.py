"""Who may do what: judged on the headers, by scope and site, and revoked within seconds."""

from __future__ import annotations

import datetime as dt
import json
import socket
import time
from collections.abc import Iterator

import httpx
import pytest

from tests.federation.gateway_service import GatewayService, error_of, event, eventually
from tests.services.postgres import Postgres15

ROUTES = [
    ("POST", "/v1/ingest/managed"),
    ("GET", "/v1/data/unified"),
    ("POST", "/v1/sql"),
    ("GET", "/v1/catalog"),
    ("GET", "/v1/sources"),
    ("GET", "/v1/events/01890a5d-ac96-774b-bcce-b302099a8057/trace"),
]


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize(
    "header", [None, "Bearer tm_wrong", "Bearer", "Basic dXNlcjpwYXNz", "Bearer " + "x" * 5_000, "Bearer \u00e9"], ids=str
)
def test_a_request_without_a_valid_token_is_a_401(gateway: GatewayService, method: str, path: str, header: str | None):
    headers = {} if header is None else {"Authorization": header.encode("latin-1")}
    with gateway.client() as client:
        response = client.request(method, path, headers=headers)
    assert response.status_code == 401, response.text
    assert response.headers["www-authenticate"].startswith("Bearer")
    assert error_of(response)["code"] in {"missing_token", "unknown_token"}


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_a_token_without_the_scope_is_a_403(gateway: GatewayService, method: str, path: str):
    with gateway.client("reader" if "ingest" in path else "sender") as client:
        response = client.request(method, path)
    assert (response.status_code, error_of(response)["code"]) == (403, "missing_scope")


def test_two_authorization_headers_are_a_401(gateway: GatewayService):
    pair = [("Authorization", f"Bearer {gateway.plain['all']}"), ("Authorization", "Bearer tm_other")]
    with gateway.client() as client:
        assert client.get("/v1/sources", headers=httpx.Headers(pair)).status_code == 401


@pytest.mark.parametrize("path", ["/health", "/ready", "/metrics", "/openapi.json", "/docs"])
def test_what_machines_look_at_needs_no_token(gateway: GatewayService, path: str):
    assert gateway.get(path).status_code == 200


def test_a_refused_caller_gets_its_answer_before_it_has_sent_its_body(gateway: GatewayService):
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=5) as connection:
        connection.sendall(b"POST /v1/ingest/managed HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\n\r\n")
        assert connection.recv(4_096).startswith(b"HTTP/1.1 401")


def test_events_of_another_site_are_rejected_and_the_own_ones_stored(gateway: GatewayService):
    mixed = [event(site_id="fab2"), event(), {"bad": 1}, event(site_id="fab2")]
    body = gateway.ingest(mixed, "fab1").json()
    assert (body["accepted"], body["inserted"]) == (1, 1)
    assert [(entry["index"], entry["path"]) for entry in body["rejected"]] == [(0, "site_id"), (2, "kind"), (3, "site_id")]
    assert body["rejected"][0]["event_id"] == mixed[0]["event_id"]


def test_a_batch_of_nothing_but_other_sites_is_a_403_and_stores_nothing(gateway: GatewayService):
    foreign = event(site_id="fab2")
    response = gateway.ingest([foreign], "fab1")
    assert (response.status_code, error_of(response)["code"]) == (403, "wrong_site")
    assert response.json()["rejected"][0]["path"] == "site_id"
    found = gateway.get(f"/v1/events/{foreign['event_id']}/trace", "all").json()
    assert found["found"] is False


def test_another_sites_events_are_neither_found_nor_counted(gateway: GatewayService):
    mine, theirs = event(site_id="fab1"), event(site_id="fab2")
    assert gateway.ingest([mine, theirs], "all").json()["inserted"] == 2
    seen = {entry["event_id"] for entry in _all(gateway, "fab1")}
    assert mine["event_id"] in seen
    assert theirs["event_id"] not in seen
    asked = gateway.get("/v1/data/unified", "fab1", site="fab2").json()
    assert asked["events"] == []
    assert gateway.get("/v1/data/unified", "nowhere").json()["events"] == []
    assert gateway.get(f"/v1/events/{theirs['event_id']}/trace", "fab1").json()["found"] is False
    assert gateway.get(f"/v1/events/{theirs['event_id']}/trace", "fab2").json()["found"] is True
    rows = gateway.sql(f"SELECT count(*) FROM hot.events WHERE event_id = '{theirs['event_id']}'", "fab1").json()["rows"]
    assert rows == [[0]]


def test_an_answer_kept_for_one_caller_is_not_given_to_another(gateway: GatewayService):
    start = dt.datetime(2026, 2, 1, tzinfo=dt.UTC)
    pair = [event(start, site_id="fab1"), event(start, site_id="fab2")]
    gateway.ingest(pair, "all")
    span = {"start": "2026-02-01T00:00:00Z", "end": "2026-02-01T01:00:00Z"}
    for token, expected in (("all", {"fab1", "fab2"}), ("fab1", {"fab1"}), ("fab2", {"fab2"}), ("all", {"fab1", "fab2"})):
        body = gateway.get("/v1/data/unified", token, **span).json()
        assert {entry["site_id"] for entry in body["events"]} == expected, token
    assert gateway.get("/v1/data/unified", "fab1", **span).json()["cache"]["result"] == "hit"


def test_a_revoked_token_is_refused_within_five_seconds(gateway: GatewayService):
    now = dt.datetime.now(dt.UTC)
    gateway.plain["brief"] = gateway.tokens.add("brief", ["query"], None, None, now)
    eventually(lambda: gateway.get("/v1/sources", "brief").status_code == 200, "the new token to be taken", 5)
    gateway.tokens.revoke("brief", now)
    revoked_at = time.monotonic()
    eventually(lambda: gateway.get("/v1/sources", "brief").status_code == 401, "the revoked token to be refused", 5)
    assert time.monotonic() - revoked_at < 5
    assert error_of(gateway.get("/v1/sources", "brief"))["code"] == "revoked_token"


def test_an_expired_token_is_a_401(gateway: GatewayService):
    now = dt.datetime.now(dt.UTC)
    gateway.plain["old"] = gateway.tokens.add("old", ["query"], None, now - dt.timedelta(seconds=1), now)

    def expired() -> bool:
        response = gateway.get("/v1/sources", "old")
        return response.json().get("error", {}).get("code") == "expired_token"

    eventually(expired, "the expired token to be known as expired", 5)


def test_no_token_stands_in_the_log(gateway: GatewayService):
    gateway.get("/v1/sources", "all")
    gateway.sql("SELECT count(*) FROM hot.events", "all")
    log = gateway.log()
    assert not [name for name, plain in gateway.plain.items() if plain in log]
    audited = [json.loads(line) for line in log.splitlines() if '"audit"' in line]
    assert any(line["token_id"] == "all" and line["outcome"] == "ok" for line in audited)


@pytest.fixture(scope="module")
def open_gateway(postgres15: Postgres15) -> Iterator[GatewayService]:
    with GatewayService(postgres15.fresh_database(), gateway={"limits": {"rate": 5, "burst": 8}}) as service:
        yield service


def test_without_any_token_loopback_is_served_and_the_start_says_so(open_gateway: GatewayService):
    eventually(lambda: open_gateway.get("/v1/sources").status_code == 200, "the rate limit to let a request through")
    assert "no token is configured" in open_gateway.log()


@pytest.mark.parametrize(
    "headers", [{"Host": "evil.example"}, {"Host": "127.0.0.1.evil.example"}, {"Origin": "https://evil.example"}, {"Host": ""}]
)
def test_without_any_token_a_web_page_can_not_reach_in_under_another_name(open_gateway: GatewayService, headers: dict[str, str]):
    with open_gateway.client() as client:
        response = client.get("/health", headers=headers)
    assert response.status_code in {400, 403}


def test_more_requests_than_allowed_are_a_429_with_retry_after(open_gateway: GatewayService):
    with open_gateway.client() as client:
        answers = [client.get("/health") for _ in range(40)]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert refused
    assert int(refused[0].headers["retry-after"]) >= 1
    assert error_of(refused[0])["code"] == "rate_limited"


def _all(gateway: GatewayService, token: str) -> list[dict[str, object]]:
    found, cursor = [], None
    while True:
        parameters = {"cursor": cursor} if cursor else {"start": "-1h", "end": "2099-01-01T00:00:00Z", "limit": 50_000}
        body = gateway.get("/v1/data/unified", token, **(parameters | {"max_staleness": 0})).json()
        found += body["events"]
        cursor = body["next_cursor"]
        if cursor is None:
            return found
