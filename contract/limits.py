"""The numbers that bound what any part of TrackMate accepts from outside."""

from datetime import UTC, datetime

MAX_EVENT_BYTES = 256 * 1024
"""One event's JSON text, in bytes."""

MAX_BATCH_EVENTS = 5_000
"""Events in one request."""

MAX_BODY_BYTES = 10 * 1024 * 1024
"""One request's body after decompression, in bytes."""

MAX_MESSAGE_BYTES = 8 * 1024
"""The event's `message`, in bytes of UTF-8."""

MAX_NAME_LENGTH = 256
"""The event's `name`, in characters."""

MAX_SITE_LENGTH = 64
"""The event's `site_id`, in characters."""

MAX_DEPTH = 64
"""How deep objects and arrays may nest in one event, the event itself being level 1."""

MAX_INTEGER_DIGITS = 308
"""Digits in one number without exponent: what a double can still express, and a bound on what parsers must do."""

MIN_TIMESTAMP = datetime(1970, 1, 1, tzinfo=UTC)
"""Earliest moment an event may carry (inclusive)."""

MAX_TIMESTAMP = datetime(2100, 1, 1, tzinfo=UTC)
"""Moment before which every event must lie (exclusive)."""
