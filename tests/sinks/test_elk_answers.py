"""What the Elasticsearch sink makes of answers that a real cluster can't be made to give: from a server with a script."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sinks.base import Throttled, Unavailable
from sinks.elk import ElkConfig, ElkSink
from sinks.tls import Tls
from tests.services.certificates import TestAuthority
from tests.services.scripted_http import Asked, Garbage, Reply, Reset, ScriptedHttp, Step, json_reply
from tests.sidecar.harness import event
from tests.sidecar.memory_log import MemoryLog, backend_settings, new_delivery, until
from tests.sinks.suite import batch_of, deliver

PRODUCT = {"X-Elastic-Product": "Elasticsearch"}
REJECTED = {"status": 429, "error": {"type": "es_rejected_execution_exception", "reason": "queue is full"}}
FULL = {
    "status": 429,
    "error": {"type": "cluster_block_exception", "reason": "blocked by: [disk usage exceeded flood-stage watermark]"},
}
THERE = {"status": 409, "error": {"type": "version_conflict_engine_exception", "reason": "document already exists"}}
BAD = {
    "status": 400,
    "error": {
        "type": "document_parsing_exception",
        "reason": "failed to parse",
        "caused_by": {"reason": "For input string: 'x'"},
    },
}
NO_SHARD = {"status": 503, "error": {"type": "unavailable_shards_exception", "reason": "primary shard is not active"}}
CREATED = {"status": 201}


def items_reply(*results: dict[str, Any]) -> Reply:
    return json_reply({"errors": True, "items": [{"create": result} for result in results]}, **PRODUCT)


def takes_all(asked: Asked) -> Step:
    return items_reply(*[CREATED] * (len(asked.lines) // 2))


@pytest.fixture
def server() -> Iterator[ScriptedHttp]:
    with ScriptedHttp(takes_all) as server:
        yield server


def new_sink(server: ScriptedHttp, **settings: Any) -> ElkSink:
    return ElkSink("elk", ElkConfig(**{"url": server.url, "index": "monitoring", "manage_template": False, **settings}))


async def test_results_are_given_to_the_wrong_events(server: ScriptedHttp) -> None:
    server.script = items_reply(CREATED, BAD, THERE, REJECTED, NO_SHARD, FULL)
    items = [event() for _ in range(6)]
    report = await deliver(new_sink(server), items)
    assert (report.delivered, report.retry) == (2, [3, 4, 5])
    assert [(item.index, item.event_id) for item in report.refused] == [(1, items[1]["event_id"])]
    assert report.refused[0].reason == "document_parsing_exception: failed to parse: For input string: 'x'"
    assert "primary shard" in report.message


async def test_action_names_another_event_than_its_line(server: ScriptedHttp) -> None:
    items = [event() for _ in range(3)]
    await deliver(new_sink(server), items)
    (asked,) = server.asked
    assert asked.path.startswith("/monitoring/_bulk?")
    lines = batch_of(items).lines
    ids = [item["event_id"].encode() for item in items]
    assert asked.body == b"".join(b'{"create":{"_id":"%b"}}\n%b\n' % pair for pair in zip(ids, lines, strict=True))


@pytest.mark.parametrize(("result", "error"), [(REJECTED, Throttled), (FULL, Unavailable), (NO_SHARD, Unavailable)])
async def test_cluster_that_takes_nothing_keeps_its_breaker_closed(
    server: ScriptedHttp, result: dict[str, Any], error: type[Exception]
) -> None:
    server.script = items_reply(result, result)
    with pytest.raises(error):
        await deliver(new_sink(server), [event(), event()])


@pytest.mark.parametrize("wish", ["9", "Mon, 01 Jan 2046 00:00:00 GMT"])
async def test_wish_to_wait_counts_as_an_outage(server: ScriptedHttp, wish: str) -> None:
    server.script = json_reply({"error": {"reason": "circuit breaker"}}, 429, **{"Retry-After": wish})
    with pytest.raises(Throttled, match="circuit breaker") as raised:
        await deliver(new_sink(server), [event()])
    assert raised.value.retry_after == (9 if wish == "9" else 3600)


@pytest.mark.parametrize(
    "step",
    [
        Reply(200, b"<html>hello</html>", {"Content-Type": "text/html"}),
        Reply(200, b"{not json", {"Content-Type": "application/json", **PRODUCT}),
        Reply(200, b"", {"Content-Type": "application/json", **PRODUCT}),
        json_reply([], **PRODUCT),
        json_reply({}, **PRODUCT),
        json_reply({"errors": False, "items": []}, **PRODUCT),
        json_reply({"errors": False, "items": [{"create": {"status": 201}}] * 2}),
        Reply(400, b"<html>The plain HTTP request was sent to HTTPS port</html>", {"Content-Type": "text/html"}),
        Reply(404, b"nothing here"),
        Reply(302, headers={"Location": "http://127.0.0.1:1/"}),
        Reply(500, b"oops"),
        Reply(503, b"<html>proxy</html>", {"Content-Type": "text/html"}),
        Reset(),
        Reset(10),
        Garbage(),
    ],
    ids=["html", "broken", "empty", "list", "nothing", "no-items", "another-product", "proxy-400", "404", "302", "500", "503",
         "reset", "reset-in-body", "garbage"],
)  # fmt: skip
async def test_answer_of_something_else_swallows_events_or_makes_dead_letters(server: ScriptedHttp, step: Step) -> None:
    server.script = step
    sink = new_sink(server)
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1"):
        await deliver(sink, [event(), event()])
    await sink.open()
    assert not (await sink.check()).ok
    await sink.close()


@pytest.mark.parametrize("body", [b"<html>upstream timed out</html>", b"\xff\xfe"])
async def test_status_of_a_proxy_is_hidden_by_its_page(server: ScriptedHttp, body: bytes) -> None:
    server.script = Reply(502, body, {"Content-Type": "text/html"})
    with pytest.raises(Unavailable, match="502 Bad Gateway"):
        await deliver(new_sink(server), [event()])


@pytest.mark.parametrize(("over", "requests"), [(-1, 2), (0, 1), (1, 1)])
async def test_request_is_larger_than_allowed_or_smaller_than_need_be(server: ScriptedHttp, over: int, requests: int) -> None:
    items = [event(message="m" * 1000) for _ in range(4)]
    await deliver(new_sink(server), items)
    exact = len(server.asked.pop().body)
    await deliver(new_sink(server, request_bytes=exact + over), items)
    assert len(server.asked) == requests
    assert all(len(asked.body) <= exact + over for asked in server.asked)


async def test_body_too_large_for_the_cluster_makes_dead_letters(server: ScriptedHttp) -> None:
    items = [event() for _ in range(10)]
    items[3]["message"] = "m" * 3000
    server.script = lambda asked: Reply(413) if len(asked.body) > 2500 else takes_all(asked)
    report = await deliver(new_sink(server), items)
    assert (report.delivered, [item.index for item in report.refused], report.retry) == (9, [3], [])
    assert "413" in report.refused[0].reason


async def test_outage_midway_loses_what_was_delivered(server: ScriptedHttp) -> None:
    items = [event(message="m" * 1000) for _ in range(6)]
    server.then(takes_all, Reply(503, headers={"Retry-After": "4"}))
    report = await deliver(new_sink(server, request_bytes=3000), items)
    assert (report.delivered, report.retry, report.retry_after) == (2, [2, 3, 4, 5], 4)


async def test_500_for_an_hour_makes_dead_letters_or_gives_up(server: ScriptedHttp, tmp_path: Path) -> None:
    """Through the agent's own delivery, with time running as fast as its pauses allow."""
    server.then(*[Reply(500, b"oops")] * 40)
    log = MemoryLog()
    log.add([event() for _ in range(20)])
    delivery = new_delivery(log, new_sink(server), tmp_path, backend_settings(probe_interval=0.001))
    task = asyncio.create_task(delivery.run())
    await until(lambda: delivery.lag_events == 0)
    delivery.stop()
    await task
    assert delivery.progress.refused == 0
    assert len(server.asked) == 41
    assert [json.loads(line)["event_id"] for line in server.asked[-1].body.splitlines()[1::2]] == log.ids()


async def test_expired_certificate_is_taken(tmp_path: Path) -> None:
    authority = TestAuthority(tmp_path)
    with ScriptedHttp(takes_all, certificate=authority.expired("127.0.0.1")) as server:
        sink = new_sink(server, tls=Tls(ca_file=authority.file))
        with pytest.raises(Unavailable, match="expired"):
            await deliver(sink, [event()])
        assert not server.asked


async def test_good_certificate_is_refused(tmp_path: Path) -> None:
    authority = TestAuthority(tmp_path)
    with ScriptedHttp(takes_all, certificate=authority.issue("127.0.0.1")) as server:
        assert (await deliver(new_sink(server, tls=Tls(ca_file=authority.file)), [event()])).delivered == 1


async def test_name_that_does_not_resolve_looks_like_a_dead_cluster() -> None:
    sink = ElkSink("elk", ElkConfig(url="http://no-such-host.invalid:9200"))
    with pytest.raises(Unavailable, match="DNS"):
        await deliver(sink, [event()])


async def test_cluster_without_security_fails_the_check(server: ScriptedHttp) -> None:
    """As one with xpack.security.enabled: false answers."""

    def answer(asked: Asked) -> Step:
        if asked.path.startswith("/_security"):
            told = "no handler found for uri [/_security/user/_has_privileges] and method [POST]"
            return json_reply({"error": told}, 400)
        return json_reply({}, **PRODUCT)

    server.script = answer
    sink = new_sink(server)
    await sink.open()
    health = await sink.check()
    await sink.close()
    assert health.ok, health.detail
