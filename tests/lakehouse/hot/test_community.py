"""What only TimescaleDB's community edition has: continuous aggregates, compression, policies; one job, on one WASM server.

It has no COPY, so the events come by INSERT; the writer's own path is tested on the other servers.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import psycopg

from contract.ids import uuid7
from contract.settings import Secret
from lakehouse.config import HotConfig
from lakehouse.hot import reader
from lakehouse.hot.maintenance import maintain
from lakehouse.hot.migrate import migrate
from tests.lakehouse.hot.events import NOW, value
from tests.services.pglite import PgliteTimescale

LATER = NOW + timedelta(days=100)


def insert(dsn: str, moments: Sequence[datetime], temperature: float = 2.0) -> None:
    with psycopg.connect(dsn, autocommit=True, prepare_threshold=None) as connection:
        for moment in moments:
            event_id, naive = uuid7(), moment.replace(tzinfo=None)
            connection.execute(
                "INSERT INTO trackmate.events (event_id, timestamp, kind, name, site_id, app_name, severity, duration_ms, status)"
                " VALUES (%s, %s, 'finish', 'etch', 'fab1', 'etcher', 'info', 5, 'failed') ON CONFLICT DO NOTHING",
                [event_id, naive],
            )
            connection.execute(
                "INSERT INTO trackmate.metrics (event_id, timestamp, site_id, app_name, name, value)"
                " VALUES (%s, %s, 'fab1', 'etcher', 'temp', %s)",
                [event_id, naive, temperature],
            )


def totals(dsn: str) -> list[object]:
    """What each aggregate holds in all."""
    return [
        value(dsn, f"SELECT coalesce(sum({column}), 0)::float8 FROM trackmate.{table}")
        for table, column in (
            ("events_1m", "failed"),
            ("events_1h", "duration_sum"),
            ("metrics_1m", "count"),
            ("metrics_1h", "sum"),
        )
    ]


def test_the_community_edition_refuses_or_misreads_what_we_say_to_it(pglite_timescale: PgliteTimescale) -> None:
    dsn = pglite_timescale.fresh_database()
    config = HotConfig(dsn=Secret(dsn))
    migrate(dsn)
    assert value(dsn, "SELECT level FROM trackmate.store") == "community"

    insert(dsn, [NOW + timedelta(minutes=minutes) for minutes in range(6)])
    assert maintain(config, NOW + timedelta(hours=3)).level == "community"
    assert totals(dsn) == [6, 30, 6, 12]
    insert(dsn, [NOW - timedelta(days=20)], 1e308)
    maintain(config, NOW + timedelta(hours=3))
    assert totals(dsn) == [7, 35, 7, 12]

    policies = "SELECT count(*) FROM timescaledb_information.jobs WHERE hypertable_schema IS NOT NULL AND proc_name = %s"
    assert value(dsn, policies, "policy_refresh_continuous_aggregate") == 4
    assert value(dsn, policies, "policy_compression") == 2
    # The policies do what they say when the server runs them.
    with psycopg.connect(dsn, autocommit=True, prepare_threshold=None) as connection:
        for (job,) in connection.execute(
            "SELECT job_id FROM timescaledb_information.jobs WHERE proc_name LIKE 'policy_%'"
        ).fetchall():
            connection.execute("CALL run_job(%s)", [job])
        connection.execute("SELECT compress_chunk(c, if_not_compressed => true) FROM show_chunks('trackmate.events') c")
    assert value(dsn, "SELECT count(*) FROM timescaledb_information.chunks WHERE is_compressed") >= 2
    # Late events go into compressed days, and are read from there by transaction.
    place = value(dsn, "SELECT ingest_xid::text::bigint FROM trackmate.events ORDER BY ingest_xid DESC LIMIT 1")
    insert(dsn, [NOW + timedelta(minutes=1)])
    assert value(dsn, "SELECT count(*) FROM trackmate.events WHERE ingest_xid > %s::text::xid8", str(place)) == 1

    # Nothing goes before the lake has it; then the raw events go and the aggregates stay, whatever comes late.
    assert maintain(config, LATER).retained.dropped == []
    reader.confirm(dsn, "lake", 2**40)
    assert NOW.date() in maintain(config, LATER).retained.dropped
    assert value(dsn, "SELECT count(*) FROM trackmate.events") == value(dsn, "SELECT count(*) FROM trackmate.metrics") == 0
    assert totals(dsn) == [8, 40, 8, 14]
    insert(dsn, [NOW])
    maintain(config, LATER)
    assert totals(dsn) == [8, 40, 8, 14]
