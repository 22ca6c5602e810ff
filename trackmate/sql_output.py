"""How `trackmate sql` shows an answer: a table for people, CSV and JSON for scripts, Arrow and Parquet for programs."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from contract.errors import TrackMateError
from trackmate.sql_client import Answer

SHOWN_TEXT: Final = 200
"""Characters of one value in a table for people."""


class Format(StrEnum):
    """The forms of an answer."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"
    ARROW = "arrow"
    PARQUET = "parquet"


def write(answer: Answer, form: Format, output: Path | None, console: Console) -> None:
    """Write the answer to `output`, or to standard output. Raises TrackMateError."""
    if form is Format.TABLE:
        if output is not None:
            with output.open("w", encoding="utf-8") as handle:
                _show(answer.table, Console(file=handle, width=200, highlight=False))
        else:
            _show(answer.table, console)
        return
    if output is None and form in {Format.ARROW, Format.PARQUET} and sys.stdout.isatty():
        message = f"{form} is binary: name a file with --output, or pipe it into a program"
        raise TrackMateError(message)
    body = _body(answer.table, form)
    try:
        if output is not None:
            output.write_bytes(body)
        else:
            sys.stdout.buffer.write(body)
            sys.stdout.flush()
    except BrokenPipeError:
        sys.stdout = None  # whoever reads has enough, and Python need not flush to it
    except OSError as error:
        message = f"can't write {output}: {error.strerror}"
        raise TrackMateError(message) from error


def footer(answer: Answer) -> str:
    """One line: rows, time, files read of how many, bytes, cache, and whether the answer was cut."""
    costs = answer.costs
    rows = answer.table.num_rows
    parts = [f"{rows:,} row{'' if rows == 1 else 's'} in {costs.get('seconds', 0):.3f} s"]
    if costs.get("files_total"):
        parts.append(f"{costs['files']:,} of {costs['files_total']:,} files")
    if costs.get("bytes_total"):
        parts.append(f"{size(costs['bytes'])} of {size(costs['bytes_total'])}")
    if costs.get("cache") in {"hit", "shared"}:
        parts.append("from the cache")
    if costs.get("truncated"):
        parts.append(f"cut by the limit of {costs['truncated']}: ask for more with --limit")
    return " · ".join(parts)


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:,.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"


def _show(table: pa.Table, console: Console) -> None:
    if table.column_names == ["explain"]:
        for line in table["explain"].to_pylist():
            console.print(line, markup=False)
        return
    made = Table(header_style="bold", pad_edge=False)
    for column in table.schema:
        number = pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_decimal(column.type)
        made.add_column(escape(column.name), justify="right" if number else "left", overflow="fold")
    for row in zip(*(column.to_pylist() for column in table.columns), strict=True):
        made.add_row(*map(_cell, row))
    console.print(made)


def _cell(value: Any) -> str:
    if value is None:
        return "[dim]NULL[/dim]"
    if isinstance(value, float):
        return f"{value:,.6g}" if math.isfinite(value) and abs(value) < 1e15 else str(value)
    if isinstance(value, datetime):
        moment = value.astimezone(UTC).replace(tzinfo=None) if value.tzinfo else value
        return moment.isoformat(sep=" ")
    text = json.dumps(value, default=str, ensure_ascii=False) if isinstance(value, dict | list) else str(value)
    return escape(text if len(text) <= SHOWN_TEXT else text[: SHOWN_TEXT - 1] + "…")


def _body(table: pa.Table, form: Format) -> bytes:
    sink = pa.BufferOutputStream()
    match form:
        case Format.CSV:
            pyarrow.csv.write_csv(_flat(table), sink)
        case Format.ARROW:
            with pa.ipc.new_stream(sink, table.schema) as writer:
                writer.write_table(table)
        case Format.PARQUET:
            pyarrow.parquet.write_table(table, sink, compression="zstd")
        case _:
            return _json(table).encode()
    return bytes(sink.getvalue().to_pybytes())


def _flat(table: pa.Table) -> pa.Table:
    """Nested columns as JSON text: CSV has no nesting."""
    for place, column in enumerate(table.schema):
        if pa.types.is_nested(column.type):
            texts = [None if value is None else json.dumps(_plain(value)) for value in table.column(place).to_pylist()]
            table = table.set_column(place, column.name, pa.array(texts, pa.string()))
    return table


def _json(table: pa.Table) -> str:
    """A JSON array, a row a line."""
    names = table.column_names
    rows: Iterable[tuple[Any, ...]] = zip(*(column.to_pylist() for column in table.columns), strict=True)
    lines = [json.dumps(dict(zip(names, map(_plain, row), strict=True)), ensure_ascii=False) for row in rows]
    return "[\n" + ",\n".join(lines) + "\n]\n" if lines else "[]\n"


def _plain(value: Any) -> Any:
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
            return {str(key): _plain(entry) for key, entry in value.items()}
        case list() | tuple():
            return [_plain(entry) for entry in value]
        case None | bool() | int() | str():
            return value
        case _:
            return str(value)


def show_tables(tables: list[dict[str, Any]], console: Console) -> None:
    """The catalog for people."""
    made = Table(header_style="bold", pad_edge=False)
    for name in ("table", "rows", "size", "what it holds"):
        made.add_column(name, justify="right" if name in {"rows", "size"} else "left", overflow="fold")
    for table in tables:
        rows = "" if table.get("rows") is None else f"{table['rows']:,}"
        stored = "" if table.get("bytes") is None else size(table["bytes"])
        made.add_row(escape(table["name"]), rows, stored, escape(table.get("problem") or table["description"]))
    console.print(made)


def show_columns(table: dict[str, Any], console: Console) -> None:
    """One table's columns for people."""
    made = Table(
        title=f"{table['name']}: {escape(table['description'])}", title_justify="left", header_style="bold", pad_edge=False
    )
    for name in ("column", "type", "meaning"):
        made.add_column(name, overflow="fold")
    for column in table["columns"]:
        made.add_row(escape(column["name"]), escape(column["type"]), escape(column["description"]))
    console.print(made)
