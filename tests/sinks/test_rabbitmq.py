"""The RabbitMQ sink on a real broker: the suite, and what only RabbitMQ can do wrong."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import aio_pika
import pytest

from contract.errors import ConfigError
from contract.ids import uuid7
from contract.settings import Secret
from sinks.base import Throttled, Unavailable
from sinks.rabbitmq import RabbitmqConfig, RabbitmqSink
from sinks.rabbitmq_messages import MAX_SHORT_STRING_BYTES, routed, routing_key
from sinks.registry import make_sink, parse_config
from sinks.tls import Tls
from tests.services.certificates import TestAuthority
from tests.services.rabbitmq import MAX_MESSAGE_BYTES, RabbitMq
from tests.services.toxiproxy import Link, Toxiproxy
from tests.sidecar.harness import event, events
from tests.sinks import suite
from tests.sinks.documented import documented_backend
from tests.sinks.suite import LinkedTarget, SinkSuite, batch_of


async def messages(rabbitmq: RabbitMq, queue: str) -> list[aio_pika.abc.AbstractIncomingMessage]:
    """Everything in the queue; it stays there."""
    connection = await aio_pika.connect(rabbitmq.url())
    async with connection:
        channel = await connection.channel()
        found = await channel.declare_queue(queue, passive=True)
        taken = []
        while (message := await found.get(timeout=30, fail=False)) is not None:
            taken.append(message)
        return taken


def stored(found: Sequence[aio_pika.abc.AbstractIncomingMessage]) -> list[dict[str, Any]]:
    return [json.loads(message.body) for message in found]


class RabbitTarget(LinkedTarget):
    stalls = ("downstream", "upstream")
    deduplicates = False

    def __init__(self, rabbitmq: RabbitMq, link: Link) -> None:
        super().__init__(link)
        self.rabbitmq = rabbitmq
        self.name = rabbitmq.fresh_name()

    def sink(self, *, credential: str | None = None) -> RabbitmqSink:
        url = self.rabbitmq.url(port=self.link.port)
        if credential is not None:
            url = f"amqp://tests:{credential}@127.0.0.1:{self.rabbitmq.port}/%2F"
        settings = {"exchange": self.name, "queue": self.name, "queue_type": "classic", "declare": credential is None}
        return RabbitmqSink("rabbitmq", RabbitmqConfig(url=Secret(url), publish_timeout=60, connect_timeout=3, **settings))

    async def read_back(self) -> list[dict[str, Any]]:
        try:
            return stored(await messages(self.rabbitmq, self.name))
        except aio_pika.exceptions.ChannelNotFoundEntity:
            return []

    def refuse(self, items: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{**item, "attributes": {"blob": "x" * MAX_MESSAGE_BYTES}} for item in items]


@pytest.fixture(scope="module")
def proxied(rabbitmq: RabbitMq, toxiproxy: Toxiproxy) -> Link:
    return toxiproxy.link("rabbitmq-sink", rabbitmq.port)


class TestRabbitmq(SinkSuite):
    @pytest.fixture
    def target(self, rabbitmq: RabbitMq, proxied: Link) -> Iterator[RabbitTarget]:
        yield RabbitTarget(rabbitmq, proxied)
        proxied.heal()


def opened(rabbitmq: RabbitMq, name: str, **settings: Any) -> AbstractAsyncContextManager[RabbitmqSink]:
    settings = {"url": rabbitmq.url(), "exchange": name, "queue_type": "classic", "connect_timeout": 15, **settings}
    return suite.opened(RabbitmqSink("rabbitmq", RabbitmqConfig(**{**settings, "url": Secret(settings["url"])})))


@asynccontextmanager
async def administered(rabbitmq: RabbitMq) -> AsyncIterator[aio_pika.abc.AbstractChannel]:
    """A channel that may do anything."""
    connection = await aio_pika.connect(rabbitmq.url())
    async with connection:
        yield await connection.channel()


async def test_message_comes_without_its_properties(rabbitmq: RabbitMq) -> None:
    name, item = rabbitmq.fresh_name(), event(kind="metric", site_id="fäb", timestamp="2026-07-01T11:00:00.7+02:00")
    async with opened(rabbitmq, name, queue=name, declare=True, deduplication_header=True) as sink:
        await sink.deliver(batch_of([item]))
    (found,) = await messages(rabbitmq, name)
    assert (found.message_id, found.type, found.app_id) == (item["event_id"], "metric", "wafer-processing")
    assert (found.content_type, found.delivery_mode) == ("application/json", aio_pika.DeliveryMode.PERSISTENT)
    assert found.timestamp is not None
    assert found.timestamp.isoformat() == "2026-07-01T09:00:00+00:00"
    assert found.routing_key == "events.metric"
    assert found.headers == {
        "event_id": item["event_id"], "kind": "metric", "site_id": "fäb", "x-deduplication-header": item["event_id"],
    }  # fmt: skip


@pytest.mark.parametrize("queue_type", ["classic", "quorum"])
async def test_queue_gets_events_out_of_order(rabbitmq: RabbitMq, queue_type: str) -> None:
    name, items = rabbitmq.fresh_name(), events(600)
    async with opened(rabbitmq, name, queue=name, queue_type=queue_type, declare=True) as sink:
        for start in range(0, 600, 200):
            await sink.deliver(batch_of(items[start : start + 200]))
    assert [item["event_id"] for item in stored(await messages(rabbitmq, name))] == [item["event_id"] for item in items]


@pytest.mark.parametrize("missing", ["exchange", "queue"])
async def test_missing_place_swallows_events(rabbitmq: RabbitMq, missing: str) -> None:
    name, absent = rabbitmq.fresh_name(), rabbitmq.fresh_name()
    async with opened(rabbitmq, name, queue=name, declare=True):
        pass
    settings = {"queue": absent} if missing == "queue" else {"exchange": absent}
    async with opened(rabbitmq, name, **settings) as sink:
        health = await sink.check()
        assert not health.ok
        assert absent in health.detail
        assert "declare" in health.detail
        if missing == "exchange":
            with pytest.raises(Unavailable, match="declare"):
                await sink.deliver(batch_of(events(3)))


async def test_unroutable_event_counts_as_delivered(rabbitmq: RabbitMq) -> None:
    name = rabbitmq.fresh_name()
    async with opened(rabbitmq, name, declare=True) as sink:
        with pytest.raises(Unavailable, match=r"no queue.*events\.log"):
            await sink.deliver(batch_of(events(3)))


async def test_unroutable_kind_holds_back_what_was_delivered(rabbitmq: RabbitMq) -> None:
    name = rabbitmq.fresh_name()
    items = [event(), event(kind="metric"), event(), event(kind="metric")]
    async with opened(rabbitmq, name, queue=name, binding_key="events.metric", declare=True) as sink:
        report = await sink.deliver(batch_of(items))
        assert (report.delivered, report.retry, report.refused) == (2, [0, 2], [])
        assert "bind one" in (report.message or "")
    async with opened(rabbitmq, name, unroutable="refuse") as sink:
        report = await sink.deliver(batch_of(items))
        assert (report.delivered, report.retry) == (2, [])
        assert [(item.index, item.event_id) for item in report.refused] == [(0, items[0]["event_id"]), (2, items[2]["event_id"])]
    assert len(await messages(rabbitmq, name)) == 4


async def test_queue_deleted_midway_swallows_events(rabbitmq: RabbitMq) -> None:
    name = rabbitmq.fresh_name()
    async with opened(rabbitmq, name, queue=name, declare=True) as sink, administered(rabbitmq) as admin:
        assert (await sink.deliver(batch_of(events(2)))).delivered == 2
        await admin.queue_delete(name)
        with pytest.raises(Unavailable, match="no queue"):
            await sink.deliver(batch_of(events(2)))
        await admin.declare_queue(name, durable=True)
        await (await admin.get_queue(name)).bind(name, "#")
        assert (await sink.deliver(batch_of(events(2)))).delivered == 2


async def test_exchange_deleted_midway_ends_the_sink(rabbitmq: RabbitMq) -> None:
    name = rabbitmq.fresh_name()
    async with opened(rabbitmq, name, queue=name, declare=True) as sink, administered(rabbitmq) as admin:
        assert (await sink.deliver(batch_of(events(2)))).delivered == 2
        await admin.exchange_delete(name)
        with pytest.raises(Unavailable, match="declare"):
            await sink.deliver(batch_of(events(2)))
        assert (await sink.deliver(batch_of(events(2)))).delivered == 2


async def test_full_queue_loses_events_or_repeats_those_it_took(rabbitmq: RabbitMq) -> None:
    name = rabbitmq.fresh_name()
    async with administered(rabbitmq) as admin:
        full = {"x-max-length": 3, "x-overflow": "reject-publish"}
        queue = await admin.declare_queue(name, durable=True, arguments=full)
        async with opened(rabbitmq, "", routing_key=name) as sink:
            items = events(5)
            report = await sink.deliver(batch_of(items))
            assert (report.delivered, report.refused, len(report.retry)) == (3, [], 2)
            assert "full" in (report.message or "")
            assert report.retry_after
            again = batch_of(items).subset(report.retry)
            with pytest.raises(Throttled, match="full"):
                await sink.deliver(again)
            await queue.purge()
            assert (await sink.deliver(again)).delivered == 2


@pytest.mark.parametrize(("extra", "taken"), [(-1, True), (0, True), (1, False)])
async def test_limit_of_a_message_is_off_by_some_bytes(rabbitmq: RabbitMq, extra: int, taken: bool) -> None:
    name, template = rabbitmq.fresh_name(), event(attributes={"blob": ""})
    bare = len(batch_of([template]).lines[0])
    items = [event(), {**template, "attributes": {"blob": "x" * (MAX_MESSAGE_BYTES - bare + extra)}}, event()]
    async with opened(rabbitmq, name, queue=name, declare=True) as sink:
        for _ in range(2):
            report = await sink.deliver(batch_of(items))
            assert [item.event_id for item in report.refused] == ([] if taken else [items[1]["event_id"]])
            assert (report.delivered, report.retry) == (3 if taken else 2, [])
    ids = {item["event_id"] for item in stored(await messages(rabbitmq, name))}
    assert ids == {item["event_id"] for item in items if taken or item is not items[1]}


@pytest.mark.parametrize(
    ("template", "fields", "key"),
    [
        ("events.{kind}", {}, "events.log"),
        ("{site_id}.{app}.{name}.{severity}", {"site_id": "fab.1", "name": "a b*#"}, "fab_1.wafer-processing.a_b__.info"),
        ("{severity}", {"kind": "error"}, "error"),
        ("{name}", {"name": "n" * 254}, "n" * 254),
        ("{name}", {"name": "n" * 255}, "n" * 255),
        ("{name}", {"name": "n" * 256}, "n" * MAX_SHORT_STRING_BYTES),
        ("{name}", {"name": "é" * 256}, "é" * 127),
        ("{name}", {"name": "{kind}"}, "{kind}"),
    ],
)
def test_routing_key_breaks_out_of_its_words(template: str, fields: dict[str, Any], key: str) -> None:
    assert routing_key(template, routed(batch_of([event(**fields)]).lines[0])) == key


async def test_name_too_long_for_amqp_breaks_the_channel(rabbitmq: RabbitMq) -> None:
    name, item = rabbitmq.fresh_name(), event(name="é" * 256, app={"name": "ü" * 256})
    async with opened(rabbitmq, name, queue=name, declare=True, routing_key="{name}.{app}") as sink:
        assert (await sink.deliver(batch_of([item]))).delivered == 1
    assert stored(await messages(rabbitmq, name)) == [item]


@pytest.mark.parametrize(
    ("user", "vhost", "words"),
    [("reader", "%2F", "permission"), ("stranger", "%2F", "vhost"), ("tests", "nowhere", "nowhere")],
)
async def test_missing_permission_is_told_as_something_else(rabbitmq: RabbitMq, user: str, vhost: str, words: str) -> None:
    name = rabbitmq.fresh_name()
    async with opened(rabbitmq, name, queue=name, declare=True):
        pass
    async with opened(rabbitmq, name, url=rabbitmq.url(user, vhost=vhost)) as sink:
        health = await sink.check()
        assert not health.ok
        assert words in health.detail
        with pytest.raises(Unavailable, match=words):
            await sink.deliver(batch_of(events(2)))
        assert "-secret" not in health.detail
    assert await messages(rabbitmq, name) == []


async def test_queue_declared_otherwise_is_told_as_something_else(rabbitmq: RabbitMq) -> None:
    name = rabbitmq.fresh_name()
    async with opened(rabbitmq, name, queue=name, declare=True):
        pass
    with pytest.raises(Unavailable, match="differs"):
        async with opened(rabbitmq, name, queue=name, exchange_type="fanout", declare=True):
            pass


async def test_check_leaves_a_message(rabbitmq: RabbitMq) -> None:
    name = rabbitmq.fresh_name()
    async with opened(rabbitmq, name, queue=name, declare=True) as sink:
        for _ in range(3):
            health = await sink.check()
            assert health.ok, health.detail
    assert await messages(rabbitmq, name) == []


@asynccontextmanager
async def tls_server(certificate: Any) -> AsyncIterator[int]:
    """A port that speaks TLS with this certificate and then nothing."""

    async def silence(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate.cert_file, certificate.key_file)
    server = await asyncio.start_server(silence, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_tls_is_not_spoken(rabbitmq: RabbitMq) -> None:
    name, url = rabbitmq.fresh_name(), rabbitmq.url(port=rabbitmq.tls_port).replace("amqp:", "amqps:")
    async with opened(rabbitmq, name, url=url, tls=Tls(ca_file=rabbitmq.authority_file), queue=name, declare=True) as sink:
        assert (await sink.check()).ok
        assert (await sink.deliver(batch_of(events(2)))).delivered == 2


@pytest.mark.parametrize(("case", "words"), [("expired", "expired"), ("other", "another name"), ("untrusted", "not trusted")])
async def test_trouble_with_tls_is_not_told_apart(rabbitmq: RabbitMq, tmp_path: Path, case: str, words: str) -> None:
    authority = TestAuthority(tmp_path)
    certificate = {
        "expired": lambda: authority.expired("127.0.0.1"),
        "other": lambda: authority.issue("rabbit.example.org"),
        "untrusted": lambda: authority.issue("127.0.0.1"),
    }[case]()
    trusted = rabbitmq.authority_file if case == "untrusted" else authority.file
    tls = Tls(ca_file=trusted)
    async with tls_server(certificate) as port, opened(rabbitmq, "x", url=f"amqps://u:p@127.0.0.1:{port}/", tls=tls) as sink:
        with pytest.raises(Unavailable, match=words):
            await sink.deliver(batch_of(events(1)))


@pytest.mark.parametrize(
    ("url", "words"),
    [("amqp://u:tm_hidden@127.0.0.1:1/", "refused"), ("amqp://u:tm_hidden@no-such-host.invalid/", "DNS")],
)
async def test_address_that_leads_nowhere_gives_no_advice(rabbitmq: RabbitMq, url: str, words: str) -> None:
    async with opened(rabbitmq, "x", url=url) as sink:
        with pytest.raises(Unavailable, match=words) as error:
            await sink.deliver(batch_of(events(1)))
        assert "tm_hidden" not in str(error.value)
        assert words in (await sink.check()).detail


async def test_another_protocol_behind_the_port_is_waited_for(rabbitmq: RabbitMq, toxiproxy: Toxiproxy) -> None:
    async def garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(8)
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(garbage, "127.0.0.1", 0)
    async with server:
        url = f"amqp://u:p@127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        async with opened(rabbitmq, "x", url=url, connect_timeout=5) as sink:
            with pytest.raises(Unavailable, match="AMQP"):
                await sink.deliver(batch_of(events(1)))


async def test_connection_cut_midway_loses_events(rabbitmq: RabbitMq, toxiproxy: Toxiproxy) -> None:
    link = toxiproxy.link(f"rabbitmq-cut-{uuid7()}", rabbitmq.port)
    name, items = rabbitmq.fresh_name(), events(3000)
    pending = batch_of(items)
    async with opened(rabbitmq, name, url=rabbitmq.url(port=link.port), queue=name, declare=True) as sink:
        await sink.deliver(batch_of(events(1)))
        link.poison("limit_data", bytes=200_000, stream="upstream")  # less than the events have
        try:
            report = await sink.deliver(pending)
        except Unavailable:
            assert (await sink.check()).detail
        else:
            assert report.delivered < 3000
            assert report.delivered + len(report.retry) == 3000
            pending = pending.subset(report.retry)
        link.heal()
        assert (await sink.deliver(pending)).delivered == pending.count
    found = {item["event_id"] for item in stored(await messages(rabbitmq, name))}
    assert found >= {item["event_id"] for item in items}
    link.cut()


async def test_hung_broker_is_waited_for_without_end(rabbitmq: RabbitMq, proxied: Link) -> None:
    target = RabbitTarget(rabbitmq, proxied)
    url = rabbitmq.url(port=proxied.port)
    async with opened(rabbitmq, target.name, url=url, queue=target.name, declare=True, publish_timeout=2) as sink:
        try:
            assert (await sink.deliver(batch_of(events(2)))).delivered == 2
            target.hang()
            async with asyncio.timeout(60):
                with pytest.raises(Unavailable, match="in time"):
                    await sink.deliver(batch_of(events(2)))
        finally:
            target.start()
        assert (await sink.deliver(batch_of(events(2)))).delivered == 2


async def test_broker_restarted_loses_events_or_alarm_is_taken_for_a_hang() -> None:
    """A broker of its own: its memory alarm can't be raised for one test alone."""
    with RabbitMq() as rabbitmq:
        name, items = rabbitmq.fresh_name(), events(50)
        async with opened(rabbitmq, name, queue=name, declare=True) as sink:
            assert (await sink.deliver(batch_of(items))).delivered == 50
            rabbitmq.control("set_vm_memory_high_watermark", "absolute", "1MB")
            async with asyncio.timeout(60):
                with pytest.raises(Unavailable, match="memory or disk alarm"):
                    await sink.deliver(batch_of(events(5)))
            rabbitmq.control("set_vm_memory_high_watermark", "absolute", "8GB")
            assert (await sink.deliver(batch_of(events(1)))).delivered == 1
            await asyncio.to_thread(rabbitmq.kill)
            with pytest.raises(Unavailable):
                await sink.deliver(batch_of(events(1)))
            await asyncio.to_thread(rabbitmq.restart)
            assert (await sink.deliver(batch_of(events(1)))).delivered == 1
        found = {item["event_id"] for item in stored(await messages(rabbitmq, name))}
        assert {item["event_id"] for item in items} <= found
        assert len(found) >= 52


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"url": "http://tm_hidden@h/"}, "amqp://"),
        ({"url": "tm_hidden"}, "amqp://"),
        ({"url": "amqp://h/", "tls": {}}, "amqps"),
        ({"url": "amqp://h/", "routing_key": "{lot}"}, "{lot}"),
    ],
)
def test_mistake_in_the_configuration_is_found_only_by_the_first_event(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_config("rabbitmq", settings)
    assert words in str(error.value)
    assert "tm_hidden" not in str(error.value)


def test_password_is_shown() -> None:
    sink = make_sink("rabbitmq", "r", {"url": "amqp://u:tm_hidden@h/"})
    assert "tm_hidden" not in repr(parse_config("rabbitmq", {"url": "amqp://u:tm_hidden@h/"}))
    assert "tm_hidden" not in repr(vars(sink))


def test_documented_configuration_does_not_load() -> None:
    assert make_sink("rabbitmq", "rabbitmq", {**documented_backend("rabbitmq"), "url": "amqp://u:p@h/"})
