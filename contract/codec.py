"""From the bytes of a request to checked events, and back to one event a line.

A batch is decoded at once by msgspec; what msgspec can't express (the spelling of ids, bounds of time, bytes of a message,
what hides in `attributes`) is then checked for the whole batch with a few calls that run in C. Only when one of these finds
something is the batch looked at event by event, so that a correct batch costs about a microsecond an event.
"""

from __future__ import annotations

import json
import math
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from operator import attrgetter
from typing import Any, Final

import msgspec
import zstandard
from msgspec import UNSET, Raw

from contract import explain
from contract.errors import InvalidBody, InvalidEvent
from contract.event import Event
from contract.ids import is_uuid
from contract.limits import (
    MAX_BATCH_EVENTS,
    MAX_BODY_BYTES,
    MAX_DEPTH,
    MAX_EVENT_BYTES,
    MAX_INTEGER_DIGITS,
    MAX_MESSAGE_BYTES,
    MAX_TIMESTAMP,
    MIN_TIMESTAMP,
)


class BodyFormat(IntEnum):
    """How the events stand in a body; the numbers are stored in the spool and never change."""

    ARRAY = 0
    WRAPPED = 1
    NDJSON = 2
    SINGLE = 3


JSON_TYPES: Final = frozenset({"application/json", "text/json"})
NDJSON_TYPES: Final = frozenset({"application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines"})
ENCODINGS: Final = ("identity", "gzip", "zstd")


@dataclass(frozen=True, slots=True)
class Rejection:
    """One event of a batch that breaks the contract; `index` is its place in the batch, from 0, and `raw` its own text."""

    index: int
    event_id: str | None
    path: str
    error: str
    raw: bytes = field(repr=False)

    def answer(self) -> dict[str, Any]:
        """What the sender is told."""
        return {"index": self.index, "event_id": self.event_id, "path": self.path, "error": self.error}


@dataclass(frozen=True, slots=True)
class Batch:
    """A decoded body: the valid events in their order, and the rest with reasons."""

    events: list[Event]
    rejected: list[Rejection]
    format: BodyFormat
    raw: list[bytes] | None = None
    """The valid events' own texts when some were rejected, else None: then the body as received holds nothing else."""

    def accepted_ndjson(self) -> bytes:
        """The valid events' own texts, one a line; only for a batch of which some events were rejected."""
        if self.raw is None:
            message = "every event of this batch is valid: keep the body as received"
            raise ValueError(message)
        return b"".join(_one_line(raw) + b"\n" for raw in self.raw)


# --------------------------------------------------------------------------------------------------------- compression

_ZSTD_MAX_WINDOW = 16 * 1024 * 1024
_READ_SIZE = 256 * 1024


def decompress(body: bytes, encoding: str | None) -> bytes:
    """The body without its Content-Encoding (`gzip`, `zstd`, `identity` or None).

    Never produces more than `MAX_BODY_BYTES`, however small the input.
    Raises InvalidBody: 413 when the result is larger, 415 for another encoding, 400 when the data is corrupt.
    """
    match (encoding or "identity").strip().lower():
        case "identity":
            plain = body
        case "gzip" | "x-gzip":
            plain = _gunzip(body)
        case "zstd":
            plain = _unzstd(body)
        case other:
            raise InvalidBody(
                415, "unsupported_encoding", f"Content-Encoding '{other}' is not supported: use {', '.join(ENCODINGS)}"
            )
    if len(plain) > MAX_BODY_BYTES:
        raise too_large()
    return plain


def too_large() -> InvalidBody:
    """The answer to a body over the limit."""
    return InvalidBody(
        413,
        "body_too_large",
        f"the body is larger than {MAX_BODY_BYTES} bytes after decompression: send smaller batches",
    )


def _gunzip(body: bytes) -> bytes:
    parts: list[bytes] = []
    room = MAX_BODY_BYTES + 1
    try:
        while body and room > 0:
            member = zlib.decompressobj(wbits=31)
            part = member.decompress(body, room)
            parts.append(part)
            room -= len(part)
            if room > 0 and not member.eof:
                raise InvalidBody(400, "corrupt_encoding", "the gzip body ends too early")
            body = member.unused_data
    except zlib.error as error:
        raise InvalidBody(400, "corrupt_encoding", f"the body is not valid gzip: {error}") from error
    return b"".join(parts)


def _unzstd(body: bytes) -> bytes:
    parts: list[bytes] = []
    room = MAX_BODY_BYTES + 1
    try:
        reader = zstandard.ZstdDecompressor(max_window_size=_ZSTD_MAX_WINDOW).stream_reader(body, read_across_frames=True)
        while room > 0 and (part := reader.read(min(room, _READ_SIZE))):
            parts.append(part)
            room -= len(part)
    except zstandard.ZstdError as error:
        raise InvalidBody(400, "corrupt_encoding", f"the body is not valid zstd: {error}") from error
    plain = b"".join(parts)
    if room > 0 and not _zstd_complete(body):
        raise InvalidBody(400, "corrupt_encoding", "the zstd body ends too early")
    return plain


def _zstd_complete(body: bytes) -> bool:
    """Whether the last frame ends where the body ends: the stream reader takes a cut frame for a short one."""
    while body:
        frame = zstandard.ZstdDecompressor(max_window_size=_ZSTD_MAX_WINDOW).decompressobj()
        frame.decompress(body)
        if not frame.eof:
            return False
        body = frame.unused_data
    return True


# -------------------------------------------------------------------------------------------------------------- decoding

_EVENT_DECODER = msgspec.json.Decoder(Event)
_EVENTS_DECODER = msgspec.json.Decoder(list[Event])
_RAWS_DECODER = msgspec.json.Decoder(list[Raw])


class _Envelope(msgspec.Struct, forbid_unknown_fields=True):
    events: Raw


class _Probe(msgspec.Struct):
    events: Raw | msgspec.UnsetType = UNSET


_ENVELOPE_DECODER = msgspec.json.Decoder(_Envelope)
_PROBE_DECODER = msgspec.json.Decoder(_Probe)


def body_format(body: bytes, content_type: str | None) -> BodyFormat:
    """How the events stand in this (decompressed) body.

    Raises InvalidBody: 415 for another Content-Type than JSON or NDJSON, 400 when a JSON body is neither array nor object.
    """
    media_type = (content_type or "application/json").partition(";")[0].strip().lower()
    if media_type in NDJSON_TYPES:
        return BodyFormat.NDJSON
    if media_type not in JSON_TYPES:
        raise InvalidBody(
            415,
            "unsupported_media_type",
            f"Content-Type '{media_type}' is not supported: use application/json or application/x-ndjson",
        )
    match body.lstrip(b" \t\r\n")[:1]:
        case b"[":
            return BodyFormat.ARRAY
        case b"{":
            probe: _Probe = _guard(_PROBE_DECODER.decode, body)
            return BodyFormat.SINGLE if probe.events is UNSET else BodyFormat.WRAPPED
        case b"":
            raise InvalidBody(400, "not_json", "the body is empty: send a JSON array of events, an object, or NDJSON")
        case _:
            raise InvalidBody(400, "not_json", 'the body must be a JSON array of events, {"events": [...]}, or one event')


def decode_batch(body: bytes, content_type: str | None) -> Batch:
    """Decode and check a (decompressed) body, event by event: what is valid is kept, what isn't comes back with path and reason.

    Raises InvalidBody for what can't be taken at all: 400 not JSON, 413 too large or more than `MAX_BATCH_EVENTS` events,
    415 another Content-Type.
    """
    if len(body) > MAX_BODY_BYTES:
        raise too_large()
    layout = body_format(body, content_type)
    text = _unwrap(body) if layout is BodyFormat.WRAPPED else body
    events = _decode_fast(text, layout)
    if events is not None:
        return Batch(events, [], layout)
    return _decode_each(text, layout)


def _unwrap(body: bytes) -> bytes:
    events = bytes(_guard(_ENVELOPE_DECODER.decode, body).events)
    if not events.startswith(b"["):
        raise InvalidBody(400, "bad_envelope", "'events' must be an array of events")
    return events


def decode_event(raw: bytes) -> Event:
    """Decode and check one event. Raises InvalidEvent with the path of the first mistake and what was expected there."""
    if len(raw) > MAX_EVENT_BYTES:
        raise InvalidEvent("", f"the event has {len(raw)} bytes; at most {MAX_EVENT_BYTES} are allowed")
    try:
        event: Event = _EVENT_DECODER.decode(raw)
    except msgspec.ValidationError as error:
        raise explain.from_validation(error, raw) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        _parse_strictly(raw)
        raise InvalidEvent("", f"not JSON: {error}") from error
    except RecursionError as error:
        raise _too_deep() from error
    _check_rest(event, raw)
    return event


def split_ndjson(body: bytes, layout: BodyFormat) -> bytes:
    """The events of an accepted (decompressed) body as NDJSON: each event's own text on a line of its own."""
    match layout:
        case BodyFormat.NDJSON:
            return body if body.endswith(b"\n") or not body else body + b"\n"
        case BodyFormat.SINGLE:
            return _one_line(body) + b"\n"
        case BodyFormat.ARRAY:
            raws = msgspec.json.decode(body, type=list[Raw])
        case BodyFormat.WRAPPED:
            raws = msgspec.json.decode(_ENVELOPE_DECODER.decode(body).events, type=list[Raw])
    joined = b"\n".join(raws)
    if joined.count(b"\n") != len(raws) - 1 or b"\r" in joined:
        joined = b"\n".join(_one_line(bytes(raw)) for raw in raws)
    return joined + b"\n" if raws else b""


def _one_line(raw: bytes) -> bytes:
    """JSON strings can't hold a raw line end, so every one stands between tokens and may become a space."""
    return raw.strip(b" \t\r\n").replace(b"\n", b" ").replace(b"\r", b" ")


def _guard(decode: Any, body: bytes) -> Any:
    """Run a decoder over a whole body and turn what it raises into the answer for the whole body."""
    try:
        return decode(body)
    except msgspec.ValidationError as error:
        raise InvalidBody(
            400, "bad_envelope", f"beside 'events' nothing else is allowed, and it must be an array: {error}"
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidBody(400, "not_json", f"the body is not JSON: {error}") from error
    except RecursionError as error:
        raise InvalidBody(400, "too_deep", f"the body nests deeper than {MAX_DEPTH} levels") from error


# ------------------------------------------------------------------------------------------------------------- fast path

_DIGITS_AS_ZERO = bytes.maketrans(b"0123456789E", b"0000000000e")
_HEX_AS_ZERO = bytes.maketrans(b"123456789abcdef", b"0" * 15)
_UUID_SHAPE = b"00000000-0000-0000-0000-000000000000"
_LONG_INTEGER = b"0" * (MAX_INTEGER_DIGITS + 1)
_timestamp = attrgetter("timestamp")


def _decode_fast(text: bytes, layout: BodyFormat) -> list[Event] | None:
    """The events when every one of them is valid beyond doubt, else None."""
    if layout is BodyFormat.NDJSON and text.count(b"\n") > MAX_BATCH_EVENTS:
        return None
    if b"\\" in text and b"\\u" in text and (b"\\u0000" in text or b"\\ud" in text or b"\\uD" in text):
        return None  # U+0000 or surrogates, perhaps; one backslash is looked for first because that costs next to nothing
    try:
        text.isascii() or text.decode()
        match layout:
            case BodyFormat.NDJSON:
                events = _EVENT_DECODER.decode_lines(text)
            case BodyFormat.SINGLE:
                events = [_EVENT_DECODER.decode(text)]
            case _:
                events = _EVENTS_DECODER.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if len(events) > MAX_BATCH_EVENTS or (events and not _beyond_doubt(events, text, layout)):
        return None
    return events


def _beyond_doubt(events: list[Event], text: bytes, layout: BodyFormat) -> bool:
    size = len(text)
    return (
        _ids_well_spelled(events)
        and min(map(_timestamp, events)) >= MIN_TIMESTAMP
        and max(map(_timestamp, events)) < MAX_TIMESTAMP
        and (size <= MAX_MESSAGE_BYTES or not any(e.message and len(e.message) * 4 > MAX_MESSAGE_BYTES for e in events))
        and _attributes_plain([bytes(e.attributes) for e in events if e.attributes is not UNSET])
        and (size <= MAX_EVENT_BYTES or _longest(text, layout) <= MAX_EVENT_BYTES)
    )


def _longest(text: bytes, layout: BodyFormat) -> int:
    """Bytes of the longest event's own text."""
    match layout:
        case BodyFormat.NDJSON:
            return max(map(len, text.split(b"\n")))
        case BodyFormat.SINGLE:
            return len(text)
        case _:
            return max(map(len, _RAWS_DECODER.decode(text)))


def _ids_well_spelled(events: list[Event]) -> bool:
    ids = [e.event_id for e in events]
    ids += [e.run_id for e in events if e.run_id is not UNSET]
    ids += [e.parent_run_id for e in events if e.parent_run_id is not UNSET]
    ids += [e.emitter.id for e in events if e.emitter is not UNSET]
    return "".join(ids).encode().translate(_HEX_AS_ZERO) == _UUID_SHAPE * len(ids)


def _attributes_plain(attributes: list[bytes]) -> bool:
    """Objects, not deep, and without numbers that could be beyond a double."""
    joined = b"".join(attributes)
    zeros = joined.translate(_DIGITS_AS_ZERO)
    return (
        all(a.startswith(b"{") for a in attributes)
        and joined.count(b"{") + joined.count(b"[") - len(attributes) < MAX_DEPTH - 1
        and b"e000" not in zeros
        and b"e+000" not in zeros
        and _LONG_INTEGER not in zeros
    )


# ------------------------------------------------------------------------------------------------------- event by event

_WHITESPACE = re.compile(r"[ \t\r\n]*")


def _decode_each(text: bytes, layout: BodyFormat) -> Batch:
    events: list[Event] = []
    kept: list[bytes] = []
    rejected: list[Rejection] = []
    unreadable = 0
    index = -1
    for index, raw in enumerate(_each_raw(text, layout)):
        if index >= MAX_BATCH_EVENTS:
            raise InvalidBody(
                413, "too_many_events", f"the batch has more than {MAX_BATCH_EVENTS} events: send it in smaller batches"
            )
        try:
            events.append(decode_event(raw))
        except InvalidEvent as error:
            unreadable += error.error.startswith("not JSON")
            rejected.append(Rejection(index, explain.event_id(raw), error.path, error.error, raw))
        else:
            kept.append(raw)
    if layout is BodyFormat.SINGLE and unreadable:
        raise InvalidBody(400, "not_json", f"the body is not JSON: {rejected[0].error.removeprefix('not JSON: ')}")
    if layout is BodyFormat.NDJSON and unreadable and unreadable == index + 1:
        raise InvalidBody(400, "not_json", f"no line of the body is JSON; the first: {rejected[0].error}")
    return Batch(events, rejected, layout, kept if rejected else None)


def _each_raw(text: bytes, layout: BodyFormat) -> Iterator[bytes]:
    """Each event's own text, found without holding more than one of them decoded."""
    match layout:
        case BodyFormat.SINGLE:
            yield text.strip(b" \t\r\n")
        case BodyFormat.NDJSON:
            yield from _each_line(text)
        case _:
            yield from _each_element(text)


def _each_line(text: bytes) -> Iterator[bytes]:
    start = 0
    while start < len(text):
        end = text.find(b"\n", start)
        end = len(text) if end < 0 else end
        line = text[start:end].strip(b" \t\r")
        start = end + 1
        if line:
            yield line


def _extent_only(text: str) -> int:
    """A stand-in value: while the elements are told apart only their extent matters, and a huge number is slow to make."""
    return len(text)


_SCANNER = json.JSONDecoder(parse_constant=_extent_only, parse_float=_extent_only, parse_int=_extent_only)
_STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)


def _each_element(body: bytes) -> Iterator[bytes]:
    """The elements of a JSON array, told apart leniently: what is wrong inside one is that element's own error.

    Raises InvalidBody when it is not an array at all.
    """
    text = body.decode(errors="surrogateescape")
    position = _skip_space(text, _skip_space(text, 0) + 1)
    if text[position : position + 1] == "]":
        _expect_end(text, position + 1)
        return
    while True:
        end = _element_end(text, position)
        yield text[position:end].encode(errors="surrogateescape")
        position = _skip_space(text, end)
        match text[position : position + 1]:
            case ",":
                position = _skip_space(text, position + 1)
            case "]":
                _expect_end(text, position + 1)
                return
            case _:
                raise InvalidBody(400, "not_json", f"the body is not JSON: expected ',' or ']' at character {position}")


def _element_end(text: str, position: int) -> int:
    try:
        return _SCANNER.raw_decode(text, position)[1]
    except ValueError as error:
        raise InvalidBody(400, "not_json", f"the body is not JSON: {error}") from error
    except RecursionError:
        return _end_by_brackets(text, position)


def _end_by_brackets(text: str, position: int) -> int:
    """Where an element ends that nests too deep for the parser, found by counting brackets."""
    depth = 0
    for token in _STRING_OR_BRACKET.finditer(text, position):
        if token[0] in "[{":
            depth += 1
        elif token[0] in "]}":
            depth -= 1
            if depth == 0:
                return token.end()
    raise InvalidBody(400, "not_json", "the body is not JSON: a bracket is never closed")


def _skip_space(text: str, position: int) -> int:
    match = _WHITESPACE.match(text, position)
    return match.end() if match else position


def _expect_end(text: str, position: int) -> None:
    if _skip_space(text, position) != len(text):
        raise InvalidBody(400, "not_json", f"the body is not JSON: something follows the array at character {position}")


def _check_rest(event: Event, raw: bytes) -> None:
    """What msgspec's types don't express."""
    ids = {"event_id": event.event_id, "run_id": event.run_id, "parent_run_id": event.parent_run_id}
    if event.emitter is not UNSET:
        ids["emitter.id"] = event.emitter.id
    for path, value in ids.items():
        if value is not UNSET and not is_uuid(value):
            raise InvalidEvent(path, explain.UUID_EXPECTED)
    if not MIN_TIMESTAMP <= event.timestamp < MAX_TIMESTAMP:
        raise InvalidEvent(
            "timestamp",
            f"expected a moment from {MIN_TIMESTAMP:%Y} to {MAX_TIMESTAMP.year - 1}, got year {event.timestamp.year}",
        )
    if event.message and len(event.message.encode()) > MAX_MESSAGE_BYTES:
        raise InvalidEvent("message", f"expected at most {MAX_MESSAGE_BYTES} bytes of UTF-8, got {len(event.message.encode())}")
    whole = _parse_strictly(raw)
    if not isinstance(whole.get("attributes", {}), dict):
        raise InvalidEvent("attributes", f"expected object, got {explain.json_type(whole['attributes'])}")


def _parse_strictly(raw: bytes) -> dict[str, Any]:
    """The event as plain Python values. Raises InvalidEvent for what no store could keep."""
    try:
        whole = json.loads(raw, parse_constant=_no_constant, parse_float=_finite, parse_int=_bounded)
    except UnicodeDecodeError as error:
        raise InvalidEvent("", "not valid UTF-8") from error
    except RecursionError as error:
        raise _too_deep() from error
    except json.JSONDecodeError as error:
        raise InvalidEvent("", f"not JSON: {error}") from error
    except _NumberError as error:
        raise InvalidEvent("", str(error)) from error
    explain.check_values(whole)
    return whole if isinstance(whole, dict) else {}


class _NumberError(ValueError):
    """A number that JSON or a double can't express."""


def _no_constant(name: str) -> float:
    message = f"{name} is not a JSON number; leave it out"
    raise _NumberError(message)


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        message = f"number {text[:24]} is beyond a double"
        raise _NumberError(message)
    return value


def _bounded(text: str) -> int:
    if len(text.lstrip("-")) > MAX_INTEGER_DIGITS:
        message = f"integer of {len(text)} digits; at most {MAX_INTEGER_DIGITS} are allowed"
        raise _NumberError(message)
    return int(text)


def _too_deep() -> InvalidEvent:
    return InvalidEvent("", f"nests deeper than {MAX_DEPTH} levels")
