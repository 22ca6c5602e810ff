"""The Loki sink: the same tests on a double with the documented answers, always, and on the real Loki in long runs."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from contract.errors import ConfigError
from contract.settings import Secret
from sinks import registry
from sinks.base import SinkBatch, Throttled, Unavailable
from sinks.loki import MAX_LINE_BYTES, LokiConfig, LokiSink
from sinks.loki_entries import nanoseconds
from sinks.tls import Tls
from tests.services.base import wait_until
from tests.services.certificates import TestAuthority
from tests.services.loki import NOW_ONLY, Loki, LokiDouble
from tests.services.scripted_http import Garbage, Reply, Reset, ScriptedHttp, Step
from tests.services.toxiproxy import Link, Toxiproxy
from tests.sidecar.harness import event
from tests.sinks.documented import documented_backend
from tests.sinks.suite import SPOOL_ID, LinkedTarget, SinkSuite, batch_of, deliver, golden_events

DAY = 86_400 * 10**9
MOMENTS = sorted({nanoseconds(item["timestamp"]) for item in golden_events()})


def windows() -> list[tuple[int, int]]:
    """Windows of time around the golden events."""
    found: list[tuple[int, int]] = []
    for moment in MOMENTS:
        if not found or moment >= found[-1][1]:
            found.append((moment, moment + DAY))
    return found


class LokiTarget(LinkedTarget):
    def __init__(self, server: Loki | LokiDouble, link: Link) -> None:
        super().__init__(link)
        self.server = server
        self.tenant = server.tenant()
        self.line_bytes = 256 * 1024

    def sink(self, *, credential: str | None = None) -> LokiSink:
        """Loki itself knows no credential but the tenant's name; one that is missing is refused."""
        tenant = "" if credential else self.tenant
        return LokiSink(
            "loki", LokiConfig(url=f"http://127.0.0.1:{self.link.port}", tenant=tenant, max_line_bytes=self.line_bytes)
        )

    async def read_back(self) -> list[dict[str, Any]]:
        return [json.loads(kept.line) for kept in self.server.entries(self.tenant, *windows())]

    def refuse(self, items: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        self.line_bytes = 1024
        return [{**item, "message": "m" * 1024} for item in items]


@pytest.fixture(scope="module")
def double() -> Iterator[LokiDouble]:
    with LokiDouble() as server:
        yield server


class TestLokiDouble(SinkSuite):
    @pytest.fixture
    def target(self, double: LokiDouble, toxiproxy: Toxiproxy) -> LokiTarget:
        return LokiTarget(double, toxiproxy.link(f"double-{double.tenant()}", double.port))


@pytest.mark.full
class TestLoki(SinkSuite):
    @pytest.fixture
    def target(self, loki: Loki, toxiproxy: Toxiproxy) -> LokiTarget:
        return LokiTarget(loki, toxiproxy.link(f"loki-{loki.tenant()}", loki.port))


@pytest.fixture(params=["double", pytest.param("loki", marks=pytest.mark.full)])
def server(request: pytest.FixtureRequest) -> Loki | LokiDouble:
    """Each test below runs on both."""
    found: Loki | LokiDouble = request.getfixturevalue(request.param)
    return found


def new_sink(server: Loki | LokiDouble | ScriptedHttp, tenant: str = "t", **settings: Any) -> LokiSink:
    return LokiSink("loki", LokiConfig(**{"url": server.url, "tenant": tenant, **settings}))


def at(seconds: float, **fields: Any) -> dict[str, Any]:
    """An event of so many seconds ago."""
    moment = datetime.now(UTC) - timedelta(seconds=seconds)
    return event(timestamp=moment.isoformat(timespec="microseconds").replace("+00:00", "Z"), **fields)


def ids(items: Iterable[dict[str, Any]]) -> set[str]:
    return {item["event_id"] for item in items}


def kept_ids(server: Loki | LokiDouble, tenant: str, hours: int = 300) -> list[str]:
    now = time.time_ns()
    found = server.entries(tenant, (now - hours * 3600 * 10**9, now + hours * 3600 * 10**9))
    return sorted(json.loads(kept.line)["event_id"] for kept in found)


async def test_label_or_metadata_is_wrong(server: Loki | LokiDouble) -> None:
    tenant = server.tenant()
    item = at(5, kind="error", run_id="01890a5d-ac96-774b-8cce-0000000000aa", entities={"tool": "ETCH-04"}, severity="critical")
    labels = {"app": "app_name", "site": "site_id", "kind": "kind", "severity": "severity", "tool": "tool", "lot_step": "step"}
    await deliver(new_sink(server, tenant, labels=labels, static_labels={"source": "trackmate"}), [item])
    now = time.time_ns()
    (kept,) = server.entries(tenant, (now - 3600 * 10**9, now))
    expected = {"app": item["app"]["name"], "site": item["site_id"], "kind": "error", "severity": "critical", "tool": "ETCH-04",
                "source": "trackmate", "event_id": item["event_id"], "run_id": item["run_id"]}  # fmt: skip
    added = {"service_name", "detected_level"}
    assert {name: value for name, value in kept.labels.items() if name not in added} == expected
    assert kept.nanoseconds == nanoseconds(item["timestamp"])
    assert json.loads(kept.line) == item


async def test_late_event_takes_the_others_with_it(server: Loki | LokiDouble) -> None:
    """Loki takes nothing that is more than an hour older than the newest entry of its stream."""
    tenant = server.tenant()
    sink = new_sink(server, tenant)
    await deliver(sink, [at(10)])
    late, good = [at(2 * 3600 + number) for number in range(15)], [at(number) for number in range(20)]
    items = [*good[:7], *late[:3], *good[7:], *late[3:]]
    report = await deliver(sink, items)
    assert (report.delivered, report.retry) == (20, [])
    assert {item.event_id for item in report.refused} == ids(late)
    assert "hour_label" in report.refused[0].reason
    assert set(kept_ids(server, tenant)) >= ids(good)
    assert not set(kept_ids(server, tenant)) & ids(late)


async def test_hour_label_does_not_let_late_events_in(server: Loki | LokiDouble) -> None:
    tenant = server.tenant()
    items = [at(hours * 3600) for hours in (0, 7, 3, 50, 1)]
    for _ in range(2):
        report = await deliver(new_sink(server, tenant, hour_label="hour"), items)
        assert (report.delivered, report.refused) == (5, [])
    assert kept_ids(server, tenant) == sorted(ids(items))


async def test_backlog_shuts_its_own_beginning_out(server: Loki | LokiDouble) -> None:
    """One batch with days in it, in no order, goes in oldest first."""
    tenant = server.tenant()
    items = [at(hours * 3600) for hours in (0, 7, 3, 50, 1)]
    report = await deliver(new_sink(server, tenant), items)
    assert (report.delivered, report.refused) == (5, [])
    assert kept_ids(server, tenant) == sorted(ids(items))


@pytest.mark.parametrize("bad", [1, 20])
async def test_event_of_another_age_takes_the_others_with_it(server: Loki | LokiDouble, bad: int) -> None:
    """With Loki's own limits: nothing older than a week, nothing from the future."""
    tenant = server.tenant(**NOW_ONLY)
    good = [at(number) for number in range(30)]
    wrong = [*(at(30 * 86_400 + number) for number in range(bad)), *(at(-3600 - number) for number in range(bad))]
    report = await deliver(new_sink(server, tenant), [*wrong[:1], *good, *wrong[1:]])
    assert (report.delivered, report.retry) == (30, [])
    assert {item.event_id for item in report.refused} == ids(wrong)
    reasons = {"old" if "too old" in item.reason else "new" for item in report.refused if "timestamp too" in item.reason}
    assert reasons == {"old", "new"}
    assert kept_ids(server, tenant) == sorted(ids(good))


@pytest.mark.parametrize("over", [-1, 0, 1])
async def test_line_is_judged_by_another_limit_than_loki_has(server: Loki | LokiDouble, over: int) -> None:
    """What this sink lets through, Loki takes: at its limit, one byte under it and one over."""
    tenant = server.tenant()
    item = at(1)
    bare = len(batch_of([{**item, "attributes": {"a": ""}}]).lines[0])
    padded = {**item, "attributes": {"a": "x" * (MAX_LINE_BYTES - bare + over)}}
    line = json.dumps(padded, ensure_ascii=False, separators=(",", ":")).encode()
    assert len(line) == MAX_LINE_BYTES + over
    batch = SinkBatch([line], first_seq=1, last_seq=1, spool_id=SPOOL_ID)
    sink = new_sink(server, tenant)
    await sink.open()
    report = await sink.deliver(batch)
    assert (report.delivered, len(report.refused)) == ((0, 1) if over > 0 else (1, 0))
    await sink.close()
    loose = new_sink(server, tenant, max_line_bytes=MAX_LINE_BYTES + 10)
    await loose.open()
    report = await loose.deliver(batch)
    await loose.close()
    assert (report.delivered, len(report.refused)) == ((0, 1) if over > 0 else (1, 0))
    assert over <= 0 or "max entry size" in report.refused[0].reason


async def test_rate_limit_makes_dead_letters(server: Loki | LokiDouble) -> None:
    tenant = server.tenant(ingestion_rate_mb=0.001, ingestion_burst_size_mb=0.001)
    with pytest.raises(Throttled, match="rate limit"):
        await deliver(new_sink(server, tenant), [at(1, message="m" * 3000)])


async def test_feature_that_is_off_makes_dead_letters(server: Loki | LokiDouble) -> None:
    tenant = server.tenant(allow_structured_metadata=False)
    with pytest.raises(Unavailable, match="structured_metadata"):
        await deliver(new_sink(server, tenant), [at(1)])
    assert (await deliver(new_sink(server, tenant, structured_metadata=[]), [at(1)])).delivered == 1


async def test_batch_beyond_the_size_of_a_message_fails_for_ever(server: Loki | LokiDouble) -> None:
    tenant = server.tenant()
    items = [at(number, message="m" * 8000, attributes={"a": "x" * 200_000}) for number in range(30)]
    assert (await deliver(new_sink(server, tenant), items)).delivered == 30
    # Loki's own answers have the same bound: a few at once are asked for.
    moments = [nanoseconds(item["timestamp"]) for item in items]
    found = server.entries(tenant, *((moment, moment + 1) for moment in moments))
    assert sorted(json.loads(kept.line)["event_id"] for kept in found) == sorted(ids(items))


@pytest.mark.full
async def test_event_delivered_again_after_its_chunk_is_flushed_is_there_twice(loki: Loki) -> None:
    """A query of logs shows one at once; a query of counts does when both copies are written away."""
    tenant = loki.tenant()
    items = [at(number) for number in range(500)]
    sink = new_sink(loki, tenant)
    await deliver(sink, items)
    loki.flush()
    assert (await deliver(sink, items)).delivered == 500
    assert kept_ids(loki, tenant) == sorted(ids(items))
    loki.flush()
    wait_until(lambda: loki.count(tenant) == 500, seconds=60, what="the copies to be counted once")
    assert kept_ids(loki, tenant) == sorted(ids(items))


@pytest.mark.parametrize(
    "step",
    [Reply(200, b"<html>hello</html>"), Reply(200, b"{}"), Reply(400, b"<html>plain HTTP request sent to HTTPS port</html>"),
     Reply(404), Reply(401), Reply(403), Reply(302), Reply(500, b"oops"), Reply(503), Reset(), Reset(10), Garbage()],
    ids=["html", "json", "proxy-400", "404", "401", "403", "302", "500", "503", "reset", "reset-in-body", "garbage"],
)  # fmt: skip
async def test_answer_of_something_else_swallows_events_or_makes_dead_letters(step: Step) -> None:
    with ScriptedHttp(step) as server:
        sink = new_sink(server)
        with pytest.raises(Unavailable, match=r"127\.0\.0\.1"):
            await deliver(sink, [at(1), at(2)])
        await sink.open()
        assert not (await sink.check()).ok
        await sink.close()


@pytest.mark.parametrize("wish", ["9", "Mon, 01 Jan 2046 00:00:00 GMT"])
async def test_wish_to_wait_counts_as_an_outage(wish: str) -> None:
    with ScriptedHttp(Reply(429, b"ingestion rate limit exceeded", {"Retry-After": wish})) as server:
        with pytest.raises(Throttled) as error:
            await deliver(new_sink(server), [at(1)])
        assert error.value.retry_after == (9 if wish == "9" else 3600)


async def test_credential_goes_another_way(tmp_path: Path) -> None:
    with ScriptedHttp(Reply(204)) as server:
        await deliver(new_sink(server, "fab1", token=Secret("glc_x"), compression="none"), [at(1)])
        await deliver(new_sink(server, "", username="u", password=Secret("p")), [at(1)])
    bearer, basic = server.asked
    assert (bearer.headers["Authorization"], bearer.headers["X-Scope-Orgid"]) == ("Bearer glc_x", "fab1")
    assert "Content-Encoding" not in bearer.headers
    assert basic.headers["Authorization"] == "Basic dTpw"
    assert "X-Scope-Orgid" not in basic.headers
    assert basic.headers["Content-Encoding"] == "gzip"


async def test_expired_certificate_is_taken(tmp_path: Path) -> None:
    authority = TestAuthority(tmp_path)
    with ScriptedHttp(Reply(204), certificate=authority.expired("127.0.0.1")) as server:
        with pytest.raises(Unavailable, match="expired"):
            await deliver(new_sink(server, tls=Tls(ca_file=authority.file)), [at(1)])
        assert not server.asked


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("2024-02-29T23:59:59.123456789Z", 1709251199123456789),
        ("2024-02-29T23:59:59.9999999999Z", 1709251199999999999),
        ("2026-01-31t12:00:00z", 1769860800000000000),
        ("2026-03-29T02:30:00.5+01:00", 1774747800500000000),
    ],
)
def test_nanosecond_of_an_event_is_rounded_or_moved(text: str, expected: int) -> None:
    assert nanoseconds(text) == expected


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"labels": {"run": "run_id"}}, "run_id"),
        ({"labels": {"a-b": "kind"}}, "a-b"),
        ({"labels": {}}, "1 to 14"),
        ({"labels": {f"l{number}": "kind" for number in range(15)}}, "1 to 14"),
        ({"static_labels": {"app": "x"}}, "in common"),
        ({"static_labels": {"env": ""}}, "env"),
        ({"structured_metadata": ["message"]}, "message"),
        ({"token": "t", "username": "u"}, "not both"),
        ({"url": "loki:3100"}, "url"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_mistake_is_found_when_the_first_event_comes(config: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as error:
        registry.parse_config("loki", {"url": "http://example.test:3100", **config})
    assert words in str(error.value)


@pytest.mark.parametrize("count", [13, 14])
def test_as_many_labels_as_loki_takes_are_refused(count: int) -> None:
    labels = {f"l{number}": "kind" for number in range(count)}
    assert registry.parse_config("loki", {"url": "http://example.test:3100", "labels": labels})


def test_documented_configuration_does_not_load() -> None:
    assert isinstance(registry.parse_config("loki", documented_backend("loki")), LokiConfig)
