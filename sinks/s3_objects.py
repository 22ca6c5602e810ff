"""What one object of the s3 sink is: its name, what the name promises, and its content.

    <prefix>date=2026-07-01/hour=09/<log id>.<backend>-<first seq>-<last seq>.jsonl.zst

The hour is UTC, by the event's own timestamp, so an event has the same hour however often and in whatever company it comes.
Sequence numbers have 20 digits. The name is a promise: the object holds every event of that hour, log and backend whose number
lies from the first to the last. An object is written whole or not at all, so what stands in the bucket is known from its names.
"""

from __future__ import annotations

import gzip
import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from contract.event import Event
from sinks.jsonl_files import Intervals
from sinks.parquet_files import table_of

Format = Literal["jsonl", "parquet"]
Compression = Literal["zstd", "gzip", "none"]

_SUFFIX: Final = {
    ("jsonl", "zstd"): (".jsonl.zst", "application/zstd"),
    ("jsonl", "gzip"): (".jsonl.gz", "application/gzip"),
    ("jsonl", "none"): (".jsonl", "application/x-ndjson"),
}
_PARQUET: Final = (".parquet", "application/vnd.apache.parquet")
_PARQUET_LEVELS: Final = {"zstd": 3, "gzip": 6}
_ZSTD_LEVEL: Final = 3
_GZIP_LEVEL: Final = 6
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9._-]")
_NUMBERS: Final = re.compile(r"-(\d{20})-(\d{20})\.[a-z.]+")


@dataclass(frozen=True, slots=True)
class Names:
    """The names of one backend's objects for one log."""

    prefix: str
    log_id: str
    backend: str
    suffix: str

    def start(self, hour: str) -> str:
        """What the names of all objects of an hour (`date=…/hour=…`) begin with."""
        return f"{self.prefix}{hour}/{_UNSAFE.sub('_', self.log_id)}.{_UNSAFE.sub('_', self.backend)}"

    def key(self, hour: str, first: int, last: int) -> str:
        """The name of the object with the hour's events from `first` to `last`."""
        return f"{self.start(hour)}-{first:020}-{last:020}{self.suffix}"

    def numbers(self, hour: str, key: str) -> tuple[int, int] | None:
        """First and last number in a name that begins with `start(hour)`; None when it is another backend's or no object of ours.

        The suffix may be any: a change of format or compression makes no event come twice.
        """
        found = _NUMBERS.fullmatch(key, len(self.start(hour)))
        return (int(found[1]), int(found[2])) if found else None


def suffix_of(form: Format, compression: Compression) -> tuple[str, str]:
    """The end of the name and the Content-Type."""
    return _PARQUET if form == "parquet" else _SUFFIX[form, compression]


def missing_runs(seqs: Sequence[int], present: Intervals) -> list[list[int]]:
    """The places in `seqs` (rising) whose numbers are not present, cut wherever something present lies between two of them."""
    runs: list[list[int]] = []
    for place, seq in enumerate(seqs):
        if seq in present:
            continue
        if runs and not _anything_between(seqs[runs[-1][-1]], seq, present):
            runs[-1].append(place)
        else:
            runs.append([place])
    return runs


def _anything_between(low: int, high: int, present: Intervals) -> bool:
    place = bisect_right(present.ranges, (low, float("inf")))
    return place < len(present.ranges) and present.ranges[place][0] < high


def jsonl(lines: Sequence[bytes], compression: Compression) -> bytes:
    """The lines as one file; the same lines give the same bytes."""
    plain = b"\n".join(lines) + b"\n"
    match compression:
        case "zstd":
            return zstandard.ZstdCompressor(level=_ZSTD_LEVEL, write_checksum=True).compress(plain)
        case "gzip":
            return gzip.compress(plain, _GZIP_LEVEL, mtime=0)
        case "none":
            return plain


def parquet(events: Sequence[Event], compression: Compression) -> bytes:
    """The events as one Parquet file in the flat layout."""
    stream = pa.BufferOutputStream()
    pq.write_table(
        table_of(events),
        stream,
        compression=compression,
        compression_level=_PARQUET_LEVELS.get(compression),
    )
    return stream.getvalue().to_pybytes()
