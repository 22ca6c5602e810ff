"""The MongoDB sink on a server that speaks its protocol: the suite, and what only MongoDB can do wrong."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from bson.decimal128 import Decimal128
from bson.int64 import Int64
from pymongo import AsyncMongoClient, MongoClient

from contract.errors import ConfigError
from contract.settings import Secret
from sinks.base import Unavailable
from sinks.mongo import MAX_INT64, MongoConfig, MongoSink
from sinks.registry import make_sink, parse_config
from sinks.tls import Tls
from tests.services.certificates import TestAuthority
from tests.services.mongo import MongoService
from tests.services.toxiproxy import Link, Toxiproxy
from tests.sidecar.harness import event, events
from tests.sinks import suite
from tests.sinks.documented import documented_backend
from tests.sinks.mongo_double import Answer, failed, mongo_double
from tests.sinks.suite import LinkedTarget, SinkSuite, batch_of


async def documents(url: str, database: str) -> list[dict[str, Any]]:
    client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(url, tz_aware=True, tzinfo=UTC, serverSelectionTimeoutMS=30_000)
    async with client:
        return await client[database]["events"].find({}).to_list()


def plain(value: Any) -> Any:
    """What BSON gives back, as JSON has it."""
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return int(value.to_decimal()) if isinstance(value, Decimal128) else value


OTHER_ID = "not an event"


class MongoTarget(LinkedTarget):
    stalls = ("downstream", "upstream")

    def __init__(self, mongo: MongoService, link: Link) -> None:
        super().__init__(link)
        self.mongo = mongo
        self.database = mongo.fresh_database()

    def sink(self, *, credential: str | None = None) -> MongoSink:
        user = f"tests:{credential}@" if credential else ""
        config = MongoConfig(
            url=Secret(f"mongodb://{user}127.0.0.1:{self.link.port}"), database=self.database, connect_timeout=2, timeout=20
        )
        return MongoSink("mongo", config)

    async def read_back(self) -> list[dict[str, Any]]:
        found = [item for item in await documents(self.mongo.url, self.database) if item["_id"] != OTHER_ID]
        for item in found:
            assert item.pop("_id") == item["event_id"]
            moment = datetime.fromisoformat(item["timestamp"])
            assert timedelta(0) <= moment - item.pop("time") < timedelta(milliseconds=1)
        return [plain(item) for item in found]

    def refuse(self, items: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """By an index that a site made: two events with the serial number of a third, which is no repetition of an `_id`."""
        client: MongoClient[dict[str, Any]] = MongoClient(self.mongo.url)
        with client:
            collection = client[self.database]["events"]
            collection.create_index("attributes.serial", unique=True, sparse=True)
            collection.insert_one({"_id": OTHER_ID, "attributes": {"serial": "taken"}})
        return [{**item, "attributes": {"serial": "taken"}} for item in items]

    def as_stored(self, item: dict[str, Any]) -> dict[str, Any]:
        moment = msgspec.convert(item["timestamp"], datetime).astimezone(UTC)
        return {**item, "timestamp": moment.isoformat(timespec="microseconds").replace("+00:00", "Z")}


@pytest.fixture(scope="module")
def proxied(mongo: MongoService, toxiproxy: Toxiproxy) -> Link:
    return toxiproxy.link("mongo-sink", mongo.port)


class TestMongo(SinkSuite):
    @pytest.fixture
    def target(self, mongo: MongoService, proxied: Link) -> Iterator[MongoTarget]:
        yield MongoTarget(mongo, proxied)
        proxied.heal()


def opened(url: str, **settings: Any) -> AbstractAsyncContextManager[MongoSink]:
    return suite.opened(MongoSink("mongo", MongoConfig(url=Secret(url), **{"connect_timeout": 15, **settings})))


async def stored(mongo: MongoService, items: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What MongoDB holds of the items, in their order."""
    database = mongo.fresh_database()
    async with opened(mongo.url, database=database) as sink:
        report = await sink.deliver(batch_of(items))
        assert (report.delivered, report.refused) == (len(items), [])
    found = {item["_id"]: item for item in await documents(mongo.url, database)}
    return [found[item["event_id"]] for item in items]


@pytest.mark.parametrize(
    ("number", "kept"),
    [
        (2**53 + 1, 2**53 + 1),
        (MAX_INT64, MAX_INT64),
        (-MAX_INT64 - 1, -MAX_INT64 - 1),
        (MAX_INT64 + 1, Decimal128(str(MAX_INT64 + 1))),
        (-MAX_INT64 - 2, Decimal128(str(-MAX_INT64 - 2))),
        (10**34 - 1, Decimal128("9" * 34)),
        (10**34, "1" + "0" * 34),
        (10**307, "1" + "0" * 307),
        (1e308, 1e308),
        (5e-324, 5e-324),
        (0.1, 0.1),
    ],
    ids=str,
)
async def test_number_is_rounded_or_stops_the_batch(mongo: MongoService, number: float, kept: object) -> None:
    item, other = await stored(mongo, [event(attributes={"n": number, "deep": [{"n": [number]}]}), event()])
    assert item["attributes"] == {"n": kept, "deep": [{"n": [kept]}]}
    assert "attributes" not in other
    assert type(item["attributes"]["n"]) in {type(kept), Int64}


async def test_metric_as_a_long_integer_becomes_text(mongo: MongoService) -> None:
    (item,) = await stored(mongo, [event(kind="metric", metrics={"big": 10**30, "small": 7, "real": 1.5})])
    assert item["metrics"] == {"big": 1e30, "small": 7, "real": 1.5}


@pytest.mark.parametrize("name", ["a.b", ".", "$set", "$", "", "a.$b", "_id", "é\u2028"], ids=repr)
async def test_name_with_a_meaning_in_mongodb_is_lost(mongo: MongoService, name: str) -> None:
    item = event(attributes={name: {name: 1}}, entities={name or "x": "v"}, metrics={name or "x": 1.5})
    (found,) = await stored(mongo, [item])
    for part in ("attributes", "entities", "metrics"):
        assert found[part] == item[part]


async def test_moment_is_off_by_a_zone_or_loses_its_microseconds(mongo: MongoService) -> None:
    (item,) = await stored(mongo, [event(timestamp="2026-07-01T11:00:00.123456+02:00")])
    assert item["timestamp"] == "2026-07-01T09:00:00.123456Z"
    assert item["time"] == datetime(2026, 7, 1, 9, 0, 0, 123000, tzinfo=UTC)


async def test_duplicate_of_another_key_counts_as_delivered(mongo: MongoService) -> None:
    database = mongo.fresh_database()
    client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(mongo.url)
    async with client:
        await client[database]["events"].create_index("name", unique=True)
    items = [event(name="a"), event(name="a"), event(name="b")]
    async with opened(mongo.url, database=database) as sink:
        for _ in range(2):
            report = await sink.deliver(batch_of(items))
            assert (report.delivered, report.retry) == (2, [])
            assert [(item.index, item.event_id) for item in report.refused] == [(1, items[1]["event_id"])]
            assert "DuplicateKey" in report.refused[0].reason


@asynccontextmanager
async def scripted(answer: Answer, **settings: Any) -> AsyncIterator[MongoSink]:
    """A sink on a scripted server, logged in when `url` says so."""
    credential = settings.pop("credential", "")
    async with mongo_double(answer) as port, opened(f"mongodb://{credential}127.0.0.1:{port}/", **settings) as sink:
        yield sink


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (failed(18, "Authentication failed."), "credential"),
        (failed(8000, "bad auth"), "credential"),
    ],
)
async def test_wrong_credential_gives_no_advice(reply: dict[str, Any], words: str) -> None:
    def answer(name: str, _: dict[str, Any]) -> dict[str, Any] | None:
        return reply if name == "saslStart" else None

    async with scripted(answer, credential="u:tm_hidden@") as sink:
        with pytest.raises(Unavailable, match=words) as error:
            await sink.deliver(batch_of(events(2)))
        health = await sink.check()
    assert not health.ok
    assert words in health.detail
    assert "tm_hidden" not in str(error.value) + health.detail


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (13, "readWrite"),
        (14031, "disk is full"),
        (10107, "primary"),
        (13435, "primary"),
        (100, "write_concern"),
        (11600, "going"),
    ],
)
async def test_command_that_fails_is_taken_for_a_refusal(code: int, words: str) -> None:
    def answer(name: str, _: dict[str, Any]) -> dict[str, Any] | None:
        return failed(code, "going down") if name == "insert" else None

    async with scripted(answer) as sink:
        with pytest.raises(Unavailable, match=words):
            await sink.deliver(batch_of(events(2)))


def one_by_one(*codes: int) -> Answer:
    """An answer to `insert` that fails the first documents with these codes."""

    def answer(name: str, command: dict[str, Any]) -> dict[str, Any] | None:
        if name != "insert":
            return None
        errors = [
            {"index": index, "code": code, "errmsg": f"code {code}", "keyPattern": {"_id": 1}}
            for index, code in enumerate(codes)
            if code
        ]
        return {"ok": 1.0, "n": len(command["documents"]) - len(errors), "writeErrors": errors}

    return answer


async def test_document_that_validation_refuses_is_retried_for_ever() -> None:
    items = events(4)
    async with scripted(one_by_one(0, 121, 14031, 11000)) as sink:
        report = await sink.deliver(batch_of(items))
    assert (report.delivered, report.retry) == (2, [2])
    assert [(item.index, item.event_id) for item in report.refused] == [(1, items[1]["event_id"])]
    assert "disk is full" in (report.message or "")


@pytest.mark.parametrize(("code", "words"), [(14031, "disk is full"), (13, "readWrite"), (91, "code 91")])
async def test_documents_that_all_fail_for_now_count_as_partly_taken(code: int, words: str) -> None:
    async with scripted(one_by_one(code, code)) as sink:
        with pytest.raises(Unavailable, match=words):
            await sink.deliver(batch_of(events(2)))


async def test_write_that_no_majority_confirmed_counts_as_delivered() -> None:
    def answer(name: str, command: dict[str, Any]) -> dict[str, Any] | None:
        assert name != "insert" or command["writeConcern"] == {"w": "majority"}
        concern = {"code": 64, "errmsg": "waiting for replication timed out"}
        return {"ok": 1.0, "n": 2, "writeConcernError": concern} if name == "insert" else None

    async with scripted(answer) as sink:
        with pytest.raises(Unavailable, match="write concern"):
            await sink.deliver(batch_of(events(2)))


@pytest.mark.parametrize(
    ("privileges", "kind", "ok", "words"),
    [
        (
            [{"resource": {"db": "trackmate", "collection": ""}, "actions": ["find", "insert"]}],
            "collection",
            True,
            "can be written",
        ),
        ([{"resource": {"anyResource": True}, "actions": ["insert"]}], "collection", True, "can be written"),
        ([{"resource": {"db": "trackmate", "collection": ""}, "actions": ["find"]}], "collection", False, "readWrite"),
        ([{"resource": {"db": "other", "collection": ""}, "actions": ["insert"]}], "collection", False, "readWrite"),
        ([{"resource": {"db": "", "collection": "events"}, "actions": ["insert"]}], "timeseries", False, "timeseries"),
    ],
    ids=["database", "everything", "read-only", "other", "timeseries"],
)
async def test_check_says_that_it_works_when_it_does_not(
    privileges: list[dict[str, Any]], kind: str, ok: bool, words: str
) -> None:
    def answer(name: str, _: dict[str, Any]) -> dict[str, Any] | None:
        match name:
            case "listCollections":
                found = [{"name": "events", "type": kind}]
                return {"ok": 1.0, "cursor": {"id": 0, "ns": "trackmate.$cmd.listCollections", "firstBatch": found}}
            case "connectionStatus":
                users = [{"user": "u", "db": "admin"}]
                return {"ok": 1.0, "authInfo": {"authenticatedUsers": users, "authenticatedUserPrivileges": privileges}}
        return None

    async with scripted(answer) as sink:
        health = await sink.check()
    assert (health.ok, words in health.detail) == (ok, True), health.detail


@pytest.mark.parametrize(("address", "words"), [("127.0.0.1:1", "refused"), ("no-such-host.invalid", "DNS")])
async def test_address_that_leads_nowhere_gives_no_advice(address: str, words: str) -> None:
    async with opened(f"mongodb://u:tm_hidden@{address}/", connect_timeout=1) as sink:
        with pytest.raises(Unavailable, match=words) as error:
            await sink.deliver(batch_of(events(1)))
        health = await sink.check()
    assert words in health.detail
    assert "tm_hidden" not in str(error.value) + health.detail


async def test_hung_server_is_waited_for_without_end(mongo: MongoService, proxied: Link) -> None:
    target = MongoTarget(mongo, proxied)
    url = f"mongodb://127.0.0.1:{proxied.port}"
    async with opened(url, database=target.database, connect_timeout=2, timeout=2) as sink:
        try:
            assert (await sink.deliver(batch_of(events(2)))).delivered == 2
            target.hang()
            async with asyncio.timeout(60):
                with pytest.raises(Unavailable, match="in time"):
                    await sink.deliver(batch_of(events(2)))
        finally:
            target.start()
    async with opened(url, database=target.database) as sink:
        assert (await sink.deliver(batch_of(events(2)))).delivered == 2


async def test_server_restarted_loses_events() -> None:
    with MongoService(durable=True) as mongo:
        items = events(500)
        async with opened(mongo.url, connect_timeout=2) as sink:
            assert (await sink.deliver(batch_of(items[:250]))).delivered == 250
            await asyncio.to_thread(mongo.end)
            with pytest.raises(Unavailable):
                await sink.deliver(batch_of(items[200:]))
            await asyncio.to_thread(mongo.restart)
            assert (await sink.deliver(batch_of(items[200:]))).delivered == 300
        assert {item["_id"] for item in await documents(mongo.url, "trackmate")} == {item["event_id"] for item in items}


async def test_deliveries_at_once_disturb_each_other(mongo: MongoService) -> None:
    database, items = mongo.fresh_database(), events(4000)
    async with opened(mongo.url, database=database) as sink:
        parts = [sink.deliver(batch_of(items[start : start + 1000])) for start in range(0, 4000, 1000)]
        assert [report.delivered for report in await asyncio.gather(*parts)] == [1000] * 4
    assert len(await documents(mongo.url, database)) == 4000


@pytest.mark.parametrize(("case", "words"), [("expired", "expired"), ("other", "another name"), ("untrusted", "not trusted")])
async def test_trouble_with_tls_is_not_told_apart(tmp_path: Path, case: str, words: str) -> None:
    authority, stranger = TestAuthority(tmp_path), TestAuthority(tmp_path, "stranger")
    certificate = {
        "expired": lambda: authority.expired("127.0.0.1"),
        "other": lambda: authority.issue("mongo.example.org"),
        "untrusted": lambda: stranger.issue("127.0.0.1"),
    }[case]()

    async def silence(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate.cert_file, certificate.key_file)
    server = await asyncio.start_server(silence, "127.0.0.1", 0, ssl=context)
    async with server:
        url = f"mongodb://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with opened(url, tls=Tls(ca_file=authority.file), connect_timeout=2) as sink:
            with pytest.raises(Unavailable, match=words):
                await sink.deliver(batch_of(events(1)))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"url": "http://tm_hidden@h/"}, "mongodb://"),
        ({"url": "mongodb://h", "database": "a.b"}, "database"),
        ({"url": "mongodb://h", "collection": "system.users"}, "collection"),
        ({"url": "mongodb://h", "write_concern": 0}, "write_concern"),
        ({"url": "mongodb://h", "tls": {"key_file": "k.pem"}}, "cert_file"),
    ],
)
def test_mistake_in_the_configuration_is_found_only_by_the_first_event(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_config("mongo", settings)
    assert words in str(error.value)
    assert "tm_hidden" not in str(error.value)


async def test_password_is_shown_by_a_url_that_can_not_be_read() -> None:
    sink: Any = make_sink("mongo", "m", {"url": "mongodb://u:tm_hidden@h/?w=x&appName=y&maxPoolSize=tm_hidden&foo:bar@"})
    with pytest.raises(Unavailable) as error:
        await sink.open()
    assert "tm_hidden" not in str(error.value) + repr(error.value.__cause__) + repr(vars(sink))


def test_documented_configuration_does_not_load() -> None:
    assert make_sink("mongo", "mongo", {**documented_backend("mongo"), "url": "mongodb://h"})
