"""The values of an answer as text for people and as JSON."""

from __future__ import annotations

import json
import math
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from federation.table_values import of_column

SHOWN_TEXT: Final = 200
"""Characters of one value in a table for people."""


def rows(table: pa.Table) -> zip[tuple[Any, ...]]:
    """The rows of a table, each a tuple of Python values: column names may repeat."""
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
        case dict() | list():
            text = json.dumps(value, default=shown, ensure_ascii=False)
        case _:
            text = str(value)
    return text if len(text) <= SHOWN_TEXT else text[: SHOWN_TEXT - 1] + "…"


def plain(value: Any) -> Any:
    """A value as JSON has it: moments in RFC 3339, bytes in hexadecimal, no NaN."""
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
        case dict():
            return {str(key): plain(entry) for key, entry in value.items()}
        case list() | tuple():
            return [plain(entry) for entry in value]
        case None | bool() | int() | str():
            return value
        case _:
            return str(value)


def needs_quotes(table: pa.Table) -> bool:
    """Whether some text of the table, or a column's name, can't stand in CSV as it is."""
    texts = [pa.chunked_array([table.column_names], pa.string())]
    texts += [column for column in table.columns if pa.types.is_string(column.type) or pa.types.is_large_string(column.type)]
    return any(pc.any(pc.match_substring_regex(text, '[",\r\n]|^$')).as_py() for text in texts)
