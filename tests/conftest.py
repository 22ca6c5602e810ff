"""Fixtures that every part's tests share: real servers, each started once a session and only if a test asks for it."""

from __future__ import annotations

from collections.abc import Iterator

import hypothesis  # noqa: F401 - its pytest plugin imports it at the very end otherwise, where CPython 3.11 may trip over it
import pytest

from tests.services.elasticsearch import Elasticsearch
from tests.services.kafka import KafkaService
from tests.services.mariadb import MariaDb
from tests.services.mongo import MongoService
from tests.services.moto import Moto
from tests.services.pglite import PgliteTimescale
from tests.services.postgres import EmbeddedPostgresService, Postgres15
from tests.services.rabbitmq import RabbitMq
from tests.services.timescale import TimescaleApache
from tests.services.toxiproxy import Toxiproxy
from tests.services.versitygw import VersityGw
from tests.services.zabbix import Zabbix


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
    with VersityGw() as server:
        yield server


@pytest.fixture(scope="session")
def pglite_timescale() -> Iterator[PgliteTimescale]:
    """TimescaleDB's community features, in WebAssembly."""
    with PgliteTimescale() as server:
        yield server


@pytest.fixture(scope="session")
def kafka() -> Iterator[KafkaService]:
    """A Kafka broker."""
    with KafkaService() as server:
        yield server


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[RabbitMq]:
    """A RabbitMQ broker."""
    with RabbitMq() as server:
        yield server


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariaDb]:
    """MariaDB."""
    with MariaDb() as server:
        yield server


@pytest.fixture(scope="session")
def mongo() -> Iterator[MongoService]:
    """What speaks MongoDB's protocol."""
    with MongoService() as server:
        yield server


@pytest.fixture(scope="session")
def toxiproxy() -> Iterator[Toxiproxy]:
    """TCP proxies with faults."""
    with Toxiproxy() as server:
        yield server


@pytest.fixture(scope="session")
def moto() -> Iterator[Moto]:
    """SQS, CloudWatch and CloudWatch Logs."""
    with Moto() as server:
        yield server


@pytest.fixture(scope="session")
def elasticsearch() -> Iterator[Elasticsearch]:
    """Elasticsearch with security on."""
    with Elasticsearch() as server:
        yield server


@pytest.fixture(scope="session")
def zabbix() -> Iterator[Zabbix]:
    """A Zabbix server with its API."""
    with Zabbix() as server:
        yield server
