"""The webhook sink against real HTTP servers that answer from a script."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import socket
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from contract.errors import ConfigError
from contract.settings import Secret
from sinks import registry
from sinks.base import Throttled, Unavailable
from sinks.tls import Tls
from sinks.webhook import MAX_BATCH_EVENTS, WebhookConfig, WebhookSink
from sinks.webhook_address import is_public
from tests.services.certificates import TestAuthority
from tests.services.scripted_http import Asked, Hang, Reply, Reset, ScriptedHttp, Step
from tests.sidecar.harness import event
from tests.sinks.documented import documented_backend
from tests.sinks.suite import SinkSuite, batch_of, golden_events

TOKEN = "Bearer whsec_right"


def new_sink(url: str, **settings: Any) -> WebhookSink:
    return WebhookSink("webhook", WebhookConfig(url=Secret(url), **{"allow_private": True, **settings}))


class Receiver:
    """An endpoint that keeps events by id, as one that looks at the Idempotency-Key or at the ids would."""

    def __init__(self, port: int = 0) -> None:
        self.events: list[dict[str, Any]] = []
        self.refused: set[str] = set()
        self.server = ScriptedHttp(self.answer, port=port)

    def answer(self, asked: Asked) -> Step:
        if asked.headers.get("Authorization") != TOKEN:
            return Reply(401, f"not with {asked.headers.get('Authorization')}".encode())
        if asked.method == "HEAD":
            return Reply(405)
        is_lines = asked.headers["Content-Type"] == "application/x-ndjson"
        items = asked.lines if is_lines else asked.json
        items = items if isinstance(items, list) else [items]
        if any(item["event_id"] in self.refused for item in items):
            return Reply(422, b"this receiver takes no such event")
        self.events += items
        return Reply(204)


class ReceiverTarget:
    refuses_events = True
    has_credential = True
    has_server = True
    deduplicates = False

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        self.receiver = Receiver()
        self.port = self.receiver.server.port
        self.running = True

    def sink(self, *, credential: str | None = None) -> WebhookSink:
        headers = {"Authorization": Secret(credential or TOKEN)}
        return new_sink(f"http://127.0.0.1:{self.port}/hooks/events?source=fab", headers=headers, **self.settings)

    async def read_back(self) -> list[dict[str, Any]]:
        return list(self.receiver.events)

    def refuse(self, items: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        self.receiver.refused |= {item["event_id"] for item in items}
        return list(items)

    def as_stored(self, item: dict[str, Any]) -> dict[str, Any]:
        return item

    def stop(self) -> None:
        if self.running:
            self.receiver.server.stop()
            self.running = False

    def start(self) -> None:
        self.stop()
        events = self.receiver.events
        self.receiver = Receiver(self.port)
        self.receiver.events = events
        self.running = True

    def hang(self) -> None:
        self.receiver.server.script = Hang()


class TestWebhook(SinkSuite):
    @pytest.fixture(
        params=[{"body": "ndjson"}, {"body": "array", "compression": "gzip"}, {"body": "event", "parallel": 8}],
        ids=["ndjson", "array", "event"],
    )
    def target(self, request: pytest.FixtureRequest) -> Iterator[ReceiverTarget]:
        target = ReceiverTarget(request.param)
        yield target
        target.stop()


@pytest.fixture
def server() -> Iterator[ScriptedHttp]:
    with ScriptedHttp(Reply(204)) as server:
        yield server


async def deliver(sink: WebhookSink, items: Sequence[dict[str, Any]]) -> Any:
    await sink.open()
    try:
        return await sink.deliver(batch_of(items))
    finally:
        await sink.close()


async def test_signature_can_not_be_verified_by_a_receiver(server: ScriptedHttp) -> None:
    """Verified here as docs/backends/webhook.md tells a receiver to."""
    key = "a key of both sides"
    sink = new_sink(server.url, secret=Secret(key), compression="gzip")
    await deliver(sink, [event()])
    (asked,) = server.asked
    message = asked.headers["X-Trackmate-Timestamp"].encode() + b"." + asked.sent
    expected = "v1=" + hmac.new(key.encode(), message, hashlib.sha256).hexdigest()
    assert hmac.compare_digest(asked.headers["X-Trackmate-Signature"], expected)


async def test_signature_of_a_retry_is_too_old_to_be_taken(server: ScriptedHttp) -> None:
    now = 1_000_000.0
    sink = WebhookSink(
        "webhook", WebhookConfig(url=Secret(server.url), allow_private=True, secret=Secret("k")), clock=lambda: now
    )
    server.then(Reply(503))
    items = [event()]
    with pytest.raises(Unavailable):
        await deliver(sink, items)
    now += 3600
    await deliver(sink, items)
    first, second = server.asked
    assert (first.headers["X-Trackmate-Timestamp"], second.headers["X-Trackmate-Timestamp"]) == ("1000000", "1003600")
    assert first.headers["X-Trackmate-Signature"] != second.headers["X-Trackmate-Signature"]
    assert first.headers["Idempotency-Key"] == second.headers["Idempotency-Key"]


async def test_two_requests_have_one_idempotency_key(server: ScriptedHttp) -> None:
    """Also the rest of a batch, whose first and last event are those of the whole."""
    items = [event() for _ in range(4)]
    sink = new_sink(server.url)
    await sink.open()
    whole = batch_of(items)
    await sink.deliver(whole)
    await sink.deliver(whole.subset([0, 3]))
    await sink.deliver(whole)
    await sink.close()
    first, part, again = (asked.headers["Idempotency-Key"] for asked in server.asked)
    assert first == again != part


async def test_single_event_has_another_key_than_its_id(server: ScriptedHttp) -> None:
    items = [event() for _ in range(3)]
    await deliver(new_sink(server.url, body="event"), items)
    assert [asked.headers["Idempotency-Key"] for asked in server.asked] == [item["event_id"] for item in items]


@pytest.mark.parametrize(("count", "requests"), [(9, 1), (10, 1), (11, 2)])
async def test_request_holds_more_than_the_receiver_takes(server: ScriptedHttp, count: int, requests: int) -> None:
    report = await deliver(new_sink(server.url, max_events=10), [event() for _ in range(count)])
    assert report.delivered == count
    assert len(server.asked) == requests
    assert max(len(asked.lines) for asked in server.asked) <= 10


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_one_bad_event_in_a_thousand_takes_the_others_with_it(server: ScriptedHttp, status: int) -> None:
    items = [event() for _ in range(MAX_BATCH_EVENTS)]
    bad = items[617]["event_id"].encode()
    server.script = lambda asked: Reply(status, b"no") if bad in asked.body else Reply(200)
    report = await deliver(new_sink(server.url, max_events=1000), items)
    assert (report.delivered, [item.index for item in report.refused], report.retry) == (999, [617], [])
    assert str(status) in report.refused[0].reason


@pytest.mark.parametrize("status", [301, 307, 401, 403, 404, 405, 408, 409, 410, 415, 425, 500, 502, 503, 504])
async def test_answer_that_may_change_makes_dead_letters(server: ScriptedHttp, status: int) -> None:
    with ScriptedHttp() as elsewhere:
        server.script = Reply(status, headers={"Retry-After": "7", "Location": elsewhere.url})
        with pytest.raises(Unavailable, match=str(status)) as error:
            await deliver(new_sink(server.url), [event()])
        assert error.value.retry_after == 7
        assert not elsewhere.asked


@pytest.mark.parametrize("wish", ["11", "Mon, 01 Jan 2046 00:00:00 GMT"])
async def test_wish_to_wait_counts_as_an_outage(server: ScriptedHttp, wish: str) -> None:
    server.script = Reply(429, headers={"Retry-After": wish})
    with pytest.raises(Throttled) as error:
        await deliver(new_sink(server.url), [event()])
    assert error.value.retry_after == (11 if wish == "11" else 3600)


async def test_status_beside_success_counts_as_success(server: ScriptedHttp) -> None:
    server.script = Reply(200, b"<html>maintenance</html>")
    with pytest.raises(Unavailable, match="success"):
        await deliver(new_sink(server.url, success=[202]), [event()])


@pytest.mark.parametrize("parallel", [1, 3])
async def test_outage_midway_loses_what_was_delivered(server: ScriptedHttp, parallel: int) -> None:
    items = [event() for _ in range(8)]
    down = {item["event_id"] for item in items[4:6]}
    server.script = lambda asked: Reply(503) if asked.json["event_id"] in down else Reply(204)
    report = await deliver(new_sink(server.url, body="event", parallel=parallel), items)
    assert (report.delivered, sorted(report.retry)) == (4, [4, 5, 6, 7])
    taken = {asked.json["event_id"] for asked in server.asked if asked.json["event_id"] not in down}
    assert taken == {item["event_id"] for item in items[:4]}


@pytest.mark.parametrize("sent", [None, 100])
async def test_reset_counts_as_delivered(server: ScriptedHttp, sent: int | None) -> None:
    server.script = Reset(sent)
    with pytest.raises(Unavailable, match="cut in the middle"):
        await deliver(new_sink(server.url), [event()])


async def test_slow_receiver_never_gets_an_event(server: ScriptedHttp) -> None:
    server.script = Reply(204, delay=0.5)
    with pytest.raises(Unavailable, match="did not answer in time"):
        await deliver(new_sink(server.url, read_timeout=0.1), [event()])
    assert (await deliver(new_sink(server.url, read_timeout=30), [event()])).delivered == 1


async def test_token_revoked_midway_loses_events(server: ScriptedHttp) -> None:
    items = [event() for _ in range(4)]
    server.then(Reply(204), Reply(204), Reply(401))
    report = await deliver(new_sink(server.url, body="event"), items)
    assert (report.delivered, report.refused, report.retry) == (2, [], [2, 3])
    assert "credential" in report.message


async def test_secret_in_the_address_or_a_header_is_shown(server: ScriptedHttp) -> None:
    server.script = lambda asked: Reply(500, f"{asked.path} {asked.headers['X-Api-Key']}".encode())
    sink = new_sink(
        server.url + "/services/T0quite/B0secret?key=sesame-open", headers={"X-Api-Key": Secret("hush-hush")}, secret=Secret("k")
    )
    with pytest.raises(Unavailable) as error:
        await deliver(sink, [event()])
    for word in ("T0quite", "sesame", "hush"):
        assert word not in str(error.value) + repr(vars(sink)) + repr(sink._config)


TEMPLATE = (
    '{"text": "${event.severity} of ${event.entities.tool}: ${event.message}", "values": ${json:event.metrics}, "t": "$${x}"}'
)


async def test_template_lets_an_event_out_of_its_quotes(server: ScriptedHttp) -> None:
    items = [
        event(message='"}, {"admin": "yes\n\\', entities={"tool": "etch ☃"}, metrics={"a.b": 1.5}),
        event(kind="error", message="${event.name}"),
    ]
    settings = {
        "body": "template",
        "template": TEMPLATE,
        "headers": {"X-Subject": Secret("${event.message}|${event.entities.tool}")},
    }
    await deliver(new_sink(server.url, **settings), items)
    assert [asked.json for asked in server.asked] == [
        {"text": 'info of etch ☃: "}, {"admin": "yes\n\\', "values": {"a.b": 1.5}, "t": "${x}"},
        {"text": "error of : ${event.name}", "values": items[1].get("metrics"), "t": "${x}"},
    ]
    assert server.asked[0].headers["X-Subject"] == '"}, {"admin": "yes \\|etch %E2%98%83'


async def test_text_template_is_escaped_as_json(server: ScriptedHttp) -> None:
    settings = {"body": "template", "template": "${event.attributes.a.b}/${event.name}", "template_format": "text"}
    await deliver(new_sink(server.url, **settings), [event(name='say "hi"', attributes={"a": {"b": [1, "x"]}})])
    assert server.asked[0].body == b'[1,"x"]/say "hi"'
    assert server.asked[0].headers["Content-Type"].startswith("text/plain")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"url": "ftp://example.test"}, "http"),
        ({"url": "https://user:pw@example.test"}, "password"),
        ({"body": "template"}, "template"),
        ({"template": "x"}, "template"),
        ({"body": "template", "template": '{"a": ${event.name}}'}, "JSON"),
        ({"body": "template", "template": '{"a": "${event.nmae}"}'}, "nmae"),
        ({"body": "template", "template": '{"a": "${event.__class__}"}'}, "__class__"),
        ({"body": "template", "template": '{"a": "${env.HOME}"}'}, "env.HOME"),
        ({"headers": {"X-Name": "${event.name}"}}, "batch"),
        ({"headers": {"X-Name": "${json:batch.id}"}}, "json:"),
        ({"headers": {"Content-Length": "1"}}, "Content-Length"),
        ({"headers": {"X Y": "1"}}, "X Y"),
        ({"headers": {"X-Y": "1\r\nX-Z: 2"}}, "one line"),
        ({"max_events": 1001}, "1000"),
        ({"secrets": "x"}, "secrets"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_mistake_is_found_when_the_first_event_comes(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as error:
        registry.parse_config("webhook", {"url": "https://example.test/hook", **settings})
    assert words in str(error.value)


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
     "255.255.255.255", "::1", "::", "fe80::1", "fc00::1", "ff02::1", "fec0::1", "::ffff:10.0.0.1",
     "::ffff:169.254.169.254", "2002:7f00:1::",
     "64:ff9b::a9fe:a9fe", "240.0.0.1", "192.0.2.1"],
)  # fmt: skip
def test_private_address_passes_for_a_public_one(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", ["1.1.1.1", "93.184.215.14", "2606:4700:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"])
def test_public_address_passes_for_a_private_one(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "[::1]", "[::ffff:127.0.0.1]"])
async def test_private_address_is_called(server: ScriptedHttp, host: str) -> None:
    sink = new_sink(f"http://{host}:{server.port}/", allow_private=False)
    await sink.open()
    health = await sink.check()
    with pytest.raises(Unavailable, match="allow_private"):
        await sink.deliver(batch_of([event()]))
    await sink.close()
    assert not health.ok
    assert not server.asked


async def test_second_answer_of_dns_decides_where_events_go(authority: TestAuthority, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name is asked for once, the connection goes to that answer, and the certificate must still be the name's."""
    asked_for: list[str] = []

    async def answer(self: Any, host: str, port: int, **_: Any) -> list[Any]:
        asked_for.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", answer)
    with ScriptedHttp(Reply(204), certificate=authority.issue("hooks.test")) as server:
        tls = Tls(ca_file=authority.file)
        report = await deliver(new_sink(f"https://hooks.test:{server.port}/x", tls=tls), [event()])
        assert report.delivered == 1
        assert server.asked[0].headers["Host"] == f"hooks.test:{server.port}"
        with pytest.raises(Unavailable, match="another name"):
            await deliver(new_sink(f"https://other.test:{server.port}/x", tls=tls), [event()])
    assert [host for host in asked_for if host.endswith(".test")] == ["hooks.test", "other.test"]


async def test_dead_address_hides_the_living_one(server: ScriptedHttp, monkeypatch: pytest.MonkeyPatch) -> None:
    real = asyncio.BaseEventLoop.getaddrinfo

    async def answer(self: Any, host: str, port: int, **settings: Any) -> Any:
        if host != "hooks.test":
            return await real(self, host, port, **settings)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in ("127.0.0.2", "127.0.0.1")]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", answer)
    report = await deliver(new_sink(f"http://hooks.test:{server.port}/"), [event()])
    assert report.delivered == 1


async def test_name_that_does_not_resolve_looks_like_an_outage_of_the_receiver() -> None:
    with pytest.raises(Unavailable, match="DNS"):
        await deliver(new_sink("https://no-such-host.invalid/x", allow_private=False), [event()])


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> TestAuthority:
    return TestAuthority(tmp_path_factory.mktemp("ca"))


async def test_expired_certificate_of_the_receiver_is_taken(authority: TestAuthority) -> None:
    with ScriptedHttp(certificate=authority.expired("127.0.0.1")) as server:
        with pytest.raises(Unavailable, match="expired"):
            await deliver(new_sink(server.url, tls=Tls(ca_file=authority.file)), [event()])
        assert not server.asked


async def test_golden_event_can_not_be_put_into_a_template(server: ScriptedHttp) -> None:
    items = golden_events()
    template = '{"e": ${json:event}, "n": "${event.name}", "m": "${event.message}"}'
    assert (await deliver(new_sink(server.url, body="template", template=template), items)).delivered == len(items)
    assert [asked.json["e"]["event_id"] for asked in server.asked] == [item["event_id"] for item in items]
    assert [asked.json["n"] for asked in server.asked] == [item["name"] for item in items]


def test_documented_configuration_does_not_load() -> None:
    assert isinstance(registry.parse_config("webhook", documented_backend("webhook")), WebhookConfig)
