"""Answers that are kept: by what was asked, of which versions, for whose sites; bounded in bytes; computed once at a time."""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Literal

import pyarrow as pa

from federation.engines.base import ScanStats
from federation.renditions import Renditions

MAX_SHARE: Final = 8
"""One answer may take this part (an eighth) of the cache at most."""

REMEMBERED_LARGE: Final = 1_000


@dataclass(eq=False)
class Entry:
    """One kept answer; `size` is in bytes, its renditions included."""

    schema: pa.Schema
    batches: tuple[pa.RecordBatch, ...]
    scans: tuple[ScanStats, ...]
    truncated: Literal["rows", "bytes"] | None
    size: int
    renditions: Renditions = field(default_factory=Renditions)


@dataclass
class ResultCache:
    """The least recently used answers go first when `max_bytes` are exceeded; 0 keeps none. Safe to share between threads."""

    max_bytes: int
    _entries: OrderedDict[Hashable, Entry] = field(default_factory=OrderedDict, init=False)
    _large: OrderedDict[Hashable, None] = field(default_factory=OrderedDict, init=False)
    _flights: dict[Hashable, asyncio.Future[None]] = field(default_factory=dict, init=False)
    _bytes: int = field(default=0, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    @property
    def max_entry(self) -> int:
        """The size in bytes above which an answer is not kept."""
        return self.max_bytes // MAX_SHARE

    @property
    def size(self) -> int:
        """Bytes that are kept now."""
        return self._bytes

    def get(self, key: Hashable) -> Entry | None:
        """The kept answer, if there is one."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None:
                self._entries.move_to_end(key)
            return entry

    def put(self, key: Hashable, entry: Entry) -> None:
        """Keep an answer, if it is small enough."""
        with self._lock:
            if entry.size > self.max_entry:
                return
            entry.renditions.grown = partial(self._grow, key, entry)
            old = self._entries.pop(key, None)
            self._bytes += entry.size - (old.size if old is not None else 0)
            self._entries[key] = entry
            self._make_room()

    def _grow(self, key: Hashable, entry: Entry, size: int) -> None:
        with self._lock:
            if self._entries.get(key) is entry:
                entry.size += size
                self._bytes += size
                self._make_room()

    def _make_room(self) -> None:
        while self._bytes > self.max_bytes:
            _, oldest = self._entries.popitem(last=False)
            self._bytes -= oldest.size

    def too_large(self, key: Hashable) -> None:
        """Note that this answer is too large to be kept, so that nobody waits for a twin's."""
        with self._lock:
            self._large[key] = None
            while len(self._large) > REMEMBERED_LARGE:
                self._large.popitem(last=False)

    def worth_waiting(self, key: Hashable) -> bool:
        """Whether a twin's answer could be shared."""
        with self._lock:
            return self.max_bytes > 0 and key not in self._large

    def flight(self, key: Hashable) -> asyncio.Future[None] | None:
        """What ends when the one who computes this answer now, in this event loop, has it or gives up; None if nobody does."""
        return self._flights.get((id(asyncio.get_running_loop()), key))

    def take_off(self, key: Hashable) -> None:
        """Note that the caller computes this answer from now on."""
        loop = asyncio.get_running_loop()
        self._flights[(id(loop), key)] = loop.create_future()

    def land(self, key: Hashable) -> None:
        """Note that the caller has the answer, or gave up; those who wait look again."""
        flight = self._flights.pop((id(asyncio.get_running_loop()), key), None)
        if flight is not None and not flight.done():
            flight.set_result(None)
