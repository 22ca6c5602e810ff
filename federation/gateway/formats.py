"""The forms an answer can take, chosen by the Accept header: JSON, NDJSON, Arrow IPC stream, Parquet and CSV."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any, Final

import msgspec
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from starlette.responses import Response

from federation import table_values
from federation.gateway.errors import ApiError


class Form(StrEnum):
    """A media type that tables can be given in."""

    JSON = "application/json"
    NDJSON = "application/x-ndjson"
    ARROW = "application/vnd.apache.arrow.stream"
    PARQUET = "application/vnd.apache.parquet"
    CSV = "text/csv"


_ALIASES: Final[Mapping[str, Form]] = {
    **{form.value: form for form in Form},
    "*/*": Form.JSON,
    "application/*": Form.JSON,
    "text/*": Form.CSV,
    "application/ndjson": Form.NDJSON,
    "application/jsonl": Form.NDJSON,
    "application/parquet": Form.PARQUET,
}

_JSON: Final = msgspec.json.Encoder()


def negotiate(accept: str | None) -> Form:
    """The form that the Accept header prefers; JSON when it says nothing. Raises `ApiError` (406) when none of ours is."""
    best: tuple[float, int] | None = None
    chosen = Form.JSON
    if not accept or not accept.strip():
        return chosen
    for place, entry in enumerate(accept.split(",")):
        media_type, *parameters = (part.strip().lower() for part in entry.split(";"))
        form = _ALIASES.get(media_type)
        quality = _quality(parameters)
        if form is None or quality <= 0:
            continue
        if best is None or (quality, -place) > best:
            best, chosen = (quality, -place), form
    if best is None:
        known = ", ".join(form.value for form in Form)
        raise ApiError(
            406,
            "not_acceptable",
            f"none of the forms in Accept ({accept[:200]}) is offered",
            where="Accept",
            hint=f"use one of {known}",
        )
    return chosen


def _quality(parameters: Iterable[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0


def json_bytes(value: Any) -> bytes:
    """`value` as JSON; what JSON can't express (NaN, infinities) becomes null."""
    return _JSON.encode(value)


def rows_as_lines(rows: Iterable[Any]) -> bytes:
    """Each row as JSON on a line of its own."""
    return _JSON.encode_lines(list(rows))


def rows_as_arrays(table: pa.Table) -> list[list[Any]]:
    """Each row as a list of values, for column names may repeat."""
    columns = [table_values.of_column(column) for column in table.columns]
    return [list(row) for row in zip(*columns, strict=True)] if columns else []


def zoned(table: pa.Table) -> pa.Table:
    """The same table with every timestamp that carries no zone marked as UTC, which is what all of ours are."""
    for place, column in enumerate(table.schema):
        if pa.types.is_timestamp(column.type) and column.type.tz is None:
            marked = column.with_type(pa.timestamp(column.type.unit, "UTC"))
            table = table.set_column(place, marked, table.column(place).cast(marked.type))
    return table


def table_bytes(table: pa.Table, form: Form) -> bytes:
    """A table as Arrow, Parquet or CSV, else as NDJSON.

    In CSV nested values stand as JSON text; what a form has no place for stands as text: intervals in Parquet and CSV, and in
    the others (and JSON) the days and moments that no calendar of theirs has.
    """
    match form:
        case Form.ARROW:
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, table.schema) as writer:
                writer.write_table(table)
            return sink.getvalue().to_pybytes()
        case Form.PARQUET:
            buffer = io.BytesIO()
            pyarrow.parquet.write_table(table_values.without_intervals(table), buffer, compression="zstd")
            return buffer.getvalue()
        case Form.CSV:
            buffer = io.BytesIO()
            pyarrow.csv.write_csv(table_values.flat(table_values.without_intervals(table)), buffer)
            return buffer.getvalue()
        case _:
            return rows_as_lines(dict(zip(table.column_names, row, strict=True)) for row in rows_as_arrays(table))


def response(body: bytes, form: Form, headers: Mapping[str, str]) -> Response:
    """Bytes of a form as the answer to a request."""
    return Response(body, 200, dict(headers), media_type=form.value)


def plain(value: Any) -> Any:
    """A struct as plain JSON values."""
    return msgspec.to_builtins(value)
