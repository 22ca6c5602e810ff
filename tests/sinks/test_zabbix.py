"""The Zabbix sink on a real server: the suite, and how items and values come to be there."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from sinks.zabbix import ZabbixConfig, ZabbixSink
from sinks.zabbix_items import MAX_TEXT_BYTES
from tests.services.base import wait_until
from tests.services.toxiproxy import Toxiproxy
from tests.services.zabbix import Zabbix
from tests.sinks.suite import SinkSuite, batch_of, golden_events
from tests.sinks.zabbix_target import (
    NOW,
    ZabbixTarget,
    config_of,
    deliver,
    host_with_template,
    metric,
    recent,
    stored,
    template_sink,
)  # fmt: skip

ODD_NAMES = [
    "a,b", "[x", '"q', 'q"q', " lead", "trail ", "b]", "back\\", 'a\\"b', "%0A", "line\nbreak", "{$M}", "{#L}", "é⚙", "$1",
    "*", "n" * 250,
]  # fmt: skip


@pytest.fixture
def target(zabbix: Zabbix, toxiproxy: Toxiproxy) -> Iterator[ZabbixTarget]:
    link = toxiproxy.link(zabbix.fresh_name().replace(" ", "-"), zabbix.port)
    yield ZabbixTarget(zabbix, link)
    link.cut()


class TestZabbix(SinkSuite):
    @pytest.fixture
    def target(self, zabbix: Zabbix, toxiproxy: Toxiproxy) -> Iterator[ZabbixTarget]:
        link = toxiproxy.link(zabbix.fresh_name().replace(" ", "-"), zabbix.port)
        yield ZabbixTarget(zabbix, link)
        link.cut()


async def test_event_beyond_zabbix_is_dropped_by_it_without_a_word(target: ZabbixTarget) -> None:
    beyond = [event for event in golden_events() if not target.takes(event)]
    assert len(beyond) == 4
    sink = target.sink()
    await sink.open()
    report = await sink.deliver(batch_of(beyond))
    await sink.close()
    assert [item.event_id for item in report.refused] == [event["event_id"] for event in beyond]
    assert all(any(word in item.reason for word in ("older", "2038", "beyond what Zabbix")) for item in report.refused)
    assert await target.read_back() == []


# --------------------------------------------------------------------------------------------- items, however they come to be

EVERY_ITEM = [
    {"kind": "start", "entities": {"tool": "ETCH-01"}},
    {"kind": "progress", "progress": 0.25, "entities": {"tool": "ETCH-01"}},
    {"kind": "finish", "status": "ok", "duration_ms": 1500, "metrics": {"depth": 1.5}, "entities": {"tool": "ETCH-01"}},
    {"kind": "state", "state": {"to": "productive"}},
    {"kind": "log", "message": "hello"},
]


async def test_item_of_the_template_differs_from_one_made_over_the_api(zabbix: Zabbix, target: ZabbixTarget) -> None:
    events = [recent(50 - place, **fields) for place, fields in enumerate(EVERY_ITEM)]
    host = host_with_template(zabbix)
    for sink in (target.sink(), template_sink(zabbix, host)):
        await sink.open()
        assert (await deliver(sink, events)).delivered == len(events)
        await sink.close()
    made, discovered = (
        {
            item["key_"]: (
                item["name"], item["type"], item["value_type"], item["units"], item["valuemap"] and item["valuemap"]["mappings"],
                sorted((tag["tag"], tag["value"]) for tag in item["tags"] if tag["value"]),
            )
            for item in zabbix.items(name)
            if item["key_"] != "trackmate.check"
        }
        for name in (target.host, host)
    )  # fmt: skip
    assert made == discovered
    assert len(made) == 6
    assert stored(zabbix, target.host) == stored(zabbix, host)


async def test_name_that_zabbix_must_quote_makes_another_key(zabbix: Zabbix, target: ZabbixTarget) -> None:
    events = [metric(place, 100 - place, name=name, entities={"tool": name}) for place, name in enumerate(ODD_NAMES)]
    host = host_with_template(zabbix)
    for sink in (target.sink(), template_sink(zabbix, host, item_wait=20)):
        await sink.open()
        report = await deliver(sink, events)
        await sink.close()
        assert (report.delivered, report.refused, report.retry) == (len(events), [], [])
    found = stored(zabbix, host)
    assert sorted(found.values()) == sorted([[str(place)] for place in range(len(ODD_NAMES))])
    assert found == stored(zabbix, target.host)


async def test_text_is_cut_by_zabbix_or_refused(zabbix: Zabbix, target: ZabbixTarget) -> None:
    frame = len(recent()["name"]) + len(": ") + len(f" [event_id={recent()['event_id']}]\nE: ")
    lengths = [MAX_TEXT_BYTES - 1, MAX_TEXT_BYTES, MAX_TEXT_BYTES + 1]
    events = [
        recent(50 - place, kind="error", message="", error={"type": "E", "message": "x" * (length - frame)})
        for place, length in enumerate(lengths)
    ]
    events.append(recent(1, kind="error", message="⚙" * 2000, error={"type": "E", "message": "⚙" * 30_000}))
    sink = target.sink()
    await sink.open()
    await deliver(sink, events)
    await sink.close()
    (values,) = stored(zabbix, target.host).values()
    assert [len(value.encode()) for value in values[:3]] == [MAX_TEXT_BYTES - 1, MAX_TEXT_BYTES, MAX_TEXT_BYTES]
    assert values[1].endswith("x")
    assert values[2].endswith(f"… ({MAX_TEXT_BYTES + 1} bytes in all)")
    assert MAX_TEXT_BYTES - 3 < len(values[3].encode()) <= MAX_TEXT_BYTES


async def test_number_at_the_edge_is_dropped(zabbix: Zabbix, target: ZabbixTarget) -> None:
    numbers = [1e308, -1e308, math.nextafter(1e308, 0), 5e-324, -0.0, 0.1 + 0.2, 123456789.123456789]
    beyond = [math.nextafter(1e308, math.inf), -math.nextafter(1e308, math.inf)]
    sink = target.sink()
    await sink.open()
    report = await deliver(sink, [metric(number, 90 - place) for place, number in enumerate(numbers + beyond)])
    await sink.close()
    assert [refused.index for refused in report.refused] == [len(numbers), len(numbers) + 1]
    (values,) = stored(zabbix, target.host).values()
    assert [float(value) for value in values] == numbers


async def test_values_of_one_microsecond_become_one(zabbix: Zabbix, target: ZabbixTarget) -> None:
    emitter = "11111111-2222-4333-8444-555555555555"
    events = [metric(number, emitter={"id": emitter, "seq": number}) for number in range(1, 400)]
    events += [metric(number) for number in range(400, 800)]
    for batch in (events[:500], events, events[300:]):
        sink = target.sink()
        await sink.open()
        assert (await deliver(sink, batch)).delivered == len(batch)
        if batch is events:
            assert (await deliver(sink, batch)).delivered == len(batch)
        await sink.close()
    zabbix.flush(2000)
    found = [value["value"] for _, value in zabbix.history(target.host)]
    assert set(found) == {str(number) for number in range(1, 800)}
    assert [number for number, count in Counter(found).items() if count > 1 and int(number) < 400] == [], (
        "numbered ones stand once"
    )


async def test_repeated_value_counts_twice_in_trends(zabbix: Zabbix, target: ZabbixTarget) -> None:
    hour = NOW // 3600 * 3600 - 7200
    first = metric(10, NOW - hour - 5)
    for items in ([first], [first], [metric(20, NOW - hour - 6)], [metric(1, NOW - hour - 3605)]):
        sink = target.sink()
        await sink.open()
        await deliver(sink, items)
        await sink.close()
        zabbix.flush()
    (item,) = zabbix.items(target.host)

    def trends() -> Any:
        return zabbix.call("trend.get", {"output": "extend", "itemids": [item["itemid"]]})

    (trend,) = wait_until(trends, seconds=30, what="the trend of an hour that is over")
    assert (trend["num"], trend["value_avg"]) == ("2", "15")


async def test_event_older_than_its_items_history_is_dropped_in_silence(zabbix: Zabbix, target: ZabbixTarget) -> None:
    day = 86_400
    sink = ZabbixSink("zabbix", ZabbixConfig(**{**config_of(target), "history_days": 2}))
    await sink.open()
    report = await deliver(sink, [metric(1, day), metric(2, 2 * day + 300)])
    await sink.close()
    assert [(refused.index, "older than the 2 days" in refused.reason) for refused in report.refused] == [(1, True)]
    assert list(stored(zabbix, target.host).values()) == [["1"]]


async def test_item_too_many_is_made(zabbix: Zabbix, target: ZabbixTarget) -> None:
    host = host_with_template(zabbix)
    many = {"max_items": 3}
    for name, sink in (
        (target.host, ZabbixSink("zabbix", ZabbixConfig(**{**config_of(target), **many}))),
        (host, template_sink(zabbix, host, **many)),
    ):
        await sink.open()
        report = await deliver(sink, [metric(n, metrics={f"m{n}": n}) for n in range(5)])
        again = await deliver(sink, [metric(n, 30, metrics={f"m{n}": n}) for n in range(5)])
        await sink.close()
        assert [(len(r.refused), "max_items" in r.refused[0].reason) for r in (report, again)] == [(2, True), (2, True)]
        assert len(stored(zabbix, name)) == 3


async def test_event_without_a_value_holds_up_the_others_or_is_not_counted(target: ZabbixTarget) -> None:
    sink = target.sink()
    await sink.open()
    report = await deliver(sink, [recent(kind="metric"), recent(kind="progress"), recent()])
    assert (report.delivered, report.refused) == (3, [])
    assert sink.valueless == 2
    assert "2 events had no value for Zabbix" in (await sink.check()).detail
    await sink.close()
