"""The Elasticsearch sink on a real cluster with security on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from contract.errors import ConfigError
from contract.settings import Secret
from sinks import registry
from sinks.base import Unavailable
from sinks.elk import ElkConfig, ElkSink
from sinks.elk_index import TEMPLATE_VERSION, IndexName
from tests.services.base import free_port
from tests.services.elasticsearch import Elasticsearch
from tests.services.toxiproxy import Link, Toxiproxy
from tests.sidecar.harness import event
from tests.sinks.documented import documented_backend
from tests.sinks.suite import LinkedTarget, SinkSuite, batch_of, deliver

LONG_KEY = "k" * 33_000
"""A key of `attributes` that is longer than any term of an index may be."""


def new_sink(server: Elasticsearch, index: str, *, port: int | None = None, **settings: Any) -> ElkSink:
    credential = {} if "api_key" in settings else {"username": server.username, "password": Secret(server.password)}
    url = settings.pop("url", None) or f"http://127.0.0.1:{port or server.port}"
    return ElkSink("elk", ElkConfig(**{"url": url, "index": index, **credential, **settings}))


def sources(server: Elasticsearch, pattern: str) -> list[dict[str, Any]]:
    return [hit["_source"] for hit in server.documents(pattern)]


class ClusterTarget(LinkedTarget):
    def __init__(self, server: Elasticsearch, link: Link, pattern: str) -> None:
        super().__init__(link)
        self.server = server
        self.prefix = server.fresh_index()
        self.pattern = self.prefix + pattern

    def sink(self, *, credential: str | None = None) -> ElkSink:
        wrong = {"password": Secret(credential)} if credential else {}
        return new_sink(self.server, self.pattern, port=self.link.port, **wrong)

    async def read_back(self) -> list[dict[str, Any]]:
        return sources(self.server, self.prefix + "*")

    def refuse(self, items: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{**item, "attributes": {LONG_KEY: 1}} for item in items]

    def as_stored(self, item: dict[str, Any]) -> dict[str, Any]:
        """A small t or z, which Elasticsearch does not read, becomes a large one; all else stays."""
        return {**item, "timestamp": item["timestamp"].upper()}


class TestElk(SinkSuite):
    """With a date in the index's name, which is the harder case; the tests below are on one index."""

    @pytest.fixture
    def target(self, elasticsearch: Elasticsearch, toxiproxy: Toxiproxy) -> ClusterTarget:
        index = elasticsearch.fresh_index()
        return ClusterTarget(elasticsearch, toxiproxy.link(index, elasticsearch.port), "-%Y.%m")


async def test_late_event_delivered_again_lands_in_another_index(elasticsearch: Elasticsearch) -> None:
    """The index follows the event's own moment in UTC, whatever the clock or the offset says."""
    prefix = elasticsearch.fresh_index()
    batch = batch_of(
        [event(timestamp=moment) for moment in ("2026-01-31T23:30:00-05:00", "2026-02-01t00:30:00+05:30", "1970-01-01T00:00:00Z")]
    )
    for _ in range(2):
        assert (await deliver(new_sink(elasticsearch, f"{prefix}-%Y.%m.%d"), batch)).delivered == 3
    places = sorted(hit["_index"].removeprefix(prefix) for hit in elasticsearch.documents(f"{prefix}*"))
    assert places == ["-1970.01.01", "-2026.01.31", "-2026.02.01"]


async def test_field_has_no_type_or_values_of_many_types_conflict(elasticsearch: Elasticsearch) -> None:
    index = elasticsearch.fresh_index()
    items = [
        event(attributes={"a": 1}, metrics={"t": 1, "t.max": 2}, entities={"tool": "E1", "tool.part": "pump"}),
        event(attributes={"a": {"b": ["x", None, 2.5]}}, metrics={"t": 1.5}),
        event(attributes={"a": "x" * 40_000}, timestamp="2026-01-31T12:00:00.123456789Z"),
        event(metrics={f"m{number}": number for number in range(1500)}),
    ]
    assert (await deliver(new_sink(elasticsearch, index), batch_of(items))).delivered == 4
    elasticsearch.call("POST", f"/{index}/_refresh")

    def hits(query: dict[str, Any]) -> int:
        found: int = elasticsearch.call("POST", f"/{index}/_search", {"query": query})["hits"]["total"]["value"]
        return found

    assert hits({"term": {"attributes.a": "1"}}) == 1
    assert hits({"term": {"attributes.a.b": "2.5"}}) == 1
    assert hits({"range": {"metrics.t.max": {"gte": 2}}}) == 1
    assert hits({"term": {"entities.tool.part": "pump"}}) == 1
    assert hits({"range": {"timestamp": {"gte": "2026-01-31T12:00:00.123456788Z", "lt": "2026-01-31T12:00:00.123456790Z"}}}) == 1


async def test_template_of_the_site_is_overwritten(elasticsearch: Elasticsearch) -> None:
    index = elasticsearch.fresh_index()
    name = IndexName(index).template
    assert (await deliver(new_sink(elasticsearch, index, manage_template=False), batch_of([event()]))).delivered == 1
    elasticsearch.call("GET", f"/_index_template/{name}", allow=(404,))
    own = {"index_patterns": [index], "version": TEMPLATE_VERSION + 1, "priority": 151}
    elasticsearch.call("PUT", f"/_index_template/{name}", own)
    assert (await deliver(new_sink(elasticsearch, index), batch_of([event()]))).delivered == 1
    (held,) = elasticsearch.call("GET", f"/_index_template/{name}")["index_templates"]
    assert held["index_template"]["version"] == TEMPLATE_VERSION + 1


async def test_one_bad_event_in_a_thousand_takes_the_others_with_it(elasticsearch: Elasticsearch) -> None:
    index = elasticsearch.fresh_index()
    items = [event() for _ in range(1000)]
    items[617]["attributes"] = {LONG_KEY: 1}
    report = await deliver(new_sink(elasticsearch, index), batch_of(items))
    assert (report.delivered, [item.index for item in report.refused], report.retry) == (999, [617], [])
    assert "immense" in report.refused[0].reason
    assert len(elasticsearch.documents(index)) == 999


@pytest.mark.parametrize(
    ("block", "words"),
    [("read_only", "read-only"), ("read_only_allow_delete", "disk is full"), ("write", "block"), ("closed", "_open")],
)
async def test_blocked_index_makes_dead_letters(elasticsearch: Elasticsearch, block: str, words: str) -> None:
    index = elasticsearch.fresh_index()
    sink = new_sink(elasticsearch, index)
    await sink.open()
    await sink.deliver(batch_of([event()]))
    if block == "closed":
        elasticsearch.call("POST", f"/{index}/_close")
    else:
        elasticsearch.call("PUT", f"/{index}/_settings", {f"index.blocks.{block}": True})
    with pytest.raises(Unavailable, match=words):
        await sink.deliver(batch_of([event()]))
    health = await sink.check()
    assert not health.ok
    assert index in health.detail
    if block == "closed":
        elasticsearch.call("POST", f"/{index}/_open?wait_for_active_shards=1")
    else:
        elasticsearch.call("PUT", f"/{index}/_settings", {f"index.blocks.{block}": None})
    assert (await sink.deliver(batch_of([event()]))).delivered == 1
    assert (await sink.check()).ok
    await sink.close()


async def test_one_full_index_of_several_stops_all(elasticsearch: Elasticsearch) -> None:
    prefix = elasticsearch.fresh_index()
    sink = new_sink(elasticsearch, prefix + "-%Y")
    await sink.open()
    await sink.deliver(batch_of([event(timestamp="2025-07-01T00:00:00Z")]))
    elasticsearch.call("PUT", f"/{prefix}-2025/_settings", {"index.blocks.read_only_allow_delete": True})
    report = await sink.deliver(batch_of([event(timestamp=f"{year}-07-01T00:00:00Z") for year in (2024, 2025, 2026)]))
    await sink.close()
    assert (report.delivered, report.refused, report.retry) == (2, [], [1])
    assert "disk is full" in report.message


async def test_key_revoked_midway_makes_dead_letters(elasticsearch: Elasticsearch) -> None:
    index = elasticsearch.fresh_index()
    key_id, key = elasticsearch.api_key()
    sink = new_sink(elasticsearch, index, api_key=Secret(key))
    await sink.open()
    assert (await sink.deliver(batch_of([event()]))).delivered == 1
    elasticsearch.revoke(key_id)
    with pytest.raises(Unavailable, match="revoked") as error:
        await sink.deliver(batch_of([event()]))
    health = await sink.check()
    await sink.close()
    assert not health.ok
    assert key not in health.detail + str(error.value)


@pytest.mark.parametrize("lacking", ["create_doc", "auto_configure", "manage_index_templates"])
async def test_missing_privilege_is_found_by_the_first_event(elasticsearch: Elasticsearch, lacking: str) -> None:
    index = elasticsearch.fresh_index()
    held = [privilege for privilege in ("create_doc", "auto_configure") if privilege != lacking]
    cluster = [] if lacking == "manage_index_templates" else ["manage_index_templates"]
    _, key = elasticsearch.api_key({"cluster": cluster, "indices": [{"names": [index], "privileges": held}]})
    sink = new_sink(elasticsearch, index, api_key=Secret(key))
    await sink.open()
    health = await sink.check()
    assert not health.ok
    assert lacking in health.detail
    with pytest.raises(Unavailable, match=lacking):
        await sink.deliver(batch_of([event()]))
    await sink.close()


async def test_least_privileges_do_not_suffice(elasticsearch: Elasticsearch) -> None:
    index = elasticsearch.fresh_index()
    _, key = elasticsearch.api_key(
        {"cluster": ["manage_index_templates"], "indices": [{"names": [index], "privileges": ["create_doc", "auto_configure"]}]}
    )
    sink = new_sink(elasticsearch, index, api_key=Secret(key))
    await sink.open()
    assert (await sink.check()).ok
    assert (await sink.deliver(batch_of([event()]))).delivered == 1
    await sink.close()


async def test_dead_node_stops_delivery_though_another_lives(elasticsearch: Elasticsearch) -> None:
    index = elasticsearch.fresh_index()
    urls = [f"http://127.0.0.1:{free_port()}", f"http://127.0.0.1:{elasticsearch.port}"]
    sink = new_sink(elasticsearch, index, url=urls)
    await sink.open()
    for _ in range(4):
        assert (await sink.deliver(batch_of([event()]))).delivered == 1
    assert (await sink.check()).ok
    await sink.close()


@pytest.mark.parametrize("latency", [1000, pytest.param(30_000, marks=pytest.mark.full)])
async def test_slow_way_never_gets_an_event(elasticsearch: Elasticsearch, toxiproxy: Toxiproxy, latency: int) -> None:
    index = elasticsearch.fresh_index()
    link = toxiproxy.link(index, elasticsearch.port)
    link.poison("latency", latency=latency)
    sink = new_sink(elasticsearch, index, port=link.port, read_timeout=60, connect_timeout=60, manage_template=False)
    assert (await deliver(sink, batch_of([event()]))).delivered == 1


async def test_answer_cut_in_the_middle_makes_two(elasticsearch: Elasticsearch, toxiproxy: Toxiproxy) -> None:
    index = elasticsearch.fresh_index()
    link = toxiproxy.link(index, elasticsearch.port)
    sink = new_sink(elasticsearch, index, port=link.port)
    await sink.open()
    batch = batch_of([event() for _ in range(500)])
    await sink.deliver(batch.subset([0]))
    link.poison("limit_data", bytes=300)
    with pytest.raises(Unavailable):
        await sink.deliver(batch)
    link.heal()
    assert (await sink.deliver(batch)).delivered == 500
    await sink.close()
    assert len(elasticsearch.documents(index)) == 500


def test_documented_configuration_does_not_load() -> None:
    config = registry.parse_config("elk", documented_backend("elk"))
    assert isinstance(config, ElkConfig)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"url": "http://u:p@example.test:9200"}, "url"),
        ({"url": []}, "url"),
        ({"index": "Monitoring"}, "lower case"),
        ({"index": "a,b"}, "must not contain"),
        ({"index": "-a"}, "begin with"),
        ({"index": "monitoring-%y"}, "%y"),
        ({"index": "i" * 256}, "255 bytes"),
        ({"index": "ü" * 128}, "255 bytes"),
        ({"api_key": "k", "username": "u"}, "not both"),
        ({"request_bytes": 1023}, "1024"),
        ({"request_bytes": 100_000_001}, "100000000"),
        ({"indices": "x"}, "indices"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_mistake_is_found_when_the_first_event_comes(config: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as error:
        registry.parse_config("elk", {"url": "http://example.test:9200", **config})
    assert words in str(error.value)


@pytest.mark.parametrize("index", ["i" * 254, "i" * 255, "monitoring", "monitoring-%Y.%m", "fab1_events-%G-w%V"])
def test_good_name_of_an_index_is_refused(index: str) -> None:
    assert registry.parse_config("elk", {"url": "http://example.test:9200", "index": index})


def test_configuration_as_published_is_refused() -> None:
    block = {"url": "http://elasticsearch:9200", "index": "monitoring", "username": "u", "password": "p"}
    config = registry.parse_config("elk", block)
    assert isinstance(config, ElkConfig)
    assert "'p'" not in repr(config)
