"""What the server can do: TimescaleDB with the community features, its Apache edition, or plain PostgreSQL.

The level is found once, when the store is first migrated, and recorded in `trackmate.store`: tables made as partitions do not
turn into hypertables because somebody installs an extension later.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import psycopg

MINIMUM_VERSION: Final = 150000


class Level(StrEnum):
    """What the hot store stands on."""

    COMMUNITY = "community"
    """Hypertables, compression, continuous aggregates, policies."""
    APACHE = "apache"
    """Hypertables."""
    PLAIN = "plain"
    """Native range partitions."""

    @property
    def hypertables(self) -> bool:
        """Whether events and metrics are hypertables."""
        return self is not Level.PLAIN

    @property
    def continuous_aggregates(self) -> bool:
        """Whether the server keeps the aggregates itself; else our own job does."""
        return self is Level.COMMUNITY


def detect(connection: psycopg.Connection) -> Level:
    """The best level that this database offers; creates the extension where the server has it loaded and allows that.

    Never judged by the extension's presence: only the licence that the running library admits to tells the editions apart.
    """
    row = connection.execute(
        "SELECT EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb'),"
        " EXISTS (SELECT FROM pg_available_extensions WHERE name = 'timescaledb')"
        " AND current_setting('shared_preload_libraries') LIKE '%timescaledb%'"
    ).fetchone()
    installed, offered = row or (False, False)
    if not installed and offered:
        try:
            connection.execute("CREATE EXTENSION IF NOT EXISTS timescaledb")
            installed = True
        except (psycopg.errors.InsufficientPrivilege, psycopg.errors.FeatureNotSupported):
            installed = False
    if not installed:
        return Level.PLAIN
    try:
        licence = connection.execute("SHOW timescaledb.license").fetchone()
    except psycopg.errors.UndefinedObject:
        return Level.PLAIN
    return Level.COMMUNITY if licence == ("timescale",) else Level.APACHE


def recorded(connection: psycopg.Connection) -> Level:
    """The level that this store was made at. Raises psycopg's UndefinedTable when it was not migrated."""
    row = connection.execute("SELECT level FROM trackmate.store").fetchone()
    if row is None:
        message = "trackmate.store is empty"
        raise psycopg.errors.UndefinedTable(message)
    return Level(row[0])
