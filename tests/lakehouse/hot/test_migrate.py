"""Migrations: run at every start, by several processes at once, on every level."""

from __future__ import annotations

import threading
from typing import Any

import psycopg
import pytest

from contract.columns import NAMES
from lakehouse.hot import levels
from lakehouse.hot.errors import HotStoreError, HotStoreUnavailable
from lakehouse.hot.migrate import migrate
from lakehouse.hot.rows import EVENT_COLUMNS
from tests.services.base import free_port
from tests.services.postgres import PostgresService


@pytest.mark.parametrize(
    ("name", "level"), [("postgres15", "plain"), ("embedded_postgres", "plain"), ("timescale_apache", "apache")]
)
def test_a_level_is_judged_by_the_extensions_presence(request: pytest.FixtureRequest, name: str, level: str) -> None:
    server: PostgresService = request.getfixturevalue(name)
    dsn = server.fresh_database()
    assert migrate(dsn) == migrate(dsn)
    with psycopg.connect(dsn) as connection:
        assert levels.detect(connection) == levels.recorded(connection) == level
    server.drop(dsn)


def test_starts_at_the_same_time_trip_over_each_other(server: Any) -> None:
    dsn = server.fresh_database()
    done: list[object] = []

    def run() -> None:
        try:
            done.append(migrate(dsn))
        except BaseException as error:  # noqa: BLE001 - shown by the assertion below
            done.append(error)

    runs = [threading.Thread(target=run) for _ in range(4)]
    for each in runs:
        each.start()
    for each in runs:
        each.join(120)
    assert done == ["0001"] * 4
    server.drop(dsn)


def test_the_table_lacks_a_column_of_the_flat_layout(dsn: str) -> None:
    with psycopg.connect(dsn) as connection:
        cursor = connection.execute("SELECT * FROM trackmate.events")
        found = [column.name for column in cursor.description or ()]
    assert found == [*NAMES, "ingest_xid", "ingested_at"]
    assert sorted(EVENT_COLUMNS) == sorted(NAMES)


def test_a_role_without_rights_sees_a_traceback(server: Any) -> None:
    dsn = server.fresh_database()
    name = dsn.rpartition("/")[2]
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(f"DROP ROLE IF EXISTS nobody_{name}")
        connection.execute(f"CREATE ROLE nobody_{name} LOGIN PASSWORD 'guess'")
        host = f"127.0.0.1:{connection.info.port}"
    with pytest.raises(HotStoreError, match="refuses us"):
        migrate(f"postgresql://nobody_{name}:guess@{host}/{name}")
    server.drop(dsn)


def test_a_server_that_is_down_sees_a_traceback() -> None:
    with pytest.raises(HotStoreUnavailable, match="Check that it runs"):
        migrate(f"postgresql://someone@127.0.0.1:{free_port()}/x")
