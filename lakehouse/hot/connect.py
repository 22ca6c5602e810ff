"""Connections to the hot store: always in UTC, always with timeouts, and never a password in an error."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import timedelta
from typing import Final

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from contract.settings import Secret
from lakehouse.hot.errors import HotStoreError, HotStoreTimeout, HotStoreUnavailable, NotMigrated

SCHEMA: Final = "trackmate"
CONNECT_TIMEOUT: Final = timedelta(seconds=10)
STATEMENT_TIMEOUT: Final = timedelta(seconds=30)
JOB_TIMEOUT: Final = timedelta(minutes=10)

_KEEPALIVE: Final = {"keepalives_idle": 15, "keepalives_interval": 5, "keepalives_count": 3}
_LATER: Final = ("08", "53", "57", "25006", "55P03", "58")
"""SQLSTATEs (or their classes) of what may pass: connections, resources, operators, standbys, locks, the machine itself."""


def plain(dsn: str | Secret) -> str:
    """The connection string's text."""
    return dsn.reveal() if isinstance(dsn, Secret) else dsn


def place(dsn: str | Secret) -> str:
    """Where a connection string points, fit for a message: `database 'x' on host:port`."""
    parts = _parsed(dsn)
    host = parts.get("host") or parts.get("hostaddr") or "localhost"
    return f"database '{parts.get('dbname') or parts.get('user') or ''}' on {host}:{parts.get('port') or 5432}"


def _parsed(dsn: str | Secret) -> dict[str, object]:
    try:
        return dict(conninfo_to_dict(plain(dsn)))
    except psycopg.Error:
        # The parser's own message quotes what it could not read, which may be the password.
        message = "the hot store's dsn can't be read: write hot.dsn as postgresql://user:password@host:port/database"
        raise HotStoreError(message) from None


def conninfo(dsn: str | Secret, connect_timeout: timedelta = CONNECT_TIMEOUT) -> str:
    """The connection string with our own timeouts added where it sets none."""
    given = _parsed(dsn)
    ours = {
        "connect_timeout": max(2, round(connect_timeout.total_seconds())),
        "application_name": "trackmate",
        "client_encoding": "UTF8",
        **_KEEPALIVE,
    }
    return make_conninfo(**{**ours, **given})  # type: ignore[arg-type]


def settings(statement_timeout: timedelta = STATEMENT_TIMEOUT) -> str:
    """What every session sets first, as one SQL text."""
    millis = round(statement_timeout.total_seconds() * 1000)
    return (
        f"SET timezone = 'UTC'; SET statement_timeout = {millis}; SET idle_in_transaction_session_timeout = {2 * millis}; "
        "SET client_min_messages = warning; SET DateStyle = 'ISO, YMD'; SET extra_float_digits = 1"
    )


def connect(
    dsn: str | Secret,
    *,
    statement_timeout: timedelta = STATEMENT_TIMEOUT,
    connect_timeout: timedelta = CONNECT_TIMEOUT,
    autocommit: bool = True,
) -> psycopg.Connection:
    """A session of our own kind. Raises HotStoreUnavailable."""
    with translated(dsn):
        connection = session(dsn, statement_timeout, connect_timeout)
        connection.autocommit = autocommit
        return connection


def session(
    dsn: str | Secret, statement_timeout: timedelta = STATEMENT_TIMEOUT, connect_timeout: timedelta = CONNECT_TIMEOUT
) -> psycopg.Connection:
    """The same for those who judge the driver's own errors."""
    connection = psycopg.connect(conninfo(dsn, connect_timeout), autocommit=True, prepare_threshold=None)
    try:
        connection.execute(settings(statement_timeout).encode())
    except BaseException:
        connection.close()
        raise
    return connection


@contextlib.contextmanager
def translated(dsn: str | Secret) -> Iterator[None]:
    """Turn the driver's errors into ours, saying where and what to do next."""
    try:
        yield
    except psycopg.Error as error:
        raise translate(error, dsn) from error


def translate(error: psycopg.Error, dsn: str | Secret) -> HotStoreError:
    """Our error for one of the driver's."""
    where, reason = place(dsn), " ".join(str(error).split())
    state = error.sqlstate or ""
    if state == "57014":
        return HotStoreTimeout(f"the hot store ({where}) did not finish a statement in time: {reason}")
    if state in {"42P01", "3F000", "42703"}:
        return NotMigrated(f"the hot store ({where}) lacks what this version needs: {reason}. Run: trackmate migrate")
    if state in {"28000", "28P01", "3D000", "42501"}:
        return HotStoreError(f"the hot store ({where}) refuses us: {reason}. Check hot.dsn and the role's rights")
    if may_pass(state) or (not state and isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)):
        return HotStoreUnavailable(f"the hot store ({where}) can't serve now: {reason}. Check that it runs and has room")
    return HotStoreError(f"the hot store ({where}) failed: {reason} (SQLSTATE {state or 'none'})")


def may_pass(sqlstate: str) -> bool:
    """Whether an error of this SQLSTATE may be gone when the same is tried later."""
    return sqlstate.startswith(_LATER)
