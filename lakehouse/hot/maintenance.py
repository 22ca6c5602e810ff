"""All that the hot store needs done now and then, as one call: partitions ahead, aggregates, retention, compression."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import psycopg
from psycopg import sql

from contract.settings import Secret
from lakehouse.config import HotConfig
from lakehouse.hot import aggregates, connect, levels, partitions, retention


@dataclass(frozen=True)
class Maintained:
    """What one round of maintenance did."""

    level: str
    made: list[date]
    aggregated_to_xid: int
    retained: retention.Retained
    seconds: float


def maintain(hot: HotConfig | Secret | str, now: datetime) -> Maintained:
    """Do every periodic job once; `now` is aware. Safe to run often, twice, or in two places at once. Raises HotStoreError.

    Given a connection string alone, keeps to the default retention.
    """
    config = hot if isinstance(hot, HotConfig) else HotConfig(dsn=hot if isinstance(hot, Secret) else Secret(hot))
    started = time.monotonic()
    with connect.connect(config.dsn, statement_timeout=connect.JOB_TIMEOUT) as connection, connect.translated(config.dsn):
        level = levels.recorded(connection)
        made = partitions.make_ahead(connection, level, now.astimezone(UTC).date())
        if level is levels.Level.COMMUNITY:
            _apply_policies(connection, config, now)
    refreshed = aggregates.refresh(config.dsn, now)
    retained = retention.enforce(config, now)
    with connect.connect(config.dsn, statement_timeout=connect.JOB_TIMEOUT) as connection, connect.translated(config.dsn):
        _summarise(connection)
    return Maintained(level.value, made, refreshed.to_xid, retained, time.monotonic() - started)


def _apply_policies(connection: psycopg.Connection, config: HotConfig, now: datetime) -> None:
    """Let the server compress old chunks and refresh aggregates by itself, never over what is dropped."""
    for table in partitions.TABLES:
        _policy(connection, table, "compression", {"compress_after": config.late_window})
    moment = now.astimezone(UTC).replace(tzinfo=None)
    since = max(moment - config.retention, aggregates.kept_since(connection) or datetime.min)  # noqa: DTZ901 - UTC without zone
    # A day less, so that the policy never reaches a day that is being dropped.
    days = max(1, (moment - since).days - 1)
    for name, unit in (("events_1m", 1), ("metrics_1m", 1), ("events_1h", 60), ("metrics_1h", 60)):
        unit_length = timedelta(minutes=unit)
        offsets = {"start_offset": timedelta(days=days), "end_offset": unit_length, "schedule_interval": unit_length}
        _policy(connection, name, "continuous_aggregate", offsets)


def _policy(connection: psycopg.Connection, table: str, kind: str, wanted: dict[str, timedelta]) -> None:
    """Set one policy, if it is not as wanted already."""
    arguments = sql.SQL(", ").join(
        sql.SQL("{} => {}::interval").format(sql.Identifier(name), sql.Literal(value)) for name, value in wanted.items()
    )
    relation = sql.Literal(f"trackmate.{table}")
    with connection.transaction():
        connection.execute(sql.SQL("SELECT remove_{}_policy({}, if_exists => true)").format(sql.SQL(kind), relation))
        connection.execute(sql.SQL("SELECT add_{}_policy({}, {})").format(sql.SQL(kind), relation, arguments))


def _summarise(connection: psycopg.Connection) -> None:
    """Bring the BRIN indexes up to date: until then, their newest pages are read whole."""
    connection.execute(
        "SELECT brin_summarize_new_values(x.indexrelid) FROM pg_index x JOIN pg_class c ON c.oid = x.indexrelid"
        " JOIN pg_am a ON a.oid = c.relam JOIN pg_inherits i ON i.inhrelid = x.indrelid"
        " WHERE a.amname = 'brin' AND c.relkind = 'i' AND i.inhparent = 'trackmate.metrics'::regclass"
    )
