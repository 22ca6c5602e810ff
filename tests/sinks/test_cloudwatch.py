"""The cloudwatch sink: the suite on moto's log streams, metrics read back, CloudWatch's limits at their edges, and its refusals.

Moto takes metrics of any age and value, and its rejectedLogEventsInfo counts otherwise than CloudWatch documents it: what it does
not do is tested on the requests' shapes and on documented answers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from contract.errors import ConfigError
from contract.limits import MAX_BATCH_EVENTS, MAX_EVENT_BYTES
from contract.settings import Secret
from sinks import cloudwatch_requests as cut
from sinks import registry
from sinks.aws import AwsCredentials
from sinks.base import SinkBatch, Throttled, Unavailable
from sinks.cloudwatch import BATCH_BYTES, CloudwatchConfig, CloudwatchLogs, CloudwatchMetrics, CloudwatchSink
from tests.services.moto import REGION, Moto
from tests.services.scripted_http import Asked, Garbage, Hang, Reply, Reset, ScriptedHttp, Step
from tests.services.toxiproxy import Link, Toxiproxy
from tests.sidecar.harness import event
from tests.sinks import suite
from tests.sinks.suite import SPOOL_ID, LinkedTarget, SinkSuite, batch_of, deliver

NOW = datetime.now(UTC).replace(microsecond=0)
RECENTLY = NOW - timedelta(hours=3)
LONG_AGO = "2020-02-03T04:05:06Z"


def lately(item: dict[str, Any]) -> dict[str, Any]:
    """An event three days ago, with the fraction and the offset of its timestamp as they were."""
    return {**item, "timestamp": f"{NOW - timedelta(days=3):%Y-%m-%dT%H:%M:%S}{item['timestamp'][19:]}"}


GOLDEN = [lately(item) for item in suite.golden_events()]


class Watch:
    """A fresh log group and namespace."""

    def __init__(self, server: Moto) -> None:
        self.server = server
        self.group = server.fresh_name("group")
        self.namespace = server.fresh_name("metrics")
        self.logs, self.metrics = server.client("logs"), server.client("cloudwatch")
        self.logs.create_log_group(logGroupName=self.group)

    def sink(
        self, *halves: str, port: int | None = None, key: tuple[str, str] | None = None, group: str | None = None, **metrics: Any
    ) -> CloudwatchSink:
        public, secret = key or (self.server.access_key_id, self.server.secret_access_key)
        config = CloudwatchConfig(
            region=REGION,
            endpoint_url=f"http://127.0.0.1:{port or self.server.port}",
            credentials=AwsCredentials(access_key_id=public, secret_access_key=Secret(secret)),
            connect_timeout=5,
            logs=CloudwatchLogs(log_group=group or self.group, log_stream="host-1") if "logs" in halves else None,
            metrics=CloudwatchMetrics(namespace=self.namespace, **metrics) if "metrics" in halves else None,
        )
        return CloudwatchSink("watch", config)

    def records(self) -> list[dict[str, Any]]:
        streams = self.logs.describe_log_streams(logGroupName=self.group)["logStreams"]
        found: list[dict[str, Any]] = []
        for stream in streams:
            where = {"logGroupName": self.group, "logStreamName": stream["logStreamName"], "startFromHead": True}
            page = self.logs.get_log_events(**where)
            while page["events"]:
                found += page["events"]
                page = self.logs.get_log_events(**where, nextToken=page["nextForwardToken"])
        return found

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(record["message"]) for record in self.records()]

    def close(self) -> None:
        self.logs.close()
        self.metrics.close()


class LogsTarget(LinkedTarget):
    deduplicates = False

    def __init__(self, watch: Watch, link: Link, *halves: str) -> None:
        super().__init__(link)
        self.watch = watch
        self.halves = halves

    def sink(self, *, credential: str | None = None) -> CloudwatchSink:
        server = self.watch.server
        key = (server.access_key_id, credential or server.secret_access_key)
        return self.watch.sink(*self.halves, port=self.link.port, key=key)

    def takes(self, item: dict[str, Any]) -> bool:
        """CloudWatch has no place for the largest number of a double."""
        too_large = any(abs(value) > 2.0**360 for value in item.get("metrics", {}).values())
        return not (too_large and item["kind"] == "metric" and "metrics" in self.halves)

    async def read_back(self) -> list[dict[str, Any]]:
        return self.watch.events()

    def refuse(self, items: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{**item, "timestamp": LONG_AGO} for item in items]


@pytest.fixture
def watch(moto: Moto) -> Iterator[Watch]:
    watch = Watch(moto)
    yield watch
    watch.close()


class TestCloudwatch(SinkSuite):
    @pytest.fixture(autouse=True)
    def recent_events(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """CloudWatch takes nothing that is older than two weeks."""
        monkeypatch.setattr(suite, "golden_events", lambda: list(GOLDEN))

    @pytest.fixture(params=["logs", "logs and metrics"])
    def target(self, request: pytest.FixtureRequest, watch: Watch, toxiproxy: Toxiproxy) -> LogsTarget:
        return LogsTarget(watch, toxiproxy.link(watch.group, watch.server.port), *request.param.split(" and "))


def metric(metrics: dict[str, float] | None = None, *, age: timedelta = timedelta(0), **fields: Any) -> dict[str, Any]:
    moment = (RECENTLY - age).isoformat().replace("+00:00", "Z")
    return event(kind="metric", timestamp=moment, metrics=metrics or {"temperature": 21.5}, **fields)


def log(*, age: timedelta = timedelta(0), **fields: Any) -> dict[str, Any]:
    return event(timestamp=(RECENTLY - age).isoformat().replace("+00:00", "Z"), **fields)


async def test_metric_is_not_found_by_its_dimensions(watch: Watch) -> None:
    entities = {"tool": "etch-3", "lot": "L42"}
    await deliver(
        watch.sink("metrics"), [metric({"temperature": 21.5, "pressure": -3}, entities=entities), metric(name="lone"), log()]
    )
    listed = watch.metrics.list_metrics(Namespace=watch.namespace)["Metrics"]
    found = {(m["MetricName"], tuple(sorted((d["Name"], d["Value"]) for d in m["Dimensions"]))) for m in listed}
    common = (("app", "wafer-processing"), ("name", "etch"), ("site_id", "fab1"), ("tool", "etch-3"))
    lone = (("app", "wafer-processing"), ("name", "lone"), ("site_id", "fab1"))
    assert found == {("temperature", common), ("pressure", common), ("temperature", lone)}
    (point,) = watch.metrics.get_metric_statistics(
        Namespace=watch.namespace,
        MetricName="pressure",
        Dimensions=[{"Name": name, "Value": value} for name, value in common],
        StartTime=RECENTLY - timedelta(minutes=1),
        EndTime=RECENTLY + timedelta(minutes=1),
        Period=60,
        Statistics=["Sum", "SampleCount"],
    )["Datapoints"]
    assert (point["Sum"], point["SampleCount"]) == (-3, 1)


async def test_event_without_values_is_kept_back_where_only_metrics_are_wanted(watch: Watch) -> None:
    items = [log(), event(timestamp=LONG_AGO), event(kind="metric", timestamp=LONG_AGO)]
    report = await deliver(watch.sink("metrics"), items)
    assert (report.delivered, report.refused) == (3, [])
    assert watch.metrics.list_metrics(Namespace=watch.namespace)["Metrics"] == []


async def test_record_is_not_the_events_own_text_at_its_own_time(watch: Watch) -> None:
    moment = f"{RECENTLY:%Y-%m-%dT%H:%M:%S}.123999Z"
    line = b'{ "event_id":"01890a5d-ac96-774b-8cce-00000000000b","timestamp":"' + moment.encode() + b'","kind":"log",'
    line += '"name":"é\\u00e9","site_id":"fab1","app":{"name":"x"}}'.encode()
    sink = watch.sink("logs")
    await sink.open()
    await sink.deliver(SinkBatch([line], first_seq=1, last_seq=1, spool_id=SPOOL_ID))
    await sink.close()
    (record,) = watch.records()
    assert record["message"].encode() == line
    assert record["timestamp"] == int(RECENTLY.timestamp()) * 1000 + 123


async def test_events_out_of_order_or_far_apart_fail(watch: Watch) -> None:
    items = [log(age=timedelta(hours=hours)) for hours in (5, 90, 0, 250, 40, 17, 300, 41)]
    report = await deliver(watch.sink("logs"), items)
    assert (report.delivered, report.refused) == (8, [])
    assert {item["event_id"] for item in watch.events()} == {item["event_id"] for item in items}


async def test_event_out_of_time_takes_the_others_with_it_or_is_refused_twice(watch: Watch) -> None:
    items = [metric(), metric(age=timedelta(days=15)), metric(age=-timedelta(hours=6)), log()]
    report = await deliver(watch.sink("logs", "metrics"), items)
    assert (report.delivered, report.retry) == (2, [])
    assert [(item.index, item.event_id) for item in report.refused] == [(1, items[1]["event_id"]), (2, items[2]["event_id"])]
    assert "14 days ago" in report.refused[0].reason
    assert "in the future" in report.refused[1].reason
    assert len(watch.events()) == 2


@pytest.mark.parametrize(
    ("age", "why"),
    [
        (cut.MAX_AGE + cut.CLOCK_MARGIN, None),
        (cut.MAX_AGE + cut.CLOCK_MARGIN + timedelta(microseconds=1), "14 days ago"),
        (-cut.MAX_AHEAD - cut.CLOCK_MARGIN, None),
        (-cut.MAX_AHEAD - cut.CLOCK_MARGIN - timedelta(microseconds=1), "in the future"),
    ],
)
def test_age_is_judged_at_another_moment(age: timedelta, why: str | None) -> None:
    reason = cut.out_of_time(NOW - age, NOW)
    assert (reason is None) == (why is None)
    assert why is None or why in (reason or "")


async def test_event_is_refused_for_its_age_by_a_wrong_clock() -> None:
    answer = error(400, "InvalidSignatureException", "Signature not yet current: 20300101T000000Z is still later than")
    with scripted(answer, "logs") as (_, sink):
        sink._now = lambda: NOW + timedelta(days=1500)
        with pytest.raises(Unavailable, match="clock is wrong"):
            await deliver(sink, [log()])


def records(count: int, *, size: int | None = None, gap_ms: int = 0) -> list[cut.Record]:
    return [cut.Record(index, index * gap_ms, "x", size or 27) for index in range(count)]


@pytest.mark.parametrize(("more", "requests"), [(-1, 1), (0, 1), (1, 2)])
def test_request_has_a_record_too_many(more: int, requests: int) -> None:
    found = cut.packed_records(records(cut.MAX_LOG_EVENTS + more))
    assert len(found) == requests
    assert sum(map(len, found)) == cut.MAX_LOG_EVENTS + more


@pytest.mark.parametrize(("more", "requests"), [(-1, 1), (0, 1), (1, 2)])
def test_request_of_records_is_too_long_by_a_byte(more: int, requests: int) -> None:
    whole = cut.MAX_LOG_BYTES // 8
    many = [*records(7, size=whole), cut.Record(7, 7, "x", cut.MAX_LOG_BYTES - 7 * whole + more)]
    assert len(cut.packed_records(many)) == requests


@pytest.mark.parametrize(("more", "requests"), [(-1, 1), (0, 1), (1, 2)])
def test_request_spans_more_than_a_day(more: int, requests: int) -> None:
    ends = [cut.Record(0, 1000 + cut.MAX_LOG_SPAN_MS + more, "x", 27), cut.Record(1, 1000, "x", 27)]
    assert len(cut.packed_records(ends)) == requests


def test_record_is_counted_in_characters_or_without_its_overhead() -> None:
    assert cut.record_of(0, 0, "é".encode()).size == 2 + cut.LOG_EVENT_OVERHEAD
    assert MAX_EVENT_BYTES < cut.MAX_LOG_EVENT_BYTES


def test_batch_of_the_router_makes_two_requests() -> None:
    """Whatever its events are: many or few, short or long."""
    for count in (1, 100, MAX_BATCH_EVENTS):
        sizes = [BATCH_BYTES // count - 1 + cut.LOG_EVENT_OVERHEAD] * count
        assert len(cut.packed_records([cut.Record(index, 0, "x", size) for index, size in enumerate(sizes)])) == 1


def seen(metrics: dict[str, float], **fields: Any) -> cut.Seen:
    return cut.read(json.dumps(metric(metrics, **fields)).encode())


@pytest.mark.parametrize(("more", "requests"), [(-1, 1), (0, 1), (1, 2)])
def test_request_has_a_metric_too_many(more: int, requests: int) -> None:
    data = cut.metric_data(seen({"a": 1}), ["site_id"], 60)
    found = cut.packed_data((index, data) for index in range(cut.MAX_METRIC_DATA + more))
    assert len(found) == requests
    assert [index for request in found for index, _ in request.parts] == list(range(cut.MAX_METRIC_DATA + more))


def test_event_is_torn_though_it_fits_into_one_request() -> None:
    events = [(index, cut.metric_data(seen({f"m{n}": 1.0 for n in range(400)}), ["site_id"], 60)) for index in range(3)]
    assert [[index for index, _ in request.parts] for request in cut.packed_data(events)] == [[0, 1], [2]]
    many = cut.packed_data([(7, cut.metric_data(seen({f"m{n}": 1.0 for n in range(2500)}), ["site_id"], 60))])
    assert [(request.count, [index for index, _ in request.parts]) for request in many] == [(1000, [7]), (1000, [7]), (500, [7])]


async def test_request_of_metrics_is_longer_than_cloudwatch_takes() -> None:
    """As it is sent, not as it is reckoned."""
    tags = {f"e{n}": "v" * 250 for n in range(30)}
    items = [metric({f"{'n' * 240}{k}": -1.5000000000000002e-107 for k in range(5)}, entities=tags) for _ in range(160)]
    with scripted(taken, "metrics", dimensions=list(tags)) as (server, sink):
        report = await deliver(sink, items)
    assert report.delivered == 160
    assert all(len(asked.sent) <= cut.MAX_METRIC_BYTES for asked in server.asked)
    assert max(len(asked.sent) for asked in server.asked) > cut.MAX_METRIC_BYTES * 0.9, "and no request is needlessly short"


@pytest.mark.parametrize(
    ("value", "refused"), [(2.0**360, False), (-(2.0**360), False), (2.0**360 * 1.0000001, True), (-1e300, True)]
)
async def test_value_that_cloudwatch_does_not_take_fails_the_neighbours(watch: Watch, value: float, refused: bool) -> None:
    items = [metric({"good": 1}), metric({"fine": 1, "x": value}), metric({"good": 2})]
    report = await deliver(watch.sink("metrics"), items)
    assert [item.index for item in report.refused] == ([1] if refused else [])
    assert report.delivered == 3 - refused
    assert all("-2^360 to 2^360" in item.reason for item in report.refused)


@pytest.mark.parametrize(("length", "refused"), [(254, False), (255, False), (256, True)])
def test_name_of_a_metric_is_too_long(length: int, refused: bool) -> None:
    event = seen({"n" * length: 1})
    if refused:
        with pytest.raises(ValueError, match="255"):
            cut.metric_data(event, [], 60)
    else:
        assert len(cut.metric_data(event, [], 60)) == 1


@pytest.mark.parametrize(("length", "refused"), [(1023, False), (1024, False), (1025, True)])
def test_value_of_a_dimension_is_too_long(length: int, refused: bool) -> None:
    event = seen({"a": 1})
    event.entities = {"tool": "t" * length}
    if refused:
        with pytest.raises(ValueError, match="1024"):
            cut.metric_data(event, ["tool"], 60)
    else:
        assert len(cut.metric_data(event, ["tool"], 60)) == 1


def test_text_that_is_not_ascii_is_sent_or_two_become_one() -> None:
    assert cut.in_ascii("etch-3 B") == "etch-3 B"
    texts = ["Ätzer", "Atzer", "\x01", "  ", " ", "\u4e2d", "\U0001f600", "a\tb"]
    assert len({cut.in_ascii(text) for text in texts}) == len(texts)
    assert all(t.isascii() and t.isprintable() and t.strip() for t in map(cut.in_ascii, texts))


@pytest.mark.parametrize(("count", "taken"), [(29, True), (30, True), (31, False)])
def test_configuration_has_a_dimension_too_many(count: int, taken: bool) -> None:
    block = {"metrics": {"namespace": "fab", "dimensions": [f"d{n}" for n in range(count)]}}
    if taken:
        assert registry.parse_config("cloudwatch", block)
    else:
        with pytest.raises(ConfigError):
            registry.parse_config("cloudwatch", block)


@pytest.mark.parametrize(
    ("block", "words"),
    [
        ({}, "nothing to write to"),
        ({"metrics": {"namespace": "AWS/EC2"}}, "namespace"),
        ({"metrics": {"namespace": ":fab"}}, "namespace"),
        ({"metrics": {"namespace": "fab", "dimensions": [":x"]}}, "dimensions"),
        ({"logs": {"log_group": "a b"}}, "log_group"),
        ({"logs": {"log_group": "fab", "log_stream": "a:b"}}, "log_stream"),
    ],
)
def test_configuration_that_cloudwatch_refuses_is_taken(block: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        registry.parse_config("cloudwatch", block)


async def test_check_writes_an_event_or_sees_no_missing_permission(watch: Watch) -> None:
    server = watch.server
    sinks = {
        "both": watch.sink("logs", "metrics"),
        "writer": watch.sink("logs", key=server.new_key("logs:CreateLogStream", "logs:PutLogEvents")),
        "measurer": watch.sink("metrics", key=server.new_key("monitoring:PutMetricData")),  # moto's name of cloudwatch:
        "no records": watch.sink("logs", key=server.new_key("logs:CreateLogStream")),
        "no data": watch.sink("logs", "metrics", key=server.new_key("logs:*")),
        "unknown key": watch.sink("metrics", key=("AKIAUNKNOWN", "tm_secret")),
        "missing": watch.sink("logs", group="no-such-group"),
    }
    health = {}
    for name, sink in sinks.items():
        await sink.open()
        health[name] = await sink.check()
        await sink.close()
    assert {name for name, each in health.items() if each.ok} == {"both", "writer", "measurer"}
    assert "allow it logs:CreateLogStream and logs:PutLogEvents" in health["no records"].detail
    assert "allow it cloudwatch:PutMetricData" in health["no data"].detail
    assert "access key AKIAUNKNOWN is not known there" in health["unknown key"].detail
    assert "log group 'no-such-group'" in health["missing"].detail
    assert "does not exist: make it" in health["missing"].detail
    assert watch.records() == []


async def test_group_deleted_midway_fills_the_dead_letters(watch: Watch) -> None:
    sink = watch.sink("logs")
    await sink.open()
    assert (await sink.deliver(batch_of([log()]))).delivered == 1
    watch.logs.delete_log_group(logGroupName=watch.group)
    with pytest.raises(Unavailable, match="does not exist"):
        await sink.deliver(batch_of([log()]))
    watch.logs.create_log_group(logGroupName=watch.group)
    assert (await sink.deliver(batch_of([log()]))).delivered == 1
    await sink.close()
    assert len(watch.events()) == 1


async def test_reset_in_the_middle_of_a_request_loses_events(watch: Watch, toxiproxy: Toxiproxy) -> None:
    link = toxiproxy.link(watch.group, watch.server.port)
    items = [log(attributes={"padding": "x" * 20_000}) for _ in range(30)]
    sink = watch.sink("logs", port=link.port)
    await sink.open()
    assert (await sink.check()).ok
    link.poison("limit_data", stream="upstream", bytes=100_000)
    with pytest.raises(Unavailable, match="cut in the middle"):
        await sink.deliver(batch_of(items))
    link.heal()
    link.poison("latency", latency=200, jitter=50)
    assert (await sink.deliver(batch_of(items))).delivered == 30
    await sink.close()
    assert {item["event_id"] for item in watch.events()} == {item["event_id"] for item in items}


def of_logs(asked: Asked) -> bool:
    return asked.headers.get("X-Amz-Target", "").startswith("Logs_")


def answer(value: Any, status: int = 200, **headers: str) -> Reply:
    return Reply(
        status, json.dumps(value).encode(), {"Content-Type": "application/x-amz-json-1.1", "x-amzn-RequestId": "1", **headers}
    )


def taken(asked: Asked) -> Reply:
    """What CloudWatch says when it takes all."""
    return answer({"nextSequenceToken": "1"} if of_logs(asked) else {})


def rejected(**info: int) -> Reply:
    return answer({"rejectedLogEventsInfo": info})


def error(status: int, code: str, text: str, **headers: str) -> Reply:
    return answer({"__type": code, "message": text}, status, **headers)


@contextmanager
def scripted(script: Any, *halves: str, **metrics: Any) -> Iterator[tuple[ScriptedHttp, CloudwatchSink]]:
    with ScriptedHttp(script) as server:
        config = CloudwatchConfig(
            endpoint_url=server.url,
            credentials=AwsCredentials(access_key_id="AKIAKEY", secret_access_key=Secret("tm_secret")),
            logs=CloudwatchLogs(log_group="events", log_stream="host-1") if "logs" in halves else None,
            metrics=CloudwatchMetrics(namespace="fab", **metrics) if "metrics" in halves else None,
        )
        yield server, CloudwatchSink("watch", config)


@pytest.mark.parametrize(
    ("info", "refused"),
    [
        ({"tooOldLogEventEndIndex": 2}, {4: "too old", 3: "too old"}),
        ({"expiredLogEventEndIndex": 1}, {4: "than the log group keeps"}),
        ({"tooNewLogEventStartIndex": 4}, {0: "too new"}),
        ({"tooNewLogEventStartIndex": 0}, dict.fromkeys(range(5), "too new")),
        ({"tooOldLogEventEndIndex": 1, "tooNewLogEventStartIndex": 4}, {4: "too old", 0: "too new"}),
    ],
)
async def test_rejected_record_is_taken_for_its_neighbour(info: dict[str, int], refused: dict[int, str]) -> None:
    """CloudWatch counts in the request, which is in time order; the batch was in the opposite one."""
    items = [log(age=timedelta(minutes=minutes)) for minutes in range(5)]
    with scripted(rejected(**info), "logs") as (_, sink):
        report = await deliver(sink, items)
    assert report.delivered == 5 - len(refused)
    assert [item.index for item in report.refused] == sorted(refused)
    assert all(refused[item.index] in item.reason and item.event_id == items[item.index]["event_id"] for item in report.refused)


def record_ids(asked: Asked) -> list[str]:
    return [json.loads(item["message"])["event_id"] for item in asked.json["logEvents"]]


async def test_failure_of_the_metrics_logs_events_twice() -> None:
    items = [log(), metric({"a": 1}), metric({"b": 1})]
    with scripted(
        lambda asked: taken(asked) if of_logs(asked) else error(500, "InternalServiceFault", "no"), "logs", "metrics"
    ) as (
        server,
        sink,
    ):
        await sink.open()
        batch = batch_of(items)
        report = await sink.deliver(batch)
        assert (report.delivered, report.refused, report.retry) == (1, [], [1, 2])
        assert "500" in (report.message or "")
        with pytest.raises(Unavailable):
            await sink.deliver(batch.subset(report.retry))
        server.script = taken
        again = await sink.deliver(batch.subset(report.retry))
        assert (again.delivered, again.retry) == (2, [])
        logged = [record for asked in server.asked if of_logs(asked) for record in record_ids(asked)]
        assert sorted(logged) == sorted(item["event_id"] for item in items)
        await sink.deliver(batch.subset([1]))
        assert [of_logs(asked) for asked in server.asked[-2:]] == [True, False], "what is done is forgotten"
        await sink.close()


async def test_failure_of_the_second_request_loses_or_repeats_the_first() -> None:
    items = [log(age=timedelta(days=days)) for days in (0, 4, 2)]
    first = items[1]["event_id"]
    with scripted(lambda asked: taken(asked) if first in record_ids(asked) else error(500, "x", "no"), "logs", "metrics") as (
        server,
        sink,
    ):
        report = await deliver(sink, items)
    assert (report.delivered, report.refused, report.retry) == (1, [], [0, 2])
    assert len(server.asked) == 2, "after a failure nothing more is sent"


async def test_one_event_that_is_refused_by_both_halves_is_refused_twice() -> None:
    def script(asked: Asked) -> Reply:
        return rejected(tooOldLogEventEndIndex=1) if of_logs(asked) else error(400, "InvalidParameterValue", "too old")

    with scripted(script, "logs", "metrics") as (_, sink):
        report = await deliver(sink, [metric()])
    assert report.delivered == 0
    assert [item.reason for item in report.refused] == ["logs: rejected as too old; metrics: InvalidParameterValue: too old"]


async def test_refused_record_is_forgotten_while_its_metrics_wait() -> None:
    answers = {"metrics": error(503, "ServiceUnavailable", "no")}
    script = lambda asked: rejected(tooOldLogEventEndIndex=1) if of_logs(asked) else answers.get("metrics") or taken(asked)  # noqa: E731
    with scripted(script, "logs", "metrics") as (_, sink):
        await sink.open()
        batch = batch_of([metric()])
        with pytest.raises(Unavailable):
            await sink.deliver(batch)
        answers.clear()
        report = await sink.deliver(batch)
        await sink.close()
    assert [item.index for item in report.refused] == [0]


@pytest.mark.parametrize(
    ("half", "code", "text"),
    [
        ("logs", "InvalidParameterException", "Log event too large: 300000 bytes exceeds limit of 262144"),
        (
            "metrics",
            "InvalidParameterValue",
            "The parameter MetricData.member.3.Timestamp must specify a time no more than two weeks",
        ),
    ],
)
async def test_event_that_cloudwatch_refuses_takes_its_request_with_it(half: str, code: str, text: str) -> None:
    items = [metric({"a": 1}, name="bad" if number in {3, 12} else "good") for number in range(13)]
    script = lambda asked: error(400, code, text) if b"bad" in asked.body else taken(asked)  # noqa: E731
    with scripted(script, half) as (_, sink):
        report = await deliver(sink, items)
    assert (report.delivered, report.retry) == (11, [])
    assert [(item.index, item.reason) for item in report.refused] == [(n, f"{half}: {code}: {text}") for n in (3, 12)]


@pytest.mark.parametrize(
    ("half", "code", "text"),
    [
        ("logs", "InvalidParameterException", "1 validation error detected: Value 'x' at 'logStreamName' failed"),
        ("metrics", "InvalidParameterValue", "The value AWS/x for parameter Namespace is invalid."),
    ],
)
async def test_wrong_place_makes_dead_letters_of_all(half: str, code: str, text: str) -> None:
    with scripted(error(400, code, text), half) as (_, sink), pytest.raises(Unavailable):
        await deliver(sink, [metric(), metric()])


@pytest.mark.parametrize("half", ["logs", "metrics"])
@pytest.mark.parametrize(
    ("status", "code", "text", "kind", "words"),
    [
        (400, "ThrottlingException", "Rate exceeded", Throttled, "asks to wait"),
        (429, "TooManyRequests", "no", Throttled, "asks to wait"),
        (503, "ServiceUnavailableException", "no", Unavailable, "503"),
        (403, "AccessDeniedException", "no", Unavailable, "has no permission"),
        (400, "UnrecognizedClientException", "no", Unavailable, "access key AKIAKEY is not known"),
        (400, "InvalidSignatureException", "no", Unavailable, "secret access key does not belong"),
        (400, "InvalidSignatureException", "Signature expired: x is now earlier than y", Unavailable, "clock is wrong"),
        (400, "ExpiredTokenException", "no", Unavailable, "temporary keys"),
    ],
)
async def test_answer_is_taken_for_another(
    half: str, status: int, code: str, text: str, kind: type[Exception], words: str
) -> None:
    with scripted(error(status, code, text, **{"Retry-After": "7"}), half) as (_, sink):
        await sink.open()
        with pytest.raises(kind, match=words) as raised:
            await sink.deliver(batch_of([metric()]))
        health = await sink.check()
        await sink.close()
    assert raised.value.retry_after == 7  # type: ignore[attr-defined]
    assert not health.ok
    assert "tm_secret" not in str(raised.value) + health.detail


@pytest.mark.parametrize("half", ["logs", "metrics"])
@pytest.mark.parametrize(
    "step", [Reply(200, b"<html>please log in</html>"), Reply(200), Reply(502, b"<html>"), Reply(204), Reset(), Garbage()]
)
async def test_another_server_behind_the_address_swallows_events(half: str, step: Step) -> None:
    with scripted(step, half) as (_, sink):
        await sink.open()
        with pytest.raises(Unavailable):
            await sink.deliver(batch_of([metric()]))
        assert not (await sink.check()).ok
        await sink.close()


@pytest.mark.parametrize("half", ["logs", "metrics"])
async def test_silent_server_is_waited_for_longer_than_configured(half: str) -> None:
    with ScriptedHttp(Hang()) as server:
        block = {"logs": {"logs": {"log_group": "g"}}, "metrics": {"metrics": {"namespace": "n"}}}[half]
        key = {"access_key_id": "a", "secret_access_key": "b"}
        sink = registry.make_sink(
            "cloudwatch", "w", {"endpoint_url": server.url, "read_timeout": 0.3, "credentials": key, **block}
        )
        await sink.open()
        with pytest.raises(Unavailable, match="did not answer in time"):
            await sink.deliver(batch_of([metric()]))
        await sink.close()
