"""Event ids: UUIDs of version 7 (RFC 9562), which sort by the time they were made."""

import hashlib
import os
import re
import time
from datetime import datetime

UUID_PATTERN = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_UUID = re.compile(UUID_PATTERN)
_RANDOM_BYTES = 10


def is_uuid(text: str) -> bool:
    """Whether `text` is a UUID in its one accepted spelling: lower case, 36 characters, with dashes."""
    return _UUID.fullmatch(text) is not None


def uuid7(unix_millis: int | None = None) -> str:
    """A new UUIDv7; `unix_millis` stands in for the clock."""
    millis = time.time_ns() // 1_000_000 if unix_millis is None else unix_millis
    return _assemble(millis, os.urandom(_RANDOM_BYTES))


def uuid7_millis(uuid: str) -> int | None:
    """The moment that a UUIDv7 carries, in milliseconds since 1970; None for a UUID of another version."""
    if uuid[14] != "7":
        return None
    return int(uuid[:8] + uuid[9:13], 16)


def stable_id(key: str, timestamp: datetime) -> str:
    """A UUIDv7-shaped id that depends on nothing but `key` and `timestamp`, so that loading the same data twice adds nothing.

    The time part is `timestamp` (aware, 1970 or later); the rest is taken from the SHA-256 of both.
    """
    micros = round(timestamp.timestamp() * 1_000_000)
    random = hashlib.sha256(f"{micros}\0{key}".encode()).digest()[:_RANDOM_BYTES]
    return _assemble(micros // 1000, random)


def _assemble(millis: int, random: bytes) -> str:
    value = millis << 80 | int.from_bytes(random)
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
