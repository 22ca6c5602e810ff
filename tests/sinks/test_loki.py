"""The Loki sink: the same tests on a double with the documented answers, always, and on the real Loki in long runs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from sinks.loki import LokiConfig, LokiSink
from sinks.loki_entries import nanoseconds
from tests.services.loki import Loki, LokiDouble
from tests.services.toxiproxy import Link, Toxiproxy
from tests.sinks.suite import SinkSuite, golden_events

DAY = 86_400 * 10**9
MOMENTS = sorted({nanoseconds(item["timestamp"]) for item in golden_events()})
FUTURE = "2100-01-01T00:00:00Z"


def windows() -> list[tuple[int, int]]:
    """Windows of time around the golden events."""
    found: list[tuple[int, int]] = []
    for moment in MOMENTS:
        if not found or moment >= found[-1][1]:
            found.append((moment, moment + DAY))
    return found


class LokiTarget:
    refuses_events = True
    has_credential = True
    has_server = True

    def __init__(self, server: Loki | LokiDouble, link: Link) -> None:
        self.server = server
        self.link = link
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

    def as_stored(self, item: dict[str, Any]) -> dict[str, Any]:
        return item

    def stop(self) -> None:
        self.link.cut()

    def start(self) -> None:
        self.link.heal()

    def hang(self) -> None:
        self.link.poison("timeout", timeout=0)


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
