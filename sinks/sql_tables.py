"""The table that the `sql` sink writes to: how it is declared on each database, and how an existing one is judged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import BigInteger, Column, Connection, DateTime, Double, Index, MetaData, String, Table, Text, inspect
from sqlalchemy.dialects import mysql, postgresql
from sqlalchemy.types import TypeEngine

from contract.columns import COLUMNS, NAMES
from contract.limits import MAX_SITE_LENGTH
from sinks.base import Unavailable

SHORT_TEXT: Final = 256
"""Characters of the contract's short texts: names, entities, states, versions."""

_LENGTHS: Final = {
    "event_id": 36, "run_id": 36, "parent_run_id": 36, "emitter_id": 36, "kind": 16, "status": 16, "severity": 16,
    "site_id": MAX_SITE_LENGTH, "trace_id": 32, "span_id": 16,
}  # fmt: skip
_UNBOUNDED: Final = frozenset({"message", "error_message", "error_stack"})
_MYSQL_TABLE: Final[dict[str, Any]] = {
    "mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin", "mysql_engine": "InnoDB", "mysql_row_format": "DYNAMIC",
    "mariadb_charset": "utf8mb4", "mariadb_collate": "utf8mb4_bin", "mariadb_engine": "InnoDB", "mariadb_row_format": "DYNAMIC",
}  # fmt: skip


def declared(name: str, schema: str | None) -> Table[Any]:
    """The table in the flat layout: `event_id` its primary key, an index on `timestamp`."""
    columns: list[Column[Any]] = [
        Column(column.name, _type(column.name, column.type), primary_key=column.name == "event_id", nullable=column.nullable)
        for column in COLUMNS
    ]
    table: Table[Any] = Table(name, MetaData(), *columns, schema=schema, **_MYSQL_TABLE)
    Index(f"{name[:50]}_time", table.c.timestamp)
    return table


def _type(name: str, logical: str) -> TypeEngine[Any]:
    match logical:
        case "int64":
            return BigInteger()
        case "float64":
            return Double()
        case "timestamp":
            # MySQL's TIMESTAMP ends in 2038; DATETIME(6) holds UTC, which is the session's time zone too.
            return DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
        case "json":
            # As text on MySQL, whose JSON type turns long integers into doubles; JSON functions read text as well.
            kind = postgresql.JSON() if name == "attributes" else postgresql.JSONB()
            return Text().with_variant(kind, "postgresql").with_variant(mysql.LONGTEXT(), "mysql", "mariadb")
        case _ if name in _UNBOUNDED:
            return Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb")
    length = _LENGTHS.get(name, SHORT_TEXT)
    narrow = mysql.VARCHAR(length, charset="ascii", collation="ascii_bin") if name == "event_id" else String(length)
    return Text().with_variant(narrow, "mysql", "mariadb")


def judged(connection: Connection, name: str, schema: str | None) -> list[str]:
    """The columns of the key by which the existing table deduplicates. Raises Unavailable when the table won't do."""
    where = f"table '{schema}.{name}'" if schema else f"table '{name}'"
    found = inspect(connection)
    if not found.has_table(name, schema):
        raise Unavailable(
            f"{where} does not exist, or this user may not see it: create it, grant SELECT and INSERT, or set create_table: true"
        )
    columns = {column["name"]: column for column in found.get_columns(name, schema)}
    missing = [column for column in NAMES if column not in columns]
    if missing:
        raise Unavailable(
            f"{where} lacks {'the column' if len(missing) == 1 else 'the columns'} {', '.join(missing)}: add them (the layout is "
            "described on the page of this backend), or name another table"
        )
    foreign = [column for column, details in columns.items() if column not in NAMES and _demanded(details)]
    if foreign:
        raise Unavailable(f"{where} demands values for {', '.join(foreign)}, which events don't have: give them defaults")
    keys: list[Sequence[str | None]] = [found.get_pk_constraint(name, schema)["constrained_columns"]]
    keys += [
        index["column_names"]
        for index in found.get_indexes(name, schema)
        if index["unique"] and not index.get("dialect_options", {}).get("postgresql_where")
    ]
    return _key(where, keys, connection.dialect.name)


def _demanded(column: Any) -> bool:
    """Whether a row can't be without a value for it."""
    filled = column["default"] is not None or column.get("autoincrement") is True or "identity" in column or "computed" in column
    return not column["nullable"] and not filled


def _key(where: str, keys: Sequence[Sequence[str | None]], dialect: str) -> list[str]:
    unique = [sorted(str(column) for column in key) for key in keys if key]
    chosen = next((key for key in (["event_id"], ["event_id", "timestamp"]) if key in unique), None)
    if chosen is None:
        raise Unavailable(f"{where} has no primary key or unique index on event_id, so repetitions would stay: add one")
    others = [key for key in unique if key != chosen]
    if others and dialect != "postgresql":
        raise Unavailable(
            f"{where} has another unique index, on {', '.join(others[0])}: this database would drop an event that collides there "
            "and not say so; make that index a plain one"
        )
    return chosen
