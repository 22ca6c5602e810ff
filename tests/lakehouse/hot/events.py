"""Events for the hot store's tests, made as they arrive: from JSON."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import psycopg

from contract.event import Event
from contract.ids import uuid7
from lakehouse.hot import reader

NOW = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)

_DECODER = msgspec.json.Decoder(Event)


def event(**fields: Any) -> Event:
    """One valid event; `fields` replace or add."""
    moment = fields.pop("timestamp", NOW)
    shaped = {
        "event_id": uuid7(),
        "timestamp": moment.isoformat() if isinstance(moment, datetime) else moment,
        "kind": "log",
        "name": "etch",
        "site_id": "fab1",
        "app": {"name": "etcher"},
        **fields,
    }
    decoded: Event = _DECODER.decode(json.dumps(shaped))
    return decoded


def many(count: int, start: datetime = NOW, **fields: Any) -> list[Event]:
    """Events a millisecond apart, numbered by one emitter."""
    emitter = uuid7()
    return [
        event(timestamp=start + timedelta(milliseconds=number), emitter={"id": emitter, "seq": number + 1}, **fields)
        for number in range(count)
    ]


def value(dsn: str, statement: str, *parameters: Any) -> Any:
    """The first column of a statement's first row."""
    with psycopg.connect(dsn) as connection:
        row = connection.execute(statement.encode(), parameters or None).fetchone()
    return row[0] if row else None


def rows(dsn: str) -> dict[str, dict[str, Any]]:
    """Every event in the store by its id, as the lake would read it."""
    return {row["event_id"]: row for row in reader.read_since(dsn, 0, 1_000_000).table.to_pylist()}


def stored(dsn: str) -> list[str]:
    """The ids of all events in the store, in order."""
    with psycopg.connect(dsn) as connection:
        return [row[0] for row in connection.execute("SELECT event_id::text FROM trackmate.events ORDER BY 1")]
