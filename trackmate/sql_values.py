"""The values of an answer as Python's, as text for people and as JSON; whatever has no place there stands as text."""

from __future__ import annotations

import json
import math
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

SHOWN_TEXT: Final = 200
"""Characters of one value in a table for people."""

_SECOND: Final = 1_000_000_000


def of_column(column: pa.ChunkedArray[Any]) -> list[Any]:
    """A column as Python values; as text where Python has none, such as for the year 10000, infinity or a nanosecond."""
    try:
        return column.to_pylist()
    except (OverflowError, ValueError):
        texts: pa.ChunkedArray[Any] = column.cast(_with_moments_as_text(column.type))
        return texts.to_pylist()


def rows(table: pa.Table) -> zip[tuple[Any, ...]]:
    """The rows of a table, each a tuple of `of_column`'s values: column names may repeat."""
    return zip(*map(of_column, table.columns), strict=True)


def shown(value: Any) -> str:
    """A value for people, of at most SHOWN_TEXT characters."""
    match value:
        case None:
            return "NULL"
        case float():
            return f"{value:,.6g}" if math.isfinite(value) and abs(value) < 1e15 else str(value)
        case datetime():
            moment = value.astimezone(UTC).replace(tzinfo=None) if value.tzinfo else value
            return moment.isoformat(sep=" ")
        case pa.MonthDayNano():
            return _interval(value)
        case dict() | list():
            text = json.dumps(value, default=shown, ensure_ascii=False)
        case _:
            text = str(value)
    return text if len(text) <= SHOWN_TEXT else text[: SHOWN_TEXT - 1] + "…"


def plain(value: Any) -> Any:
    """A value as JSON has it: moments in RFC 3339, bytes in hexadecimal, intervals in words, no NaN."""
    match value:
        case datetime():
            moment = value if value.tzinfo else value.replace(tzinfo=UTC)
            return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
        case date():
            return value.isoformat()
        case float():
            return value if math.isfinite(value) else None
        case Decimal():
            return int(value) if value == value.to_integral_value() else float(value)
        case bytes():
            return value.hex()
        case pa.MonthDayNano():
            return _interval(value)
        case dict():
            return {str(key): plain(entry) for key, entry in value.items()}
        case list() | tuple():
            return [plain(entry) for entry in value]
        case None | bool() | int() | str():
            return value
        case _:
            return str(value)


def flat(table: pa.Table) -> pa.Table:
    """What CSV has no place for as text: nested columns as JSON, bytes in hexadecimal, intervals in words."""
    for place, column in enumerate(table.schema):
        if pa.types.is_nested(column.type):
            texts = [None if value is None else json.dumps(plain(value)) for value in of_column(table.column(place))]
        elif _is_binary(column.type) or pa.types.is_interval(column.type):
            texts = [None if value is None else plain(value) for value in of_column(table.column(place))]
        else:
            continue
        table = table.set_column(place, column.name, pa.array(texts, pa.string()))
    return table


def without_intervals(table: pa.Table) -> pa.Table:
    """Intervals in words, and what holds some as JSON: Parquet has no place for them."""
    for place, column in enumerate(table.schema):
        if _holds_interval(column.type):
            table = table.set_column(place, column.name, flat(table.select([place])).column(0))
    return table


def needs_quotes(table: pa.Table) -> bool:
    """Whether some text of the table, or a column's name, can't stand in CSV as it is."""
    texts = [pa.chunked_array([table.column_names], pa.string())]
    texts += [column for column in table.columns if pa.types.is_string(column.type) or pa.types.is_large_string(column.type)]
    return any(pc.any(pc.match_substring_regex(text, '[",\r\n]|^$')).as_py() for text in texts)


def _with_moments_as_text(kind: pa.DataType) -> pa.DataType:
    """The same type with text in the place of every day, time and moment."""
    if isinstance(kind, pa.ListType):
        return pa.list_(_with_moments_as_text(kind.value_type))
    if isinstance(kind, pa.StructType):
        return pa.struct([field.with_type(_with_moments_as_text(field.type)) for field in kind])
    if isinstance(kind, pa.MapType):
        return pa.map_(_with_moments_as_text(kind.key_type), _with_moments_as_text(kind.item_type))
    return pa.string() if pa.types.is_temporal(kind) and not pa.types.is_interval(kind) else kind


def _holds_interval(kind: pa.DataType) -> bool:
    return pa.types.is_interval(kind) or any(_holds_interval(kind.field(place).type) for place in range(kind.num_fields))


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _interval(value: pa.MonthDayNano) -> str:
    """As DuckDB writes it, such as `1 year 2 months 3 days 04:05:06.5`."""
    years, months = divmod(abs(value.months), 12)
    counts = {"year": -years if value.months < 0 else years, "month": -months if value.months < 0 else months, "day": value.days}
    parts = [f"{count} {unit}{'' if abs(count) == 1 else 's'}" for unit, count in counts.items() if count]
    if value.nanoseconds or not parts:
        seconds, fraction = divmod(abs(value.nanoseconds), _SECOND)
        clock = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
        decimals = f".{fraction:09}".rstrip("0") if fraction else ""
        parts.append(f"{'-' if value.nanoseconds < 0 else ''}{clock}{decimals}")
    return " ".join(parts)
