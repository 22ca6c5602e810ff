"""The cursor of a page: a place in the unified order, bound to the question it came from.

It holds no secret and grants nothing: the filters come from the request and the sites from the token, every time. It is checked
all the same, so that a cursor of another question is an error and not a wrong answer.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Final

import msgspec

from contract.errors import TrackMateError
from federation.merge import Key

MAX_CURSOR_CHARACTERS: Final = 1_024
_VERSION: Final = 1


class BadCursor(TrackMateError):
    """A cursor was not made here, is damaged, or belongs to another question."""


class _Body(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    version: int
    question: str
    micros: int
    event_id: str
    start: int
    end: int


class Cursor(msgspec.Struct, frozen=True):
    """Where the next page starts, and the absolute time range (microseconds since 1970) that the first page was asked for."""

    key: Key
    start: int
    end: int


def fingerprint(*parts: object) -> str:
    """A short digest of what makes a question: its filters, order and sources, but not its times."""
    return hashlib.sha256(msgspec.json.encode(parts, order="deterministic")).hexdigest()[:16]


def encode(cursor: Cursor, question: str) -> str:
    """The cursor as text for a URL."""
    body = _Body(_VERSION, question, cursor.key.micros, cursor.key.event_id, cursor.start, cursor.end)
    raw = msgspec.json.encode(body)
    return base64.urlsafe_b64encode(hashlib.sha256(raw).digest()[:6] + raw).decode().rstrip("=")


def decode(text: str, question: str) -> Cursor:
    """Read what `encode` made for the same question; raises `BadCursor` for anything else."""
    hint = "ask again without `cursor`"
    if len(text) > MAX_CURSOR_CHARACTERS:
        message = f"the cursor is longer than {MAX_CURSOR_CHARACTERS} characters: {hint}"
        raise BadCursor(message)
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        if hashlib.sha256(raw[6:]).digest()[:6] != raw[:6]:
            message = f"the cursor is damaged: {hint}"
            raise BadCursor(message)
        body = msgspec.json.decode(raw[6:], type=_Body)
    except (binascii.Error, ValueError, msgspec.DecodeError) as error:
        message = f"that is not a cursor of this API: {hint}"
        raise BadCursor(message) from error
    if body.version != _VERSION or body.question != question:
        message = f"the cursor belongs to a question with other filters, order or sources: {hint}"
        raise BadCursor(message)
    return Cursor(Key(body.micros, body.event_id), body.start, body.end)
