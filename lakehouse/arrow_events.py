"""Events from NDJSON to Arrow columns, without a Python object a row: Arrow cuts the lines, DuckDB reads the JSON.

DuckDB minifies the JSON that stays text (entities, metrics, attributes) and changes no value of it: integers beyond 64 bits,
numbers beyond a double and shortest decimals come back as Python's `json` reads them from the original.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Self

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv

from contract.columns import COLUMNS, PROMOTED_ENTITIES
from lakehouse.tables import FLAT_SCHEMA, INT, STRING

CHUNK_BYTES: Final = 16 * 1024 * 1024
"""How much NDJSON is read at a time."""

_BLOCK_BYTES: Final = 4 * 1024 * 1024
_SHAPE: Final[dict[str, Any]] = {
    **dict.fromkeys(("event_id", "timestamp", "kind", "name", "site_id", "run_id", "parent_run_id", "status"), "VARCHAR"),
    **dict.fromkeys(("severity", "message", "trace_id", "span_id"), "VARCHAR"),
    "app": {"name": "VARCHAR", "version": "VARCHAR", "instance_id": "VARCHAR"},
    "emitter": {"id": "VARCHAR", "seq": "BIGINT"},
    "state": {"from": "VARCHAR", "to": "VARCHAR"},
    "error": {"type": "VARCHAR", "message": "VARCHAR", "stack": "VARCHAR"},
    "progress": "DOUBLE",
    "duration_ms": "DOUBLE",
    **dict.fromkeys(("entities", "metrics", "attributes"), "JSON"),
}
_NESTED: Final = ("app", "emitter", "state", "error")
_ENTITIES: Final = json.dumps(dict.fromkeys(PROMOTED_ENTITIES, "VARCHAR"))
_REQUIRED: Final = tuple(column.name for column in COLUMNS if not column.nullable)

# DuckDB cuts digits beyond microseconds off, the contract's model rounds them: add one where the seventh digit says so.
_TIMESTAMP: Final = """
    CASE WHEN e."timestamp"[27] BETWEEN '5' AND '9' AND regexp_full_match(substr(e."timestamp", 20, 8), '\\.[0-9]{7}')
         THEN CAST(timezone('UTC', TRY_CAST(upper(e."timestamp") AS TIMESTAMPTZ)) + INTERVAL 1 MICROSECOND AS TIMESTAMP)
         ELSE timezone('UTC', TRY_CAST(upper(e."timestamp") AS TIMESTAMPTZ)) END
"""


def _expression(name: str) -> str:
    """How one column of the flat layout is read from the parsed event `e` and its entities `n`."""
    if name == "timestamp":
        return _TIMESTAMP
    if name == "severity":
        return "coalesce(e.severity, CASE WHEN e.kind = 'error' THEN 'error' ELSE 'info' END)"
    if name in PROMOTED_ENTITIES:
        return f"n.{name}"
    if name in _SHAPE:
        return f'CAST(e."{name}" AS VARCHAR)' if _SHAPE[name] == "JSON" else f'e."{name}"'
    parent, _, child = name.partition("_")
    if parent in _NESTED and child in _SHAPE[parent]:
        return f'e."{parent}"."{child}"'
    message = f"the flat layout has gained the column {name!r}: say here how it is read from an event's JSON"
    raise AssertionError(message)


_COLUMNS: Final = ", ".join(f'{_expression(column.name)} AS "{column.name}"' for column in COLUMNS)


def _query(parse: str) -> str:
    parsed = f"SELECT {parse} AS e FROM lines"
    return f"SELECT {_COLUMNS} FROM (SELECT *, from_json(e.entities, '{_ENTITIES}') AS n FROM ({parsed}))"


_PARSE: Final = f"from_json(line, '{json.dumps(_SHAPE)}')"
_QUERY: Final = _query(_PARSE)
_CAREFUL_QUERY: Final = _query(f"TRY({_PARSE})")


_NO_LINES: Final = pa.schema([pa.field("number", INT), pa.field("line", STRING)]).empty_table()


@dataclass(frozen=True)
class Parsed:
    """Lines read: `events` in the flat layout, `numbers` (int64, one for each event) and those lines that are no events."""

    events: pa.Table
    numbers: pa.ChunkedArray[Any]
    invalid: pa.Table
    """Columns `number` (int64) and `line` (string)."""


class LineParser:
    """Reads NDJSON into the flat layout; one small in-memory DuckDB, used by one thread at a time."""

    def __init__(self, threads: int = 2) -> None:
        self._connection = duckdb.connect(config={"threads": threads, "autoinstall_known_extensions": False})
        self._connection.execute("SET TimeZone = 'UTC'")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def parse(self, body: bytes, numbers: pa.Array[Any] | pa.ChunkedArray[Any] | None = None) -> Parsed:
        """Read one chunk of whole lines; `numbers` names each line (by default from 0). Blank lines are nothing."""
        lines = split_lines(body)
        if numbers is None:
            numbers = consecutive(0, len(lines))
        if len(numbers) != len(lines):
            message = f"{len(lines)} lines came with {len(numbers)} numbers"
            raise ValueError(message)
        self._connection.register("lines", pa.table({"line": lines}))
        try:
            events = self._connection.execute(_QUERY).to_arrow_table()
        except duckdb.InvalidInputException:
            events = self._connection.execute(_CAREFUL_QUERY).to_arrow_table()
        finally:
            self._connection.unregister("lines")
        # Rows come in the order of their lines.
        events = events.cast(FLAT_SCHEMA)
        whole = functools.reduce(pc.and_, [pc.is_valid(events[name]) for name in _REQUIRED])
        if pc.all(whole).as_py() is not False:
            return Parsed(events, pa.chunked_array([numbers]) if isinstance(numbers, pa.Array) else numbers, _NO_LINES)
        broken = pa.table({"number": numbers, "line": lines}).filter(pc.invert(whole))
        broken = broken.filter(pc.not_equal(pc.utf8_trim_whitespace(broken["line"]), pa.scalar("", pa.large_string())))
        kept = pa.table({"number": numbers}).filter(whole)["number"]
        return Parsed(events.filter(whole), kept, broken.cast(_NO_LINES.schema))


def from_ndjson(chunks: Iterable[bytes]) -> pa.Table:
    """Events in the flat layout from chunks of NDJSON, each chunk whole lines, in order.

    Raises ValueError if a line is no event: what comes here has passed the contract.
    """
    tables = [FLAT_SCHEMA.empty_table()]
    with LineParser() as parser:
        for chunk in chunks:
            parsed = parser.parse(chunk)
            if parsed.invalid.num_rows:
                first = parsed.invalid.slice(0, 1).to_pylist()[0]
                message = f"line {first['number'] + 1} is no event of the contract: {first['line'][:200]}"
                raise ValueError(message)
            tables.append(parsed.events)
    return pa.concat_tables(tables)


def consecutive(first: int, count: int) -> pa.Array[Any]:
    """`count` whole numbers from `first` (int64), made without Python objects."""
    numbers: pa.Array[Any] = pa.arange(first, first + count, 1)  # type: ignore[attr-defined] # the stubs are older than pyarrow
    return numbers


def split_lines(body: bytes) -> pa.ChunkedArray[Any]:
    """The lines of an NDJSON text (line feed or CR LF), blank ones included, the end of the last one optional."""
    if b"\r" in body:
        # A raw carriage return in valid JSON is white space; Arrow would take it for the end of a line.
        body = body.replace(b"\r\n", b"\n").replace(b"\r", b" ")
    if not body:
        return pa.chunked_array([], pa.large_string())
    try:
        return pcsv.read_csv(
            pa.BufferReader(body),  # type: ignore[arg-type] # the stubs know files only
            read_options=pcsv.ReadOptions(column_names=["line"], block_size=_BLOCK_BYTES),
            # No valid JSON holds a raw control character, so there is one column, and quotes mean nothing.
            parse_options=pcsv.ParseOptions(delimiter="\x01", quote_char=False, escape_char=False, ignore_empty_lines=False),
            convert_options=pcsv.ConvertOptions(column_types={"line": pa.large_string()}, strings_can_be_null=False),
        )["line"]
    except pa.ArrowInvalid:
        # Bytes that are no UTF-8, control characters, or a line longer than a block: slowly, but nothing is lost.
        texts = body.decode("utf-8", "replace").removesuffix("\n").split("\n")
        return pa.chunked_array([pa.array(texts, pa.large_string())])
