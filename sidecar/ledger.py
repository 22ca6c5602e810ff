"""Remembers which stretches of the log a fallback took while its primary was down, until the primary has them too.

The primary's own checkpoint stays where it was, so the log keeps these events for it; the ledger is what tells an operator (and
`/health`) that events stand in one place and are still owed to another. It is one small file, `fallback-ledger.json`.
"""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path
from typing import Final

import msgspec

FILE_NAME: Final = "fallback-ledger.json"

logger = logging.getLogger(__name__)


class Stretch(msgspec.Struct):
    """Events `first`..`last` that a fallback took over."""

    first: int
    last: int


class Ledger:
    """The stretches of every fallback; safe to use from several threads."""

    def __init__(self, spool: Path) -> None:
        self._path = spool / FILE_NAME
        self._lock = threading.Lock()
        self._stretches = self._load()

    def add(self, fallback: str, first: int, last: int) -> None:
        """Note that `fallback` took `first`..`last`; durable on return. Raises OSError."""
        with self._lock:
            known = self._stretches.get(fallback, [])
            touching = [s for s in known if s.first <= last + 1 and first <= s.last + 1]
            merged = Stretch(min([first, *(s.first for s in touching)]), max([last, *(s.last for s in touching)]))
            left = [s for s in known if s not in touching]
            self._stretches[fallback] = sorted([*left, merged], key=lambda s: s.first)
            self._store()

    def settle(self, fallback: str, position: int) -> None:
        """Strike what the primaries have: everything up to `position`. Raises OSError."""
        with self._lock:
            known = self._stretches.get(fallback, [])
            left = [Stretch(max(s.first, position + 1), s.last) for s in known if s.last > position]
            if left != known:
                self._stretches[fallback] = left
                self._store()

    def owed(self, fallback: str) -> list[Stretch]:
        """What `fallback` took and the primaries still lack."""
        with self._lock:
            return [Stretch(s.first, s.last) for s in self._stretches.get(fallback, [])]

    def _load(self) -> dict[str, list[Stretch]]:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, list[Stretch]])
        except FileNotFoundError:
            return {}
        except msgspec.DecodeError as error:
            logger.warning("fallback ledger can't be read and starts empty", extra={"file": str(self._path), "error": str(error)})
            return {}

    def _store(self) -> None:
        aside = self._path.with_name(self._path.name + ".tmp")
        with aside.open("wb") as handle:
            handle.write(msgspec.json.encode(self._stretches))
            handle.flush()
            os.fsync(handle.fileno())
        aside.replace(self._path)
