"""Stands before the log and lets no batch into it twice: one that comes again is acknowledged as the one that it was.

A sender whose connection broke before the answer came sends the same bytes again, and so does one whose agent was killed between
the sync and the answer. Systems that know events by their id would keep one copy anyway; files and objects would not. Only the
newest batches are known, by the 128 bits of XXH3 with a seed that is made anew at each start, so that nobody can make two alike.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Protocol

import xxhash

from sidecar.spool.format import Flags, Record, ShedClass
from sidecar.spool.reader import SpoolReader

REMEMBERED: Final = 8_192
"""Batches; at 16 connections that send 100 events each as fast as the log takes them, some seconds' worth."""

SEEDED_BYTES: Final = 128 * 1024 * 1024
"""What is read of the newest segments at the start, at most."""

_Key = tuple[int, bytes]


class Log(Protocol):
    """What is asked of the log."""

    def check(self, size: int = 0, shed: ShedClass = ShedClass.NORMAL) -> None:
        """Raises SpoolBusy or SpoolUnavailable when nothing can be taken now."""

    async def append(self, payload: bytes, count: int, flags: Flags = Flags()) -> int:  # noqa: B008 - an immutable tuple
        """Durable when it returns; the number of the batch's first event."""


class Repeats:
    """The log as senders see it. `newest` is what stands in it at the start; `count` is told the events of each repetition."""

    def __init__(self, log: Log, newest: Iterable[Record], count: Callable[[int], None]) -> None:
        self._log = log
        self._count = count
        self._seed = secrets.randbits(64)
        self._seqs: OrderedDict[_Key, int] = OrderedDict()
        self._under_way: dict[_Key, asyncio.Future[int]] = {}
        for record in newest:
            self._remember(self._key(record.payload, record.flags), record.seq)

    def check(self, size: int = 0, shed: ShedClass = ShedClass.NORMAL) -> None:
        """Raise what `append` would raise now for a batch of `size` bytes."""
        self._log.check(size, shed)

    async def append(self, payload: bytes, count: int, flags: Flags = Flags()) -> int:  # noqa: B008 - an immutable tuple
        """Store a batch, unless it is stored already; the number of its first event, which is durable then.

        Raises SpoolBusy or SpoolUnavailable.
        """
        key = self._key(payload, flags)
        while (first := self._under_way.get(key)) is not None:
            await asyncio.wait([first])
        seq = self._seqs.get(key)
        if seq is not None:
            self._count(count)
            return seq
        storing = self._under_way[key] = asyncio.ensure_future(self._log.append(payload, count, flags))
        storing.add_done_callback(lambda _: self._stored(key, storing))
        # A sender that goes away doesn't take its batch back: it is stored all the same, and must be known when it comes again.
        return await asyncio.shield(storing)

    def _stored(self, key: _Key, storing: asyncio.Future[int]) -> None:
        del self._under_way[key]
        if not storing.cancelled() and storing.exception() is None:
            self._remember(key, storing.result())

    def _key(self, payload: bytes, flags: Flags) -> _Key:
        return flags.to_int(), xxhash.xxh3_128_digest(payload, self._seed)

    def _remember(self, key: _Key, seq: int) -> None:
        self._seqs[key] = seq
        self._seqs.move_to_end(key)
        if len(self._seqs) > REMEMBERED:
            self._seqs.popitem(last=False)


def newest_records(reader: SpoolReader) -> Iterator[Record]:
    """The records of the newest segments, within `SEEDED_BYTES`. Raises OSError."""
    after_seq, size = 0, 0
    for number, segment in enumerate(reversed(reader.segments())):
        size += segment.bytes
        if number and size > SEEDED_BYTES:
            break
        after_seq = segment.first_seq - 1
    return reader.read(after_seq, 2**63 - 1, SEEDED_BYTES, closed_only=False)
