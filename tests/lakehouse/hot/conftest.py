"""A migrated store on every kind of server, and events to put into it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from contract.settings import Secret
from lakehouse.config import HotConfig
from lakehouse.hot.writer import HotWriter
from tests.lakehouse.hot.events import NOW
from tests.services.postgres import PostgresService

SERVERS = ("postgres15", "embedded_postgres", "timescale_apache")


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest) -> PostgresService:
    """One of the kinds of PostgreSQL that the hot store runs on."""
    service: PostgresService = request.getfixturevalue(request.param)
    return service


@pytest.fixture
def dsn(server: PostgresService) -> Iterator[str]:
    """A migrated store without events."""
    made = server.fresh_store()
    yield made
    server.drop(made)


@pytest.fixture
def config(dsn: str) -> HotConfig:
    return HotConfig(dsn=Secret(dsn))


@pytest.fixture
async def writer(config: HotConfig) -> AsyncIterator[HotWriter]:
    """A writer whose today is NOW's day."""
    async with await HotWriter.open(config, clock=lambda: NOW) as opened:
        yield opened
