"""The s3 sink: the suite on a real S3 server in both formats, what a crash leaves, and every answer that goes wrong."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import boto3
import pyarrow.parquet as pq
import pytest
import zstandard
from botocore.config import Config

from contract import codec
from contract.columns import NAMES, flatten, unflatten
from contract.errors import ConfigError
from contract.settings import Secret
from sinks import registry
from sinks.aws import AwsCredentials
from sinks.base import SinkBatch, Throttled, Unavailable
from sinks.jsonl_files import Intervals
from sinks.s3 import S3Config, S3Sink
from sinks.s3_objects import Names, missing_runs
from tests.services.base import free_port
from tests.services.scripted_http import Asked, Garbage, Reply, Reset, ScriptedHttp, Step
from tests.services.toxiproxy import Link, Toxiproxy
from tests.services.versitygw import VersityGw
from tests.sidecar.harness import event, ndjson
from tests.sinks.suite import SPOOL_ID, LinkedTarget, SinkSuite, batch_of, golden_events

SECONDS = 30.0


class Store:
    """A fresh bucket of the server, read with another client than the sink's."""

    def __init__(self, server: VersityGw) -> None:
        self.server = server
        self.bucket = server.fresh_bucket()
        self.client: Any = boto3.client(
            "s3",
            endpoint_url=server.endpoint,
            region_name="us-east-1",
            aws_access_key_id=server.access_key_id,
            aws_secret_access_key=server.secret_access_key,
            config=Config(s3={"addressing_style": "path"}, proxies={}),
        )

    def sink(self, *, port: int | None = None, name: str = "archive", **settings: Any) -> S3Sink:
        key = AwsCredentials(
            access_key_id=self.server.access_key_id,
            secret_access_key=Secret(settings.pop("secret", self.server.secret_access_key)),
        )
        fixed = {"bucket": self.bucket, "region": "us-east-1", "credentials": key, "linger_seconds": 0, "connect_timeout": 5}
        return S3Sink(name, S3Config(**{**fixed, "endpoint_url": f"http://127.0.0.1:{port or self.server.port}", **settings}))

    def names(self) -> list[str]:
        return [entry["Key"] for entry in self.client.list_objects_v2(Bucket=self.bucket).get("Contents", ())]

    def body(self, key: str) -> bytes:
        with self.client.get_object(Bucket=self.bucket, Key=key)["Body"] as stream:
            content: bytes = stream.read()
        return content

    def events(self) -> list[dict[str, Any]]:
        return [item for key in self.names() for item in self.read(key)]

    def read(self, key: str) -> list[dict[str, Any]]:
        body = self.body(key)
        if key.endswith(".parquet"):
            return [unflatten(row) for row in pq.read_table(io.BytesIO(body)).to_pylist()]
        if key.endswith(".zst"):
            body = zstandard.ZstdDecompressor().decompress(body)
        elif key.endswith(".gz"):
            body = gzip.decompress(body)
        return [json.loads(line) for line in body.splitlines()]


class StoreTarget(LinkedTarget):
    refuses_events = False

    def __init__(self, store: Store, link: Link, form: str) -> None:
        super().__init__(link)
        self.store = store
        self.form = form

    def sink(self, *, credential: str | None = None) -> S3Sink:
        secret = {"secret": credential} if credential else {}
        return self.store.sink(port=self.link.port, format=self.form, **secret)

    async def read_back(self) -> list[dict[str, Any]]:
        return self.store.events()

    def refuse(self, items: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        return list(items)

    def as_stored(self, item: dict[str, Any]) -> dict[str, Any]:
        if self.form == "jsonl":
            return item
        (decoded,) = codec.decode_batch(json.dumps([item]).encode(), "application/json").events
        return unflatten(dict(zip(NAMES, flatten(decoded), strict=True)))


@pytest.fixture
def store(versitygw: VersityGw) -> Iterator[Store]:
    store = Store(versitygw)
    yield store
    store.client.close()


class TestS3(SinkSuite):
    @pytest.fixture(params=["jsonl", "parquet"])
    def target(self, request: pytest.FixtureRequest, store: Store, toxiproxy: Toxiproxy) -> StoreTarget:
        return StoreTarget(store, toxiproxy.link(store.bucket, store.server.port), request.param)


def batch(*hours: int, first_seq: int = 1) -> SinkBatch:
    """An event for each given hour of one day."""
    items = [event(timestamp=f"2026-07-01T{hour:02}:15:00Z") for hour in hours]
    return SinkBatch.from_ndjson(ndjson(items), first_seq=first_seq, spool_id=SPOOL_ID)


def part(whole: SinkBatch, first: int, last: int) -> SinkBatch:
    """The events with these numbers, as the router would cut them after a crash."""
    lines = [line for seq, line in zip(whole.seqs, whole.lines, strict=True) if first <= seq <= last]
    return SinkBatch(lines, first_seq=first, last_seq=last, spool_id=whole.spool_id)


async def deliver(sink: S3Sink, *batches: SinkBatch) -> None:
    await sink.open()
    try:
        for each in batches:
            report = await sink.deliver(each)
            assert (report.delivered, report.retry) == (each.count, [])
    finally:
        await sink.close()


def ids(lines: Sequence[bytes]) -> list[str]:
    return sorted(json.loads(line)["event_id"] for line in lines)


async def test_object_name_does_not_tell_hour_log_backend_and_numbers(store: Store) -> None:
    await deliver(store.sink(), batch(9, 9, 10, first_seq=7))
    start = f"{SPOOL_ID}.archive-"
    assert store.names() == [
        f"events/date=2026-07-01/hour=09/{start}{7:020}-{8:020}.jsonl.zst",
        f"events/date=2026-07-01/hour=10/{start}{9:020}-{9:020}.jsonl.zst",
    ]


@pytest.mark.parametrize(
    ("settings", "suffix", "content_type"),
    [
        ({}, ".jsonl.zst", "application/zstd"),
        ({"compression": "gzip"}, ".jsonl.gz", "application/gzip"),
        ({"compression": "none"}, ".jsonl", "application/x-ndjson"),
        ({"format": "parquet"}, ".parquet", "application/vnd.apache.parquet"),
        ({"format": "parquet", "compression": "gzip"}, ".parquet", "application/vnd.apache.parquet"),
        ({"format": "parquet", "compression": "none"}, ".parquet", "application/vnd.apache.parquet"),
    ],
)
async def test_object_can_not_be_read_by_what_its_name_says(
    store: Store, settings: dict[str, Any], suffix: str, content_type: str
) -> None:
    events = batch(9, 9, 9)
    await deliver(store.sink(**settings), events)
    (key,) = store.names()
    head = store.client.head_object(Bucket=store.bucket, Key=key)
    assert key.endswith(f"-{3:020}{suffix}")
    assert head["ContentType"] == content_type
    assert "ContentEncoding" not in head, "a client that undoes it would find other bytes than the name says"
    assert head["Metadata"]["trackmate-events"] == "3"
    assert sorted(item["event_id"] for item in store.read(key)) == ids(events.lines)


async def test_line_that_fits_into_no_columns_moves_its_neighbours(store: Store) -> None:
    """A log may hold lines that an older agent took and the contract refuses by now."""
    items = [event(message=str(number)) for number in range(5)]
    lines = ndjson(items).splitlines()
    lines[0] = lines[3] = b'{"timestamp":"2026-07-01T09:00:00Z","kind":"rumour"}'
    sink = store.sink(format="parquet")
    await sink.open()
    report = await sink.deliver(SinkBatch(lines, first_seq=1, last_seq=5, spool_id=SPOOL_ID))
    await sink.close()
    assert (report.delivered, report.retry) == (3, [])
    assert [item.index for item in report.refused] == [0, 3]
    assert all(item.reason for item in report.refused)
    assert [item["message"] for item in store.events()] == ["1", "2", "4"]


async def test_text_of_an_event_is_written_anew(store: Store) -> None:
    line = b'{ "event_id":"01890a5d-ac96-774b-8cce-00000000000b","timestamp":"2026-07-01T11:30:00+02:00","kind":"log",'
    line += b'"name":"\\u00e9","site_id":"fab1","app":{"name":"x"},"metrics":{"a":1.50}}'
    await deliver(store.sink(compression="none", prefix=""), SinkBatch([line], first_seq=1, last_seq=1, spool_id=SPOOL_ID))
    (key,) = store.names()
    assert store.body(key) == line + b"\n"
    assert key.startswith("date=2026-07-01/hour=09/")


async def test_log_cut_anew_after_a_crash_leaves_two(store: Store) -> None:
    whole = batch(9, 9, 10, 9, 10, 11, 9, 9, 10, 11, 9, 9)
    await deliver(store.sink(), part(whole, 3, 4), part(whole, 6, 8))
    for first, last in ((1, 5), (2, 9), (1, 12), (4, 12)):
        await deliver(store.sink(), part(whole, first, last))
    assert sorted(item["event_id"] for item in store.events()) == ids(whole.lines)


async def test_name_promises_events_that_another_object_holds(store: Store) -> None:
    whole = batch(*[9] * 9)
    await deliver(store.sink(), part(whole, 4, 5), part(whole, 1, 9))
    for key in store.names():
        numbers = Names("events/", SPOOL_ID, "archive", "").numbers("date=2026-07-01/hour=09", key)
        assert numbers is not None
        assert ids(part(whole, *numbers).lines) == sorted(item["event_id"] for item in store.read(key))
    assert len(store.names()) == 3


async def test_change_of_format_leaves_two(store: Store) -> None:
    events = batch(9, 9)
    await deliver(store.sink(), events)
    await deliver(store.sink(format="parquet"), events)
    assert len(store.events()) == 2


async def test_backend_passes_over_what_only_another_backend_has(store: Store) -> None:
    events = batch(9, 9)
    await deliver(store.sink(), events)
    await deliver(store.sink(name="archive-2"), events)
    await deliver(store.sink(), events)
    assert len(store.events()) == 4


async def test_hour_with_more_names_than_one_page_is_read_in_part(store: Store) -> None:
    start = Names("events/", SPOOL_ID, "archive", ".jsonl").start("date=2026-07-01/hour=09")
    folder = store.server.buckets / store.bucket / "events/date=2026-07-01/hour=09"
    folder.mkdir(parents=True)
    for seq in range(1, 1102):
        (folder / f"{start.rpartition('/')[2]}-{seq:020}-{seq:020}.jsonl").touch()
    await deliver(store.sink(), batch(9, 9, first_seq=1101))
    written = [path.name for path in folder.iterdir() if path.name.endswith(".zst")]
    assert written == [f"{start.rpartition('/')[2]}-{1102:020}-{1102:020}.jsonl.zst"]


async def test_lost_answer_to_a_write_leaves_two(store: Store, toxiproxy: Toxiproxy) -> None:
    """The object stands, the sink doesn't know it, and the next cut is another one."""
    link = toxiproxy.link(store.bucket, store.server.port)
    whole = batch(9, 9, 9, 9)
    sink = store.sink(port=link.port)
    await sink.open()
    await sink.deliver(part(whole, 1, 1))
    link.poison("limit_data", stream="downstream", bytes=len(b"HTTP/1.1 100 Continue\r\n\r\n") + 1)
    with pytest.raises(Unavailable):
        await sink.deliver(part(whole, 2, 3))
    assert len(store.events()) == 3
    link.heal()
    report = await sink.deliver(part(whole, 2, 4))
    await sink.close()
    assert report.delivered == 3
    assert sorted(item["event_id"] for item in store.events()) == ids(whole.lines)


async def test_delivery_given_up_leaves_two(store: Store, toxiproxy: Toxiproxy) -> None:
    link = toxiproxy.link(store.bucket, store.server.port)
    whole = batch(9, 9, 9, 9)
    sink = store.sink(port=link.port)
    await sink.open()
    await sink.deliver(part(whole, 1, 1))
    link.poison("timeout", stream="downstream", timeout=0)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await sink.deliver(part(whole, 2, 3))
    link.heal()
    await sink.deliver(part(whole, 2, 4))
    await sink.close()
    assert sorted(item["event_id"] for item in store.events()) == ids(whole.lines)


async def test_dead_letters_of_a_log_hide_behind_the_log(store: Store) -> None:
    """A replay has the log's numbers with gaps, under a log id of its own."""
    events = batch(9, 9, 9, 9, 9)
    await deliver(store.sink(), part(events, 1, 2))
    letters = SinkBatch(
        [events.lines[0], events.lines[4]], first_seq=1, last_seq=5, spool_id=f"{SPOOL_ID}.dead-20260701-1.ndjson", seqs=[1, 5]
    )
    await deliver(store.sink(), letters, letters)
    assert len(store.events()) == 4


async def test_deliveries_side_by_side_hide_each_other(store: Store) -> None:
    whole = batch(*[9, 10] * 20)
    sink = store.sink()
    await sink.open()
    async with asyncio.TaskGroup() as group:
        for first in range(1, 41, 5):
            group.create_task(sink.deliver(part(whole, first, first + 4)))
    await sink.close()
    await deliver(store.sink(), whole)
    assert sorted(item["event_id"] for item in store.events()) == ids(whole.lines)


async def test_late_events_of_many_hours_are_lost(store: Store) -> None:
    items = [event(timestamp=f"2026-07-{1 + number // 24:02}T{number % 24:02}:00:00Z") for number in range(60)]
    events = SinkBatch.from_ndjson(ndjson(items), first_seq=1, spool_id=SPOOL_ID)
    await deliver(store.sink(), events, events)
    assert sorted(item["event_id"] for item in store.events()) == ids(events.lines)
    assert len(store.names()) == 60


async def test_small_batches_make_an_object_each_second(store: Store) -> None:
    now = 0.0
    sink = store.sink(linger_seconds=0.3)
    sink._clock = lambda: now
    await sink.open()
    await sink.deliver(batch(9))
    waiting = asyncio.create_task(sink.deliver(batch(9, first_seq=2)))
    done, _ = await asyncio.wait([waiting], timeout=0.1)
    assert not done
    assert (await waiting).delivered == 1
    now = 0.3
    assert (await sink.deliver(batch(9, first_seq=3))).delivered == 1
    await sink.close()


async def test_batch_worth_an_object_waits_for_company(store: Store) -> None:
    sink = store.sink(linger_seconds=20)
    template = golden_events()[0]
    items = [{**template, "event_id": f"01890a5d-ac96-774b-8cce-{number:012x}"} for number in range(1, 5001)]
    await sink.open()
    async with asyncio.timeout(SECONDS):
        await sink.deliver(batch_of(items[:2500]))
        await sink.deliver(batch_of(items[2500:], 2501))
        again = await sink.deliver(batch_of(items[:10]))
    await sink.close()
    assert again.delivered == 10


def test_run_goes_across_what_is_there() -> None:
    assert missing_runs([1, 2, 5, 9], Intervals()) == [[0, 1, 2, 3]]
    assert missing_runs([1, 2, 5, 9], Intervals([(3, 4)])) == [[0, 1], [2, 3]]
    assert missing_runs([1, 2, 5, 9], Intervals([(2, 5)])) == [[0], [3]]
    assert missing_runs([1, 2, 5, 9], Intervals([(7, 7)])) == [[0, 1, 2], [3]]
    assert missing_runs([1, 2], Intervals([(1, 9)])) == []


def test_foreign_object_is_taken_for_ours() -> None:
    names = Names("p/", SPOOL_ID, "a", ".jsonl")
    start = names.start("h")
    assert names.numbers("h", names.key("h", 3, 7)) == (3, 7)
    for tail in (f"-2-{1:020}-{2:020}.jsonl", "-1-2.jsonl", f"-{1:020}-{2:020}", f"-{1:020}-{2:020}.jsonl/part", ""):
        assert names.numbers("h", start + tail) is None


async def test_object_is_left_by_a_check(store: Store) -> None:
    sink = store.sink()
    await sink.open()
    assert (await sink.check()).ok
    await sink.close()
    assert store.names() == []
    assert store.client.list_multipart_uploads(Bucket=store.bucket).get("Uploads", []) == []


async def test_missing_bucket_gives_no_advice(store: Store) -> None:
    sink = store.sink(bucket=f"no-{secrets.token_hex(6)}")
    await sink.open()
    health = await sink.check()
    with pytest.raises(Unavailable, match=r"bucket 'no-.*does not exist: make it"):
        await sink.deliver(batch(9))
    await sink.close()
    assert not health.ok
    assert "does not exist" in health.detail


async def test_read_only_store_passes_its_check() -> None:
    with VersityGw(read_only=True) as server:
        store = Store(server)
        sink = store.sink()
        await sink.open()
        health = await sink.check()
        with pytest.raises(Unavailable, match="s3:PutObject"):
            await sink.deliver(batch(9))
        await sink.close()
        store.client.close()
    assert not health.ok
    assert "s3:PutObject" in health.detail


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"access_key_id": "AKIAUNKNOWN"}, r"access key AKIAUNKNOWN is not known there: set `credentials`"),
        ({"secret_access_key": Secret("tm_quite_wrong")}, "secret access key does not belong to the access key"),
    ],
)
async def test_wrong_half_of_a_key_is_not_named(store: Store, settings: dict[str, Any], words: str) -> None:
    right = {"access_key_id": store.server.access_key_id, "secret_access_key": Secret(store.server.secret_access_key)}
    sink = store.sink(credentials=AwsCredentials(**{**right, **settings}))
    await sink.open()
    health = await sink.check()
    with pytest.raises(Unavailable, match=words):
        await sink.deliver(batch(9))
    await sink.close()
    assert not health.ok
    assert "tm_quite_wrong" not in health.detail


async def test_cut_in_the_middle_of_a_body_is_taken_for_success(store: Store, toxiproxy: Toxiproxy) -> None:
    link = toxiproxy.link(store.bucket, store.server.port)
    items = [event(message=secrets.token_hex(4000)) for _ in range(200)]
    events = SinkBatch.from_ndjson(ndjson(items), first_seq=1, spool_id=SPOOL_ID)
    sink = store.sink(port=link.port)
    await sink.open()
    assert (await sink.check()).ok
    link.poison("limit_data", stream="upstream", bytes=300_000)
    with pytest.raises(Unavailable, match="cut in the middle"):
        await sink.deliver(events)
    assert store.names() == []
    link.heal()
    assert (await sink.deliver(events)).delivered == 200
    await sink.close()
    assert len(store.events()) == 200


async def test_slow_store_fails(store: Store, toxiproxy: Toxiproxy) -> None:
    link = toxiproxy.link(store.bucket, store.server.port)
    link.poison("latency", latency=300, jitter=100)
    await deliver(store.sink(port=link.port), batch(9, 10))
    assert len(store.events()) == 2


def fault(code: str, status: int, message: str = "no", **headers: str) -> Reply:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message><Region>eu-west-9</Region></Error>"
    return Reply(status, body.encode(), {"Content-Type": "application/xml", **headers})


LISTING = Reply(
    200, b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>", {"Content-Type": "application/xml"}
)


def on_put(step: Step) -> Any:
    """Lists nothing, and answers a write with `step`."""
    return lambda asked: step if asked.method in {"PUT", "POST"} else LISTING


@contextmanager
def scripted(script: Any) -> Iterator[tuple[ScriptedHttp, S3Sink]]:
    with ScriptedHttp(script) as server:
        key = AwsCredentials(access_key_id="AKIAKEY", secret_access_key=Secret("tm_secret"))
        config = S3Config(bucket="events", endpoint_url=server.url, credentials=key, linger_seconds=0)
        yield server, S3Sink("archive", config)


@pytest.mark.parametrize(
    ("step", "kind", "words"),
    [
        (fault("SlowDown", 503, **{"Retry-After": "7"}), Throttled, "asks to wait .SlowDown"),
        (fault("TooManyRequests", 429, **{"Retry-After": "7"}), Throttled, "asks to wait"),
        (fault("ServiceUnavailable", 503, **{"Retry-After": "7"}), Unavailable, "503 Service Unavailable"),
        (fault("InternalError", 500, **{"Retry-After": "7"}), Unavailable, "500 Internal Server Error"),
        (fault("AccessDenied", 403), Unavailable, r"s3:ListBucket on the bucket and s3:PutObject below 'events/'"),
        (
            fault("RequestTimeTooSkewed", 403, Date="Mon, 23 Nov 2026 00:00:00 GMT"),
            Unavailable,
            "clock is wrong.*over there it is",
        ),
        (fault("ExpiredToken", 400), Unavailable, "temporary keys"),
        (fault("NoSuchBucket", 404), Unavailable, "does not exist"),
        (fault("QuotaExceeded", 403), Unavailable, "full, or its quota"),
        (fault("XMinioStorageFull", 507), Unavailable, "full, or its quota"),
        (fault("InvalidStorageClass", 400), Unavailable, "storage_class"),
        (fault("KMS.DisabledException", 400), Unavailable, "KMS key"),
        (fault("AuthorizationHeaderMalformed", 400), Unavailable, "another region: set `region` to eu-west-9"),
        (Reply(502, b"<html>bad gateway"), Unavailable, "502|not what the protocol says"),
        (Reply(200, b"<html>please log in</html>"), Unavailable, "no ETag"),
        (Reset(), Unavailable, "cut in the middle"),
        (Garbage(), Unavailable, "not HTTP|cut in the middle"),
    ],
)
async def test_answer_to_a_write_is_taken_for_another(step: Step, kind: type[Exception], words: str) -> None:
    with scripted(on_put(step)) as (_, sink):
        await sink.open()
        with pytest.raises(kind, match=words) as raised:
            await sink.deliver(batch(9))
        assert type(raised.value) is kind or kind is Unavailable
        health = await sink.check()
        await sink.close()
    assert not health.ok
    assert "tm_secret" not in str(raised.value) + health.detail
    if isinstance(step, Reply) and "Retry-After" in step.headers:
        assert raised.value.retry_after == 7  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "step",
    [
        Reply(200, b"<html>please log in</html>"),
        Reply(200, b"{}"),
        Reply(204),
        Reply(302, b"", {"Location": "http://127.0.0.1:1/"}),
    ],
)
async def test_another_server_behind_the_address_passes_for_a_store(step: Step) -> None:
    with scripted(step) as (server, sink):
        await sink.open()
        with pytest.raises(Unavailable):
            await sink.deliver(batch(9))
        assert not (await sink.check()).ok
        await sink.close()
    assert not any(asked.method == "PUT" for asked in server.asked)


async def test_failure_of_one_object_loses_or_repeats_the_others() -> None:
    def script(asked: Asked) -> Step:
        if asked.method == "GET":
            return LISTING
        return (
            fault("InternalError", 500, **{"Retry-After": "3"}) if "hour%3D10" in asked.path else Reply(200, b"", {"ETag": '"x"'})
        )

    with scripted(script) as (server, sink):
        await sink.open()
        report = await sink.deliver(batch(9, 10, 9, 10))
        assert (report.delivered, report.refused, report.retry, report.retry_after) == (2, [], [1, 3], 3)
        assert "500" in (report.message or "")
        server.script = lambda asked: LISTING if asked.method == "GET" else Reply(200, b"", {"ETag": '"x"'})
        server.asked.clear()
        again = await sink.deliver(batch(9, 10, 9, 10).subset(report.retry))
        await sink.close()
    assert again.delivered == 2
    assert [asked.path for asked in server.asked if asked.method == "PUT"] == [
        f"/events/events/date%3D2026-07-01/hour%3D10/{SPOOL_ID}.archive-{2:020}-{4:020}.jsonl.zst"
    ]


async def test_body_arrives_changed_and_nobody_sees_it() -> None:
    """Integrity by Content-MD5, and the signature covers the content."""
    with scripted(on_put(Reply(200, b"", {"ETag": '"x"'}))) as (server, sink):
        await sink.open()
        await sink.deliver(batch(9))
        await sink.close()
    (put,) = [asked for asked in server.asked if asked.method == "PUT"]
    assert put.headers["Content-Md5"]
    assert len(put.headers["X-Amz-Content-Sha256"]) == 64
    assert "content-md5" in put.headers["Authorization"]


async def test_stopped_store_is_not_named() -> None:
    config = S3Config(
        bucket="events",
        endpoint_url=f"http://127.0.0.1:{free_port()}",
        credentials=AwsCredentials(access_key_id="a", secret_access_key=Secret("b")),
    )
    sink = S3Sink("archive", config)
    await sink.open()
    with pytest.raises(
        Unavailable, match=r"bucket 'events' at http://127.0.0.1:\d+: can't be reached: the connection is refused"
    ):
        await sink.deliver(batch(9))
    await sink.close()


def test_published_configuration_is_not_taken() -> None:
    block = {
        "bucket": "monitoring-events",
        "region": "us-east-1",
        "prefix": "events/",
        "endpoint_url": None,
        "credentials": {"access_key_id": "a", "secret_access_key": "tm_b"},
    }
    sink = registry.make_sink("s3", "archive", block)
    assert isinstance(sink, S3Sink)
    assert "tm_b" not in repr(sink.__dict__)


def test_half_a_key_is_taken() -> None:
    with pytest.raises(ConfigError, match="both access_key_id and secret_access_key"):
        registry.parse_config("s3", {"bucket": "events", "credentials": {"access_key_id": "a"}})
