"""Following the hot store by transaction: what has been committed since, without ever passing over what commits late.

A transaction's id is given when it starts to write and its rows appear when it commits, so ids do not appear in order. Below the
oldest transaction still running, though, every one has ended: up to there, and no further, a reader may go.
"""

from __future__ import annotations

from dataclasses import dataclass

import psycopg
from psycopg import sql


@dataclass(frozen=True)
class Window:
    """The transactions above `after` and below `below`, whole; `more` when others wait behind them."""

    after: int
    below: int
    more: bool

    def holds(self, column: sql.Composable = sql.SQL("ingest_xid")) -> sql.Composed:  # noqa: B008 - immutable
        """The condition that a row's `ingest_xid` is in this window; the index on it serves."""
        return sql.SQL("{0} > {1}::xid8 AND {0} < {2}::xid8").format(
            column, sql.Literal(str(self.after)), sql.Literal(str(self.below))
        )


def next_window(connection: psycopg.Connection, after: int, max_rows: int) -> Window:
    """The next transactions after `after`: about `max_rows` events of them, never part of a transaction.

    A transaction of more than `max_rows` events makes a window of its own.
    """
    horizon = _number(connection, sql.SQL("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint")) or 0
    all_of_it = Window(after, horizon, more=False)
    stop = _number(
        connection,
        sql.SQL(
            "SELECT e.ingest_xid::text::bigint FROM trackmate.events e WHERE {} ORDER BY e.ingest_xid OFFSET {} LIMIT 1"
        ).format(all_of_it.holds(), sql.Literal(max_rows)),
    )
    if stop is None:
        return all_of_it
    before = Window(after, stop, more=True)
    if _number(connection, sql.SQL("SELECT 1 FROM trackmate.events WHERE {} LIMIT 1").format(before.holds())):
        return before
    behind = Window(stop, horizon, more=False)
    more = _number(connection, sql.SQL("SELECT 1 FROM trackmate.events WHERE {} LIMIT 1").format(behind.holds()))
    return Window(after, stop + 1, more=more is not None)


def last_in(connection: psycopg.Connection, window: Window) -> int | None:
    """The window's last transaction that brought events, or None; one look at the index."""
    statement = sql.SQL("SELECT ingest_xid::text::bigint FROM trackmate.events WHERE {} ORDER BY ingest_xid DESC LIMIT 1")
    return _number(connection, statement.format(window.holds()))


def _number(connection: psycopg.Connection, statement: sql.SQL | sql.Composed) -> int | None:
    row = connection.execute(statement).fetchone()
    value: int | None = row[0] if row else None
    return value
