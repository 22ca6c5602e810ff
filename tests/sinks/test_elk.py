"""The Elasticsearch sink on a real cluster with security on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from contract.settings import Secret
from sinks.base import SinkBatch, Unavailable
from sinks.elk import ElkConfig, ElkSink
from sinks.elk_index import TEMPLATE_VERSION, IndexName
from tests.services.base import free_port
from tests.services.elasticsearch import Elasticsearch
from tests.services.toxiproxy import Link, Toxiproxy
from tests.sidecar.harness import event
from tests.sinks.suite import SPOOL_ID, SinkSuite, batch_of, golden_events

LONG_KEY = "k" * 33_000
"""A key of `attributes` that is longer than any term of an index may be."""


def new_sink(server: Elasticsearch, index: str, *, port: int | None = None, **settings: Any) -> ElkSink:
    credential = {} if "api_key" in settings else {"username": server.username, "password": Secret(server.password)}
    url = settings.pop("url", None) or f"http://127.0.0.1:{port or server.port}"
    return ElkSink("elk", ElkConfig(**{"url": url, "index": index, **credential, **settings}))


async def deliver(sink: ElkSink, batch: SinkBatch) -> Any:
    await sink.open()
    try:
        return await sink.deliver(batch)
    finally:
        await sink.close()


def sources(server: Elasticsearch, pattern: str) -> list[dict[str, Any]]:
    return [hit["_source"] for hit in server.documents(pattern)]


class ClusterTarget:
    refuses_events = True
    has_credential = True
    has_server = True

    def __init__(self, server: Elasticsearch, link: Link, pattern: str) -> None:
        self.server = server
        self.link = link
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

    def stop(self) -> None:
        self.link.cut()

    def start(self) -> None:
        self.link.heal()

    def hang(self) -> None:
        self.link.poison("timeout", timeout=0)


class TestElk(SinkSuite):
    @pytest.fixture(params=["", "-%Y.%m"], ids=["plain", "dated"])
    def target(self, request: pytest.FixtureRequest, elasticsearch: Elasticsearch, toxiproxy: Toxiproxy) -> ClusterTarget:
        index = elasticsearch.fresh_index()
        return ClusterTarget(elasticsearch, toxiproxy.link(index, elasticsearch.port), request.param)
