"""Old raw events go, a day at a time, once every reader has them: the lake, and the job that keeps the aggregates.

A day is dropped under a lock that keeps writers out of it, after looking at the last transaction that wrote into it; so an event
that comes late keeps its day until the readers have confirmed that event too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final

import psycopg
from psycopg import sql

from lakehouse.config import HotConfig
from lakehouse.hot import aggregates, connect, levels, partitions

_LOCK_TIMEOUT: Final = "3s"


@dataclass(frozen=True)
class Retained:
    """What retention did: the days dropped, rows deleted beside them, and the days that wait, each with what it waits for."""

    dropped: list[date]
    deleted: int
    waiting: dict[date, str]


@dataclass(frozen=True)
class _Day:
    """One day of events, as one partition or chunk."""

    day: date
    end: datetime
    table: str


def enforce(config: HotConfig, now: datetime) -> Retained:
    """Drop the days that ended before `now` less the retention and that every reader has confirmed.

    A reader that is configured and never confirmed anything holds everything back. Raises HotStoreError.
    """
    cutoff = (now - config.retention).astimezone(UTC).replace(tzinfo=None)
    dropped: list[date] = []
    waiting: dict[date, str] = {}
    with connect.connect(config.dsn, statement_timeout=connect.JOB_TIMEOUT) as connection, connect.translated(config.dsn):
        level = levels.recorded(connection)
        for day in list(_days(connection, level)):
            if day.end > cutoff:
                continue
            try:
                reason = _drop(connection, level, day, config)
            except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
                reason = f"could not lock it within {_LOCK_TIMEOUT}"
            if reason:
                waiting[day.day] = reason
            else:
                dropped.append(day.day)
        deleted = 0 if level.hypertables else _delete_strays(connection, cutoff, config)
        aggregates.drop_before(connection, (now - config.aggregate_retention).astimezone(UTC).replace(tzinfo=None))
    return Retained(dropped, deleted, waiting)


def _days(connection: psycopg.Connection, level: levels.Level) -> Iterator[_Day]:
    if level.hypertables:
        rows = connection.execute(
            "SELECT (range_start AT TIME ZONE 'UTC')::date, range_end AT TIME ZONE 'UTC',"
            " format('%I.%I', chunk_schema, chunk_name) FROM timescaledb_information.chunks"
            " WHERE hypertable_schema = 'trackmate' AND hypertable_name = 'events' ORDER BY 1"
        ).fetchall()
        for day, end, table in rows:
            yield _Day(day, end, table)
    else:
        for day in sorted(partitions.existing(connection)):
            end = datetime.combine(day + timedelta(days=1), datetime.min.time())
            yield _Day(day, end, f"trackmate.{partitions.name('events', day)}")


def _drop(connection: psycopg.Connection, level: levels.Level, day: _Day, config: HotConfig) -> str | None:
    """Drop one day, or say what it waits for."""
    table = sql.SQL(day.table)
    before = _last_xid(connection, table)
    behind = _behind(connection, config, before)
    if behind:
        return behind
    if level.continuous_aggregates and not _dropped_before(connection, day):
        for name in aggregates.NAMES:
            aggregates.refresh_continuous(connection, name, datetime.combine(day.day, datetime.min.time()), day.end)
    with connection.transaction():
        connection.execute(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'")
        if level.hypertables:
            connection.execute(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(table))
        else:
            # The parents first, as every writer takes them: else we would wait for each other.
            connection.execute("LOCK TABLE ONLY trackmate.events, ONLY trackmate.metrics IN ACCESS EXCLUSIVE MODE")
        if _last_xid(connection, table) != before:
            return "an event came late while it was about to be dropped"
        _drop_tables(connection, level, day)
        connection.execute("INSERT INTO trackmate.dropped VALUES (%s) ON CONFLICT DO NOTHING", [day.day])
    return None


def _dropped_before(connection: psycopg.Connection, day: _Day) -> bool:
    """Whether this day was dropped once and came back with late events, which are then all that a refresh would see."""
    return connection.execute("SELECT FROM trackmate.dropped WHERE day = %s", [day.day]).fetchone() is not None


def _last_xid(connection: psycopg.Connection, table: sql.SQL) -> int:
    row = connection.execute(
        sql.SQL("SELECT e.ingest_xid::text::bigint FROM {} e ORDER BY e.ingest_xid DESC LIMIT 1").format(table)
    ).fetchone()
    return row[0] if row else 0


def _behind(connection: psycopg.Connection, config: HotConfig, xid: int) -> str | None:
    """Which reader does not have transaction `xid` yet."""
    confirmed = _confirmed(connection, config)
    late = sorted(reader for reader, at in confirmed.items() if at < xid)
    if late:
        return f"not confirmed by {', '.join(late)} up to transaction {xid}"
    return None


def _confirmed(connection: psycopg.Connection, config: HotConfig) -> dict[str, int]:
    known: dict[str, int] = dict(connection.execute("SELECT reader, confirmed_xid FROM trackmate.replication").fetchall())
    return {**dict.fromkeys(config.readers, 0), **known}


def _drop_tables(connection: psycopg.Connection, level: levels.Level, day: _Day) -> None:
    for table in partitions.TABLES:
        if level.hypertables:
            connection.execute(
                "SELECT drop_chunks(%s::regclass, older_than => %s::timestamp, newer_than => %s::timestamp)",
                [f"trackmate.{table}", day.end, datetime.combine(day.day, datetime.min.time())],
            )
        else:
            partition = sql.Identifier("trackmate", partitions.name(table, day.day))
            connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(partition))


def _delete_strays(connection: psycopg.Connection, cutoff: datetime, config: HotConfig) -> int:
    """Delete from the default partitions what is old and confirmed."""
    confirmed = min(_confirmed(connection, config).values(), default=0)
    with contextlib.suppress(psycopg.errors.LockNotAvailable):
        done = connection.execute(
            'WITH gone AS (DELETE FROM trackmate.events_default WHERE "timestamp" < %s AND ingest_xid <= %s::text::xid8'
            ' RETURNING event_id, "timestamp"), measured AS (DELETE FROM trackmate.metrics_default m USING gone'
            ' WHERE m.event_id = gone.event_id AND m."timestamp" = gone."timestamp") SELECT count(*) FROM gone',
            [cutoff, str(confirmed)],
        ).fetchone()
        return done[0] if done else 0
    return 0
