"""How `trackmate sql` shows an answer: a table for people, CSV and JSON for scripts, Arrow and Parquet for programs."""

from __future__ import annotations

import json
import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, Literal

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from contract.errors import TrackMateError
from federation import table_values
from trackmate import sql_values
from trackmate.sql_client import Answer

_NARROW: Final = 8
"""Columns narrower than this on average can't be read: rows are then shown one below the other."""


class Format(StrEnum):
    """The forms of an answer."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"
    ARROW = "arrow"
    PARQUET = "parquet"


def write(answer: Answer, form: Format, output: Path | None, console: Console) -> None:
    """Write the answer to `output`, or to standard output. Raises TrackMateError."""
    if output is None and form in {Format.ARROW, Format.PARQUET} and sys.stdout.isatty():
        message = f"{form} is binary: name a file with --output, or pipe it into a program"
        raise TrackMateError(message)
    try:
        if form is Format.TABLE:
            _write_table(answer.table, output, console)
        elif output is not None:
            output.write_bytes(_body(answer.table, form))
        else:
            sys.stdout.buffer.write(_body(answer.table, form))
            sys.stdout.flush()
    except pa.ArrowNotImplementedError as error:
        message = f"{form} has no place for a column of this answer ({error}): CAST it to VARCHAR"
        raise TrackMateError(message) from error
    except BrokenPipeError:
        _forget_stdout()  # whoever reads has enough
    except OSError as error:
        if output is None:
            _forget_stdout()
        message = f"can't write {output or 'to standard output'}: {error.strerror}"
        raise TrackMateError(message) from error


def _forget_stdout() -> None:
    """Python would complain when it flushes at its end what nobody takes."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _write_table(table: pa.Table, output: Path | None, console: Console) -> None:
    if output is None and console.is_terminal:
        _show(table, console, console.width)
        return
    text = _as_text(table)
    if output is not None:
        output.write_text(text, encoding="utf-8")
        return
    sys.stdout.write(text)
    sys.stdout.flush()


def _as_text(table: pa.Table) -> str:
    """The same table as wide as it is: a file has no width, and thousands of rows are laid out at once."""
    if table.column_names == ["explain"]:
        return "".join(f"{line}\n" for line in table["explain"].to_pylist())
    columns = []
    for column, held in zip(table.schema, table.columns, strict=True):
        cells = [" ".join(cell.splitlines()) for cell in (column.name, *map(sql_values.shown, table_values.of_column(held)))]
        width = max(map(cell_len, cells))
        number = _is_number(column.type)
        columns.append([" " * (width - cell_len(c)) + c if number else c + " " * (width - cell_len(c)) for c in cells])
    header, *rows = zip(*columns, strict=True)
    lines = [[sign * cell_len(cell) for cell in header] for sign in "━━─"]
    parts = (
        "┏━" + "━┳━".join(lines[0]) + "━┓",
        "┃ " + " ┃ ".join(header) + " ┃",
        "┡━" + "━╇━".join(lines[1]) + "━┩",
        *("│ " + " │ ".join(row) + " │" for row in rows),
        "└─" + "─┴─".join(lines[2]) + "─┘",
    )
    return "\n".join(parts) + "\n"


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


def _show(table: pa.Table, console: Console, width: int) -> None:
    if table.column_names == ["explain"]:
        for line in table["explain"].to_pylist():
            console.print(line, markup=False)
        return
    if table.num_columns * _NARROW > width:
        _show_records(table, console)
        return
    made = Table(header_style="bold", pad_edge=False)
    for column in table.schema:
        made.add_column(escape(column.name), justify="right" if _is_number(column.type) else "left", overflow="fold")
    for row in sql_values.rows(table):
        made.add_row(*map(_cell, row))
    console.print(made)


def _show_records(table: pa.Table, console: Console) -> None:
    """A line a value, for tables with more columns than the terminal has room for."""
    longest = max(map(len, table.column_names))
    for number, row in enumerate(sql_values.rows(table), 1):
        console.print(f"[bold]row {number}[/bold]")
        for name, value in zip(table.column_names, row, strict=True):
            console.print(f"  {escape(name.ljust(longest))}  {_cell(value)}", soft_wrap=True)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _cell(value: Any) -> str:
    return "[dim]NULL[/dim]" if value is None else escape(sql_values.shown(value))


def _body(table: pa.Table, form: Format) -> bytes:
    sink = pa.BufferOutputStream()
    match form:
        case Format.CSV:
            flat = table_values.flat(table_values.without_intervals(table))
            quoting: Literal["needed", "none"] = "needed" if sql_values.needs_quotes(flat) else "none"
            pyarrow.csv.write_csv(flat, sink, pyarrow.csv.WriteOptions(quoting_style=quoting, quoting_header=quoting))  # type: ignore[call-arg]
        case Format.ARROW:
            with pa.ipc.new_stream(sink, table.schema) as writer:
                writer.write_table(table)
        case Format.PARQUET:
            pyarrow.parquet.write_table(table_values.without_intervals(table), sink, compression="zstd")
        case _:
            return _json(table).encode()
    return bytes(sink.getvalue().to_pybytes())


def _json(table: pa.Table) -> str:
    """A JSON array, a row a line."""
    names = table.column_names
    rows = (dict(zip(names, map(sql_values.plain, row), strict=True)) for row in sql_values.rows(table))
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    return "[\n" + ",\n".join(lines) + "\n]\n" if lines else "[]\n"


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
