"""Finds growing files that nobody completed in time, such as those of a process that was killed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import msgspec

from sinks.jsonl_files import STATE_FOLDER, STATE_SUFFIX, State

GRACE_SECONDS: Final = 5.0
"""Whoever writes a file completes it within about a second of its time; who is this late does not live, or can't."""


class LeftBehind:
    """The logs below a folder by what their states say; a state is read again only when it has changed."""

    def __init__(self, root: Path) -> None:
        self._folder = root / STATE_FOLDER
        self._known: dict[str, tuple[tuple[int, int], float]] = {}
        """By name of the state: which version of it this was, and when its first growing file is late, in Unix time."""

    def logs(self, now: float) -> list[str]:
        """Those with a growing file that is late at `now`, in Unix time. Raises OSError when the folder can't be read."""
        known: dict[str, tuple[tuple[int, int], float]] = {}
        try:
            with os.scandir(self._folder) as entries:
                for entry in entries:
                    if entry.name.endswith(STATE_SUFFIX):
                        status = entry.stat()
                        version = status.st_ino, status.st_mtime_ns
                        found = self._known.get(entry.name)
                        known[entry.name] = found if found and found[0] == version else (version, _late_at(Path(entry.path)))
        except FileNotFoundError:  # the folder, or a state that a person removes; the next look sees the rest
            return []
        self._known = known
        return [name.removesuffix(STATE_SUFFIX) for name, (_, late_at) in known.items() if late_at <= now]


def _late_at(path: Path) -> float:
    try:
        state = msgspec.json.decode(path.read_bytes(), type=State)
    except (FileNotFoundError, msgspec.DecodeError):  # whoever writes this log finds out, and says what to do
        return float("inf")
    since = min((file.since for file in state.open.values()), default=float("inf"))
    return since + state.rotate_seconds + GRACE_SECONDS
