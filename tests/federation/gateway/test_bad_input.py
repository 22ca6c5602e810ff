"""Whatever is sent, the running gateway answers with the right status and the one error shape, and stays up."""

from __future__ import annotations

import json
import socket
import time

import httpx
import psutil
import pytest
import zstandard

from contract.limits import MAX_BODY_BYTES, MAX_EVENT_BYTES
from tests.federation.gateway_service import GatewayService, error_of, event


def only_rejection(response: httpx.Response) -> dict[str, object]:
    assert response.status_code == 200, response.text
    body = response.json()
    assert (body["accepted"], body["inserted"], body["duplicates"]) == (0, 0, 0)
    (rejection,) = body["rejected"]
    assert set(rejection) == {"index", "event_id", "path", "error"}
    return rejection


def test_malformed_json_is_a_400(gateway: GatewayService):
    response = gateway.ingest(b'[{"event_id": ', "all")
    assert (response.status_code, error_of(response)["code"]) == (400, "not_json")


def test_an_empty_body_is_a_400(gateway: GatewayService):
    response = gateway.ingest(b"", "all")
    assert (response.status_code, error_of(response)["code"]) == (400, "not_json")


def test_an_empty_batch_is_accepted_as_nothing(gateway: GatewayService):
    response = gateway.ingest([], "all")
    assert response.json() == {"accepted": 0, "inserted": 0, "duplicates": 0, "rejected": []}


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"name": 7}, "name"),
        ({"app": "x"}, "app"),
        ({"entities": {"lot": 1}}, "entities.lot"),
        ({"metrics": {"t": "hot"}}, "metrics.t"),
        ({"attributes": []}, "attributes"),
        ({"kind": "party"}, "kind"),
    ],
)
def test_a_wrong_type_is_rejected_with_its_path(gateway: GatewayService, fields: dict[str, object], path: str):
    assert only_rejection(gateway.ingest([event(**fields)], "all"))["path"] == path


def test_an_unknown_field_is_rejected_not_dropped(gateway: GatewayService):
    assert only_rejection(gateway.ingest([event(colour="red")], "all"))["path"] == "colour"


@pytest.mark.parametrize("moment", ["2026-01-31T12:00:00", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "soon"])
def test_a_naive_or_far_away_timestamp_is_rejected(gateway: GatewayService, moment: str):
    assert only_rejection(gateway.ingest([event() | {"timestamp": moment}], "all"))["path"] == "timestamp"


def test_nan_is_not_json(gateway: GatewayService):
    body = json.dumps([event(metrics={"t": float("nan")}, kind="metric")]).encode()
    response = gateway.ingest(body, "all")
    assert response.status_code in {200, 400}
    if response.status_code == 200:
        only_rejection(response)


def test_nesting_a_thousand_deep_is_rejected(gateway: GatewayService):
    deep = b'{"a":' * 1_000 + b"1" + b"}" * 1_000
    body = json.dumps(event(attributes="@")).encode().replace(b'"@"', deep)
    only_rejection(gateway.ingest(b"[" + body + b"]", "all"))


def test_nesting_a_million_deep_does_not_end_the_process(gateway: GatewayService):
    response = gateway.ingest(b"[" * 1_000_000, "all")
    assert response.status_code == 400
    assert gateway.get("/health").status_code == 200


def test_invalid_utf8_is_rejected(gateway: GatewayService):
    body = json.dumps([event(message="@")]).encode().replace(b"@", b"\xff\xfe")
    response = gateway.ingest(body, "all")
    assert response.status_code in {200, 400}
    if response.status_code == 200:
        only_rejection(response)


def test_an_event_over_its_limit_is_rejected_alone(gateway: GatewayService):
    response = gateway.ingest([event(), event(attributes={"pad": "x" * MAX_EVENT_BYTES})], "all")
    body = response.json()
    assert (body["inserted"], [entry["index"] for entry in body["rejected"]]) == (1, [1])


def test_one_byte_over_ten_mebibytes_is_a_413_before_it_is_read(gateway: GatewayService):
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as connection:
        head = (
            f"POST /v1/ingest/managed HTTP/1.1\r\nHost: 127.0.0.1:{gateway.port}\r\nContent-Type: application/json\r\n"
            f"Authorization: Bearer {gateway.plain['all']}\r\nContent-Length: {MAX_BODY_BYTES + 1}\r\n\r\n"
        )
        connection.sendall(head.encode())
        assert connection.recv(65_536).startswith(b"HTTP/1.1 413")


def test_a_chunked_body_of_one_byte_more_than_ten_mebibytes_is_a_413(gateway: GatewayService):
    def chunks():
        for _ in range(10):
            yield b" " * 1024 * 1024
        yield b" "

    with gateway.client("all") as client:
        response = client.post("/v1/ingest/managed", content=chunks(), headers={"Content-Type": "application/json"})
    assert (response.status_code, error_of(response)["code"]) == (413, "body_too_large")


def test_a_zstd_bomb_of_sixteen_kilobytes_costs_bounded_memory(gateway: GatewayService):
    compressor = zstandard.ZstdCompressor(level=19).compressobj()
    bomb = b"".join([*(compressor.compress(b" " * 2**20) for _ in range(512)), compressor.flush()])
    assert len(bomb) < 64_000
    assert gateway.process is not None
    process = psutil.Process(gateway.process.pid)
    before = process.memory_info().rss
    response = gateway.ingest(bomb, "all", content_encoding="zstd")
    assert (response.status_code, error_of(response)["code"]) == (413, "body_too_large")
    assert process.memory_info().rss - before < 96 * 2**20


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_a_damaged_compressed_body_is_a_400(gateway: GatewayService, encoding: str):
    response = gateway.ingest(b"not compressed at all", "all", content_encoding=encoding)
    assert (response.status_code, error_of(response)["code"]) == (400, "corrupt_encoding")


def test_an_unknown_encoding_is_a_415(gateway: GatewayService):
    assert gateway.ingest(b"[]", "all", content_encoding="br").status_code == 415


def test_5001_events_are_a_413(gateway: GatewayService):
    one = event()
    response = gateway.ingest([one] * 5_001, "all")
    assert (response.status_code, error_of(response)["code"]) == (413, "too_many_events")


def test_a_wrong_content_type_is_a_415(gateway: GatewayService):
    response = gateway.ingest(b"<events/>", "all", Content_Type="application/xml")
    assert (response.status_code, error_of(response)["code"]) == (415, "unsupported_media_type")


def test_a_slow_body_is_a_408_and_does_not_hold_its_place_for_ever(gateway: GatewayService):
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as connection:
        head = (
            f"POST /v1/ingest/managed HTTP/1.1\r\nHost: 127.0.0.1:{gateway.port}\r\nContent-Type: application/json\r\n"
            f"Authorization: Bearer {gateway.plain['all']}\r\nContent-Length: 1000\r\n\r\n["
        )
        connection.sendall(head.encode())
        started = time.monotonic()
        assert connection.recv(65_536).startswith(b"HTTP/1.1 408")
        assert time.monotonic() - started < 10  # the fixture's body_timeout is 2 s


def test_a_caller_that_leaves_in_mid_body_is_no_error(gateway: GatewayService):
    for _ in range(3):
        connection = socket.create_connection(("127.0.0.1", gateway.port), timeout=10)
        head = (
            f"POST /v1/ingest/managed HTTP/1.1\r\nHost: 127.0.0.1:{gateway.port}\r\nContent-Type: application/json\r\n"
            f"Authorization: Bearer {gateway.plain['all']}\r\nContent-Length: 1000\r\n\r\n["
        )
        connection.sendall(head.encode())
        connection.close()
    assert gateway.ingest([event()], "all").status_code == 200
    assert [line for line in gateway.log().splitlines() if "unforeseen" in line] == []


@pytest.mark.parametrize(
    "parameters",
    [
        {"start": "2026-01-31T12:00:00"},
        {"start": "yesterday"},
        {"start": "0001-01-01T00:00:00Z"},
        {"end": "9999-12-31T00:00:00Z"},
        {"start": "-99999999999d"},
        {"start": "now", "end": "-1h"},
        {"limit": "0"},
        {"limit": "50001"},
        {"limit": "many"},
        {"order": "up"},
        {"kind": "party"},
        {"severity": "loud"},
        {"run_id": "1"},
        {"cursor": "abc"},
        {"cursor": "é" * 10},
        {"cursor": "A" * 5_000},
        {"sources": "nobody"},
        {"sources": ""},
        {"max_staleness": "-1"},
        {"max_staleness": "nan"},
        {"correlate": "magic"},
        {"colour": "red"},
        {"entity.": "x"},
        {"entity.lot": ""},
        {"site": "x" * 300},
        {"text": "x" * 300},
    ],
    ids=lambda parameters: "-".join(f"{k}={v}"[:24] for k, v in parameters.items()).encode("ascii", "replace").decode(),
)
def test_a_wrong_parameter_is_a_400_that_names_it(gateway: GatewayService, parameters: dict[str, str]):
    response = gateway.get("/v1/data/unified", "all", **parameters)
    assert response.status_code == 400, response.text
    assert error_of(response)["where"]


@pytest.mark.parametrize(
    "parameters", [{"text": "100%_\\'\""}, {"name": "a\x00b"}, {"entity.a'\"b": "c"}, {"trace_id": "'; DROP"}]
)
def test_odd_characters_in_a_filter_find_nothing_and_break_nothing(gateway: GatewayService, parameters: dict[str, str]):
    response = gateway.get("/v1/data/unified", "all", **parameters)
    assert response.status_code == 200, response.text
    assert response.json()["partial"] is False, response.text
    assert response.json()["events"] == []


def test_an_unknown_form_is_a_406(gateway: GatewayService):
    with gateway.client("all") as client:
        response = client.get("/v1/data/unified", headers={"Accept": "image/png"})
    assert (response.status_code, error_of(response)["code"]) == (406, "not_acceptable")


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TABLE silver.events",
        "INSERT INTO silver.events VALUES (1)",
        "WITH x AS (DELETE FROM hot.events RETURNING *) SELECT * FROM x",
        "COPY silver.events TO '/tmp/x'",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM read_text('/etc/hostname')",
        "ATTACH '/tmp/x.db'",
        "SET memory_limit = '1TB'",
        "SELECT 1; SELECT 2",
        "SELECT getenv('HOME')",
        "SELECT * FROM duckdb_settings()",
        "selec 1",
        "",
        "SELECT no_such_column FROM silver.events",
        "SELECT CAST('x' AS INTEGER)",
        "SELECT 1 FROM silver.events WHERE duration_ms = unnest([])",
    ],
)
def test_sql_that_writes_reads_files_or_is_wrong_is_a_400(gateway: GatewayService, statement: str):
    response = gateway.sql(statement, "all")
    assert response.status_code == 400, response.text
    error_of(response)


def test_sql_that_never_ends_is_stopped_and_says_so(gateway: GatewayService):
    endless = "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT max(n) FROM r"
    started = time.monotonic()
    response = gateway.sql(endless, "all")
    assert (response.status_code, error_of(response)["code"]) in {
        (422, "sql_timeout"),
        (422, "sql_resource_limit"),
        (400, "sql_refused"),
    }
    assert time.monotonic() - started < 25  # the fixture's timeout is 5 s
    assert gateway.sql("SELECT count(*) FROM hot.events", "all").status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"7",
        b'{"sql": 7}',
        b'{"sql": "SELECT 1", "colour": 1}',
        b'{"sql":"SELECT 1","limit":0}',
        b'{"as_of":"now"}',
        b'{"sql": "SELECT count(*) FROM silver.events", "as_of": "0001-01-01T00:00:00+14:00"}',
        b'{"sql": "SELECT count(*) FROM silver.events", "as_of": "9999-12-31T23:59:59-14:00"}',
        b"\xff",
    ],
)
def test_a_wrong_sql_body_is_a_400(gateway: GatewayService, body: bytes):
    with gateway.client("all") as client:
        response = client.post("/v1/sql", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 400, response.text
    error_of(response)


def test_an_unknown_path_is_a_404_and_a_wrong_method_a_405_in_the_one_shape(gateway: GatewayService):
    assert error_of(gateway.get("/v1/nothing", "all"))["code"] == "not_found"
    response = gateway.get("/v1/sql", "all")
    assert (response.status_code, error_of(response)["code"]) == (405, "method_not_allowed")


def test_a_trace_of_what_is_no_id_is_a_400(gateway: GatewayService):
    response = gateway.get("/v1/events/nonsense/trace", "all")
    assert (response.status_code, error_of(response)["code"]) == (400, "bad_event_id")
