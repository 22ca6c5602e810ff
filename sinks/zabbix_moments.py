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
        self._given: dict[tuple[str, str], int] = {}
        self._old_given: dict[tuple[str, str], int] = {}
        self._beyond: dict[tuple[str, int], int] = {}
        """For each moment that is taken, a later one before which none is free."""
        self._old_beyond: dict[tuple[str, int], int] = {}

    def give(self, key: str, event_id: str, wanted: int) -> int:
        """The moment, in nanoseconds, of one event's value for the item `key`."""
        known = self._given.get((key, event_id), self._old_given.get((key, event_id)))
        if known is not None:
            return known
        passed, moment = [], wanted
        while (beyond := self._beyond.get((key, moment), self._old_beyond.get((key, moment)))) is not None:
            passed.append(moment)
            moment = beyond
        if len(self._given) >= self._half:
            self._old_given, self._given = self._given, {}
            self._old_beyond, self._beyond = self._beyond, {}
        for each in (*passed, moment):  # so that a thousand events of one microsecond don't step over each other again and again
            self._beyond[key, each] = moment + 1
        self._given[key, event_id] = moment
        return moment
