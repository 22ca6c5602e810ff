"""Dead letters: events that a backend refused for good, with the reason, in the form of the sidecar's."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime, timezone
from typing import Any

from monitoring_sdk._shipments import Parcel
from monitoring_sdk._transport import Rejection


def letters(backend: str, parcel: Parcel, rejections: Iterable[Rejection]) -> list[bytes]:
    """A line of JSON for each refused event of the parcel."""
    now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
    lines = []
    for rejection in rejections:
        line = parcel.lines[rejection.index]
        letter = {
            "dead_at": now,
            "backend": backend,
            "seq": parcel.number + rejection.index,
            "event_id": (event_in(line) or {}).get("event_id"),
            "reason": reason(rejection),
            "event": line.decode(errors="replace"),
        }
        lines.append(json.dumps(letter, ensure_ascii=False).encode(errors="replace"))
    return lines


def event_in(line: bytes) -> dict[str, Any] | None:
    """The JSON object that a line holds; None when it holds none, as after damage to a disk."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def reason(rejection: Rejection) -> str:
    """Why an event was refused, with the place in it where that is known."""
    return f"{rejection.path}: {rejection.error}" if rejection.path else rejection.error
