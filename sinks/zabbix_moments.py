"""Gives each value of an item a second and nanosecond of its own: of two values with the same, Zabbix keeps one."""

from __future__ import annotations

import zlib
from datetime import UTC, datetime, timedelta
from typing import Final

from msgspec import UNSET

from contract.event import Event

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
SECOND: Final = 1_000_000_000
REMEMBERED: Final = 100_000
"""Values after which the older half of what is remembered is forgotten."""


def nanoseconds(event: Event) -> int:
    """Unix time of an event in nanoseconds: its microseconds, and below them what tells events of one microsecond apart.

    That is the event's number in its process, which tells a thousand of one process apart; else a checksum of its id. The
    same event has the same moment at every delivery.
    """
    micros = (event.timestamp - _EPOCH) // _MICROSECOND
    tie = zlib.crc32(event.event_id.encode()) if event.emitter is UNSET else event.emitter.seq
    return micros * 1000 + tie % 1000


class Moments:
    """Moves a value on to the next free nanosecond when another event has its moment already.

    What was given is remembered for the last REMEMBERED values at least, so that a delivery repeated by the same process gets
    the same moments whatever else came between. A new process starts from nothing: of values that collided it may move others.
    """

    def __init__(self, remembered: int = REMEMBERED) -> None:
        self._half = max(1, remembered)
        self._taken: dict[tuple[str, int], str] = {}
        self._given: dict[tuple[str, str], int] = {}
        self._old_taken: dict[tuple[str, int], str] = {}
        self._old_given: dict[tuple[str, str], int] = {}
        self._next: dict[tuple[str, int], int] = {}

    def give(self, key: str, event_id: str, wanted: int) -> int:
        """The moment, in nanoseconds, of one event's value for the item `key`."""
        name = (key, event_id)
        known = self._given.get(name, self._old_given.get(name))
        if known is not None:
            return known
        moment = wanted
        if self._is_taken(key, wanted):
            moment = self._next.get((key, wanted), wanted + 1)
            while self._is_taken(key, moment):
                moment += 1
            self._next[key, wanted] = moment + 1
        self._remember(key, event_id, moment)
        return moment

    def _is_taken(self, key: str, moment: int) -> bool:
        return (key, moment) in self._taken or (key, moment) in self._old_taken

    def _remember(self, key: str, event_id: str, moment: int) -> None:
        if len(self._given) >= self._half:
            self._old_taken, self._taken = self._taken, {}
            self._old_given, self._given = self._given, {}
            self._next = {}
        self._taken[key, moment] = event_id
        self._given[key, event_id] = moment
