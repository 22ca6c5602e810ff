"""The managed sink: the same suite against the real gateway over a real PostgreSQL."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator, Sequence
from typing import Any

import psycopg
import pytest

from contract import columns
from contract.codec import decode_event
from contract.settings import Secret
from lakehouse.hot import reader
from sinks.managed import ManagedConfig, ManagedSink
from tests.federation.gateway_service import GatewayService
from tests.services.postgres import Postgres15
from tests.sidecar.harness import event
from tests.sinks.suite import SinkSuite, batch_of, golden_events

SITES = sorted({item["site_id"] for item in golden_events()})
ELSEWHERE = "elsewhere"


class RealGateway:
    """Its token may send for the sites of the golden events only."""

    refuses_events = True
    has_credential = True
    has_server = True

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.service = GatewayService(dsn, {"agent": (["ingest"], SITES)}, gateway={"limits": {"rate": 10_000, "burst": 10_000}})
        self.service.start()

    def sink(self, *, credential: str | None = None) -> ManagedSink:
        token = Secret(credential or self.service.plain["agent"])
        return ManagedSink("managed", ManagedConfig(url=self.service.url, token=token))

    async def read_back(self) -> list[dict[str, Any]]:
        return [columns.unflatten(row) for row in reader.read_since(self.dsn, 0, 100_000).table.to_pylist()]

    def refuse(self, items: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{**item, "site_id": ELSEWHERE} for item in items]

    def as_stored(self, item: dict[str, Any]) -> dict[str, Any]:
        """The contract's own normal form: what its flat layout keeps."""
        flat = columns.flatten(decode_event(json.dumps(item).encode()))
        return columns.unflatten(dict(zip(columns.NAMES, flat, strict=True)))

    def stop(self) -> None:
        self.service.kill()

    def start(self) -> None:
        self.awake()
        if self.service.process is None or self.service.process.poll() is not None:
            self.service.start()

    def hang(self) -> None:
        self._signal(signal.SIGSTOP)

    def awake(self) -> None:
        self._signal(signal.SIGCONT)

    def empty(self) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute("DELETE FROM trackmate.events")

    def _signal(self, number: signal.Signals) -> None:
        if self.service.process is not None and self.service.process.poll() is None:
            os.kill(self.service.process.pid, number)


@pytest.fixture(scope="module")
def real_gateway(postgres15: Postgres15) -> Iterator[RealGateway]:
    gateway = RealGateway(postgres15.fresh_store())
    yield gateway
    gateway.awake()
    gateway.service.stop()


class TestManagedOnTheGateway(SinkSuite):
    @pytest.fixture
    def target(self, real_gateway: RealGateway) -> RealGateway:
        real_gateway.start()
        real_gateway.empty()
        return real_gateway


async def test_batch_of_another_site_blocks_the_way_for_ever(real_gateway: RealGateway) -> None:
    real_gateway.start()
    real_gateway.empty()
    sink = real_gateway.sink()
    await sink.open()
    report = await sink.deliver(batch_of([event(site_id=ELSEWHERE) for _ in range(3)]))
    await sink.close()
    assert (report.delivered, [item.index for item in report.refused]) == (0, [0, 1, 2])
    assert "site" in report.refused[0].reason
