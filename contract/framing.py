"""How events stand in a body: an array, a wrapped array, a line each, or one alone; and how each one's own text is found."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from enum import IntEnum
from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw

from contract.errors import InvalidBody
from contract.limits import MAX_DEPTH


class BodyFormat(IntEnum):
    """How the events stand in a body; the numbers are stored in the spool and never change."""

    ARRAY = 0
    WRAPPED = 1
    NDJSON = 2
    SINGLE = 3


JSON_TYPES: Final = frozenset({"application/json", "text/json"})
NDJSON_TYPES: Final = frozenset({"application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines"})

_RAWS_DECODER = msgspec.json.Decoder(list[Raw])
_WHITESPACE = re.compile(r"[ \t\r\n]*")


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


def unwrap(body: bytes) -> bytes:
    """The array in `{"events": [...]}`, as it stands. Raises InvalidBody when it is none, or not alone."""
    events = bytes(_guard(_ENVELOPE_DECODER.decode, body).events)
    if not events.startswith(b"["):
        raise InvalidBody(400, "bad_envelope", "'events' must be an array of events")
    return events


def split_ndjson(body: bytes, layout: BodyFormat) -> bytes:
    """The events of an accepted (decompressed) body as NDJSON: each event's own text on a line of its own."""
    match layout:
        case BodyFormat.NDJSON:
            return body if body.endswith(b"\n") or not body else body + b"\n"
        case BodyFormat.SINGLE:
            return one_line(body) + b"\n"
        case BodyFormat.ARRAY:
            raws = msgspec.json.decode(body, type=list[Raw])
        case BodyFormat.WRAPPED:
            raws = msgspec.json.decode(_ENVELOPE_DECODER.decode(body).events, type=list[Raw])
    joined = b"\n".join(raws)
    if joined.count(b"\n") != len(raws) - 1 or b"\r" in joined:
        joined = b"\n".join(one_line(bytes(raw)) for raw in raws)
    return joined + b"\n" if raws else b""


def one_line(raw: bytes) -> bytes:
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


def longest(text: bytes, layout: BodyFormat) -> int:
    """Bytes of the longest event's own text."""
    match layout:
        case BodyFormat.NDJSON:
            return max(map(len, text.split(b"\n")))
        case BodyFormat.SINGLE:
            return len(text)
        case _:
            return max(map(len, _RAWS_DECODER.decode(text)))


def each_raw(text: bytes, layout: BodyFormat) -> Iterator[bytes]:
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
