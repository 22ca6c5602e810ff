"""The values of an answer where a form has no place for them as they are: in DuckDB's words, moments in UTC."""

from __future__ import annotations

from typing import Any

import duckdb
import msgspec
import pyarrow as pa


def of_column(column: pa.ChunkedArray[Any]) -> list[Any]:
    """A column as Python values; as text where Python has none, such as for intervals, the year 10000 or a nanosecond."""
    if _holds_interval(column.type):
        return _as_text(column).to_pylist()
    try:
        return column.to_pylist()
    except (OverflowError, ValueError):
        return _as_text(column).to_pylist()


def flat(table: pa.Table) -> pa.Table:
    """The same table with nested and binary columns as JSON text, which CSV has no place for."""
    for place, column in enumerate(table.schema):
        if pa.types.is_nested(column.type) or pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
            values = of_column(table.column(place))
            texts = [None if value is None else msgspec.json.encode(value).decode() for value in values]
            table = table.set_column(place, column.name, pa.array(texts, pa.string()))
    return table


def without_intervals(table: pa.Table) -> pa.Table:
    """The same table with text for intervals, and for what holds some: neither CSV nor Parquet has a place for them."""
    for place, column in enumerate(table.schema):
        if _holds_interval(column.type):
            table = table.set_column(place, column.name, _as_text(table.column(place)))
    return table


def _holds_interval(kind: Any) -> bool:
    return pa.types.is_interval(kind) or any(_holds_interval(kind.field(place).type) for place in range(kind.num_fields))


def _as_text(column: pa.ChunkedArray[Any]) -> pa.ChunkedArray[Any]:
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("given", pa.table({"value": column}))
        return connection.execute("SELECT CAST(value AS VARCHAR) AS value FROM given").to_arrow_table()["value"]
