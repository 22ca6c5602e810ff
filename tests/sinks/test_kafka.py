"""The Kafka sink on a real broker: the suite, and what only Kafka can do wrong."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from confluent_kafka import Consumer, Message, TopicPartition

from contract.errors import ConfigError
from contract.ids import uuid7
from contract.settings import Secret
from sinks.base import Unavailable
from sinks.kafka import KafkaConfig, KafkaSasl, KafkaSink
from sinks.registry import make_sink, parse_config
from sinks.tls import Tls
from tests.services.kafka import USERS, KafkaService
from tests.services.toxiproxy import Link, Toxiproxy
from tests.sidecar.harness import event, events
from tests.sinks import suite
from tests.sinks.documented import documented_backend
from tests.sinks.suite import LinkedTarget, SinkSuite, batch_of

SMALL_TOPIC_BYTES = 20_000


def messages(kafka: KafkaService, topic: str) -> list[Message]:
    """Everything in the topic's partitions."""
    consumer = Consumer(
        {"bootstrap.servers": kafka.bootstrap, "group.id": "tests", "enable.partition.eof": False, "log_level": 0}
    )
    try:
        partitions = consumer.list_topics(topic, timeout=30).topics[topic].partitions
        ends = {number: consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=30)[1] for number in partitions}
        consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
        found: list[Message] = []
        deadline = time.monotonic() + 60
        while len(found) < sum(ends.values()):
            assert time.monotonic() < deadline, "the topic can't be read to its end"
            found += consumer.consume(5000, timeout=0.5)
        assert all(message.error() is None for message in found)
        return found
    finally:
        consumer.close()


def stored(found: Sequence[Message]) -> list[dict[str, Any]]:
    return [json.loads(message.value() or b"") for message in found]


class KafkaTarget(LinkedTarget):
    stalls = ("downstream", "upstream")
    deduplicates = False

    def __init__(self, kafka: KafkaService, link: Link) -> None:
        super().__init__(link)
        self.kafka = kafka
        self.topic = kafka.fresh_topic(partitions=3)

    def sink(self, *, credential: str | None = None) -> KafkaSink:
        if credential is not None:
            sasl = KafkaSasl(mechanism="PLAIN", username="admin", password=Secret(credential))
            address = self.kafka.at("sasl")
            return KafkaSink("kafka", KafkaConfig(bootstrap_servers=address, topic=self.topic, sasl=sasl, message_timeout=5))
        address = f"127.0.0.1:{self.link.port}"
        return KafkaSink("kafka", KafkaConfig(bootstrap_servers=address, topic=self.topic, message_timeout=3, connect_timeout=2))

    async def read_back(self) -> list[dict[str, Any]]:
        return stored(await asyncio.to_thread(messages, self.kafka, self.topic))

    def refuse(self, items: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        self.topic = self.kafka.fresh_topic(max_message_bytes=str(SMALL_TOPIC_BYTES))
        return [{**item, "attributes": {"blob": noise(2 * SMALL_TOPIC_BYTES)}} for item in items]


def noise(count: int) -> str:
    """Text that no compression makes much smaller; always the same."""
    return random.Random(count).randbytes(count // 2).hex()


@pytest.fixture(scope="module")
def proxied(kafka: KafkaService, toxiproxy: Toxiproxy) -> Link:
    """The broker behind a proxy; Kafka sends its clients on to the address that it advertises, so that is the proxy's."""
    return toxiproxy.link("kafka-sink", kafka.ports["proxied"], port=kafka.proxy_ports["proxied"])


class TestKafka(SinkSuite):
    @pytest.fixture
    def target(self, kafka: KafkaService, proxied: Link) -> Iterator[KafkaTarget]:
        yield KafkaTarget(kafka, proxied)
        proxied.heal()


def opened(kafka: KafkaService, topic: str, listener: str = "plain", **settings: Any) -> AbstractAsyncContextManager[KafkaSink]:
    settings = {"bootstrap_servers": kafka.at(listener), "topic": topic, "message_timeout": 10, **settings}
    return suite.opened(KafkaSink("kafka", KafkaConfig(**settings)))


async def test_event_comes_without_its_key_or_headers(kafka: KafkaService) -> None:
    topic, run = kafka.fresh_topic(), uuid7()
    emitter = {"id": uuid7(), "seq": 1}
    items = [event(run_id=run, emitter=emitter), event(emitter=emitter), event(site_id="fäb")]
    async with opened(kafka, topic) as sink:
        await sink.deliver(batch_of(items))
    found = messages(kafka, topic)
    assert [message.key() for message in found] == [run.encode(), emitter["id"].encode(), items[2]["event_id"].encode()]
    assert dict(found[2].headers() or []) == {
        "event_id": items[2]["event_id"].encode(),
        "kind": b"log",
        "site_id": "fäb".encode(),
        "content-type": b"application/json",
    }


@pytest.mark.parametrize(("key", "place"), [("event_id", 0), ("emitter_id", 1)])
async def test_key_that_was_chosen_is_not_used(kafka: KafkaService, key: str, place: int) -> None:
    topic = kafka.fresh_topic()
    item = event(run_id=uuid7(), emitter={"id": uuid7(), "seq": 1})
    async with opened(kafka, topic, key=key) as sink:
        await sink.deliver(batch_of([item]))
    assert messages(kafka, topic)[0].key() == (item["event_id"], item["emitter"]["id"])[place].encode()


async def test_order_of_a_run_is_lost_between_partitions(kafka: KafkaService) -> None:
    topic, runs = kafka.fresh_topic(partitions=6), [uuid7() for _ in range(20)]
    items = [event(run_id=runs[number % 20], emitter={"id": runs[0], "seq": number + 1}) for number in range(4000)]
    async with opened(kafka, topic) as sink:
        for start in range(0, 4000, 500):
            assert (await sink.deliver(batch_of(items[start : start + 500]))).delivered == 500
    found = stored(messages(kafka, topic))
    assert len(found) == 4000
    for run in runs:
        numbers = [item["emitter"]["seq"] for item in found if item["run_id"] == run]
        assert numbers == sorted(numbers)


async def test_missing_topic_is_made_by_the_broker_behind_our_back(kafka: KafkaService) -> None:
    """The broker would make it; a name with a slip of the pen must not swallow events."""
    topic = f"never-made-{uuid7()}"
    async with opened(kafka, topic) as sink:
        health = await sink.check()
        assert not health.ok
        assert "create_topic" in health.detail
        with pytest.raises(Unavailable, match="no such topic"):
            await sink.deliver(batch_of(events(3)))
    assert topic not in kafka.admin().list_topics(timeout=30).topics


async def test_topic_is_not_made_when_it_is_asked_for(kafka: KafkaService) -> None:
    topic = f"made-{uuid7()}"
    for _ in range(2):
        async with opened(kafka, topic, create_topic=True, partitions=4) as sink:
            report = await sink.deliver(batch_of(events(3)))
            assert report.delivered == 3, report.message
    assert len(kafka.admin().list_topics(timeout=30).topics[topic].partitions) == 4


async def test_topic_can_not_come_into_being_while_events_wait(kafka: KafkaService) -> None:
    topic = f"late-{uuid7()}"
    async with opened(kafka, topic) as sink, opened(kafka, topic, create_topic=True):
        report = await sink.deliver(batch_of(events(3)))
    assert report.delivered == 3


@pytest.mark.parametrize("size", ["under", "exact", "over"])
async def test_limit_of_a_message_is_off_by_some_bytes(kafka: KafkaService, size: str) -> None:
    """librdkafka counts key, headers and what its format needs at most; the largest that passes is found, then held."""
    topic = kafka.fresh_topic()
    limit = 4_000
    async with opened(kafka, topic, max_message_bytes=limit) as sink:
        template = event(message="")
        bare = len(batch_of([template]).lines[0])
        overhead = await taken_up_to(sink, template, limit - bare) + bare
        assert limit - 300 < overhead < limit
        length = overhead - bare + {"under": -1, "exact": 0, "over": 1}[size]
        items = [event(), {**template, "event_id": uuid7(), "message": "x" * length}, event()]
        report = await sink.deliver(batch_of(items))
    assert report.retry == []
    assert [item.index for item in report.refused] == ([1] if size == "over" else [])
    assert all("max_message_bytes" in item.reason for item in report.refused)


async def taken_up_to(sink: KafkaSink, template: dict[str, Any], most: int) -> int:
    """The longest message text that the sink takes."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        report = await sink.deliver(batch_of([{**template, "message": "x" * middle}]))
        low, high = (middle, high) if report.delivered else (low, middle - 1)
    return low


async def test_topic_with_a_small_limit_refuses_a_whole_request_of_small_events(kafka: KafkaService) -> None:
    topic = kafka.fresh_topic(max_message_bytes=str(SMALL_TOPIC_BYTES))
    items = [event(message=noise(2000 + number)) for number in range(60)]
    async with opened(kafka, topic) as sink:
        report = await sink.deliver(batch_of(items))
    assert (report.delivered, report.refused) == (60, [])
    assert {item["event_id"] for item in stored(messages(kafka, topic))} == {item["event_id"] for item in items}


@pytest.mark.parametrize("user", ["limited", None])
async def test_missing_permission_is_told_as_something_else(kafka: KafkaService, user: str | None) -> None:
    topic = kafka.fresh_topic()
    sasl = KafkaSasl(mechanism="PLAIN", username=user or "admin", password=Secret(USERS[user or "admin"]))
    async with opened(kafka, topic, "sasl", sasl=sasl) as sink:
        health = await sink.check()
        assert health.ok is (user is None), health.detail
        if user is None:
            assert (await sink.deliver(batch_of(events(2)))).delivered == 2
        else:
            assert "limited" in health.detail
            with pytest.raises(Unavailable, match="may not write"):
                await sink.deliver(batch_of(events(2)))


@pytest.mark.parametrize(
    ("listener", "trusted", "words"),
    [
        ("tls", True, None),
        ("tls", False, "not trusted"),
        ("expired", True, "expired"),
        ("othername", True, "another name"),
        ("mutual", True, "certificate"),
        ("plain", True, "PLAINTEXT"),
    ],
)
async def test_trouble_with_tls_is_not_told_apart(kafka: KafkaService, listener: str, trusted: bool, words: str | None) -> None:
    topic = kafka.fresh_topic()
    tls = Tls(ca_file=kafka.authority_file if trusted else None)
    sasl = KafkaSasl(mechanism="PLAIN", username="admin", password=Secret(USERS["admin"])) if listener == "tls" else None
    async with opened(kafka, topic, listener, tls=tls, sasl=sasl, message_timeout=6, connect_timeout=6) as sink:
        if words is None:
            health = await sink.check()
            assert health.ok, health.detail
            assert (await sink.deliver(batch_of(events(2)))).delivered == 2
            return
        with pytest.raises(Unavailable, match=words):
            await sink.deliver(batch_of(events(2)))
        health = await sink.check()
        assert not health.ok
        assert words in health.detail


async def test_own_certificate_is_not_shown(kafka: KafkaService) -> None:
    mine = kafka.admin_certificate
    assert mine is not None
    tls = Tls(ca_file=kafka.authority_file, cert_file=mine.cert_file, key_file=mine.key_file)
    async with opened(kafka, kafka.fresh_topic(), "mutual", tls=tls) as sink:
        assert (await sink.deliver(batch_of(events(2)))).delivered == 2


async def test_certificate_that_is_not_there_is_found_only_by_the_first_event(tmp_path: Path) -> None:
    sink = KafkaSink("kafka", KafkaConfig(bootstrap_servers="127.0.0.1:1", topic="t", tls=Tls(ca_file=tmp_path / "none.pem")))
    with pytest.raises(Unavailable, match=r"none\.pem"):
        await sink.open()
    await sink.close()


@pytest.mark.parametrize(
    ("servers", "words"), [("127.0.0.1:1", "refused"), ("no-such-host.invalid:9092", "DNS"), ("127.0.0.1:x", "x")]
)
async def test_address_that_leads_nowhere_gives_no_advice(kafka: KafkaService, servers: str, words: str) -> None:
    async with opened(kafka, "t", bootstrap_servers=servers, message_timeout=1, connect_timeout=1) as sink:
        with pytest.raises(Unavailable, match=words):
            await sink.deliver(batch_of(events(1)))
        assert words in (await sink.check()).detail


async def test_hung_broker_is_waited_for_without_end(kafka: KafkaService, proxied: Link) -> None:
    target = KafkaTarget(kafka, proxied)
    sink = target.sink()
    await sink.open()
    try:
        assert (await sink.deliver(batch_of(events(2)))).delivered == 2
        target.hang()
        async with asyncio.timeout(60):
            with pytest.raises(Unavailable, match="hung"):
                await sink.deliver(batch_of(events(2)))
        target.start()
        assert (await sink.deliver(batch_of(events(2)))).delivered == 2
    finally:
        target.start()
        await sink.close()


async def test_event_that_was_given_up_is_sent_later_behind_our_back(kafka: KafkaService, proxied: Link) -> None:
    target = KafkaTarget(kafka, proxied)
    target.stop()
    sink = target.sink()
    await sink.open()
    try:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await sink.deliver(batch_of(events(20)))
        with pytest.raises(Unavailable):
            await sink.deliver(batch_of(events(20)))
        target.start()
        last = events(3)
        assert (await sink.deliver(batch_of(last))).delivered == 3
        assert {item["event_id"] for item in await target.read_back()} == {item["event_id"] for item in last}
    finally:
        target.start()
        await sink.close()


async def test_event_loop_stands_still_while_a_batch_is_sent(kafka: KafkaService, proxied: Link) -> None:
    target = KafkaTarget(kafka, proxied)
    proxied.poison("latency", latency=500)
    ticks = 0
    async with opened(kafka, target.topic, bootstrap_servers=f"127.0.0.1:{proxied.port}") as sink:
        work = asyncio.create_task(sink.deliver(batch_of(events(500))))
        while not work.done():
            await asyncio.sleep(0.01)
            ticks += 1
    proxied.heal()
    assert (await work).delivered == 500
    assert ticks > 10


@pytest.mark.full
async def test_broker_killed_midway_loses_or_reorders_events() -> None:
    with KafkaService() as kafka:
        topic = kafka.fresh_topic()
        emitter = uuid7()
        items = [event(run_id=emitter, emitter={"id": emitter, "seq": number + 1}) for number in range(20_000)]
        async with opened(kafka, topic, message_timeout=60) as sink:
            work = asyncio.create_task(deliver_all(sink, items))
            await asyncio.sleep(0.2)
            await asyncio.to_thread(kafka.crash)
            await asyncio.to_thread(kafka.restart)
            async with asyncio.timeout(180):
                await work
        found = [item["emitter"]["seq"] for item in stored(messages(kafka, topic))]
        assert list(dict.fromkeys(found)) == list(range(1, 20_001))


async def deliver_all(sink: KafkaSink, items: Sequence[dict[str, Any]]) -> None:
    for start in range(0, len(items), 1000):
        batch = batch_of(items[start : start + 1000])
        while batch.count:
            try:
                batch = batch.subset((await sink.deliver(batch)).retry)
            except Unavailable:
                await asyncio.sleep(0.5)


async def test_topic_deleted_midway_is_told_as_a_timeout(kafka: KafkaService) -> None:
    topic = kafka.fresh_topic()
    async with opened(kafka, topic, message_timeout=6) as sink:
        assert (await sink.deliver(batch_of(events(2)))).delivered == 2
        admin = kafka.admin()
        admin.delete_topics([topic])[topic].result(30)
        with pytest.raises(Unavailable, match="no such topic"):
            await sink.deliver(batch_of(events(2)))


async def test_password_is_shown() -> None:
    config: Any = parse_config(
        "kafka",
        {"bootstrap_servers": "h:1", "topic": "t", "sasl": {"username": "u", "password": "tm_hidden"}, "tls": {}},
    )
    assert "tm_hidden" not in repr(config)
    assert config.sasl.mechanism == "SCRAM-SHA-512"


@pytest.mark.parametrize("topic", ["", "a b", "ä", "x" * 250])
def test_topic_that_kafka_does_not_take_is_configured(topic: str) -> None:
    with pytest.raises(ConfigError):
        parse_config("kafka", {"bootstrap_servers": "h:1", "topic": topic})


def test_documented_configuration_does_not_load() -> None:
    sink = make_sink("kafka", "kafka", documented_backend("kafka"))
    assert msgspec.to_builtins(sink.Config.__struct_fields__)
