"""Writes each event as one row of a table in PostgreSQL, MySQL or MariaDB, in the flat layout that all of TrackMate shares.

The table's key is `event_id`, and a row that is there already is left as it is, so a batch written twice stands once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, ClassVar, Final, TypeVar
from weakref import WeakSet

import msgspec
import psycopg
from msgspec import Meta
from sqlalchemy import Connection, Engine, Table, create_engine, event, false, inspect, make_url, select
from sqlalchemy.dialects import mysql, postgresql
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from contract.columns import NAMES, flatten
from contract.limits import MAX_BATCH_EVENTS, MAX_BODY_BYTES
from contract.settings import Secret
from sinks.base import (
    DeliveryReport,
    Health,
    Refused,
    SinkBatch,
    SinkError,
    SinkLimits,
    Throttled,
    Unavailable,
    describe,
    event_id_of,
)
from sinks.knock import knock
from sinks.network_errors import explain
from sinks.sql_connections import mysql_arguments, postgres_arguments, session_settings
from sinks.sql_errors import Verdict, advice, unreached, verdict, words
from sinks.sql_tables import declared, judged
from sinks.tls import Tls

DRIVERS: Final = {
    "postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg", "postgresql+psycopg": "postgresql+psycopg",
    "mysql": "mysql+pymysql", "mysql+pymysql": "mysql+pymysql",
    "mariadb": "mariadb+pymysql", "mariadb+pymysql": "mariadb+pymysql",
}  # fmt: skip
"""What `url` may begin with, and the driver that is used."""

CLASH_TRIES: Final = 4
"""How often a batch is tried when other transactions are in its way, before it waits with the caller."""

_DEFAULT_PORTS: Final = {"postgresql": 5432, "mysql": 3306, "mariadb": 3306}
_CONNECTIONS: Final = 4
Identifier = Annotated[str, Meta(pattern=r'^[^\x00"`.]{1,63}$', description="1 to 63 characters without dots and quotes")]
_STAGE: Final = "trackmate_batch"
Row = tuple[Any, ...]
T = TypeVar("T")


class SqlConfig(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The `config` block of a `sql` backend."""

    url: Secret
    """`postgresql://user:password@host/database`, `mysql://…` or `mariadb://…`."""
    table: Identifier = "events"
    """Where the events go."""
    schema: Identifier | None = None
    """The table's schema in PostgreSQL; on MySQL a database, in place of the URL's."""
    create_table: bool = False
    """Make the table when it is missing; otherwise its absence is an error."""
    tls: Tls | None = None
    """Speak TLS or don't speak; `{}` trusts what this machine trusts."""
    connect_timeout: Annotated[float, Meta(ge=1)] = 5
    """Seconds."""
    timeout: Annotated[float, Meta(ge=1)] = 20
    """Seconds for one batch, after which the server ends it and this side hangs up; less than the backend's `timeout`."""

    def __post_init__(self) -> None:
        try:
            address = make_url(self.url.reveal())
        except (ArgumentError, ValueError):
            address = None
        if address is None or address.drivername not in DRIVERS or not address.host or not address.database:
            message = "url: expected postgresql://user:password@host/database, or mysql:// or mariadb:// alike"
            raise ValueError(message)


class SqlSink:
    """One table; batches are written in transactions of their own, and an event that the database refuses stands alone."""

    Config: ClassVar[type[msgspec.Struct]] = SqlConfig
    limits: ClassVar[SinkLimits] = SinkLimits(MAX_BATCH_EVENTS, MAX_BODY_BYTES, max_concurrency=_CONNECTIONS)

    def __init__(self, name: str, config: SqlConfig) -> None:
        self.name = name
        self._config = config
        url = make_url(config.url.reveal())
        self._backend = DRIVERS[url.drivername].partition("+")[0]
        self._address = (url.host or "", url.port or _DEFAULT_PORTS[self._backend])
        self._where = f"table '{config.table}' in database '{url.database}' at {url.host}:{self._address[1]}"
        self._engine: Engine | None = None
        self._threads: ThreadPoolExecutor | None = None
        self._table: Table[Any] = declared(config.table, config.schema)
        self._key: list[str] | None = None
        """By which columns the table deduplicates; None until the table has been looked at."""
        self._connections: WeakSet[Any] = WeakSet()
        """The drivers' open connections."""

    async def open(self) -> None:
        """Make the pool; nothing is sent. Raises Unavailable when a certificate can't be used."""
        if self._engine is None:
            self._engine = self._make_engine()
            self._threads = ThreadPoolExecutor(2 * _CONNECTIONS, thread_name_prefix=f"sql-{self.name}")

    async def deliver(self, batch: SinkBatch) -> DeliveryReport:
        """Write every event; one that is there already counts as delivered. Raises Unavailable or Throttled when none was taken.

        When it is cancelled, the connections are cut, and what is not committed is rolled back by the server.
        """
        if batch.count == 0:
            return DeliveryReport(0)
        outcome = await self._in_thread(self._write, batch)
        if outcome.failure is not None:
            self._key = None
            failure = await self._explained(outcome.failure)
            if not outcome.delivered and not outcome.refused:
                raise failure
            return DeliveryReport(outcome.delivered, outcome.refused, outcome.retry, failure.retry_after, str(failure))
        return DeliveryReport(outcome.delivered, outcome.refused)

    async def check(self) -> Health:
        """Look at the table, and insert no rows into it: the credential, the columns, the key and the permission are proved."""
        started = time.perf_counter()
        try:
            await self._in_thread(self._try_nothing)
        except SinkError as error:
            return Health(False, str(error))
        except (SQLAlchemyError, OSError) as error:
            return Health(False, str(await self._explained(error)))
        return Health(True, f"{self._where} can be written", (time.perf_counter() - started) * 1000)

    async def close(self) -> None:
        """Close the connections; what was reported delivered is committed."""
        engine, threads = self._engine, self._threads
        self._engine = self._threads = self._key = None
        if engine is not None:
            await asyncio.to_thread(engine.dispose)
        if threads is not None:
            threads.shutdown(wait=False, cancel_futures=True)

    async def _in_thread(self, work: Callable[..., T], *arguments: object) -> T:
        if self._threads is None:
            raise Unavailable(f"backend '{self.name}' is not open")
        running = asyncio.ensure_future(asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments))
        running.add_done_callback(lambda done: done.cancelled() or done.exception())
        seconds = self._config.timeout + self._config.connect_timeout
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.shield(running)
        except TimeoutError as error:
            self._cut()
            raise Unavailable(f"{self._where} did not answer within {seconds:g} s: is the server hung or overloaded?") from error
        except asyncio.CancelledError:
            self._cut()
            raise

    def _cut(self) -> None:
        """End every connection under its thread's hands: a blocking driver waits for a hung server for ever."""
        for connection in list(self._connections):
            with contextlib.suppress(OSError, SQLAlchemyError, psycopg.Error):
                source = connection if hasattr(connection, "fileno") else getattr(connection, "_sock", None)
                if source is not None:
                    with socket.socket(fileno=os.dup(source.fileno())) as handle:
                        handle.shutdown(socket.SHUT_RDWR)

    def _write(self, batch: SinkBatch) -> _Outcome:
        """Write the batch; a part that the database refuses is halved until the culprit stands alone."""
        outcome = _Outcome()
        try:
            self._prepare()
            rows = [flatten(each) for each in batch.events]
        except (SinkError, SQLAlchemyError, OSError) as error:
            outcome.failure, outcome.retry = error, list(range(batch.count))
            return outcome
        parts = [range(batch.count)]
        while parts:
            part = parts.pop()
            try:
                self._insert([rows[index] for index in part])
            except (SinkError, SQLAlchemyError, OSError) as error:
                if not isinstance(error, DBAPIError) or verdict(error) is not Verdict.EVENT:
                    outcome.failure = error
                    outcome.retry = sorted(index for each in (part, *parts) for index in each)
                    return outcome
                if len(part) == 1:
                    outcome.refused.append(Refused(part[0], event_id_of(batch.lines[part[0]]), words(error)))
                else:
                    middle = len(part) // 2
                    parts += [part[middle:], part[:middle]]
            else:
                outcome.delivered += len(part)
        outcome.refused.sort(key=lambda item: item.index)
        return outcome

    def _insert(self, rows: Sequence[Row]) -> None:
        """One transaction; tried again when another one was in its way."""
        for tries_left in reversed(range(CLASH_TRIES)):
            try:
                self._insert_once(rows)
            except DBAPIError as error:
                if verdict(error) is not Verdict.CLASH or not tries_left:
                    raise
                time.sleep(random.uniform(0.02, 0.2))  # noqa: S311 - spreads retries, hides nothing
            else:
                return

    def _insert_once(self, rows: Sequence[Row]) -> None:
        with self._live().begin() as connection:
            if self._backend == "postgresql":
                self._copy(connection, rows)
            else:
                connection.execute(self._statement(), [dict(zip(NAMES, row, strict=True)) for row in rows])

    def _copy(self, connection: Connection, rows: Sequence[Row]) -> None:
        """COPY into a table of this session, and from there into the table: four times as fast as INSERT row by row."""
        quote = connection.dialect.identifier_preparer
        table = quote.format_table(self._table)
        names = ", ".join(map(quote.quote, NAMES))
        key = ", ".join(map(quote.quote, self._key or ()))
        # All names are quoted by the dialect; there are no values in these.
        stage = f"CREATE TEMPORARY TABLE IF NOT EXISTS {_STAGE} ON COMMIT DELETE ROWS AS SELECT {names} "
        stage += f"FROM {table} WITH NO DATA"
        land = f"INSERT INTO {table} ({names}) SELECT {names} FROM {_STAGE} ON CONFLICT ({key}) DO NOTHING"  # noqa: S608
        driver: Any = connection.connection.dbapi_connection
        try:
            with driver.cursor() as cursor:
                cursor.execute(stage)
                with cursor.copy(f"COPY {_STAGE} ({names}) FROM STDIN") as copy:
                    for row in rows:
                        copy.write_row(row)
                cursor.execute(land)
        except psycopg.Error as error:
            raise DBAPIError.instance(
                None, None, error, psycopg.Error, connection_invalidated=driver.closed, dialect=connection.dialect
            ) from error

    def _statement(self, source: Any = None) -> Any:
        """The INSERT that leaves a row alone that is there already."""
        if self._backend == "postgresql":
            into: Any = postgresql.insert(self._table)
            into = into.from_select(NAMES, source) if source is not None else into
            return into.on_conflict_do_nothing(index_elements=self._key)
        into = mysql.insert(self._table)
        into = into.from_select(NAMES, source) if source is not None else into
        # INSERT IGNORE would turn errors of the data into warnings, and cut or change values.
        return into.on_duplicate_key_update(event_id=self._table.c.event_id)

    def _try_nothing(self) -> None:
        self._key = None
        self._prepare()
        same = self._table.alias("same")
        nothing = select(*(same.c[name] for name in NAMES)).where(false())
        with self._live().begin() as connection:
            connection.execute(self._statement(nothing))

    def _prepare(self) -> None:
        """Look at the table, once, and make it if that is asked for."""
        if self._key is not None:
            return
        with self._live().connect() as connection:
            if self._config.create_table:
                try:
                    self._table.create(connection, checkfirst=True)
                    connection.commit()
                except DBAPIError:
                    # Another agent may have made it in the same moment; if not, what follows says what is wrong.
                    connection.rollback()
                    if not inspect(connection).has_table(self._config.table, self._config.schema):
                        raise
            self._key = judged(connection, self._config.table, self._config.schema)

    def _live(self) -> Engine:
        if self._engine is None:
            raise Unavailable(f"backend '{self.name}' is closed")
        return self._engine

    def _make_engine(self) -> Engine:
        config = self._config
        url = make_url(config.url.reveal())
        arguments_of = postgres_arguments if self._backend == "postgresql" else mysql_arguments
        arguments = arguments_of(config.tls, config.connect_timeout, config.timeout)
        engine = create_engine(
            url.set(drivername=DRIVERS[url.drivername]),
            connect_args=arguments,
            pool_size=_CONNECTIONS,
            max_overflow=_CONNECTIONS,
            pool_timeout=config.connect_timeout,
            pool_pre_ping=True,
            pool_recycle=1800,
            hide_parameters=True,
        )
        statements = session_settings(self._backend, config.timeout)

        @event.listens_for(engine, "connect")
        def connected(connection: Any, _: object) -> None:
            self._connections.add(connection)
            with connection.cursor() as cursor:
                for statement in statements:
                    cursor.execute(statement)
            connection.commit()

        return engine

    async def _explained(self, error: BaseException) -> SinkError:
        """What went wrong and what to do, as the error that the caller acts on."""
        if isinstance(error, SinkError):
            return error
        if isinstance(error, PoolTimeout):
            return Unavailable(f"{self._where}: no connection became free: it answers too slowly")
        if not isinstance(error, DBAPIError):
            return Unavailable(f"{self._where}: {describe(error)}")
        told = advice(error)
        if told is not None or not unreached(error):
            text = f"{self._where}: {told or 'the database refuses'}: {words(error)}"
            patience = verdict(error) in {Verdict.CLASH, Verdict.BUSY}
            return Throttled(text) if patience else Unavailable(text)
        met = explain(error) or await knock([self._address], None, self._config.connect_timeout)
        return Unavailable(f"{self._where} can't be reached: {f'{met} ' if met else ''}{words(error)}")


class _Outcome:
    """What became of a batch's events."""

    def __init__(self) -> None:
        self.delivered = 0
        self.refused: list[Refused] = []
        self.retry: list[int] = []
        self.failure: BaseException | None = None
        """Why some are to be retried."""
