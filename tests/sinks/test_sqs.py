"""The sqs sink: the suite on moto with a standard and a FIFO queue, SQS's limits at their edges, and what it refuses."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from contract.errors import ConfigError
from contract.limits import MAX_EVENT_BYTES
from contract.settings import Secret
from sinks import registry
from sinks.aws import AwsCredentials
from sinks.base import SinkBatch, SinkLimits, Throttled, Unavailable
from sinks.sqs import MAX_ENTRIES, MAX_GROUP_LENGTH, MAX_REQUEST_BYTES, SqsConfig, SqsSink, message_of, packed
from tests.services.moto import ACCOUNT, REGION, Moto
from tests.services.scripted_http import Asked, Garbage, Reply, Reset, ScriptedHttp, Step, json_reply
from tests.services.toxiproxy import Link, Toxiproxy
from tests.sidecar.harness import event
from tests.sinks.suite import SPOOL_ID, LinkedTarget, SinkSuite, batch_of, deliver

MOST_BYTES_OF_REFUSAL = 200_000


class Queue:
    """A fresh queue; what is read is kept, for a queue gives a message only once."""

    def __init__(self, server: Moto, *, fifo: bool = False) -> None:
        self.server = server
        self.name = server.fresh_name("queue") + (".fifo" if fifo else "")
        self.client = server.client("sqs")
        attributes = {"FifoQueue": "true"} if fifo else {}
        self.url: str = self.client.create_queue(QueueName=self.name, Attributes=attributes)["QueueUrl"]
        self.messages: list[dict[str, Any]] = []

    def sink(
        self, *, port: int | None = None, key: tuple[str, str] | None = None, made: type[SqsSink] = SqsSink, **settings: Any
    ) -> SqsSink:
        public, secret = key or (self.server.access_key_id, self.server.secret_access_key)
        fixed: dict[str, Any] = {
            "queue": self.name,
            "region": REGION,
            "endpoint_url": f"http://127.0.0.1:{port or self.server.port}",
            "credentials": AwsCredentials(access_key_id=public, secret_access_key=Secret(secret)),
            "connect_timeout": 5,
        }
        return made("queue", SqsConfig(**{**fixed, **settings}))

    def read(self) -> list[dict[str, Any]]:
        while found := self.client.receive_message(
            QueueUrl=self.url, MaxNumberOfMessages=10, MessageAttributeNames=["All"], AttributeNames=["All"]
        ).get("Messages", []):
            self.messages += found
            entries = [{"Id": str(n), "ReceiptHandle": message["ReceiptHandle"]} for n, message in enumerate(found)]
            self.client.delete_message_batch(QueueUrl=self.url, Entries=entries)
        return self.messages

    def limit(self, most: int) -> None:
        self.client.set_queue_attributes(QueueUrl=self.url, Attributes={"MaximumMessageSize": str(most)})


class FewSqsSink(SqsSink):
    """With smaller batches: the time that moto takes for a message grows with the number of messages it holds."""

    limits = SinkLimits(200, SqsSink.limits.max_bytes)


class QueueTarget(LinkedTarget):
    def __init__(self, queue: Queue, link: Link, *, deduplicates: bool) -> None:
        super().__init__(link)
        self.queue = queue
        self.deduplicates = deduplicates

    def sink(self, *, credential: str | None = None) -> SqsSink:
        server = self.queue.server
        key = (server.access_key_id, credential or server.secret_access_key)
        return self.queue.sink(port=self.link.port, key=key, made=FewSqsSink)

    async def read_back(self) -> list[dict[str, Any]]:
        return [json.loads(message["Body"]) for message in self.queue.read()]

    def refuse(self, items: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        self.queue.limit(MOST_BYTES_OF_REFUSAL)
        return [{**item, "attributes": {"padding": "x" * MOST_BYTES_OF_REFUSAL}} for item in items]


@pytest.fixture
def queue(moto: Moto) -> Iterator[Queue]:
    queue = Queue(moto)
    yield queue
    queue.client.close()


@pytest.fixture
def fifo(moto: Moto) -> Iterator[Queue]:
    queue = Queue(moto, fifo=True)
    yield queue
    queue.client.close()


class TestStandardQueue(SinkSuite):
    @pytest.fixture
    def target(self, queue: Queue, toxiproxy: Toxiproxy) -> QueueTarget:
        return QueueTarget(queue, toxiproxy.link(queue.name, queue.server.port), deduplicates=False)


class TestFifoQueue(SinkSuite):
    @pytest.fixture
    def target(self, fifo: Queue, toxiproxy: Toxiproxy) -> QueueTarget:
        return QueueTarget(fifo, toxiproxy.link(fifo.name, fifo.server.port), deduplicates=True)


def of_size(size: int, **fields: Any) -> dict[str, Any]:
    """An event whose message has exactly this many bytes as SQS counts."""
    bare = event(attributes={"padding": ""}, **fields)
    line = json.dumps(bare, separators=(",", ":")).encode()
    padding = size - message_of(0, line, fifo=False).size
    return {**bare, "attributes": {"padding": "x" * padding}}


def line_of(item: dict[str, Any]) -> bytes:
    return json.dumps(item, ensure_ascii=False, separators=(",", ":")).encode()


async def test_consumer_must_read_the_body_to_know_the_event(queue: Queue) -> None:
    item = event(name="étch \x01 \ufffe", kind="start", run_id="01890a5d-ac96-774b-8cce-0000000003e9")
    await deliver(queue.sink(), [item])
    (message,) = queue.read()
    attributes = {name: (value["DataType"], value["StringValue"]) for name, value in message["MessageAttributes"].items()}
    assert attributes == {
        "event_id": ("String", item["event_id"]),
        "kind": ("String", "start"),
        "name": ("String", "étch \ufffd \ufffd"),
        "site_id": ("String", "fab1"),
    }
    assert json.loads(message["Body"]) == item
    assert "MessageGroupId" not in message["Attributes"]


async def test_fifo_queue_mixes_runs_or_takes_an_event_twice(fifo: Queue) -> None:
    run, emitter = "01890a5d-ac96-774b-8cce-0000000003e9", "01890a5d-ac96-774b-8cce-0000000007d1"
    of_run = [event(run_id=run, emitter={"id": emitter, "seq": seq}) for seq in range(1, 26)]
    of_emitter = event(emitter={"id": emitter, "seq": 26})
    lone = event()
    await deliver(fifo.sink(), [*of_run, of_emitter, lone])
    await deliver(fifo.sink(), [*of_run, of_emitter, lone])
    messages = fifo.read()
    groups = Counter(message["Attributes"]["MessageGroupId"] for message in messages)
    assert groups == {run: 25, emitter: 1, lone["event_id"]: 1}
    order = [json.loads(m["Body"])["event_id"] for m in messages if m["Attributes"]["MessageGroupId"] == run]
    assert order == [item["event_id"] for item in of_run]
    assert all(m["Attributes"]["MessageDeduplicationId"] == json.loads(m["Body"])["event_id"] for m in messages)
    assert all(len(group) <= MAX_GROUP_LENGTH for group in groups)


@pytest.mark.parametrize("code_point", [0x9, 0xA, 0xD, 0x1, 0x1F, 0x7F, 0x85, 0xFFFD, 0xFFFE, 0xFFFF, 0x1FFFE, 0x10FFFF])
@pytest.mark.parametrize("escaped", [True, False])
async def test_character_that_sqs_refuses_is_in_a_body(code_point: int, escaped: bool) -> None:
    """JSON text may hold U+FFFE and U+FFFF as they are, which SQS refuses; what else it refuses JSON can only escape."""
    item = event(message=f"a{chr(code_point)}b", entities={f"x{chr(code_point)}": chr(code_point)})
    line = json.dumps(item, ensure_ascii=escaped).encode()
    body = message_of(0, line, fifo=False).entry["MessageBody"]
    assert json.loads(body) == item
    assert all(
        ord(c) in {0x9, 0xA, 0xD} or 0x20 <= ord(c) <= 0xD7FF or 0xE000 <= ord(c) <= 0xFFFD or ord(c) >= 0x10000 for c in body
    )


@pytest.mark.parametrize(("count", "requests"), [(9, 1), (10, 1), (11, 2), (20, 2), (21, 3)])
def test_request_has_too_many_messages(count: int, requests: int) -> None:
    messages = [message_of(index, line_of(event()), fifo=False) for index in range(count)]
    found = packed(messages)
    assert len(found) == requests
    assert all(len(request) <= MAX_ENTRIES for request in found)
    assert [message.index for request in found for message in request] == list(range(count))


@pytest.mark.parametrize(("more", "requests"), [(-1, 1), (0, 1), (1, 2)])
def test_request_is_too_long_by_a_byte(more: int, requests: int) -> None:
    whole = MAX_REQUEST_BYTES // 5
    sizes = [whole, whole, whole, whole, MAX_REQUEST_BYTES - 4 * whole + more]
    messages = [message_of(index, line_of(of_size(size)), fifo=False) for index, size in enumerate(sizes)]
    assert sum(message.size for message in messages) == MAX_REQUEST_BYTES + more
    assert len(packed(messages)) == requests


def test_size_forgets_attributes_or_counts_characters() -> None:
    item = event(name="é" * 10)
    message = message_of(0, line_of(item), fifo=False)
    attributes = message.entry["MessageAttributes"]
    counted = sum(len(k) + len(v["DataType"]) + len(v["StringValue"].encode()) for k, v in attributes.items())
    assert message.size == len(message.entry["MessageBody"].encode()) + counted
    assert len(attributes) <= 10


def test_largest_event_is_no_message() -> None:
    assert MAX_EVENT_BYTES + 10_000 < MAX_REQUEST_BYTES


@pytest.mark.parametrize(("more", "refused"), [(-1, []), (0, []), (1, [0])])
async def test_message_is_longer_than_sqs_takes(queue: Queue, more: int, refused: list[int]) -> None:
    sink = queue.sink()
    await sink.open()
    line = line_of(of_size(MAX_REQUEST_BYTES + more))
    report = await sink.deliver(SinkBatch([line], first_seq=1, last_seq=1, spool_id=SPOOL_ID))
    await sink.close()
    assert [item.index for item in report.refused] == refused
    assert report.delivered == 1 - len(refused)
    assert all(str(MAX_REQUEST_BYTES) in item.reason for item in report.refused)


async def test_queue_with_a_lower_limit_takes_the_neighbours_with_it(queue: Queue) -> None:
    queue.limit(2000)
    items = [event(attributes={"padding": "x" * 3000}) if number in {0, 7, 19} else event() for number in range(25)]
    report = await deliver(queue.sink(), items)
    assert (report.delivered, report.retry) == (22, [])
    assert [item.index for item in report.refused] == [0, 7, 19]
    assert "2000" in report.refused[0].reason
    assert len(queue.read()) == 22


async def test_check_writes_a_message_or_sees_no_missing_permission(queue: Queue) -> None:
    server = queue.server
    sinks = {
        "writer": queue.sink(key=server.new_key("sqs:SendMessage*", "sqs:GetQueueUrl")),
        "by url": queue.sink(key=server.new_key("sqs:SendMessage*"), queue=queue.url),
        "reader": queue.sink(key=server.new_key("sqs:ReceiveMessage", "sqs:GetQueueUrl")),
        "unknown key": queue.sink(key=("AKIAUNKNOWN", "tm_secret")),
        "missing": queue.sink(queue="no-such-queue"),
        "missing url": queue.sink(queue=f"{server.endpoint}/{ACCOUNT}/no-such-queue"),
    }
    health = {}
    for name, sink in sinks.items():
        await sink.open()
        health[name] = await sink.check()
        await sink.close()
    assert {name for name, each in health.items() if each.ok} == {"writer", "by url"}
    assert "allow it sqs:SendMessage and sqs:GetQueueUrl" in health["reader"].detail
    assert "access key AKIAUNKNOWN is not known there" in health["unknown key"].detail
    assert "does not exist: make it" in health["missing"].detail
    assert "does not exist: make it" in health["missing url"].detail
    assert queue.read() == []


async def test_queue_deleted_midway_fills_the_dead_letters(queue: Queue) -> None:
    sink = queue.sink()
    await sink.open()
    assert (await sink.deliver(batch_of([event()]))).delivered == 1
    queue.client.delete_queue(QueueUrl=queue.url)
    with pytest.raises(Unavailable, match="does not exist"):
        await sink.deliver(batch_of([event() for _ in range(15)]))
    queue.client.create_queue(QueueName=queue.name)
    assert (await sink.deliver(batch_of([event()]))).delivered == 1
    await sink.close()


async def test_slow_queue_is_given_up(queue: Queue, toxiproxy: Toxiproxy) -> None:
    link = toxiproxy.link(queue.name, queue.server.port)
    link.poison("latency", latency=200, jitter=50)
    report = await deliver(queue.sink(port=link.port), [event() for _ in range(40)])
    assert report.delivered == 40


async def test_reset_in_the_middle_of_a_request_loses_events(queue: Queue, toxiproxy: Toxiproxy) -> None:
    link = toxiproxy.link(queue.name, queue.server.port)
    items = [event(attributes={"padding": "x" * 20_000}) for _ in range(30)]
    sink = queue.sink(port=link.port, queue=queue.url)
    await sink.open()
    link.poison("limit_data", stream="upstream", bytes=100_000)
    with pytest.raises(Unavailable, match="cut in the middle"):
        await sink.deliver(batch_of(items))
    link.heal()
    assert (await sink.deliver(batch_of(items))).delivered == 30
    await sink.close()
    assert {json.loads(m["Body"])["event_id"] for m in queue.read()} == {item["event_id"] for item in items}


def stored(asked: Asked, **failed: dict[str, Any]) -> Reply:
    """SQS's answer: all stored but those whose id is in `failed`."""
    numbers = [entry["Id"] for entry in asked.json["Entries"]]
    successful = [{"Id": n, "MessageId": n, "MD5OfMessageBody": "x"} for n in numbers if f"n{n}" not in failed]
    return json_reply({"Successful": successful, "Failed": [{"Id": n, **failed[f"n{n}"]} for n in numbers if f"n{n}" in failed]})


def error(status: int, code: str, text: str = "no", **headers: str) -> Reply:
    return json_reply({"__type": f"com.amazonaws.sqs#{code}", "message": text}, status, **headers)


@contextmanager
def scripted(script: Any, *, fifo: bool = False) -> Iterator[tuple[ScriptedHttp, SqsSink]]:
    with ScriptedHttp(script) as server:
        key = AwsCredentials(access_key_id="AKIAKEY", secret_access_key=Secret("tm_secret"))
        url = f"{server.url}/{ACCOUNT}/events" + (".fifo" if fifo else "")
        yield server, SqsSink("queue", SqsConfig(queue=url, endpoint_url=server.url, credentials=key))


SENDER = {"SenderFault": True, "Code": "InvalidMessageContents", "Message": "bad characters"}
SERVER = {"SenderFault": False, "Code": "InternalError", "Message": "try again"}
DENIED = {"SenderFault": True, "Code": "KMS.AccessDeniedException", "Message": "no key"}
SLOW = {"SenderFault": True, "Code": "RequestThrottled", "Message": "slow down"}


async def test_one_failed_message_is_taken_for_another() -> None:
    script = lambda asked: stored(asked, n2=SENDER, n4=SERVER, n13=DENIED, n14=SLOW)  # noqa: E731
    with scripted(script) as (_, sink):
        report = await deliver(sink, [event() for _ in range(20)])
    assert report.delivered == 16
    assert [(item.index, item.reason) for item in report.refused] == [(2, "InvalidMessageContents: bad characters")]
    assert report.retry == [4, 13, 14]
    assert "did not store every message" in (report.message or "")


async def test_largest_batch_is_sent_in_part() -> None:
    with scripted(stored) as (server, sink):
        items = [event() for _ in range(sink.limits.max_events)]
        report = await deliver(sink, items)
    assert report.delivered == len(items)
    sent = [json.loads(entry["MessageBody"])["event_id"] for asked in server.asked for entry in asked.json["Entries"]]
    assert sorted(sent) == sorted(item["event_id"] for item in items)
    assert len(server.asked) == 100


@pytest.mark.full
async def test_largest_batch_is_not_stored_by_a_queue(queue: Queue) -> None:
    items = [event() for _ in range(SqsSink.limits.max_events)]
    assert (await deliver(queue.sink(), items)).delivered == len(items)
    assert len(queue.read()) == len(items)


async def test_message_that_the_answer_forgets_counts_as_stored() -> None:
    def script(asked: Asked) -> Reply:
        answer = json.loads(stored(asked).body)
        return json_reply({"Successful": answer["Successful"][1:]})

    with scripted(script) as (_, sink):
        report = await deliver(sink, [event() for _ in range(3)])
    assert (report.delivered, report.retry) == (2, [0])


async def test_failure_of_a_later_request_loses_or_repeats_the_first() -> None:
    script = lambda asked: error(500, "InternalError") if asked.json["Entries"][0]["Id"] == "10" else stored(asked)  # noqa: E731
    with scripted(script, fifo=True) as (server, sink):
        report = await deliver(sink, [event() for _ in range(35)])
    assert (report.delivered, report.refused, report.retry) == (10, [], list(range(10, 35)))
    assert len(server.asked) == 2, "what comes after a failure in a FIFO queue would overtake it"


async def test_wrong_queue_type_makes_dead_letters_of_all() -> None:
    """A fault of the set-up that SQS calls by the name of a message's fault."""
    reply = error(400, "InvalidParameterValue", "The request include parameter that is not valid for this queue type")
    with scripted(reply) as (_, sink), pytest.raises(Unavailable, match="queue type"):
        await deliver(sink, [event(), event()])


@pytest.mark.parametrize(
    ("step", "kind", "words"),
    [
        (error(400, "RequestThrottled", **{"Retry-After": "7"}), Throttled, "asks to wait"),
        (error(429, "TooManyRequests", **{"Retry-After": "7"}), Throttled, "asks to wait"),
        (error(503, "ServiceUnavailable", **{"Retry-After": "7"}), Unavailable, "503"),
        (error(403, "AccessDeniedException"), Unavailable, "allow it sqs:SendMessage"),
        (error(403, "InvalidClientTokenId"), Unavailable, "access key AKIAKEY is not known"),
        (
            error(403, "SignatureDoesNotMatch", "Signature expired: 20261123T000000Z is now earlier than"),
            Unavailable,
            "clock is wrong",
        ),
        (error(403, "SignatureDoesNotMatch"), Unavailable, "secret access key does not belong"),
        (error(400, "QueueDoesNotExist"), Unavailable, "does not exist"),
        (error(400, "KmsDisabled"), Unavailable, "KMS key"),
        (Reply(200, b"<html>please log in</html>"), Unavailable, "speaks of none"),
        (Reply(200, b"{}"), Unavailable, "speaks of none"),
        (Reply(502, b"<html>bad gateway</html>"), Unavailable, "502"),
        (Reset(), Unavailable, "cut in the middle"),
        (Garbage(), Unavailable, "not HTTP"),
    ],
)
async def test_answer_is_taken_for_another(step: Step, kind: type[Exception], words: str) -> None:
    with scripted(step) as (_, sink):
        await sink.open()
        with pytest.raises(kind, match=words) as raised:
            await sink.deliver(batch_of([event() for _ in range(12)]))
        health = await sink.check()
        await sink.close()
    assert not health.ok
    assert "tm_secret" not in str(raised.value) + health.detail
    if isinstance(step, Reply) and "Retry-After" in step.headers:
        assert raised.value.retry_after == 7  # type: ignore[attr-defined]


async def test_events_of_a_fifo_queue_overtake_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    running = most = 0
    sink = SqsSink("queue", SqsConfig(queue=f"http://127.0.0.1:1/{ACCOUNT}/events.fifo"))

    async def call(_: str, **parameters: Any) -> dict[str, Any]:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return {"Successful": [{"Id": entry["Id"]} for entry in parameters["Entries"]]}

    monkeypatch.setattr(sink._aws, "call", call)
    assert (await sink.deliver(batch_of([event() for _ in range(60)]))).delivered == 60
    assert most == 1


@pytest.mark.parametrize("name", ["a" * 80, "a" * 75 + ".fifo", f"https://sqs.eu-west-1.amazonaws.com/{ACCOUNT}/events"])
def test_name_of_a_queue_is_refused(name: str) -> None:
    assert registry.parse_config("sqs", {"queue": name})


@pytest.mark.parametrize("name", ["a" * 81, "a" * 76 + ".fifo", "a b", "", "a.fifo.b"])
def test_name_that_no_queue_has_is_taken(name: str) -> None:
    with pytest.raises(ConfigError):
        registry.parse_config("sqs", {"queue": name})
