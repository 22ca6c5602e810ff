"""One gateway for most tests of this folder, over a real PostgreSQL and a local lake, with tokens of every kind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.federation.gateway_service import GatewayService
from tests.services.postgres import Postgres15

TOKENS = {
    "all": (["ingest", "query", "admin"], None),
    "sender": (["ingest"], None),
    "reader": (["query"], None),
    "fab1": (["ingest", "query"], ["fab1"]),
    "fab2": (["ingest", "query"], ["fab2"]),
    "nowhere": (["ingest", "query"], []),
}


@pytest.fixture(scope="session")
def gateway(postgres15: Postgres15) -> Iterator[GatewayService]:
    """Short deadlines, so that what must be late is late soon."""
    sections = {
        "gateway": {"body_timeout": "2s", "limits": {"rate": 10_000, "burst": 10_000}},
        "engines": {"duckdb": {"timeout": "5s", "memory_limit": "256MiB"}},
    }
    with GatewayService(postgres15.fresh_database(), TOKENS, **sections) as service:
        yield service
