"""Reading files row by row: CSV and NDJSON, plain, gzip or zstd, with memory that does not grow with the file."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import msgspec
import zstandard

from contract.errors import TrackMateError
from contract.limits import MAX_EVENT_BYTES

_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_LONG_LINE = 4 * MAX_EVENT_BYTES
_ARRAY = re.compile(rb"\s*\[\s*(\{|$)")


@dataclass(slots=True)
class BadRow:
    """A row that can't be read at all."""

    reason: str
    text: str


class Source:
    """One open file: `stream` gives its decompressed bytes, `position()` how far in the file as stored we are."""

    def __init__(self, path: Path, raw: IO[bytes], stream: IO[bytes]) -> None:
        self.path = path
        self.size = path.stat().st_size
        self._raw = raw
        self.stream = stream

    def position(self) -> int:
        """Bytes of the file as stored that were read."""
        # The readers on top close the file when they come to its end.
        return self.size if self._raw.closed else self._raw.tell()


@contextmanager
def open_source(path: Path) -> Iterator[Source]:
    """Open a file; what compression it has is seen from its first bytes, not from its name."""
    try:
        raw = path.open("rb")
    except OSError as error:
        raise TrackMateError(f"can't read {path}: {error.strerror}. Check the name and its permissions") from error
    with raw:
        magic = raw.peek(4)[:4]
        stream: IO[bytes]
        if magic.startswith(_GZIP):
            stream = cast("IO[bytes]", gzip.GzipFile(fileobj=raw))
        elif magic == _ZSTD:
            stream = zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True)
        else:
            stream = raw
        try:
            yield Source(path, raw, stream)
        except (EOFError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError) as error:
            raise TrackMateError(
                f"{path} is cut short or damaged: {error}. Get the whole file and load it: rows that were sent before add nothing"
            ) from error


def guess_format(path: Path) -> str:
    """`csv` or `ndjson` by the file's name, without .gz and .zst."""
    name = path.name.lower().removesuffix(".gz").removesuffix(".zst")
    if name.endswith((".csv", ".tsv", ".txt")):
        return "csv"
    if name.endswith((".ndjson", ".jsonl", ".json", ".log")):
        return "ndjson"
    raise TrackMateError(
        f"can't tell from its name whether {path.name} is CSV or NDJSON: set format in the mapping, or rename it"
    )


def first_line(path: Path) -> str:
    """The first line of a file, of a long one its beginning."""
    with open_source(path) as source:
        head = io.BufferedReader(cast("io.RawIOBase", source.stream), 1 << 16).readline(1 << 16)
    return head.decode("utf-8", "replace")


def guess_delimiter(header: str) -> str:
    """What most likely parts the columns of this first line; a comma where nothing speaks for another."""
    return max(",;\t|", key=header.count)


class _Lines:
    """The lines of a text, those since the last `take` kept: csv does not tell what it read when it gives a row up."""

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text = text
        self._seen: list[str] = []

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._text.readline()
        if not line:
            raise StopIteration
        self._seen.append(line)
        return line

    def take(self) -> list[str]:
        """The lines that were read since this was last asked."""
        seen, self._seen = self._seen, []
        return seen


class CsvRows:
    """The rows of a CSV file: `header`, then lists of strings as long as the header, or BadRow."""

    def __init__(self, source: Source, *, delimiter: str = ",", encoding: str = "utf-8", header: list[str] | None = None) -> None:
        try:
            name = codecs.lookup(encoding).name
        except LookupError as error:
            raise TrackMateError(f"csv.encoding: no encoding is called {encoding!r}; names look like utf-8 or cp1252") from error
        text = io.TextIOWrapper(
            io.BufferedReader(cast("io.RawIOBase", source.stream), 1 << 18),
            encoding="utf-8-sig" if name == "utf-8" else name,
            errors="surrogateescape",
            newline="",
        )
        csv.field_size_limit(_LONG_LINE)
        self._lines = _Lines(text)
        self._reader = csv.reader(self._lines, delimiter=delimiter, strict=True)
        if header is not None:
            self.header = header
        else:
            try:
                self.header = next(self._reader)
            except StopIteration:
                raise TrackMateError(f"{source.path} is empty: expected a line with the names of its columns") from None
            except csv.Error as error:
                raise TrackMateError(f"{source.path}: its first line is not CSV: {error}") from error
        twice = sorted({name for name in self.header if self.header.count(name) > 1})
        if twice:
            raise TrackMateError(
                f"{source.path} has more than one column called {', '.join(twice)}: give csv.header in the mapping"
            )

    def __iter__(self) -> Iterator[list[str] | BadRow]:
        width = len(self.header)
        reader = self._reader
        while True:
            try:
                for row in reader:
                    self._lines.take()
                    if len(row) == width:
                        yield row
                    elif row:
                        reason = f"line {reader.line_num}: {len(row)} columns where the header has {width}"
                        yield BadRow(reason, msgspec.json.encode(_readable(row)).decode())
            except csv.Error as error:
                lines = self._lines.take()
                where = (
                    f"line {reader.line_num}"
                    if len(lines) < 2
                    else f"lines {reader.line_num - len(lines) + 1} to {reader.line_num}"
                )
                yield BadRow(f"{where}: not CSV: {error}", "".join(_readable(lines)))
            else:
                return


def _readable(row: list[str]) -> list[str]:
    return [value.encode("utf-8", "surrogateescape").decode("utf-8", "replace") for value in row]


def ndjson_lines(source: Source) -> Iterator[bytes | BadRow]:
    """The lines of an NDJSON file that are not empty; one that is far too long for an event is passed over, not kept."""
    buffered = io.BufferedReader(cast("io.RawIOBase", source.stream), 1 << 18)
    head = buffered.peek(len(codecs.BOM_UTF8))
    if head.startswith(codecs.BOM_UTF8):
        buffered.read(len(codecs.BOM_UTF8))
    if _ARRAY.match(head.removeprefix(codecs.BOM_UTF8)):
        raise TrackMateError(
            f"{source.path} is one JSON array; expected NDJSON, a JSON object a line. Make that of it: "
            "jq -c '.[]' FILE.json > FILE.ndjson"
        )
    while line := buffered.readline(_LONG_LINE):
        if len(line) >= _LONG_LINE and not line.endswith(b"\n"):
            head = line[:200]
            length = len(line)
            while (rest := buffered.readline(_LONG_LINE)) and not rest.endswith(b"\n"):
                length += len(rest)
            yield BadRow(
                f"the line has {length + len(rest)} bytes; an event may have {MAX_EVENT_BYTES}", head.decode("utf-8", "replace")
            )
            continue
        if stripped := line.strip():
            yield stripped


def flat_object(line: bytes) -> dict[str, str]:
    """A JSON object as columns: nested objects become dotted names, everything else the text that stands for it.

    Raises ValueError when the line isn't an object.
    """
    try:
        value = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, got {type(value).__name__}")  # noqa: TRY004 - bad data, not a bad call
    flat: dict[str, str] = {}
    _flatten("", value, flat)
    return flat


def _flatten(prefix: str, value: dict[str, Any], into: dict[str, str]) -> None:
    for name, entry in value.items():
        path = f"{prefix}{name}"
        if isinstance(entry, dict):
            _flatten(f"{path}.", entry, into)
        elif isinstance(entry, str):
            into[path] = entry
        elif entry is not None:
            into[path] = msgspec.json.encode(entry).decode()
