"""Fixtures that all tests share: real servers, each started only when a test asks for it.

What tests take apart in databases, buckets, topics or indices of their own is one server for the whole run (`shared`). PostgreSQL
is one for each worker: a transaction that one test keeps open would hold back what another one waits for.
"""

from __future__ import annotations

from collections.abc import Iterator

import hypothesis  # noqa: F401 - its pytest plugin imports it at the very end otherwise, where CPython 3.11 may trip over it
import pytest

from tests.services import shared as run_of_tests
from tests.services.elasticsearch import Elasticsearch
from tests.services.kafka import KafkaService
from tests.services.loki import Loki
from tests.services.mariadb import MariaDb
from tests.services.mongo import MongoService
from tests.services.moto import Moto
from tests.services.pglite import PgliteTimescale
from tests.services.postgres import EmbeddedPostgresService, Postgres15
from tests.services.rabbitmq import RabbitMq
from tests.services.shared import shared
from tests.services.timescale import TimescaleApache
from tests.services.toxiproxy import Toxiproxy
from tests.services.versitygw import VersityGw
from tests.services.zabbix import Zabbix

LONG_SECONDS = 3600
"""A long campaign may take so much time unless it says otherwise."""


@pytest.fixture(scope="session")
def postgres15() -> Iterator[Postgres15]:
    """Debian's plain PostgreSQL 15."""
    with Postgres15() as server:
        yield server


@pytest.fixture(scope="session")
def embedded_postgres() -> Iterator[EmbeddedPostgresService]:
    """The PostgreSQL that `trackmate up` starts."""
    with EmbeddedPostgresService() as server:
        yield server


@pytest.fixture(scope="session")
def timescale_apache() -> Iterator[TimescaleApache]:
    """TimescaleDB's Apache edition on PostgreSQL 17."""
    with TimescaleApache() as server:
        yield server


@pytest.fixture(scope="session")
def versitygw() -> Iterator[VersityGw]:
    """An S3 server."""
    with shared(VersityGw) as server:
        yield server


@pytest.fixture(scope="session")
def pglite_timescale() -> Iterator[PgliteTimescale]:
    """TimescaleDB's community features, in WebAssembly."""
    with PgliteTimescale() as server:
        yield server


@pytest.fixture(scope="session")
def kafka() -> Iterator[KafkaService]:
    """A Kafka broker."""
    with shared(KafkaService) as server:
        yield server


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[RabbitMq]:
    """A RabbitMQ broker."""
    with shared(RabbitMq) as server:
        yield server


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariaDb]:
    """MariaDB."""
    with shared(MariaDb) as server:
        yield server


@pytest.fixture(scope="session")
def mongo() -> Iterator[MongoService]:
    """What speaks MongoDB's protocol."""
    with shared(MongoService) as server:
        yield server


@pytest.fixture(scope="session")
def toxiproxy() -> Iterator[Toxiproxy]:
    """TCP proxies with faults."""
    with Toxiproxy() as server:
        yield server


@pytest.fixture(scope="session")
def moto() -> Iterator[Moto]:
    """SQS, CloudWatch and CloudWatch Logs."""
    with shared(Moto) as server:
        yield server


@pytest.fixture(scope="session")
def elasticsearch() -> Iterator[Elasticsearch]:
    """Elasticsearch with security on."""
    with shared(Elasticsearch) as server:
        yield server


@pytest.fixture(scope="session")
def zabbix() -> Iterator[Zabbix]:
    """A Zabbix server with its API."""
    with shared(Zabbix) as server:
        yield server


@pytest.fixture(scope="session")
def loki() -> Iterator[Loki]:
    """Grafana Loki; building it takes minutes, so only long runs ask for it."""
    with Loki() as server:
        yield server


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give long campaigns time: beside each other they take several times what each takes alone."""
    for item in items:
        if item.get_closest_marker("full") is not None and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(LONG_SECONDS))


def pytest_configure() -> None:
    """Begin the run before the workers are started, so that they all know of it."""
    run_of_tests.begin_run()


def pytest_unconfigure() -> None:
    """End the servers of the run, in the process that began it."""
    run_of_tests.end_run()
