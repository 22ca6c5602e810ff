"""Events as entries of Grafana Loki: the labels of their stream, their nanosecond, their line, their structured metadata."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Final, NamedTuple

import msgspec

from contract.event import Error

_TIMESTAMP: Final = re.compile(r"(\d{4}-\d\d-\d\d.\d\d:\d\d:\d\d)(?:\.(\d+))?(.+)")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND: Final = timedelta(seconds=1)
_encode: Final = msgspec.json.Encoder().encode


class _App(msgspec.Struct):
    name: str
    version: str | None = None
    instance_id: str | None = None


class _Event(msgspec.Struct):
    event_id: str
    timestamp: str
    kind: str
    name: str
    site_id: str
    app: _App
    severity: str | None = None
    status: str | None = None
    run_id: str | None = None
    parent_run_id: str | None = None
    trace_id: str | None = None
    span_id: str | None = None
    entities: dict[str, str] = {}


_DECODER: Final = msgspec.json.Decoder(_Event)

LABEL_FIELDS: Final = (
    "app_name", "app_version", "site_id", "kind", "name", "severity", "status", "tool", "chamber", "recipe", "step", "product",
)  # fmt: skip
"""Columns of the flat layout that may be labels; each value makes streams of its own, so what has no bound is not among them."""

METADATA_FIELDS: Final = (
    "event_id", "run_id", "parent_run_id", "trace_id", "span_id", "app_version", "app_instance_id", "name", "status", "lot",
    "wafer", "tool", "chamber", "recipe", "step", "product", "operator",
)  # fmt: skip
"""Columns that may be structured metadata."""


def _field(event: _Event, column: str) -> str | None:
    match column:
        case "app_name":
            return event.app.name
        case "app_version":
            return event.app.version
        case "app_instance_id":
            return event.app.instance_id
        case "severity":
            return event.severity or (Error.default_severity if event.kind == Error.kind else "info")
    if column in _Event.__struct_fields__:
        value: str | None = getattr(event, column)
        return value
    return event.entities.get(column)


class Entry(NamedTuple):
    """One event, ready to be sent; entries sort by moment."""

    nanoseconds: int
    """Since 1970, UTC; always the same for the same event."""
    place: int
    """Its place in the batch."""
    stream: bytes
    """Its labels as a JSON object."""
    event_id: str
    value: bytes
    """The JSON array that the push API takes."""


class Layout:
    """Which fields of an event become labels (label → column) and structured metadata, and which labels are always the same."""

    def __init__(
        self, labels: Mapping[str, str], static: Mapping[str, str], metadata: Sequence[str], hour_label: str | None = None
    ) -> None:
        self._labels = sorted(labels.items())
        self._static = dict(static)
        self._metadata = tuple(metadata)
        self._hour_label = hour_label

    def entry(self, place: int, line: bytes) -> Entry:
        """One event's entry. Raises msgspec.MsgspecError or ValueError when it is no event."""
        event = _DECODER.decode(line)
        moment = nanoseconds(event.timestamp)
        labels = dict(self._static)
        labels.update((label, text) for label, column in self._labels if (text := _field(event, column)))
        if self._hour_label:
            labels[self._hour_label] = f"{_EPOCH + timedelta(seconds=moment // 10**9):%Y-%m-%dT%H}"
        metadata = {column: text for column in self._metadata if (text := _field(event, column))}
        value = (str(moment), line.decode(), metadata) if metadata else (str(moment), line.decode())
        return Entry(moment, place, _encode(labels), event.event_id, _encode(value))


def nanoseconds(timestamp: str) -> int:
    """Nanoseconds since 1970 of an event's timestamp, with every digit that it has up to the ninth. Raises ValueError."""
    found = _TIMESTAMP.fullmatch(timestamp)
    if not found:
        message = f"not a timestamp: {timestamp}"
        raise ValueError(message)
    whole = msgspec.convert(found[1] + found[3], datetime)
    return (whole - _EPOCH) // _SECOND * 10**9 + int(((found[2] or "") + "0" * 9)[:9])


def by_stream(entries: Iterable[Entry]) -> list[list[Entry]]:
    """The entries of each stream, in time order."""
    ordered = sorted(entries, key=lambda entry: (entry.stream, entry.nanoseconds, entry.place))
    return [list(group) for _, group in groupby(ordered, key=lambda entry: entry.stream)]


def push_body(entries: Iterable[Entry]) -> bytes:
    """The JSON body of a push request."""
    streams = [
        b'{"stream":%b,"values":[%b]}' % (group[0].stream, b",".join(entry.value for entry in group))
        for group in by_stream(entries)
    ]
    return b'{"streams":[%b]}' % b",".join(streams)
