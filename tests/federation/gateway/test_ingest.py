"""Managed ingest: acknowledged means committed, once, whatever happens to the database meanwhile."""

from __future__ import annotations

import datetime as dt
import gzip
import json
import threading

import httpx
import psycopg
import pytest
import zstandard

from federation.token_file import TokenFile
from tests.federation.gateway_service import GatewayService, error_of, event, events, eventually
from tests.services.postgres import Postgres15


def stored(gateway: GatewayService, ids: list[str]) -> int:
    with psycopg.connect(gateway_dsn(gateway)) as connection:
        row = connection.execute("SELECT count(*) FROM trackmate.events WHERE event_id = ANY(%s::uuid[])", [ids]).fetchone()
    return int(row[0])


@pytest.mark.parametrize("encoding", ["identity", "gzip", "zstd"])
@pytest.mark.parametrize("shape", ["array", "wrapped", "ndjson", "single"])
def test_every_body_format_and_encoding_is_stored(gateway: GatewayService, shape: str, encoding: str):
    batch = [event() for _ in range(1 if shape == "single" else 3)]
    text = {
        "array": lambda: json.dumps(batch),
        "wrapped": lambda: json.dumps({"events": batch}),
        "ndjson": lambda: "\n".join(json.dumps(each) for each in batch),
        "single": lambda: json.dumps(batch[0]),
    }[shape]().encode()
    body = {"identity": bytes, "gzip": gzip.compress, "zstd": zstandard.ZstdCompressor().compress}[encoding](text)
    content_type = "application/x-ndjson" if shape == "ndjson" else "application/json"
    response = gateway.ingest(body, "all", content_type=content_type, content_encoding=encoding)
    assert response.json() == {"accepted": len(batch), "inserted": len(batch), "duplicates": 0, "rejected": []}
    assert stored(gateway, [str(each["event_id"]) for each in batch]) == len(batch)


def test_a_batch_sent_again_counts_as_duplicates_and_changes_nothing(gateway: GatewayService):
    batch = [event() for _ in range(5)]
    assert gateway.ingest(batch, "all").json()["inserted"] == 5
    again = gateway.ingest([*batch, event()], "all").json()
    assert (again["accepted"], again["inserted"], again["duplicates"]) == (6, 1, 5)
    assert stored(gateway, [str(each["event_id"]) for each in batch]) == 5


def test_valid_events_are_stored_beside_invalid_ones_each_with_its_own_place(gateway: GatewayService):
    good = [event() for _ in range(3)]
    body = gateway.ingest([good[0], {"bad": 1}, good[1], event(kind="x"), good[2]], "all").json()
    assert body["inserted"] == 3
    assert [entry["index"] for entry in body["rejected"]] == [1, 3]


def test_the_database_killed_under_ingest_loses_and_doubles_nothing_that_was_acknowledged():
    with (
        Postgres15() as database,
        GatewayService(database.fresh_database(), {"all": (["ingest", "query"], None)}) as gateway,
    ):
        acknowledged: list[str] = []
        statuses: set[int] = set()
        stop = threading.Event()

        def send() -> None:
            start = dt.datetime.now(dt.UTC)
            with gateway.client("all") as client:
                while not stop.is_set():
                    batch = events(20, start)
                    try:
                        response = client.post("/v1/ingest/managed", json=batch)
                    except httpx.TransportError:
                        continue
                    statuses.add(response.status_code)
                    if response.status_code == 200 and response.json()["accepted"] == 20:
                        acknowledged.extend(str(each["event_id"]) for each in batch)

        senders = [threading.Thread(target=send) for _ in range(3)]
        for sender in senders:
            sender.start()
        try:
            for _ in range(2):
                before = len(acknowledged)
                eventually(lambda seen=before: len(acknowledged) > seen + 200, "events to flow")
                database.crash()
                database.restart()
            before = len(acknowledged)
            eventually(lambda: len(acknowledged) > before + 200, "events to flow again", 40)
        finally:
            stop.set()
            for sender in senders:
                sender.join()
        assert statuses <= {200, 429, 503}
        with psycopg.connect(gateway_dsn(gateway)) as connection:
            rows = connection.execute("SELECT event_id::text FROM trackmate.events").fetchall()
        kept = [row[0] for row in rows]
        assert len(kept) == len(set(kept))
        assert set(acknowledged) <= set(kept)


def test_without_its_database_the_gateway_says_503_and_recovers_by_itself():
    with Postgres15() as database:
        dsn = database.fresh_database()
        database.crash()
        gateway = GatewayService(dsn)
        gateway.wait_ready = False
        with gateway:
            assert gateway.get("/ready").status_code == 503
            response = gateway.ingest([event()])
            assert (response.status_code, error_of(response)["code"]) == (503, "hot_store_unavailable")
            assert int(response.headers["retry-after"]) > 0
            database.restart()
            eventually(lambda: gateway.get("/ready").status_code == 200, "the gateway to be ready once its database is")
            assert gateway.ingest([event()]).json()["inserted"] == 1


def test_too_many_ingests_at_once_are_told_to_wait(postgres15: Postgres15):
    with GatewayService(postgres15.fresh_database(), gateway={"limits": {"ingests": 1}, "body_timeout": "5s"}) as gateway:

        def slow_body():
            yield b"["
            release.wait(4)
            yield b"]"

        release = threading.Event()
        with gateway.client() as client:
            holding = threading.Thread(
                target=lambda: client.post(
                    "/v1/ingest/managed", content=slow_body(), headers={"Content-Type": "application/json"}
                )
            )
            holding.start()
            try:
                response = eventually(
                    lambda: answer if (answer := gateway.ingest([event()])).status_code == 429 else None,
                    "a 429 while one is held",
                    4,
                )
            finally:
                release.set()
                holding.join()
        assert (error_of(response)["code"], response.headers["retry-after"]) == ("overloaded", "1")
        assert gateway.ingest([event()]).status_code == 200


def gateway_dsn(gateway: GatewayService) -> str:
    return str(json.loads(gateway.config.read_text())["hot"]["dsn"])


def test_the_tokens_file_is_readable_by_its_owner_alone(gateway: GatewayService):
    assert gateway.tokens.path.stat().st_mode & 0o077 == 0
    assert isinstance(gateway.tokens, TokenFile)
