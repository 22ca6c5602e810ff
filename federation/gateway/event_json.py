"""Rows of the flat layout as events in their JSON shape, column by column; JSON that is text already is kept as it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from contract.columns import COLUMNS, PROMOTED_ENTITIES
from federation.merge import SOURCES_COLUMN

_NESTED: Final = {
    "app_name": ("app", "name"),
    "app_version": ("app", "version"),
    "app_instance_id": ("app", "instance_id"),
    "emitter_id": ("emitter", "id"),
    "emitter_seq": ("emitter", "seq"),
    "state_from": ("state", "from"),
    "state_to": ("state", "to"),
    "error_type": ("error", "type"),
    "error_message": ("error", "message"),
    "error_stack": ("error", "stack"),
}
_RAWS: Final = msgspec.json.Decoder(list[msgspec.Raw])
_ENCODER: Final = msgspec.json.Encoder()

Event = dict[str, Any]


def events(table: pa.Table) -> list[Event]:
    """Each row as an event, with the list of its `sources` where the table has one; to be encoded by msgspec."""
    made: list[Event] = [{} for _ in range(table.num_rows)]
    for column in COLUMNS:
        if column.name in PROMOTED_ENTITIES:
            continue  # they stand in `entities` too
        values = table.column(column.name)
        if values.null_count == table.num_rows:
            continue
        if column.name in _NESTED:
            _nest(made, *_NESTED[column.name], values.to_pylist())
        elif column.type == "json":
            _put(made, column.name, _raws(values.to_pylist()))
        elif column.type == "timestamp":
            _put(made, column.name, pc.strftime(values, "%Y-%m-%dT%H:%M:%SZ").to_pylist())
        else:
            _put(made, column.name, values.to_pylist())
    if SOURCES_COLUMN in table.column_names:
        _put(made, SOURCES_COLUMN, table.column(SOURCES_COLUMN).to_pylist())
    return made


def encoded(table: pa.Table) -> bytes:
    """All events of the table as a JSON array."""
    return _ENCODER.encode(events(table))


def _put(made: Sequence[Event], name: str, values: Sequence[Any]) -> None:
    for event, value in zip(made, values, strict=True):
        if value is not None:
            event[name] = value


def _nest(made: Sequence[Event], parent: str, name: str, values: Sequence[Any]) -> None:
    for event, value in zip(made, values, strict=True):
        if value is not None:
            inside = event.get(parent)
            if inside is None:
                event[parent] = {name: value}
            else:
                inside[name] = value


def _raws(texts: Sequence[str | None]) -> Sequence[Any]:
    """JSON texts as they are, proved to be JSON in one go; when one is not, which only a foreign source can do, it stays text."""
    joined = "[" + ",".join("null" if text is None else text for text in texts) + "]"
    try:
        raws = _RAWS.decode(joined)
    except (msgspec.DecodeError, RecursionError):
        raws = []
    if len(raws) != len(texts):
        return [None if text is None else _raw(text) for text in texts]
    return [None if text is None else raw for text, raw in zip(texts, raws, strict=True)]


def _raw(text: str) -> Any:
    try:
        return msgspec.json.decode(text, type=msgspec.Raw)
    except (msgspec.DecodeError, RecursionError):
        return text
