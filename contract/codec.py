"""From the bytes of a request to checked events, and back to one event a line.

A batch is decoded at once by msgspec; what msgspec can't express (the spelling of ids, bounds of time, bytes of a message,
what hides in `attributes`) is then checked for the whole batch with a few calls that run in C. Only when one of these finds
something is the batch looked at event by event, so that a correct batch costs about a microsecond an event.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import msgspec
from msgspec import UNSET

from contract import compression, explain, framing
from contract.errors import InvalidBody, InvalidEvent
from contract.event import Event
from contract.framing import BodyFormat
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
        return b"".join(framing.one_line(raw) + b"\n" for raw in self.raw)


_EVENT_DECODER = msgspec.json.Decoder(Event)
_EVENTS_DECODER = msgspec.json.Decoder(list[Event])


def decode_batch(body: bytes, content_type: str | None) -> Batch:
    """Decode and check a (decompressed) body, event by event: what is valid is kept, what isn't comes back with path and reason.

    Raises InvalidBody for what can't be taken at all: 400 not JSON, 413 too large or more than `MAX_BATCH_EVENTS` events,
    415 another Content-Type.
    """
    if len(body) > MAX_BODY_BYTES:
        raise compression.too_large()
    layout = framing.body_format(body, content_type)
    text = framing.unwrap(body) if layout is BodyFormat.WRAPPED else body
    events = _decode_fast(text, layout)
    if events is not None:
        return Batch(events, [], layout)
    return _decode_each(text, layout)


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


# ------------------------------------------------------------------------------------------------------------- fast path

_DIGITS_AS_ZERO = bytes.maketrans(b"0123456789E", b"0000000000e")
_HEX_AS_ZERO = bytes.maketrans(b"123456789abcdef", b"0" * 15)
_UUID_SHAPE = b"00000000-0000-0000-0000-000000000000"
_LONG_INTEGER = b"0" * (MAX_INTEGER_DIGITS + 1)
_NO_CHARACTER = re.compile(rb"\\u(?:0000|[dD])")
"""U+0000 or a surrogate, perhaps; one pass of this costs half as much as looking for the two bytes with `in`."""
_timestamp = attrgetter("timestamp")


def _decode_fast(text: bytes, layout: BodyFormat) -> list[Event] | None:
    """The events when every one of them is valid beyond doubt, else None."""
    if layout is BodyFormat.NDJSON and text.count(b"\n") > MAX_BATCH_EVENTS:
        return None
    if b"\\" in text and _NO_CHARACTER.search(text):
        return None  # one backslash is looked for first because that costs next to nothing
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
        and (size <= MAX_EVENT_BYTES or framing.longest(text, layout) <= MAX_EVENT_BYTES)
    )


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


def _decode_each(text: bytes, layout: BodyFormat) -> Batch:
    events: list[Event] = []
    kept: list[bytes] = []
    rejected: list[Rejection] = []
    unreadable = 0
    index = -1
    for index, raw in enumerate(framing.each_raw(text, layout)):
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
