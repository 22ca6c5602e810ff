"""What an event's message in RabbitMQ looks like: its properties, its headers and its routing key."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any, Final

import msgspec
from aiormq import spec

MAX_SHORT_STRING_BYTES: Final = 255
"""AMQP 0-9-1, section 4.2.5.3: a short string's length is one octet."""

_PERSISTENT: Final = 2
_PLACEHOLDER: Final = re.compile(r"\{([^{}]*)\}")
_ROUTED_BY: Final = ("kind", "site_id", "app", "name", "severity")
_NOT_IN_A_WORD: Final = re.compile(r"[.*#\s]")


class _App(msgspec.Struct):
    name: str


class Routed(msgspec.Struct):
    """What of an event its message is made of."""

    event_id: str
    kind: str
    site_id: str
    name: str
    app: _App
    timestamp: datetime
    severity: str | None = None


_DECODER = msgspec.json.Decoder(Routed)


def routed(line: bytes) -> Routed:
    """What of an event's JSON text its message is made of."""
    return _DECODER.decode(line)


def properties(event: Routed, *, deduplication_header: bool) -> spec.Basic.Properties:
    """The message's properties; it outlives a restart of the broker."""
    headers: dict[str, Any] = {"event_id": event.event_id, "kind": event.kind, "site_id": event.site_id}
    if deduplication_header:
        headers["x-deduplication-header"] = event.event_id
    return spec.Basic.Properties(
        content_type="application/json",
        content_encoding="utf-8",
        headers=headers,
        delivery_mode=_PERSISTENT,
        message_id=event.event_id,
        timestamp=event.timestamp,
        message_type=event.kind,
        app_id=_short(event.app.name),
    )


def check_template(template: str) -> None:
    """Raise ValueError when a routing key's template holds a placeholder that there is not."""
    unknown = sorted(set(_PLACEHOLDER.findall(template)) - set(_ROUTED_BY))
    if unknown:
        known = ", ".join(f"{{{name}}}" for name in _ROUTED_BY)
        message = f"routing_key: unknown {', '.join(f'{{{name}}}' for name in unknown)}; known are {known}"
        raise ValueError(message)


def routing_key(template: str, event: Routed) -> str:
    """The key that an event is published with: at most 255 bytes of UTF-8, cut between characters."""
    values = {
        "kind": event.kind,
        "site_id": event.site_id,
        "app": event.app.name,
        "name": event.name,
        "severity": event.severity or ("error" if event.kind == "error" else "info"),
    }
    key = _PLACEHOLDER.sub(lambda found: _NOT_IN_A_WORD.sub("_", values[found[1]]), template)
    return _short(key)


def _short(text: str) -> str:
    return text.encode()[:MAX_SHORT_STRING_BYTES].decode(errors="ignore")
