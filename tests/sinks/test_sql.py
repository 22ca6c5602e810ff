"""The SQL sink on PostgreSQL and MariaDB: the suite, and what a database can do wrong."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, closing
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import create_engine, make_url

from contract import codec
from contract.columns import NAMES, flatten, unflatten
from contract.errors import ConfigError
from contract.ids import uuid7
from contract.settings import Secret
from sinks.base import Throttled, Unavailable
from sinks.registry import make_sink, parse_config
from sinks.sql import DRIVERS, SqlConfig, SqlSink
from sinks.sql_tables import declared
from sinks.tls import Tls
from tests.services.base import wait_until
from tests.services.certificates import TestAuthority
from tests.services.mariadb import PASSWORD, MariaDb
from tests.services.postgres import Postgres15
from tests.services.toxiproxy import Link, Toxiproxy
from tests.sidecar.harness import event, events
from tests.sinks.documented import documented_backend
from tests.sinks.suite import LinkedTarget, SinkSuite, batch_of


class OnPostgres:
    """An empty database on PostgreSQL; everybody is `guarded`, who needs a password."""

    kind = "postgresql"

    def __init__(self, server: Postgres15) -> None:
        self.server = server
        admin = server.fresh_database()
        self.name = admin.rpartition("/")[2]
        self.admin = admin
        self.url = f"postgresql://guarded:{PASSWORD}@127.0.0.1:{server.port}/{self.name}"
        self.execute(f"ALTER DATABASE {self.name} OWNER TO guarded")
        self.execute("ALTER SCHEMA public OWNER TO guarded")

    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.admin, autocommit=True, options="-c timezone=UTC") as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def through(self, port: int) -> str:
        return self.url.replace(f":{self.server.port}/", f":{port}/")


class OnMariaDb:
    """An empty database on MariaDB."""

    kind = "mariadb"

    def __init__(self, server: MariaDb) -> None:
        self.server = server
        self.name = server.fresh_database()
        self.url = server.url(self.name)

    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        return self.server.execute(statement, self.name)

    def through(self, port: int) -> str:
        return self.url.replace(f":{self.server.port}/", f":{port}/")


Database = OnPostgres | OnMariaDb


def ready(database: Database, table: str = "events") -> None:
    """Make the table as the sink would."""
    url = make_url(database.url)
    engine = create_engine(url.set(drivername=DRIVERS[url.drivername]))
    declared(table, None).create(engine)
    engine.dispose()


def rows_of(database: Database, table: str = "events") -> list[dict[str, Any]]:
    """Every row as an event."""
    where = f"table_name = '{table}' AND table_schema IN ('public', '{database.name}')"
    if not database.execute(f"SELECT 1 FROM information_schema.tables WHERE {where}"):
        return []
    rows = [dict(zip(NAMES, row, strict=True)) for row in database.execute(f"SELECT {', '.join(NAMES)} FROM {table}")]
    return [unflatten(row) for row in rows]


class SqlTarget(LinkedTarget):
    stalls = ("downstream", "upstream")

    def __init__(self, database: Database, link: Link) -> None:
        super().__init__(link)
        self.database = database

    def sink(self, *, credential: str | None = None) -> SqlSink:
        url = self.database.through(self.link.port).replace(PASSWORD, credential or PASSWORD)
        config = SqlConfig(url=Secret(url), create_table=True, connect_timeout=2)
        return SqlSink("sql", config)

    async def read_back(self) -> list[dict[str, Any]]:
        return [numbers(item) for item in await asyncio.to_thread(rows_of, self.database)]

    def refuse(self, items: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """By a column that the site has made shorter."""
        ready(self.database)
        change = "ALTER COLUMN message TYPE varchar(20)" if self.database.kind == "postgresql" else "MODIFY message VARCHAR(20)"
        self.database.execute(f"ALTER TABLE events {change}")
        return [{**item, "message": "x" * 21} for item in items]

    def as_stored(self, item: dict[str, Any]) -> dict[str, Any]:
        (decoded,) = codec.decode_batch(json.dumps(item).encode(), "application/json").events
        return numbers(unflatten(dict(zip(NAMES, flatten(decoded), strict=True))))


def numbers(item: dict[str, Any]) -> dict[str, Any]:
    """Metrics as doubles: PostgreSQL's jsonb writes 1e308 out in full."""
    return {**item, "metrics": {name: float(value) for name, value in item["metrics"].items()}} if "metrics" in item else item


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres15]:
    """A server of our own, whose rules of entry we change: `guarded` needs a password, and TLS is spoken."""
    with Postgres15() as server:
        server.execute(f"CREATE ROLE guarded LOGIN PASSWORD '{PASSWORD}'")
        certificate = TestAuthority(server.data).issue("127.0.0.1")
        for file in (certificate.cert_file, certificate.key_file):
            file.chmod(0o600)
            shutil.chown(file, server.data.stat().st_uid, server.data.stat().st_gid)
        for name, value in (("ssl_cert_file", certificate.cert_file), ("ssl_key_file", certificate.key_file), ("ssl", "on")):
            server.execute(f"ALTER SYSTEM SET {name} = '{value}'")
        rules = server.data / "pg_hba.conf"
        rules.write_text("host all guarded 127.0.0.1/32 scram-sha-256\n" + rules.read_text())
        server.execute("SELECT pg_reload_conf()")
        wait_until(lambda: guarded(server), seconds=60, what="PostgreSQL to read its new rules")
        yield server
        server.kill(signal.SIGINT)  # it would wait for connections that a proxy still holds


def guarded(server: Postgres15) -> bool:
    """Whether the new rules hold: a wrong password is refused, and TLS is spoken."""
    address = f"postgresql://guarded:wrong@127.0.0.1:{server.port}/postgres"
    for mode, words in (("disable", "password"), ("require", "password")):
        try:
            psycopg.connect(address, sslmode=mode).close()
        except psycopg.OperationalError as error:
            if words not in str(error):
                return False
        else:
            return False
    return True


@pytest.fixture(params=["postgresql", "mariadb"])
def database(request: pytest.FixtureRequest) -> Database:
    if request.param == "postgresql":
        return OnPostgres(request.getfixturevalue("postgres"))
    return OnMariaDb(request.getfixturevalue("mariadb"))


@pytest.fixture(scope="module")
def links(postgres: Postgres15, mariadb: MariaDb, toxiproxy: Toxiproxy) -> dict[str, Link]:
    return {
        "postgresql": toxiproxy.link("sql-sink-postgres", postgres.port),
        "mariadb": toxiproxy.link("sql-sink-mariadb", mariadb.port),
    }


@pytest.fixture
def proxied(links: dict[str, Link], database: Database) -> Iterator[Link]:
    yield links[database.kind]
    links[database.kind].heal()


class TestSql(SinkSuite):
    @pytest.fixture
    def target(self, database: Database, proxied: Link) -> SqlTarget:
        return SqlTarget(database, proxied)


@asynccontextmanager
async def opened(url: str, **settings: Any) -> AsyncIterator[SqlSink]:
    sink = SqlSink("sql", SqlConfig(url=Secret(url), **{"connect_timeout": 15, **settings}))
    await sink.open()
    try:
        yield sink
    finally:
        await sink.close()


async def test_row_is_off_by_a_zone_or_loses_its_microseconds(database: Database) -> None:
    async with opened(database.url, create_table=True) as sink:
        await sink.deliver(batch_of([event(timestamp="2026-07-01T11:00:00.123456+02:00")]))
    ((moment,),) = database.execute("SELECT timestamp FROM events")
    assert moment.replace(tzinfo=None) == datetime(2026, 7, 1, 9, 0, 0, 123456)  # noqa: DTZ001


async def test_numbers_and_characters_change(database: Database) -> None:
    item = event(message="😀\\n' \"%s%% \u2028", attributes={"n": 2**53 + 1, "big": 10**30, "tiny": 5e-324, "😀": "%(x)s"})
    async with opened(database.url, create_table=True) as sink:
        assert (await sink.deliver(batch_of([item]))).delivered == 1
    assert rows_of(database) == [item | {"severity": "info"}]


async def test_missing_table_is_made_behind_the_administrators_back(database: Database) -> None:
    async with opened(database.url) as sink:
        health = await sink.check()
        assert not health.ok
        assert "create_table" in health.detail
        with pytest.raises(Unavailable, match="create_table"):
            await sink.deliver(batch_of(events(2)))
        ready(database)
        assert (await sink.check()).ok
        assert (await sink.deliver(batch_of(events(2)))).delivered == 2


async def test_missing_columns_are_named_one_a_try(database: Database) -> None:
    ready(database)
    for column in ("lot", "error_stack"):
        database.execute(f"ALTER TABLE events DROP COLUMN {column}")
    async with opened(database.url, create_table=True) as sink:
        assert "columns lot, error_stack" in (await sink.check()).detail
        with pytest.raises(Unavailable, match="columns lot, error_stack"):
            await sink.deliver(batch_of(events(2)))


async def test_column_dropped_midway_fills_the_dead_letters(database: Database) -> None:
    async with opened(database.url, create_table=True) as sink:
        assert (await sink.deliver(batch_of(events(2)))).delivered == 2
        database.execute("ALTER TABLE events DROP COLUMN lot")
        with pytest.raises(Unavailable, match="column"):
            await sink.deliver(batch_of(events(2)))


async def test_table_of_the_sites_own_is_refused_or_spoilt(database: Database) -> None:
    ready(database)
    database.execute("ALTER TABLE events ADD COLUMN note varchar(20) NOT NULL DEFAULT 'none'")
    async with opened(database.url) as sink:
        for _ in range(2):
            assert (await sink.deliver(batch_of(events(3)))).delivered == 3
        database.execute("ALTER TABLE events ADD COLUMN demanded int")
        database.execute("UPDATE events SET demanded = 1")
        change = "ALTER COLUMN demanded SET NOT NULL" if database.kind == "postgresql" else "MODIFY demanded int NOT NULL"
        database.execute(f"ALTER TABLE events {change}")
        assert "demanded" in (await sink.check()).detail
    assert {note for (note,) in database.execute("SELECT note FROM events")} == {"none"}


async def test_table_without_a_key_keeps_repetitions(database: Database) -> None:
    ready(database)
    drop = "DROP CONSTRAINT events_pkey" if database.kind == "postgresql" else "DROP PRIMARY KEY"
    database.execute(f"ALTER TABLE events {drop}")
    async with opened(database.url) as sink:
        with pytest.raises(Unavailable, match="event_id"):
            await sink.deliver(batch_of(events(2)))
        database.execute("CREATE UNIQUE INDEX by_id_and_time ON events (event_id, timestamp)")
        items = events(2)
        for _ in range(2):
            assert (await sink.deliver(batch_of(items))).delivered == 2
    assert len(rows_of(database)) == 2


async def test_collision_in_another_index_counts_as_delivered(database: Database) -> None:
    ready(database)
    database.execute("CREATE UNIQUE INDEX by_name ON events (name)")
    items = [event(name="a"), event(name="a"), event(name="b")]
    async with opened(database.url) as sink:
        if database.kind == "mariadb":
            with pytest.raises(Unavailable, match="another unique index, on name"):
                await sink.deliver(batch_of(items))
            return
        for _ in range(2):
            report = await sink.deliver(batch_of(items))
            assert (report.delivered, [item.index for item in report.refused], report.retry) == (2, [1], [])


@pytest.mark.parametrize(("length", "taken"), [(19, True), (20, True), (21, False)])
async def test_text_too_long_for_its_column_is_cut(database: Database, length: int, taken: bool) -> None:
    ready(database)
    change = "ALTER COLUMN message TYPE varchar(20)" if database.kind == "postgresql" else "MODIFY message VARCHAR(20)"
    database.execute(f"ALTER TABLE events {change}")
    if database.kind == "mariadb":
        database.execute("SET GLOBAL sql_mode = ''")
    try:
        item = event(message="😀" * length)
        async with opened(database.url) as sink:
            report = await sink.deliver(batch_of([event(), item, event()]))
    finally:
        if database.kind == "mariadb":
            database.execute("SET GLOBAL sql_mode = DEFAULT")
    assert (report.delivered, report.retry) == (3 if taken else 2, [])
    assert [refused.event_id for refused in report.refused] == ([] if taken else [item["event_id"]])
    assert all("😀" * length not in refused.reason for refused in report.refused)
    assert len(rows_of(database)) == report.delivered


async def test_many_refused_events_take_their_neighbours_with_them(database: Database) -> None:
    ready(database)
    check = "ADD CONSTRAINT no_debug CHECK (severity <> 'debug')"
    database.execute(f"ALTER TABLE events {check}")
    items = [event(severity="debug" if number % 7 == 3 else "info") for number in range(120)]
    async with opened(database.url) as sink:
        report = await sink.deliver(batch_of(items))
    assert [item.index for item in report.refused] == [number for number in range(120) if number % 7 == 3]
    assert {row["event_id"] for row in rows_of(database)} == {item["event_id"] for item in items if item["severity"] == "info"}


@pytest.mark.parametrize("grants", ["", "SELECT", "INSERT"])
async def test_missing_permission_is_told_as_something_else(database: Database, grants: str) -> None:
    ready(database)
    user = f"u_{uuid7().replace('-', '')[:20]}"
    if database.kind == "postgresql":
        database.execute(f"CREATE ROLE {user} LOGIN")
        if grants:
            database.execute(f"GRANT {grants} ON events TO {user}")
        url = database.url.replace(f"guarded:{PASSWORD}", user)
    else:
        database.execute(f"CREATE USER {user} IDENTIFIED BY '{PASSWORD}'")
        database.execute(f"GRANT {grants or 'DELETE'} ON {database.name}.events TO {user}")
        url = database.url.replace("tests:", f"{user}:")
    async with opened(url) as sink:
        health = await sink.check()
        assert not health.ok
        assert "grant" in health.detail
        with pytest.raises(Unavailable, match="grant"):
            await sink.deliver(batch_of(events(2)))
    assert rows_of(database) == []


async def test_read_only_database_fills_the_dead_letters(database: Database) -> None:
    ready(database)
    if database.kind == "postgresql":
        database.execute(f"ALTER DATABASE {database.name} SET default_transaction_read_only = on")
        async with opened(database.url) as sink:
            assert "read-only" in (await sink.check()).detail
            with pytest.raises(Unavailable, match="read-only"):
                await sink.deliver(batch_of(events(2)))
        return
    user = f"u_{uuid7().replace('-', '')[:20]}"
    database.execute(f"CREATE USER {user} IDENTIFIED BY '{PASSWORD}'")
    database.execute(f"GRANT SELECT, INSERT, UPDATE ON {database.name}.events TO {user}")
    async with opened(database.url.replace("tests:", f"{user}:")) as sink:
        assert (await sink.check()).ok
        database.execute("SET GLOBAL read_only = 1")
        try:
            assert "read-only" in (await sink.check()).detail
            with pytest.raises(Unavailable, match="read-only"):
                await sink.deliver(batch_of(events(2)))
        finally:
            database.execute("SET GLOBAL read_only = 0")


async def test_missing_database_is_told_as_something_else(database: Database) -> None:
    url = database.url.replace(database.name, "nowhere")
    async with opened(url) as sink:
        with pytest.raises(Unavailable, match=r"no such database|may not use the database"):
            await sink.deliver(batch_of(events(2)))
        assert not (await sink.check()).ok


async def test_locked_table_is_waited_for_without_end(database: Database) -> None:
    ready(database)
    items = events(2)
    async with opened(database.url, timeout=2) as sink:
        if database.kind == "postgresql":
            with psycopg.connect(database.admin) as connection:
                connection.execute("LOCK TABLE events")
                with pytest.raises((Unavailable, Throttled)):
                    await sink.deliver(batch_of(items))
        else:
            with closing(database.server.connect(database.name)) as connection, connection.cursor() as cursor:
                cursor.execute("LOCK TABLES events WRITE")
                with pytest.raises((Unavailable, Throttled)):
                    await sink.deliver(batch_of(items))
        assert (await sink.deliver(batch_of(items))).delivered == 2


async def test_deliveries_at_once_end_in_a_deadlock(database: Database) -> None:
    """The same events in opposite orders, which is what locks each other out."""
    items = events(400)
    async with opened(database.url, create_table=True) as sink:
        await sink.deliver(batch_of(events(1)))
        batches = [items, items[::-1], items[200:] + items[:200], items[::-1]]
        pending = [batch_of(batch) for batch in batches]
        while pending:
            reports = await asyncio.gather(*map(sink.deliver, pending), return_exceptions=True)
            assert all(isinstance(report, Throttled) or report.delivered == 400 for report in reports)  # type: ignore[union-attr]
            pending = [batch for batch, report in zip(pending, reports, strict=True) if isinstance(report, Throttled)]
    assert len(rows_of(database)) == 401


async def test_agents_that_make_the_table_at_once_fail(database: Database) -> None:
    async def one() -> int:
        async with opened(database.url, create_table=True) as sink:
            return (await sink.deliver(batch_of(events(5)))).delivered

    assert await asyncio.gather(*(one() for _ in range(6))) == [5] * 6


async def test_hung_server_is_waited_for_without_end(database: Database, proxied: Link) -> None:
    async with opened(database.through(proxied.port), create_table=True, timeout=2, connect_timeout=2) as sink:
        assert (await sink.deliver(batch_of(events(2)))).delivered == 2
        SqlTarget(database, proxied).hang()
        async with asyncio.timeout(60):
            with pytest.raises(Unavailable):
                await sink.deliver(batch_of(events(2)))
        proxied.heal()
        async with asyncio.timeout(60):
            assert (await sink.deliver(batch_of(events(2)))).delivered == 2


async def test_connection_cut_between_batches_costs_a_failure(database: Database, proxied: Link) -> None:
    async with opened(database.through(proxied.port), create_table=True) as sink:
        assert (await sink.deliver(batch_of(events(2)))).delivered == 2
        proxied.cut()
        proxied.heal()
        assert (await sink.deliver(batch_of(events(2)))).delivered == 2


async def test_server_killed_midway_loses_or_repeats_events() -> None:
    with MariaDb() as server:
        database, items = OnMariaDb(server), events(3000)
        async with opened(database.url, create_table=True, connect_timeout=2) as sink:
            assert (await sink.deliver(batch_of(items[:1000]))).delivered == 1000
            await asyncio.to_thread(server.kill)
            with pytest.raises(Unavailable):
                await sink.deliver(batch_of(items[500:]))
            await asyncio.to_thread(server.restart)
            assert (await sink.deliver(batch_of(items[500:]))).delivered == 2500
        assert {row["event_id"] for row in rows_of(database)} == {item["event_id"] for item in items}


@pytest.mark.parametrize("trusted", [True, False])
async def test_tls_trusts_anybody_or_is_not_spoken(database: Database, tmp_path: Path, trusted: bool) -> None:
    own = database.server.authority_file if isinstance(database, OnMariaDb) else database.server.data / "test-authority.pem"
    stranger = TestAuthority(tmp_path, "stranger").file
    async with opened(database.url, create_table=True, tls=Tls(ca_file=own if trusted else stranger)) as sink:
        if trusted:
            assert (await sink.deliver(batch_of(events(2)))).delivered == 2
            return
        with pytest.raises(Unavailable, match="not trusted"):
            await sink.deliver(batch_of(events(2)))


@pytest.mark.parametrize("scheme", ["postgresql", "mysql"])
@pytest.mark.parametrize(("address", "words"), [("127.0.0.1:1", "refused"), ("no-such-host.invalid", "DNS")])
async def test_address_that_leads_nowhere_gives_no_advice(scheme: str, address: str, words: str) -> None:
    async with opened(f"{scheme}://u:tm_hidden@{address}/db", connect_timeout=2) as sink:
        with pytest.raises(Unavailable, match=words) as error:
            await sink.deliver(batch_of(events(1)))
        health = await sink.check()
    assert words in health.detail
    assert "tm_hidden" not in str(error.value) + health.detail


async def test_schema_of_the_sites_own_is_not_used(postgres: Postgres15) -> None:
    database = OnPostgres(postgres)
    database.execute('CREATE SCHEMA "my schema" AUTHORIZATION guarded')
    async with opened(database.url, schema="my schema", table="odd table", create_table=True) as sink:
        assert (await sink.deliver(batch_of(events(2)))).delivered == 2
    assert database.execute('SELECT count(*) FROM "my schema"."odd table"') == [(2,)]


async def fill(sink: SqlSink) -> None:
    for _ in range(200):
        await sink.deliver(batch_of(events(500)))


async def test_full_disk_fills_the_dead_letters(mariadb: MariaDb) -> None:
    """A table in memory that has a limit: the cheapest place to fill."""
    database = OnMariaDb(mariadb)
    ready(database)
    narrow = ", ".join(f"MODIFY {name} VARCHAR(400)" for name in ("entities", "metrics", "attributes", "message"))
    shorter = ", ".join(f"MODIFY {name} VARCHAR(40)" for name in ("error_message", "error_stack"))
    database.execute(f"ALTER TABLE events {narrow}, {shorter}, ENGINE=MEMORY, MAX_ROWS=10")
    async with opened(database.url) as sink:
        with pytest.raises(Unavailable, match="full"):
            await fill(sink)


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///tm_hidden",
        "tm_hidden",
        "oracle://u:tm_hidden@h/d",
        "postgresql:///d",
        "mysql://u:tm_hidden@h",
        "mysql+mysqldb://h/d",
    ],
)
def test_url_of_another_kind_is_taken(url: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_config("sql", {"url": url})
    assert "postgresql://" in str(error.value)
    assert "tm_hidden" not in str(error.value)


@pytest.mark.parametrize("table", ["", "a.b", 'a"b', "a`b", "x" * 64])
def test_name_of_a_table_escapes_its_quotes(table: str) -> None:
    with pytest.raises(ConfigError):
        parse_config("sql", {"url": "postgresql://h/d", "table": table})


def test_password_is_shown() -> None:
    settings = {"url": "postgresql://u:tm_hidden@h/d"}
    assert "tm_hidden" not in repr(parse_config("sql", settings))
    assert "tm_hidden" not in repr(vars(make_sink("sql", "s", settings)))


def test_documented_configuration_does_not_load() -> None:
    assert make_sink("sql", "sql", {**documented_backend("sql"), "url": "postgresql://h/d"})
