"""UUIDs of version 7 (RFC 9562) at a fraction of a microsecond: random bits once a source, then a number that counts."""

from __future__ import annotations

import os
import time

_VARIANTS = "89ab"


class IdSource:
    """Makes ids for one process, from any thread; a forked child needs a source of its own, or it would repeat its parent's.

    An id is the millisecond (48 bits), what is random in this source (42 bits), and the caller's number (32 bits).
    """

    __slots__ = ("_millis", "_tail")

    def __init__(self) -> None:
        digits = os.urandom(6).hex()
        self._tail = f"-7{digits[:3]}-{_VARIANTS[int(digits[3], 16) & 3]}{digits[4:7]}-{digits[7:11]}"
        self._millis: tuple[int, str] = (-1, "")

    def new(self, now_ns: int, number: int) -> str:
        """The id for the moment `now_ns` (nanoseconds since 1970) and a `number` that no other call has."""
        millis = now_ns // 1_000_000
        known, head = self._millis
        if known != millis:
            digits = f"{millis:012x}"
            head = f"{digits[:8]}-{digits[8:]}{self._tail}"
            self._millis = (millis, head)
        return f"{head}{number & 0xFFFFFFFF:08x}"


def uuid7() -> str:
    """A single UUIDv7 of this moment."""
    return IdSource().new(time.time_ns(), int.from_bytes(os.urandom(4), "big"))
