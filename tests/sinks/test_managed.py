"""The managed sink: the suite against a server with the gateway's documented answers, and every answer that goes wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
import zstandard

from contract.framing import BodyFormat
from contract.settings import Secret
from sinks import registry
from sinks.base import SinkBatch, StoredBody, Throttled, Unavailable
from sinks.http_answers import MAX_RETRY_AFTER, retry_after_seconds
from sinks.managed import ManagedConfig, ManagedSink
from tests.sidecar.harness import event, ndjson
from tests.sinks.documented import documented_backend
from tests.sinks.gateway_double import GatewayDouble
from tests.sinks.suite import SPOOL_ID, SinkSuite, batch_of, golden_events

TOKEN = "tm_right"


class GatewayTarget:
    refuses_events = True
    has_credential = True
    has_server = True

    def __init__(self) -> None:
        self.server: GatewayDouble | None = GatewayDouble()
        self.port = self.server.port
        self.events: dict[str, dict[str, Any]] = self.server.events
        self.refused: set[str] = set()
        self.server.token = TOKEN

    def sink(self, *, credential: str | None = None) -> ManagedSink:
        config = ManagedConfig(url=f"http://127.0.0.1:{self.port}", token=Secret(credential or TOKEN), connect_timeout=2)
        return ManagedSink("managed", config)

    async def read_back(self) -> list[dict[str, Any]]:
        return list(self.events.values())

    def refuse(self, items: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        self.refused |= {item["event_id"] for item in items}
        assert self.server is not None
        self.server.refuse = self.refused
        return list(items)

    def as_stored(self, item: dict[str, Any]) -> dict[str, Any]:
        return item

    def stop(self) -> None:
        if self.server is not None:
            self.server.stop()
            self.server = None

    def start(self) -> None:
        self.stop()
        self.server = GatewayDouble(self.port)
        self.server.token, self.server.events, self.server.refuse = TOKEN, self.events, self.refused

    def hang(self) -> None:
        assert self.server is not None
        self.server.delay = 60


class TestManaged(SinkSuite):
    @pytest.fixture
    def target(self) -> Iterator[GatewayTarget]:
        target = GatewayTarget()
        yield target
        target.stop()


@pytest.fixture
def gateway() -> Iterator[GatewayDouble]:
    with GatewayDouble() as server:
        yield server


async def opened(gateway: GatewayDouble, **settings: Any) -> ManagedSink:
    sink = ManagedSink("managed", ManagedConfig(url=gateway.url, **settings))
    await sink.open()
    return sink


@pytest.mark.parametrize(
    ("status", "error"), [(429, Throttled), (503, Unavailable), (500, Unavailable), (302, Unavailable), (404, Unavailable)]
)
async def test_answer_that_asks_for_patience_is_taken_for_success(
    gateway: GatewayDouble, status: int, error: type[Exception]
) -> None:
    gateway.fault = lambda _: (status, {"Retry-After": "7", "Location": "http://127.0.0.1:1/"}, b"no")
    sink = await opened(gateway)
    with pytest.raises(error) as raised:
        await sink.deliver(batch_of(golden_events()[:3]))
    await sink.close()
    assert raised.value.retry_after == 7  # type: ignore[attr-defined]
    assert str(status) in str(raised.value)


@pytest.mark.parametrize(("status", "word"), [(401, "token"), (403, "ingest")])
async def test_refused_credential_gives_no_advice(gateway: GatewayDouble, status: int, word: str) -> None:
    gateway.fault = lambda _: (status, {}, b"no")
    sink = await opened(gateway)
    with pytest.raises(Unavailable, match=word):
        await sink.deliver(batch_of(golden_events()[:1]))
    await sink.close()


@pytest.mark.parametrize(
    "answer", [b"<html>hello</html>", b"", b"{}", b'{"accepted": 2}', b'{"accepted": 3, "rejected": [{"index": 9}]}']
)
async def test_another_server_behind_the_address_swallows_events(gateway: GatewayDouble, answer: bytes) -> None:
    gateway.fault = lambda events: (200, {}, answer) if len(events) == 3 and answer != b"never" else None
    sink = await opened(gateway)
    batch = batch_of(golden_events()[:3])
    if answer == b'{"accepted": 3, "rejected": [{"index": 9}]}':
        assert (await sink.deliver(batch)).delivered == 3
    else:
        with pytest.raises(Unavailable):
            await sink.deliver(batch)
    await sink.close()


async def test_one_unreadable_event_makes_a_dead_letter_of_its_neighbours(gateway: GatewayDouble) -> None:
    items = [event() for _ in range(13)]
    bad = {items[3]["event_id"], items[11]["event_id"]}
    gateway.fault = lambda events: (400, {}, b"can't read that") if bad & {e["event_id"] for e in events} else None
    sink = await opened(gateway)
    report = await sink.deliver(batch_of(items))
    await sink.close()
    assert report.delivered == 11
    assert [(item.index, item.event_id) for item in report.refused] == [(3, items[3]["event_id"]), (11, items[11]["event_id"])]
    assert set(gateway.events) == {item["event_id"] for item in items} - bad


async def test_outage_while_halving_loses_what_was_delivered(gateway: GatewayDouble) -> None:
    items = [event() for _ in range(8)]

    def fault(events: list[dict[str, Any]]) -> Any:
        if len(events) == 8:
            return 413, {}, b"too large"
        return (503, {"Retry-After": "2"}, b"") if events[0]["event_id"] == items[4]["event_id"] else None

    gateway.fault = fault
    sink = await opened(gateway)
    report = await sink.deliver(batch_of(items))
    await sink.close()
    assert (report.delivered, report.retry, report.retry_after) == (4, [4, 5, 6, 7], 2)


@pytest.mark.parametrize("encoding", [None, "zstd"])
@pytest.mark.parametrize("layout", [BodyFormat.NDJSON, BodyFormat.ARRAY, BodyFormat.WRAPPED])
async def test_body_that_is_whole_is_encoded_anew(gateway: GatewayDouble, encoding: str | None, layout: BodyFormat) -> None:
    items = [event() for _ in range(20)]
    shapes = {BodyFormat.NDJSON: ndjson(items), BodyFormat.ARRAY: json.dumps(items).encode()}
    body = shapes.get(layout, json.dumps({"events": items}).encode())
    payload = zstandard.compress(body) if encoding else body
    sink = await opened(gateway)
    stored = StoredBody(payload, encoding, layout)
    report = await sink.deliver(SinkBatch.from_ndjson(ndjson(items), first_seq=1, spool_id=SPOOL_ID, stored=stored))
    await sink.close()
    assert report.delivered == 20
    assert gateway.requests[-1]["body"] == payload
    assert set(gateway.events) == {item["event_id"] for item in items}


async def test_joined_batch_is_sent_larger_than_need_be(gateway: GatewayDouble) -> None:
    items = [event() for _ in range(100)]
    sink = await opened(gateway, compression="zstd")
    assert (await sink.deliver(batch_of(items))).delivered == 100
    await sink.close()
    assert gateway.requests[-1]["headers"]["Content-Encoding"] == "zstd"
    assert len(gateway.requests[-1]["body"]) < len(ndjson(items)) / 3


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("5", 5.0),
        (" 0 ", 0.0),
        ("soon", None),
        ("-3", None),
        ("99999999", MAX_RETRY_AFTER),
        (f"Wed, 21 Oct {10**20} 07:28:00 GMT", None),
    ],
)
def test_retry_after_in_seconds_is_misread(value: str | None, seconds: float | None) -> None:
    assert retry_after_seconds(value) == seconds


@pytest.mark.parametrize(("ahead", "seconds"), [(30, 30.0), (-30, 0.0), (10**7, MAX_RETRY_AFTER)])
def test_retry_after_as_a_date_is_misread(ahead: int, seconds: float) -> None:
    now = datetime(2026, 7, 1, tzinfo=UTC)
    assert retry_after_seconds(format_datetime(now + timedelta(seconds=ahead), usegmt=True), now) == seconds


def test_documented_configuration_does_not_load() -> None:
    assert isinstance(registry.parse_config("managed", documented_backend("managed")), ManagedConfig)
