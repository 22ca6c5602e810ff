"""The days of a plain PostgreSQL's events and metrics: partitions made ahead, and on demand for late and early events.

Hypertables make their own chunks. A day too far from now for a partition of its own (a wrong clock, an old archive) goes to the
default partition, so that a batch of nonsense can't make thousands of tables.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, datetime, timedelta
from typing import Final, LiteralString

import psycopg
from psycopg import sql

from lakehouse.hot.levels import Level

LOCK: Final = 0x747261636B6D62
DAYS_AHEAD: Final = 7
TABLES: Final[tuple[LiteralString, ...]] = ("events", "metrics")


def name(table: str, day: date) -> str:
    """The partition of a table that holds one day."""
    return f"{table}_p{day:%Y%m%d}"


def worth_one(day: date, today: date, retention: timedelta) -> bool:
    """Whether a day is near enough to now to have a partition of its own."""
    return today - retention - timedelta(days=31) <= day <= today + timedelta(days=DAYS_AHEAD)


def existing(connection: psycopg.Connection) -> set[date]:
    """The days that have partitions."""
    rows = connection.execute(
        "SELECT right(c.relname, 8) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
        " WHERE i.inhparent = 'trackmate.events'::regclass AND c.relname ~ '_p[0-9]{8}$'"
    ).fetchall()
    return {datetime.strptime(text, "%Y%m%d").date() for (text,) in rows}  # noqa: DTZ007 - a day has no zone


def statements(day: date) -> list[sql.Composed]:
    """What makes one day's partitions; harmless when they exist."""
    bounds = {"start": sql.Literal(day.isoformat()), "end": sql.Literal((day + timedelta(days=1)).isoformat())}
    return [
        sql.SQL(
            "CREATE TABLE IF NOT EXISTS trackmate.{part} PARTITION OF trackmate.{table} FOR VALUES FROM ({start}) TO ({end})"
        ).format(part=sql.Identifier(name(table, day)), table=sql.Identifier(table), **bounds)
        for table in TABLES
    ]


def ensure(connection: psycopg.Connection, days: Iterable[date]) -> list[date]:
    """Make the partitions of these days where they are missing, each day in a transaction of its own; give the days made.

    Rows of such a day that the default partition took meanwhile are moved.
    """
    made = []
    for day in sorted(days):
        with connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK])
            found = connection.execute("SELECT to_regclass(%s) IS NULL", [f"trackmate.{name('events', day)}"]).fetchone()
            if found == (True,):
                _make(connection, day)
                made.append(day)
    return made


def _make(connection: psycopg.Connection, day: date) -> None:
    # Both parents first and in one order, or two sessions that hold one each wait for ever.
    connection.execute("SET LOCAL lock_timeout = '10s'")
    connection.execute("LOCK TABLE ONLY trackmate.events, ONLY trackmate.metrics IN SHARE UPDATE EXCLUSIVE MODE")
    connection.execute("LOCK TABLE trackmate.events_default, trackmate.metrics_default IN ACCESS EXCLUSIVE MODE")
    bounds = {"start": sql.Literal(day.isoformat()), "end": sql.Literal((day + timedelta(days=1)).isoformat())}
    for table, statement in zip(TABLES, statements(day), strict=True):
        names = {
            "stray": sql.Identifier(f"stray_{table}"),
            "default": sql.Identifier(f"{table}_default"),
            "table": sql.Identifier(table),
        }
        connection.execute(
            sql.SQL(
                "CREATE TEMP TABLE {stray} ON COMMIT DROP AS SELECT * FROM trackmate.{default}"
                ' WHERE "timestamp" >= {start} AND "timestamp" < {end}'
            ).format(**names, **bounds)
        )
        connection.execute(
            sql.SQL('DELETE FROM trackmate.{default} WHERE "timestamp" >= {start} AND "timestamp" < {end}').format(
                **names, **bounds
            )
        )
        connection.execute(statement)
        connection.execute(sql.SQL("INSERT INTO trackmate.{table} SELECT * FROM {stray}").format(**names))


def make_ahead(connection: psycopg.Connection, level: Level, today: date) -> list[date]:
    """Make today's and the coming days' partitions; give the days made."""
    if level.hypertables:
        return []
    wanted = {today + timedelta(days=ahead) for ahead in range(-1, DAYS_AHEAD + 1)}
    return ensure(connection, wanted - existing(connection))
