"""What stands in a segment file: a header, then records one after the other; all numbers little-endian.

**Segment header**, 64 bytes:

| offset | bytes | field | meaning |
| --- | --- | --- | --- |
| 0 | 8 | magic | `TMSPOOL` and a zero byte |
| 8 | 2 | version | 1 |
| 10 | 2 | header bytes | 64: where the first record starts |
| 12 | 4 | - | zero |
| 16 | 16 | spool id | the UUID in `spool.json` |
| 32 | 8 | first sequence | of the segment's first event, as in the file's name |
| 40 | 8 | created at | microseconds since 1970, UTC |
| 48 | 12 | - | zero |
| 60 | 4 | CRC32C | of bytes 0 to 59 |

**Record**, a header of 40 bytes and the batch as it was received:

| offset | bytes | field | meaning |
| --- | --- | --- | --- |
| 0 | 4 | magic | `F5 54 4D 52`; the first byte never occurs in UTF-8 text |
| 4 | 4 | length | of the bytes that follow the header; at most 16 MiB |
| 8 | 8 | sequence | of the record's first event; the first event of a spool is 1 |
| 16 | 8 | received at | microseconds since 1970, UTC |
| 24 | 4 | count | events in the record, at least 1; the next record's sequence is sequence + count |
| 28 | 2 | flags | see below |
| 30 | 2 | - | zero |
| 32 | 4 | CRC32C | of the bytes that follow the header |
| 36 | 4 | CRC32C | of bytes 0 to 35 |
| 40 | length | body | |

Both checksums of a record start from the segment's seed, CRC32C(spool id, first sequence), not from zero: a record that a
disk shows in the wrong file, a block of a deleted segment, or bytes that a client made up to look like a record never
pass for one. The header has a checksum of its own, so that a flipped length is found at once and a damaged body still
tells how many events it held.

**Flags**: bits 0-1 the body's encoding (0 none, 1 gzip, 2 zstd); bits 2-3 its format (`contract.framing.BodyFormat`: 0 array,
1 wrapped, 2 NDJSON, 3 single); bits 4-5 what may be shed (0 normal, 1 only debug events, 2 only finish and error events).

A segment ends where the next one begins: a record whose sequence is not below the next segment's first was never
acknowledged (it stood in a segment that was given up after a failed write) and is not read.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from typing import Final, NamedTuple
from uuid import UUID

import google_crc32c

from contract.compression import decompress
from contract.framing import BodyFormat, split_ndjson
from contract.limits import MAX_BODY_BYTES

SEGMENT_MAGIC: Final = b"TMSPOOL\0"
FORMAT_VERSION: Final = 1
SEGMENT_HEADER: Final = struct.Struct("<8sHH4x16sQq12xI")
SEGMENT_HEADER_BYTES: Final = SEGMENT_HEADER.size
RECORD_MAGIC: Final = b"\xf5TMR"
RECORD_HEADER: Final = struct.Struct("<4sIQqIHHII")
RECORD_HEADER_BYTES: Final = RECORD_HEADER.size
MAX_RECORD_BYTES: Final = 16 * 1024 * 1024
"""A body of the contract's largest size and what re-framing may add; a header that claims more is damaged."""

MAX_SEQUENCE: Final = 2**63 - 1
_CRC_BYTES: Final = 4
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

assert SEGMENT_HEADER_BYTES == 64  # noqa: S101 - the layout is a promise to files on disk
assert RECORD_HEADER_BYTES == 40  # noqa: S101
assert MAX_RECORD_BYTES > MAX_BODY_BYTES  # noqa: S101


class Encoding(IntEnum):
    """How a body is compressed; the numbers stand in files and never change."""

    NONE = 0
    GZIP = 1
    ZSTD = 2


_ENCODING_NAMES: Final = {"identity": Encoding.NONE, "gzip": Encoding.GZIP, "x-gzip": Encoding.GZIP, "zstd": Encoding.ZSTD}
_CONTENT_ENCODINGS: Final = {Encoding.NONE: None, Encoding.GZIP: "gzip", Encoding.ZSTD: "zstd"}


class ShedClass(IntEnum):
    """What a site that chooses to shed may let go of first; the numbers stand in files and never change."""

    NORMAL = 0
    DEBUG = 1
    VITAL = 2


class Flags(NamedTuple):
    """What is known of a body without looking into it."""

    encoding: Encoding = Encoding.NONE
    format: BodyFormat = BodyFormat.NDJSON
    shed: ShedClass = ShedClass.NORMAL

    @classmethod
    def of(cls, content_encoding: str | None, body_format: BodyFormat, shed: ShedClass = ShedClass.NORMAL) -> Flags:
        """From a request's Content-Encoding (None, `identity`, `gzip`, `zstd`). Raises KeyError for another."""
        return cls(_ENCODING_NAMES[(content_encoding or "identity").strip().lower()], body_format, shed)

    @property
    def content_encoding(self) -> str | None:
        """The encoding as HTTP names it; None when the body is plain."""
        return _CONTENT_ENCODINGS[self.encoding]

    def to_int(self) -> int:
        """As it stands in a record."""
        return self.encoding | self.format << 2 | self.shed << 4

    @classmethod
    def from_int(cls, value: int) -> Flags:
        """From a record. Raises ValueError for a value that this version never writes."""
        if value >> 6:
            message = f"unknown flags {value:#06x}"
            raise ValueError(message)
        return cls(Encoding(value & 3), BodyFormat(value >> 2 & 3), ShedClass(value >> 4 & 3))


@dataclass(frozen=True, slots=True)
class Record:
    """One batch as it was received."""

    seq: int
    """Sequence number of the first event."""
    count: int
    """Events in the batch."""
    flags: Flags
    payload: bytes
    received_at: int
    """Microseconds since 1970, UTC."""

    @property
    def last_seq(self) -> int:
        """Sequence number of the last event: what a reader's checkpoint becomes when all are delivered."""
        return self.seq + self.count - 1

    @property
    def received_time(self) -> datetime:
        """`received_at` as a moment in UTC."""
        return _EPOCH + timedelta(microseconds=self.received_at)

    def ndjson(self) -> bytes:
        """The events, plain, one a line, each with its own text. Raises InvalidBody if the batch was never a valid one."""
        return split_ndjson(decompress(self.payload, self.flags.content_encoding), self.flags.format)


class SegmentHeader(NamedTuple):
    """The first bytes of a segment file."""

    spool_id: UUID
    first_seq: int
    created_at: int

    @property
    def seed(self) -> int:
        """Where the checksums of this segment's records start."""
        return segment_seed(self.spool_id, self.first_seq)


class RecordHeader(NamedTuple):
    """A record without its body."""

    length: int
    seq: int
    received_at: int
    events: int
    flags: Flags
    payload_crc: int

    @property
    def last_seq(self) -> int:
        """Sequence number of the record's last event."""
        return self.seq + self.events - 1

    def matches(self, payload: bytes, seed: int) -> bool:
        """Whether `payload` is the body that was written with this header."""
        return len(payload) == self.length and google_crc32c.extend(seed, payload) == self.payload_crc


def segment_seed(spool_id: UUID, first_seq: int) -> int:
    """Where the checksums of a segment's records start."""
    seed: int = google_crc32c.value(spool_id.bytes + first_seq.to_bytes(8, "little"))
    return seed


def pack_segment_header(header: SegmentHeader) -> bytes:
    """A segment's first 64 bytes."""
    packed = SEGMENT_HEADER.pack(
        SEGMENT_MAGIC, FORMAT_VERSION, SEGMENT_HEADER_BYTES, header.spool_id.bytes, header.first_seq, header.created_at, 0
    )[:-_CRC_BYTES]
    return packed + int(google_crc32c.value(packed)).to_bytes(_CRC_BYTES, "little")


def unpack_segment_header(data: bytes) -> SegmentHeader | str:
    """The header at the start of `data`, or what is wrong with it."""
    if len(data) < SEGMENT_HEADER_BYTES:
        return "truncated segment header"
    magic, version, size, spool_id, first_seq, created_at, crc = SEGMENT_HEADER.unpack_from(data)
    if magic != SEGMENT_MAGIC:
        return "not a spool segment: wrong magic"
    if google_crc32c.value(data[: SEGMENT_HEADER_BYTES - _CRC_BYTES]) != crc:
        return "segment header fails its checksum"
    if version != FORMAT_VERSION or size != SEGMENT_HEADER_BYTES:
        return f"segment format {version}, this program reads {FORMAT_VERSION}"
    return SegmentHeader(UUID(bytes=spool_id), first_seq, created_at)


def pack_record_header(payload: bytes, seq: int, count: int, flags: int, received_at: int, seed: int) -> bytes:
    """The 40 bytes before a record's body."""
    payload_crc = google_crc32c.extend(seed, payload)
    packed = RECORD_HEADER.pack(RECORD_MAGIC, len(payload), seq, received_at, count, flags, 0, payload_crc, 0)[:-_CRC_BYTES]
    return packed + int(google_crc32c.extend(seed, packed)).to_bytes(_CRC_BYTES, "little")


def unpack_record_header(data: bytes, seed: int) -> RecordHeader | None:
    """The record header that `data` starts with, or None when there is none that can be trusted."""
    if len(data) < RECORD_HEADER_BYTES or not data.startswith(RECORD_MAGIC):
        return None
    _, length, seq, received_at, count, flags, _, payload_crc, crc = RECORD_HEADER.unpack_from(data)
    if google_crc32c.extend(seed, data[: RECORD_HEADER_BYTES - _CRC_BYTES]) != crc:
        return None
    if length > MAX_RECORD_BYTES or count < 1 or not 1 <= seq <= MAX_SEQUENCE - count:
        return None
    try:
        return RecordHeader(length, seq, received_at, count, Flags.from_int(flags), payload_crc)
    except ValueError:
        return None
