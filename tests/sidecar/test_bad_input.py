"""Whatever is sent, the answer is one of the documented ones, never a 500, and the sidecar goes on."""

from __future__ import annotations

import gzip
import json
import socket
import threading
import time
from typing import Any

import pytest
import zstandard

from contract.limits import MAX_BODY_BYTES
from tests.services.base import wait_until
from tests.sidecar.harness import PATH, RunningSidecar, event, events, ndjson, read_answers

MIB = 1024 * 1024


def head(framing: str) -> bytes:
    """The headers of an ingest request, with `Content-Length: …` or `Transfer-Encoding: …`."""
    return f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{framing}\r\n\r\n".encode()


@pytest.fixture(autouse=True)
def still_alive(shared_sidecar: RunningSidecar) -> Any:
    """After every test: it accepts, holds no bytes, and failed nowhere unexpectedly."""
    yield
    assert shared_sidecar.post([event()]).status_code == 202
    health = wait_until(
        lambda: (page := shared_sidecar.health())["body_bytes_in_flight"] == 0 and page,
        seconds=10,
        what="reserved bytes given back",
    )
    assert health["accepting"]
    assert shared_sidecar.metric("sidecar_unexpected_failures_total") == 0


def error_code(answer: Any) -> str:
    code: str = answer.json()["error"]["code"]
    assert answer.json()["error"]["message"]
    return code


@pytest.mark.parametrize(
    "body",
    [b"{", b"[", b"[{]", b"nonsense", b"\x00\x01\x02", b'"text"', b"17", b"null", b"", b"[1,2", b"{}x", b"[]]"],
    ids=["brace", "bracket", "mixed", "word", "binary", "string", "number", "null", "nothing", "cut", "tail", "two-ends"],
)
def test_malformed_json_is_taken(shared_sidecar: RunningSidecar, body: bytes) -> None:
    assert shared_sidecar.post(body).status_code == 400


def test_malformed_ndjson_line_stops_the_others(shared_sidecar: RunningSidecar) -> None:
    good = events(2)
    body = json.dumps(good[0]).encode() + b"\n{broken\n" + json.dumps(good[1]).encode() + b"\n"
    answer = shared_sidecar.post(body, headers={"Content-Type": "application/x-ndjson"})
    assert answer.status_code == 202
    assert answer.json()["accepted"] == 2
    assert [item["index"] for item in answer.json()["rejected"]] == [1]
    assert any(line["event"] == "{broken" for line in shared_sidecar.quarantined())


@pytest.mark.parametrize(
    ("field", "value", "path"),
    [
        ("timestamp", 17, "timestamp"),
        ("timestamp", "2026-07-01T09:00:00", "timestamp"),
        ("timestamp", "0001-01-01T00:00:00Z", "timestamp"),
        ("timestamp", "9999-12-31T23:59:59Z", "timestamp"),
        ("kind", "banana", "kind"),
        ("name", 3, "name"),
        ("app", "text", "app"),
        ("event_id", "no uuid", "event_id"),
        ("metrics", {"a": "hot"}, "metrics.a"),
        ("entities", {"lot": 7}, "entities.lot"),
        ("severity", "loud", "severity"),
    ],
)
def test_wrong_value_passes_or_is_not_named(shared_sidecar: RunningSidecar, field: str, value: Any, path: str) -> None:
    good, bad = event(), event(**{field: value})
    answer = shared_sidecar.post([good, bad])
    assert answer.status_code == 202
    assert answer.json()["accepted"] == 1
    (rejected,) = answer.json()["rejected"]
    assert rejected["index"] == 1
    assert rejected["path"].startswith(path)
    assert rejected["error"]
    assert any(line["event"] == json.dumps(bad) and line["error"] == rejected["error"] for line in shared_sidecar.quarantined())


def test_unknown_field_is_silently_dropped(shared_sidecar: RunningSidecar) -> None:
    answer = shared_sidecar.post([event(colour="red")])
    assert answer.status_code == 202
    assert answer.json()["accepted"] == 0
    assert "colour" in json.dumps(answer.json()["rejected"])


def test_nan_gets_into_the_log(shared_sidecar: RunningSidecar) -> None:
    for text in ("NaN", "Infinity", "-Infinity"):
        body = json.dumps([event(kind="metric", metrics={"t": 1.5})]).replace("1.5", text).encode()
        answer = shared_sidecar.post(body)
        assert answer.status_code == 400 or (answer.status_code == 202 and answer.json()["accepted"] == 0)


def test_invalid_utf8_gets_into_the_log(shared_sidecar: RunningSidecar) -> None:
    body = json.dumps([event(message="XX")]).encode().replace(b"XX", b"\xff\xfe")
    answer = shared_sidecar.post(body)
    assert answer.status_code == 400 or (answer.status_code == 202 and answer.json()["accepted"] == 0)


@pytest.mark.parametrize("shape", ["attributes", "body"])
def test_nesting_a_thousand_deep_crashes_the_parser(shared_sidecar: RunningSidecar, shape: str) -> None:
    deep = b"[" * 1000 + b"]" * 1000
    body = json.dumps([event(attributes={"a": "XX"})]).encode().replace(b'"XX"', deep) if shape == "attributes" else deep
    answer = shared_sidecar.post(body)
    assert answer.status_code == 400 or (answer.status_code == 202 and answer.json()["accepted"] == 0)


def test_nesting_a_hundred_thousand_deep_crashes_the_parser(shared_sidecar: RunningSidecar) -> None:
    assert shared_sidecar.post(b"[" * 100_000).status_code == 400


def test_empty_batch_is_an_error(shared_sidecar: RunningSidecar) -> None:
    for body in (b"[]", b'{"events":[]}'):
        answer = shared_sidecar.post(body)
        assert (answer.status_code, answer.json()) == (202, {"accepted": 0, "rejected": []})


def test_five_thousand_events_are_too_many_or_one_more_is_not(shared_sidecar: RunningSidecar) -> None:
    assert shared_sidecar.post(events(5000)).json()["accepted"] == 5000
    answer = shared_sidecar.post(events(5001))
    assert answer.status_code == 413
    assert error_code(answer) == "too_many_events"


def test_one_byte_over_ten_mebibytes_is_read(shared_sidecar: RunningSidecar) -> None:
    answer = shared_sidecar.post(b" " * (MAX_BODY_BYTES + 1))
    assert answer.status_code == 413
    assert error_code(answer) == "body_too_large"


def test_declared_length_over_the_cap_waits_for_a_body(shared_sidecar: RunningSidecar) -> None:
    assert shared_sidecar.raw(head("Content-Length: 99999999999")).startswith(b"HTTP/1.1 413")


def test_chunked_body_over_the_cap_is_read_to_its_end(shared_sidecar: RunningSidecar) -> None:
    before = shared_sidecar.peak_rss()
    chunk = b"100000\r\n" + b" " * MIB + b"\r\n"
    sent = 0
    with socket.create_connection(("127.0.0.1", shared_sidecar.port), timeout=10) as connection:
        connection.sendall(head("Transfer-Encoding: chunked"))
        try:
            for _ in range(200):
                connection.sendall(chunk)
                sent += 1
        except (BrokenPipeError, ConnectionResetError):
            pass
        try:
            answer = read_answers(connection, 1)
        except ConnectionResetError:
            answer = b"HTTP/1.1 413"  # the answer was lost with the connection: the sender sent long after it
    assert answer.startswith(b"HTTP/1.1 413")
    assert sent < 200
    assert shared_sidecar.peak_rss() - before < 64 * MIB


def test_small_zstd_that_holds_half_a_gigabyte_fills_the_memory(shared_sidecar: RunningSidecar) -> None:
    compressor = zstandard.ZstdCompressor(level=19).compressobj()
    zeros = bytes(4 * MIB)
    bomb = b"".join(compressor.compress(zeros) for _ in range(128)) + compressor.flush()
    assert len(bomb) < 64 * 1024
    before = shared_sidecar.peak_rss()
    for _ in range(5):
        answer = shared_sidecar.post(bomb, headers={"Content-Encoding": "zstd"})
        assert answer.status_code == 413
    assert shared_sidecar.peak_rss() - before < 48 * MIB


def test_gzip_bomb_fills_the_memory(shared_sidecar: RunningSidecar) -> None:
    bomb = gzip.compress(bytes(256 * MIB))
    before = shared_sidecar.peak_rss()
    assert shared_sidecar.post(bomb, headers={"Content-Encoding": "gzip"}).status_code == 413
    assert shared_sidecar.peak_rss() - before < 48 * MIB


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_corrupt_or_cut_compression_is_a_server_error(shared_sidecar: RunningSidecar, encoding: str) -> None:
    body = json.dumps(events(50)).encode()
    packed = gzip.compress(body) if encoding == "gzip" else zstandard.compress(body)
    for broken in (b"nonsense", packed[: len(packed) // 2], packed[:-3]):
        assert shared_sidecar.post(broken, headers={"Content-Encoding": encoding}).status_code == 400


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_compressed_batch_is_not_kept_as_received(shared_sidecar: RunningSidecar, encoding: str) -> None:
    items = events(20)
    body = ndjson(items)
    packed = gzip.compress(body) if encoding == "gzip" else zstandard.compress(body)
    answer = shared_sidecar.post(packed, headers={"Content-Encoding": encoding, "Content-Type": "application/x-ndjson"})
    assert answer.json() == {"accepted": 20, "rejected": []}
    ids = {item["event_id"] for item in items}
    wait_until(lambda: ids <= {item["event_id"] for item in shared_sidecar.delivered()}, seconds=10, what="delivery")
    assert any(packed in path.read_bytes() for path in (shared_sidecar.spool / "segments").iterdir())


def test_wrong_content_type_is_parsed_anyway(shared_sidecar: RunningSidecar) -> None:
    answer = shared_sidecar.post([event()], headers={"Content-Type": "text/csv"})
    assert answer.status_code == 415
    assert "application/json" in answer.json()["error"]["message"]


def test_wrong_encoding_is_parsed_anyway(shared_sidecar: RunningSidecar) -> None:
    answer = shared_sidecar.post([event()], headers={"Content-Encoding": "br"})
    assert answer.status_code == 415
    assert "zstd" in answer.json()["error"]["message"]


def test_foreign_host_header_reaches_the_agent_of_a_browser_user(shared_sidecar: RunningSidecar) -> None:
    for host in ("evil.example", "evil.example:17000", "127.0.0.1.evil.example", ""):
        answer = shared_sidecar.post([event()], headers={"Host": host})
        assert answer.status_code in {400, 401}, host
        assert shared_sidecar.get("/health", headers={"Host": host}).status_code in {400, 401}
    for host in ("localhost", "LOCALHOST:1", "127.0.0.1", "[::1]:17000"):
        assert shared_sidecar.post([event()], headers={"Host": host}).status_code == 202, host


def test_other_methods_and_paths_are_server_errors(shared_sidecar: RunningSidecar) -> None:
    answer = shared_sidecar.get(PATH)
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert shared_sidecar.get("/nowhere").status_code == 404


def test_slow_body_holds_a_place_for_ever(shared_sidecar: RunningSidecar) -> None:
    started = time.monotonic()
    answer = shared_sidecar.raw(head("Content-Length: 1000") + b"[", timeout=15)
    assert answer.startswith(b"HTTP/1.1 408")
    assert time.monotonic() - started < 12


def test_many_who_announce_much_and_send_little_keep_others_out(shared_sidecar: RunningSidecar) -> None:
    connections = [socket.create_connection(("127.0.0.1", shared_sidecar.port), timeout=10) for _ in range(30)]
    try:
        for connection in connections:
            connection.sendall(head(f"Content-Length: {MAX_BODY_BYTES}") + b"[" * 1000)
        wait_until(lambda: shared_sidecar.health()["body_bytes_in_flight"] > 0, seconds=5, what="the bodies' beginnings")
        assert shared_sidecar.post(events(100)).status_code == 202
    finally:
        for connection in connections:
            connection.close()


def test_body_that_ends_too_early_is_acknowledged(shared_sidecar: RunningSidecar) -> None:
    before = shared_sidecar.health()["spool"]["last_event"]
    body = json.dumps([event()]).encode()
    with socket.create_connection(("127.0.0.1", shared_sidecar.port), timeout=10) as connection:
        connection.sendall(head(f"Content-Length: {len(body) + 10}") + body)
        connection.shutdown(socket.SHUT_WR)
        received = read_answers(connection, 1)
    assert b" 202 " not in received
    assert shared_sidecar.health()["spool"]["last_event"] == before


def test_pipelined_requests_are_mixed_up(shared_sidecar: RunningSidecar) -> None:
    request = b""
    for count in (1, 2, 3):
        body = json.dumps(events(count)).encode()
        request += head(f"Content-Length: {len(body)}") + body
    answers = shared_sidecar.raw(request, read_until=3)
    assert [part.partition(b"}")[0][-30:] for part in answers.split(b"HTTP/1.1 202")[1:]]
    places = [answers.find(b'{"accepted":%d,' % count) for count in (1, 2, 3)]
    assert -1 not in places
    assert places == sorted(places)


def test_garbage_instead_of_http_ends_the_agent(shared_sidecar: RunningSidecar) -> None:
    for garbage in (b"\x16\x03\x01\x02\x00\x01", b"GET\r\n\r\n", b"POST / HTTP/9.9\r\n\r\n", b"\r\n" * 100):
        with socket.create_connection(("127.0.0.1", shared_sidecar.port), timeout=10) as connection:
            connection.sendall(garbage)
            connection.shutdown(socket.SHUT_WR)
            read_answers(connection, 1)


def test_health_waits_for_large_bodies_to_be_decoded(shared_sidecar: RunningSidecar) -> None:
    """Not a speed test: while large bodies come in one after the other, health answers before they are all done."""
    large = json.dumps([event(message="x" * 1500) for _ in range(5000)]).encode()
    done = threading.Event()

    def flood() -> None:
        for _ in range(4):
            shared_sidecar.post(large)
        done.set()

    thread = threading.Thread(target=flood)
    thread.start()
    answered = 0
    while not done.is_set():
        assert shared_sidecar.get("/health").status_code == 200
        answered += 1
    thread.join()
    assert answered >= 3
