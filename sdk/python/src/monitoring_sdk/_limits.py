"""The numbers of the contract that the SDK must keep to."""

MAX_EVENT_BYTES = 256 * 1024
MAX_MESSAGE_BYTES = 8 * 1024
MAX_BATCH_EVENTS = 5_000
MAX_BATCH_BYTES = 1024 * 1024 - 4096
"""A request stays below 1 MiB, though the sidecar takes 10: a failed one costs less, and memory stays bounded."""

MAX_DEPTH = 64
"""How deep objects and arrays may nest in one event, the event itself being level 1."""

MAX_INTEGER_DIGITS = 308
"""Digits of an integer that a double can still express."""

MAX_TEXT = 256
"""Characters of names, entity values and the like."""

MAX_SITE = 64
