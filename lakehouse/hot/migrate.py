"""Bring the hot store's tables to this program's version; safe to call at every start, by several processes at once."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Final

import psycopg

from contract.settings import Secret
from lakehouse.hot import connect, levels
from lakehouse.hot.errors import HotStoreError

LOCK: Final = 0x747261636B6D61
"""The advisory lock under which only one process migrates: 'trackma' as a number."""

_PATIENCE: Final = timedelta(minutes=10)


def migrate(dsn: str | Secret) -> str:
    """Create or upgrade the tables in schema `trackmate` and give the revision that they have then.

    Does nothing when they are up to date; waits while another process does it.
    Raises HotStoreError when the server is too old, can't be reached or refuses.
    """
    with connect.connect(dsn, statement_timeout=_PATIENCE) as connection, connect.translated(dsn):
        if connection.info.server_version < levels.MINIMUM_VERSION:
            message = (
                f"the hot store ({connect.place(dsn)}) is PostgreSQL {connection.info.server_version // 10000}; "
                "15 or newer is needed: upgrade it, or name another server in hot.dsn"
            )
            raise HotStoreError(message)
        connection.execute("SELECT pg_advisory_lock(%s)", [LOCK])
        try:
            return _upgrade(connection)
        finally:
            connection.execute("SELECT pg_advisory_unlock(%s)", [LOCK])


def _upgrade(connection: psycopg.Connection) -> str:
    from alembic import command
    from alembic.config import Config
    from alembic.runtime.migration import MigrationContext
    from sqlalchemy import create_engine
    from sqlalchemy.exc import DBAPIError
    from sqlalchemy.pool import StaticPool

    connection.execute("CREATE SCHEMA IF NOT EXISTS trackmate")
    exists = connection.execute("SELECT to_regclass('trackmate.store') IS NOT NULL").fetchone()
    level = levels.recorded(connection) if exists == (True,) else levels.detect(connection)
    connection.autocommit = False
    # The pool must not close or reset a connection that holds the lock and is not its own.
    engine = create_engine("postgresql+psycopg://", creator=lambda: connection, poolclass=StaticPool, pool_reset_on_return=None)
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    bound = engine.connect()
    try:
        config.attributes["connection"] = bound
        config.attributes["level"] = level.value
        command.upgrade(config, "head")
        revision = MigrationContext.configure(bound, opts={"version_table_schema": "trackmate"}).get_current_revision()
        bound.commit()
    except DBAPIError as error:
        raise (error.orig if isinstance(error.orig, psycopg.Error) else error) from error
    finally:
        connection.rollback()
        connection.autocommit = True
    return str(revision)
