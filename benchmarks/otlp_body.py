"""The same events as an OTLP/HTTP protobuf request of log records, written by hand so that no client library is in the way."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from datetime import datetime
from typing import Any

_INFO = 9


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _message(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _text(number: int, text: str) -> bytes:
    return _message(number, text.encode())


def _attribute(number: int, key: str, value: Any) -> bytes:
    """A KeyValue; what is no text stands as JSON text."""
    text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
    return _message(number, _text(1, key) + _message(2, _text(1, text)))


def _record(event: dict[str, Any]) -> bytes:
    nanos = int(datetime.fromisoformat(event["timestamp"]).timestamp() * 1e9)
    attributes = b"".join(_attribute(6, key, value) for key, value in event.items() if key not in {"timestamp", "message"})
    body = _message(5, _text(1, event.get("message", "")))
    return b"\x09" + struct.pack("<Q", nanos) + b"\x10" + _varint(_INFO) + body + attributes


def logs_request(events: Iterable[dict[str, Any]]) -> bytes:
    """An ExportLogsServiceRequest with one record an event, every field of the event in it."""
    records = b"".join(_message(2, _record(event)) for event in events)
    resource = _message(1, _attribute(1, "service.name", "benchmark"))
    return _message(1, resource + _message(2, records))
