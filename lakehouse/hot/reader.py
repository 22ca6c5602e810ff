"""Reading the hot store into Arrow: what is new since a transaction, what a request asks for, and one event by its id.

Nothing here makes a Python object a row: PostgreSQL's binary COPY becomes Arrow columns inside the ADBC driver.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pyarrow as pa
from psycopg import sql

from contract.columns import COLUMNS, PROMOTED_ENTITIES
from contract.ids import is_uuid, uuid7_millis
from contract.request import Cursor, EventRequest, Order, severities_from
from contract.settings import Secret
from lakehouse.hot import connect
from lakehouse.hot.arrow import STREAM_TIMEOUT, Sessions, fetch, stream
from lakehouse.hot.transactions import Window, last_in, next_window

_TEXT: Final = frozenset({"event_id", "run_id", "parent_run_id", "emitter_id", "entities", "metrics", "attributes"})
"""Columns that PostgreSQL keeps in types of its own and the flat layout as text."""

_COLUMNS: Final = sql.SQL(", ").join(
    sql.SQL("{0}::text AS {0}" if column.name in _TEXT else "{0}").format(sql.Identifier(column.name)) for column in COLUMNS
)
_TRANSACTION: Final = sql.SQL(", ingest_xid::text::bigint AS ingest_xid")
_BOOKKEEPING: Final = _TRANSACTION + sql.SQL(", ingested_at")
_TYPES: Final = {
    "string": pa.string(),
    "json": pa.string(),
    "int64": pa.int64(),
    "float64": pa.float64(),
    "timestamp": pa.timestamp("us"),
}

SCHEMA: Final = pa.schema([pa.field(column.name, _TYPES[column.type], column.nullable) for column in COLUMNS])
"""The flat layout; timestamps are UTC without zone."""
FOLLOWED_SCHEMA: Final = SCHEMA.append(pa.field("ingest_xid", pa.int64(), nullable=False))
"""What `follow` brings: the flat layout and the transaction that brought each row."""
FULL_SCHEMA: Final = FOLLOWED_SCHEMA.append(pa.field("ingested_at", pa.timestamp("us"), nullable=False))
_CUSTODY: Final[list[pa.Field[Any]]] = [
    pa.field("emitter_id", pa.string()),
    pa.field("hour", pa.timestamp("us")),
    pa.field("events", pa.int64()),
    pa.field("min_seq", pa.int64()),
    pa.field("max_seq", pa.int64()),
]
CUSTODY_SCHEMA: Final = pa.schema(_CUSTODY)
_NEIGHBOURHOOD: Final = timedelta(days=1)
_LIKE: Final = re.compile(r"([\\%_])")


@dataclass(frozen=True)
class Page:
    """What one reading gave: whole transactions in the order of their ids, the last one's id, and whether there is more."""

    table: pa.Table
    last_xid: int
    more: bool


@dataclass(frozen=True)
class Planned:
    """Which transactions the next reading brings; `last` is the last of them that has events, None when there are none."""

    window: Window
    last: int | None


@dataclass(frozen=True)
class Stream:
    """One reading under way: `batches` are the rows of whole transactions in the order of their ids.

    `last_xid` is the last one's id, the place to go on from, known before any row is read; `rows` says whether there are any.
    """

    batches: Iterator[pa.RecordBatch]
    rows: bool
    last_xid: int
    more: bool


def plan(dsn: str | Secret, after_xid: int, max_rows: int) -> Planned:
    """The transactions after `after_xid` that make about `max_rows` events.

    Only transactions below every one still running are read, so none that commits later is ever passed over, and what is planned
    can be read at any time. A reading never ends inside a transaction: it brings up to `max_rows` rows, or one transaction that
    has more. Raises HotStoreError.
    """
    with connect.connect(dsn) as connection, connect.translated(dsn):
        window = next_window(connection, after_xid, max_rows)
        return Planned(window, last_in(connection, window))


def follow(dsn: str | Secret, planned: Planned, sessions: Sessions | None = None) -> Stream:
    """The events of the planned transactions in FOLLOWED_SCHEMA, as the server sends them.

    `sessions` keeps the connection for the next reading. The batches raise HotStoreError.
    """
    return _start(dsn, planned, _TRANSACTION, FOLLOWED_SCHEMA, sessions)


def read_since(dsn: str | Secret, after_xid: int, max_rows: int) -> Page:
    """What `plan` and `follow` bring in one go, as a table in FULL_SCHEMA. Raises HotStoreError."""
    reading = _start(dsn, plan(dsn, after_xid, max_rows), _BOOKKEEPING, FULL_SCHEMA, None)
    return Page(pa.Table.from_batches(reading.batches, FULL_SCHEMA), reading.last_xid, reading.more)


def _start(dsn: str | Secret, planned: Planned, besides: sql.Composable, schema: pa.Schema, sessions: Sessions | None) -> Stream:
    window = planned.window
    if planned.last is None:
        return Stream(iter(()), rows=False, last_xid=window.after, more=window.more)
    statement = sql.SQL("SELECT {}{} FROM trackmate.events e WHERE {} ORDER BY e.ingest_xid").format(
        _COLUMNS, besides, window.holds()
    )
    batches = stream(dsn, statement, schema, sessions=sessions)
    return Stream(batches, rows=True, last_xid=planned.last, more=window.more)


def system_identifier(dsn: str | Secret) -> str:
    """The number that tells this database cluster from any other, and so its transaction ids from another's."""
    with connect.connect(dsn) as connection, connect.translated(dsn):
        row = connection.execute("SELECT system_identifier::text FROM pg_control_system()").fetchone()
    return str(row[0]) if row else ""


# --------------------------------------------------------------------------------------------------------- confirmation


def confirm(dsn: str | Secret, reader: str, xid: int) -> None:
    """Note that `reader` has everything up to transaction `xid` safe; never moves back."""
    with connect.connect(dsn) as connection, connect.translated(dsn):
        connection.execute(
            "INSERT INTO trackmate.replication AS r (reader, confirmed_xid) VALUES (%s, %s) ON CONFLICT (reader) DO UPDATE"
            " SET confirmed_xid = excluded.confirmed_xid, confirmed_at = excluded.confirmed_at"
            " WHERE r.confirmed_xid <= excluded.confirmed_xid",
            [reader, xid],
        )


def has_unconfirmed(dsn: str | Secret, reader: str) -> bool:
    """Whether finished transactions hold events that `reader` has not confirmed yet; one look at an index."""
    statement = sql.SQL(
        "SELECT EXISTS (SELECT FROM trackmate.events"
        " WHERE ingest_xid > COALESCE((SELECT confirmed_xid FROM trackmate.replication WHERE reader = {}), 0)::text::xid8"
        " AND ingest_xid < pg_snapshot_xmin(pg_current_snapshot()))"
    )
    with connect.connect(dsn) as connection, connect.translated(dsn):
        return connection.execute(statement.format(sql.Literal(reader))).fetchone() == (True,)


def oldest_unconfirmed(dsn: str | Secret, reader: str) -> datetime | None:
    """When the first event came, UTC, that finished transactions hold and `reader` has not confirmed; None when there is none."""
    statement = sql.SQL(
        "SELECT ingested_at AT TIME ZONE 'UTC' FROM trackmate.events"
        " WHERE ingest_xid > COALESCE((SELECT confirmed_xid FROM trackmate.replication WHERE reader = {}), 0)::text::xid8"
        " AND ingest_xid < pg_snapshot_xmin(pg_current_snapshot()) ORDER BY ingest_xid LIMIT 1"
    )
    with connect.connect(dsn) as connection, connect.translated(dsn):
        row = connection.execute(statement.format(sql.Literal(reader))).fetchone()
    moment: datetime | None = row[0] if row else None
    return None if moment is None else moment.astimezone(UTC)


def confirmations(dsn: str | Secret) -> dict[str, int]:
    """Every reader that ever confirmed, and how far."""
    with connect.connect(dsn) as connection, connect.translated(dsn):
        return dict(connection.execute("SELECT reader, confirmed_xid FROM trackmate.replication").fetchall())


# ------------------------------------------------------------------------------------------------------------- requests


def query(
    dsn: str | Secret, request: EventRequest, timeout: timedelta = STREAM_TIMEOUT, sessions: Sessions | None = None
) -> Iterator[pa.RecordBatch]:
    """The events that a request asks for, in SCHEMA and in its order; every filter, the order and the limit run in the database.

    `timeout` bounds the statement, and the wait for each batch; `sessions` keeps the connection for the next request.
    Raises HotStoreError.
    """
    if _matches_nothing(request):
        return
    direction = sql.SQL("DESC" if request.order == "desc" else "ASC")
    statement = sql.SQL(
        'SELECT {columns} FROM trackmate.events AS e WHERE {where} ORDER BY e."timestamp" {way}, e.event_id {way} LIMIT {limit}'
    ).format(columns=_COLUMNS, where=sql.SQL(" AND ").join(_conditions(request)), way=direction, limit=sql.Literal(request.limit))
    yield from stream(dsn, statement, SCHEMA, timeout, sessions)


def _matches_nothing(request: EventRequest) -> bool:
    if request.sites is not None and not request.sites:
        return True
    if request.run_id is not None and not is_uuid(request.run_id):
        return True
    words = [*(request.sites or ()), *request.kinds, *request.names, *request.entities, *request.entities.values()]
    words += [request.text or "", request.trace_id or ""]
    # PostgreSQL holds no U+0000 and refuses to be asked for it.
    return request.start >= request.end or any("\0" in word for word in words)


def _conditions(request: EventRequest) -> Iterator[sql.Composable]:
    yield sql.SQL('e."timestamp" >= {} AND e."timestamp" < {}').format(_moment(request.start), _moment(request.end))
    for column, values in (("site_id", request.sites), ("kind", request.kinds), ("name", request.names)):
        if values:
            yield sql.SQL("e.{} IN ({})").format(sql.Identifier(column), _list(sorted(values)))
    for key, value in request.entities.items():
        column_or_path = (
            sql.SQL("e.{}").format(sql.Identifier(key))
            if key in PROMOTED_ENTITIES
            else sql.SQL("e.entities ->> {}").format(sql.Literal(key))
        )
        yield sql.SQL("{} = {}").format(column_or_path, sql.Literal(value))
    if request.run_id is not None:
        yield sql.SQL("e.run_id = {}::uuid").format(sql.Literal(request.run_id))
    if request.trace_id is not None:
        yield sql.SQL("e.trace_id = {}").format(sql.Literal(request.trace_id))
    if request.severity_min is not None:
        yield sql.SQL("e.severity IN ({})").format(_list(severities_from(request.severity_min)))
    if request.text:
        pattern = sql.Literal("%" + _LIKE.sub(r"\\\1", request.text) + "%")
        # The columns sort by bytes, and bytes know no case beyond ASCII.
        yield sql.SQL('(e.name COLLATE "default" ILIKE {0} OR e.message ILIKE {0} OR e.error_message ILIKE {0})').format(pattern)
    if request.after is not None:
        yield _after(request.after, request.order)


def _after(place: Cursor, order: Order) -> sql.Composable:
    moment, event_id = _moment(place.timestamp), place.event_id
    key, last = (
        (sql.SQL("e.event_id"), sql.SQL("{}::uuid").format(sql.Literal(event_id)))
        if is_uuid(event_id)
        else (sql.SQL('e.event_id::text COLLATE "C"'), sql.Literal(event_id.replace("\0", "")))
    )
    template = (
        'e."timestamp" <= {0} AND (e."timestamp", {1}) < ({0}, {2})'
        if order == "desc"
        else 'e."timestamp" >= {0} AND (e."timestamp", {1}) > ({0}, {2})'
    )
    return sql.SQL(template).format(moment, key, last)


def _list(values: list[str] | tuple[str, ...]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Literal, values))


def _moment(moment: datetime) -> sql.Composed:
    return sql.SQL("{}::timestamp").format(sql.Literal(moment.astimezone(UTC).replace(tzinfo=None).isoformat()))


def find(dsn: str | Secret, event_id: str) -> pa.Table:
    """The event with this id in FULL_SCHEMA: one row, none, or one for each timestamp that it was sent with."""
    if not is_uuid(event_id):
        return FULL_SCHEMA.empty_table()
    same = sql.SQL("event_id = {}::uuid").format(sql.Literal(event_id))
    millis = uuid7_millis(event_id)
    if millis is not None and millis < 4_102_444_800_000:
        # The id tells when it was made, which is mostly when the event happened: look at those days first.
        made = datetime.fromtimestamp(millis / 1000, UTC)
        near = sql.SQL('{} AND "timestamp" BETWEEN {} AND {}').format(
            same, _moment(made - _NEIGHBOURHOOD), _moment(made + _NEIGHBOURHOOD)
        )
        found = _find(dsn, near)
        if found.num_rows:
            return found
    return _find(dsn, same)


def _find(dsn: str | Secret, where: sql.Composable) -> pa.Table:
    statement = sql.SQL('SELECT {}{} FROM trackmate.events WHERE {} ORDER BY "timestamp"').format(_COLUMNS, _BOOKKEEPING, where)
    return fetch(dsn, statement, FULL_SCHEMA)


def custody_counts(dsn: str | Secret, start: datetime, end: datetime, *, up_to_xid: int | None = None) -> pa.Table:
    """For each emitter and hour between two moments: how many events are here, and their lowest and highest number.

    `up_to_xid` counts only what transactions up to that one brought, such as the last one that a reader has confirmed.
    """
    taken = sql.SQL("") if up_to_xid is None else sql.SQL(" AND ingest_xid <= {}::xid8").format(sql.Literal(str(up_to_xid)))
    statement = sql.SQL(
        "SELECT emitter_id::text AS emitter_id, date_trunc('hour', \"timestamp\") AS hour, count(*) AS events,"
        " min(emitter_seq) AS min_seq, max(emitter_seq) AS max_seq FROM trackmate.events"
        ' WHERE "timestamp" >= {} AND "timestamp" < {} AND emitter_id IS NOT NULL{} GROUP BY 1, 2 ORDER BY 1, 2'
    ).format(_moment(start), _moment(end), taken)
    return fetch(dsn, statement, CUSTODY_SCHEMA)
