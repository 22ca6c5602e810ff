"""The gateway as a process: its start, its end, and what it says about itself."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from federation.gateway import formats
from federation.gateway.permissions import PermissionTable, UndeclaredRoute
from tests.federation.gateway_service import GatewayService, event, eventually
from tests.services.postgres import Postgres15


def test_a_route_without_a_declared_permission_stops_the_start():
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)

    @app.get("/open")
    async def open_to_all() -> None:
        return None

    with pytest.raises(UndeclaredRoute, match="/open"):
        PermissionTable(app.routes)


def test_the_description_is_openapi_31_and_names_the_scope_of_every_route(gateway: GatewayService):
    document = gateway.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    assert {operation["x-trackmate-scope"] for operation in operations} <= {"public", "ingest", "query", "admin"}
    assert all(bool(operation["security"]) == (operation["x-trackmate-scope"] != "public") for operation in operations)


def test_the_page_of_routes_needs_nothing_from_elsewhere(gateway: GatewayService):
    page = gateway.get("/docs").text
    assert "/v1/data/unified" in page
    assert "src=" not in page
    assert "http://" not in page
    assert "https://" not in page


def test_metrics_count_what_was_done(gateway: GatewayService):
    gateway.ingest([event()], "all")
    text = gateway.get("/metrics").text
    assert 'trackmate_gateway_events_total{result="inserted"}' in text
    assert 'route="/v1/ingest/managed"' in text


def test_a_path_that_callers_make_up_is_no_label_of_its_own(gateway: GatewayService):
    gateway.get("/made-up/by-a-caller", "all")
    assert "made-up" not in gateway.get("/metrics").text


def test_catalog_and_sources_say_what_there_is(gateway: GatewayService):
    tables = {table["name"]: table for table in gateway.get("/v1/catalog", "all").json()["tables"]}
    assert {"silver.events", "hot.events", "unified.events", "gold.custody"} <= tables.keys()
    assert all(column["description"] for column in tables["silver.events"]["columns"])
    sources = gateway.get("/v1/sources", "all").json()["sources"]
    assert [(source["name"], source["ok"]) for source in sources] == [("managed", True), ("lake", True)]


def test_sql_answers_in_every_form(gateway: GatewayService):
    gateway.ingest([event()], "all")
    statement = "SELECT event_id, timestamp, emitter_seq FROM hot.events LIMIT 3"
    body = gateway.sql(statement, "all").json()
    assert [column["name"] for column in body["columns"]] == ["event_id", "timestamp", "emitter_seq"]
    assert body["rows"][0][1].endswith("Z")
    for form in ("application/x-ndjson", "text/csv", "application/vnd.apache.parquet", "application/vnd.apache.arrow.stream"):
        with gateway.client("all") as client:
            response = client.post("/v1/sql", json={"sql": statement}, headers={"Accept": form})
        assert response.status_code == 200
        assert response.headers["content-type"].startswith(form)
        assert json.loads(response.headers["x-trackmate-stats"])["rows"] >= 1


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("INTERVAL 90 MINUTE", "01:30:00"),
        ("[INTERVAL 1 DAY]", "[1 day]"),
        ("TIMESTAMP '10000-01-01'", "10000-01-01 00:00:00"),
        ("'-infinity'::TIMESTAMPTZ", "-infinity"),
        ("DATE '-44-03-15'", "0045-03-15 (BC)"),
        ("TIMESTAMP_NS '2024-01-01 00:00:00.123456789'", "2024-01-01 00:00:00.123456"),
        ("row(1, 'a')", "(1, a)"),
    ],
)
@pytest.mark.parametrize("form", list(formats.Form))
def test_a_value_that_a_form_has_no_place_for_is_a_500(gateway: GatewayService, form: formats.Form, value: str, text: str):
    with gateway.client("all") as client:
        response = client.post("/v1/sql", json={"sql": f"SELECT {value} AS v"}, headers={"Accept": form.value})
    assert response.status_code == 200, response.text
    if form is formats.Form.JSON and "INTERVAL" not in value:
        assert response.json()["rows"][0][0].startswith(text)
    if form is formats.Form.CSV and "INTERVAL" in value:
        assert text in response.text


def test_sql_gives_no_more_rows_than_asked_for_and_says_so(gateway: GatewayService):
    gateway.ingest([event() for _ in range(5)], "all")
    body = gateway.sql("SELECT event_id FROM hot.events", "all", limit=2).json()
    assert (len(body["rows"]), body["truncated"]) == (2, "rows")


def test_sigterm_lets_a_request_in_progress_end_and_then_ends_with_zero(postgres15: Postgres15):
    with GatewayService(postgres15.fresh_database()) as gateway:
        started, release = threading.Event(), threading.Event()
        answers: list[int] = []

        def body():
            started.set()
            yield b"["
            release.wait(10)
            yield json.dumps(event()).encode() + b"]"

        def send() -> None:
            with gateway.client() as client:
                response = client.post("/v1/ingest/managed", content=body(), headers={"Content-Type": "application/json"})
                answers.append(response.json()["inserted"])

        sending = threading.Thread(target=send)
        sending.start()
        started.wait(10)
        eventually(
            lambda: "trackmate_gateway_ingests_running 1.0" in gateway.get("/metrics").text, "the ingest to be in progress"
        )
        assert gateway.process is not None
        gateway.process.terminate()
        release.set()
        sending.join(20)
        assert answers == [1]
        assert gateway.process.wait(20) == 0


def test_with_a_certificate_only_tls_is_spoken(postgres15: Postgres15, tmp_path: Path):
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=127.0.0.1", "-addext",
         "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    tls = {"certificate": str(certificate), "key": str(key)}
    with GatewayService(postgres15.fresh_database(), gateway={"tls": tls}) as gateway:
        assert gateway.ingest([event()]).json()["inserted"] == 1
        with pytest.raises(httpx.TransportError):
            httpx.get(gateway.url.replace("https://", "http://") + "/health", trust_env=False)


def test_a_taken_port_is_named_with_its_setting(postgres15: Postgres15):
    gateway = GatewayService(postgres15.fresh_database())
    try:
        with socket.create_server(("127.0.0.1", gateway.port)):
            done = subprocess.run(
                [sys.executable, "-m", "trackmate", "gateway", "--config", gateway.config],
                capture_output=True,
                text=True,
                timeout=60,
            )
    finally:
        gateway.stop()
    assert done.returncode != 0
    assert f"127.0.0.1:{gateway.port}" in done.stderr
    assert "gateway.listen" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_broken_tokens_file_stops_the_start_and_is_named(postgres15: Postgres15):
    gateway = GatewayService(postgres15.fresh_database())
    try:
        gateway.tokens.path.write_text('{"tokens": [{"id": 7}]}')
        done = subprocess.run(
            [sys.executable, "-m", "trackmate", "gateway", "--config", gateway.config], capture_output=True, text=True, timeout=60
        )
    finally:
        gateway.stop()
    assert done.returncode != 0
    assert "tokens.json" in done.stderr
    assert "Traceback" not in done.stderr


def test_tokens_are_made_listed_rotated_and_revoked_on_the_command_line(gateway: GatewayService):
    def run(*arguments: str) -> str:
        command = [sys.executable, "-m", "trackmate", "token", *arguments, "--config", str(gateway.config)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        return done.stdout.strip()

    first = run("new", "cli", "--scope", "query", "--site", "fab1", "--expires", "1h")
    gateway.plain["cli"] = first
    eventually(lambda: gateway.get("/v1/sources", "cli").status_code == 200, "the new token to be taken")
    gateway.plain["cli-2"] = run("rotate", "cli", "--grace", "1h")
    eventually(lambda: gateway.get("/v1/sources", "cli-2").status_code == 200, "the rotated token to be taken")
    assert gateway.get("/v1/sources", "cli").status_code == 200
    listed = run("list")
    assert "cli" in listed
    assert first not in listed
    run("revoke", "cli")
    for name in ("cli", "cli-2"):
        eventually(lambda name=name: gateway.get("/v1/sources", name).status_code == 401, "the revoked token to be refused", 5)
