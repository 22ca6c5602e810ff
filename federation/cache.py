"""Answers that may be given again: bounded by bytes, made once at a time, judged by age and by their sources' versions."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Generic, Literal, TypeVar

from federation.renditions import Renditions

Value = TypeVar("Value")

CacheResult = Literal["hit", "shared", "miss"]

MAX_KEPT_SECONDS: Final = 600.0
"""An answer older than this is never given again, whatever staleness a caller would take."""


@dataclass(eq=False)
class _Entry(Generic[Value]):
    value: Value
    versions: Hashable
    asked_at: float
    size: int


@dataclass
class AnswerCache(Generic[Value]):
    """Answers by key, least recently used ones go first when `max_bytes` is exceeded.

    The key must hold everything that the answer depends on, the caller's sites and scopes included. `size` tells an answer's
    bytes without its renditions, which are counted as they are made.
    """

    max_bytes: int
    size: Callable[[Value], int]
    renditions: Callable[[Value], Renditions]
    clock: Callable[[], float] = time.monotonic
    _entries: OrderedDict[Hashable, _Entry[Value]] = field(default_factory=OrderedDict, init=False)
    _running: dict[Hashable, tuple[float, asyncio.Task[Value]]] = field(default_factory=dict, init=False)
    _bytes: int = field(default=0, init=False)

    async def get(
        self,
        key: Hashable,
        *,
        max_age: float,
        versions: Callable[[], Awaitable[Hashable]],
        make: Callable[[], Awaitable[Value]],
        keep: Callable[[Value], bool],
    ) -> tuple[Value, CacheResult, float]:
        """The answer for `key`, how it was come by, and its age in seconds.

        A kept answer is given when it is at most `max_age` seconds old and the `versions` of its sources are what they were. Else
        `make` is run, once for all that wait for the same key; what `keep` approves is kept. An error of `make` goes to all.
        """
        entry = self._entries.get(key)
        now = self.clock()
        if entry is not None:
            age = now - entry.asked_at
            if age <= min(max_age, MAX_KEPT_SECONDS) and entry.versions == await versions():
                if key in self._entries:
                    self._entries.move_to_end(key)
                return entry.value, "hit", age
        running = self._running.get(key)
        if running is not None and now - running[0] <= max_age:
            return await asyncio.shield(running[1]), "shared", self.clock() - running[0]
        task: asyncio.Task[Value] = asyncio.ensure_future(self._make(key, now, versions, make, keep))
        self._running[key] = (now, task)
        task.add_done_callback(lambda done: self._finished(key, done))
        return await asyncio.shield(task), "miss", 0.0

    def drop(self) -> None:
        """Forget every answer."""
        self._entries.clear()
        self._bytes = 0

    async def _make(
        self,
        key: Hashable,
        asked_at: float,
        versions: Callable[[], Awaitable[Hashable]],
        make: Callable[[], Awaitable[Value]],
        keep: Callable[[Value], bool],
    ) -> Value:
        seen = await versions()  # read before the rows are, so that a change in between makes the entry look old, never new
        value = await make()
        if keep(value):
            entry = _Entry(value, seen, asked_at, self.size(value))
            self.renditions(value).grown = partial(self._grow, key, entry)
            self._put(key, entry)
        return value

    def _put(self, key: Hashable, entry: _Entry[Value]) -> None:
        if entry.size > self.max_bytes:
            return
        old = self._entries.pop(key, None)
        self._bytes += entry.size - (old.size if old else 0)
        self._entries[key] = entry
        self._make_room()

    def _grow(self, key: Hashable, entry: _Entry[Value], size: int) -> None:
        if self._entries.get(key) is entry:
            entry.size += size
            self._bytes += size
            self._make_room()

    def _make_room(self) -> None:
        while self._bytes > self.max_bytes:
            _, gone = self._entries.popitem(last=False)
            self._bytes -= gone.size

    def _finished(self, key: Hashable, task: asyncio.Task[Value]) -> None:
        if self._running.get(key, (0.0, None))[1] is task:
            del self._running[key]
        if not task.cancelled():
            task.exception()  # seen by all that wait; without a waiter left it must not be reported as never retrieved
