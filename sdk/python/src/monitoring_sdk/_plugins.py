"""What other installed packages bring along: the entry points of a group."""

from __future__ import annotations

from functools import cache
from importlib import metadata
from typing import Any


@cache
def entry_points(group: str) -> dict[str, Any]:
    """The entry points of a group by name."""
    found: Any = metadata.entry_points()
    # Before Python 3.10 it is a plain dict.
    entries = found.select(group=group) if hasattr(found, "select") else found.get(group, ())
    return {entry.name: entry for entry in entries}
