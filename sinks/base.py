"""What every sink offers, what it is given and what it answers; the rules are in the docstring of `Sink`.

SinkError                 nothing of this batch was taken; deliver it again later
├── Unavailable           the system does not answer, or answers that it can't now: counts against its breaker
└── Throttled             the system is alive and asks for patience: does not count against its breaker
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Final, Protocol, runtime_checkable

import msgspec

from contract import codec
from contract.errors import TrackMateError
from contract.event import Event
from contract.framing import BodyFormat
from contract.limits import MAX_BATCH_EVENTS, MAX_BODY_BYTES

RAISED_SHOWN: Final = 500
"""Characters of a foreign error's text that are passed on."""


class SinkError(TrackMateError):
    """A batch was not taken; all of it is delivered again after `retry_after` seconds (None: the caller chooses)."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        self.retry_after = retry_after
        super().__init__(message)


class Unavailable(SinkError):
    """The system can't be reached, fails, or refuses the credential: nothing gets through until that is mended."""


class Throttled(SinkError):
    """The system works and asks to be asked later."""


@dataclass(frozen=True, slots=True)
class Refused:
    """One event that the system will never take: `index` is its place in the batch, from 0."""

    index: int
    event_id: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class DeliveryReport:
    """What became of each event of a batch: `delivered` + refused + to retry = the batch's count."""

    delivered: int
    refused: list[Refused] = field(default_factory=list)
    retry: list[int] = field(default_factory=list)
    retry_after: float | None = None
    message: str | None = None
    """Why some are to be retried, for the operator."""


@dataclass(frozen=True, slots=True)
class Health:
    """Whether a system would take a batch now; `detail` says what to do when it would not."""

    ok: bool
    detail: str
    latency_ms: float | None = None


@dataclass(frozen=True, slots=True)
class SinkLimits:
    """The most that a system takes in one call; the router cuts and joins to it."""

    max_events: int = MAX_BATCH_EVENTS
    max_bytes: int = MAX_BODY_BYTES
    """Bytes of NDJSON, each event with its line end."""
    max_concurrency: int = 1
    """How many calls of `deliver` the sink allows at once, for different batches; the router finds out how many pay."""


@dataclass(frozen=True, slots=True)
class StoredBody:
    """A request body exactly as it was received."""

    payload: bytes = field(repr=False)
    encoding: str | None
    """Its Content-Encoding: None, `gzip` or `zstd`."""
    format: BodyFormat


class _Identity(msgspec.Struct):
    event_id: str | None = None


_IDENTITY_DECODER = msgspec.json.Decoder(_Identity)


def event_id_of(line: bytes) -> str | None:
    """The `event_id` in one event's JSON text; None when it can't be read."""
    try:
        return _IDENTITY_DECODER.decode(line).event_id
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


class SinkBatch:
    """Events in the order of their sequence numbers.

    `first_seq`..`last_seq` is the window of the log `spool_id` that the batch covers: an event of that window which is not in
    the batch is not meant for this sink. The same window of the same log always holds the same events for the same sink, so
    names made of the three are safe to write twice.
    """

    def __init__(
        self,
        lines: Sequence[bytes],
        *,
        first_seq: int,
        last_seq: int,
        spool_id: str,
        seqs: Sequence[int] | None = None,
        stored: StoredBody | None = None,
    ) -> None:
        self.lines = lines
        self.first_seq = first_seq
        self.last_seq = last_seq
        self.spool_id = spool_id
        self.stored = stored
        self.seqs: Sequence[int] = range(first_seq, first_seq + len(lines)) if seqs is None else seqs
        if len(self.seqs) != len(lines):
            message = f"{len(lines)} events with {len(self.seqs)} sequence numbers"
            raise ValueError(message)

    @classmethod
    def from_ndjson(cls, ndjson: bytes, *, first_seq: int, spool_id: str, stored: StoredBody | None = None) -> SinkBatch:
        """A batch of consecutive events, one a line, of which the first has the number `first_seq`."""
        lines = [line for line in ndjson.split(b"\n") if line.strip()]
        return cls(lines, first_seq=first_seq, last_seq=first_seq + len(lines) - 1, spool_id=spool_id, stored=stored)

    @property
    def count(self) -> int:
        """How many events there are."""
        return len(self.lines)

    @cached_property
    def ndjson(self) -> bytes:
        """Every event's own text on a line of its own."""
        return b"\n".join(self.lines) + b"\n" if self.lines else b""

    @cached_property
    def events(self) -> list[Event]:
        """The events decoded."""
        return codec.decode_batch(self.ndjson, "application/x-ndjson").events

    def subset(self, indexes: Iterable[int]) -> SinkBatch:
        """The events at these places, for a second try at what was not taken at first."""
        chosen = sorted(set(indexes))
        seqs = [self.seqs[index] for index in chosen]
        return SinkBatch(
            [self.lines[index] for index in chosen],
            first_seq=seqs[0] if seqs else self.first_seq,
            last_seq=seqs[-1] if seqs else self.first_seq - 1,
            spool_id=self.spool_id,
            seqs=seqs,
        )

    def __repr__(self) -> str:
        return f"SinkBatch({self.first_seq}..{self.last_seq}, {self.count} events)"


@runtime_checkable
class Sink(Protocol):
    """Writes events to one system.

    A sink is made as `SinkClass(name, config)` where `config` is an instance of the class's own `Config` struct; making it does
    no I/O. The order of calls is `open`, then any of `deliver` and `check`, then `close`; after `close` it may be opened again.
    `deliver` is called at most `limits.max_concurrency` times at once, for batches that share no event. Delivering a batch
    twice must leave one copy wherever the system allows.
    """

    Config: ClassVar[type[msgspec.Struct]]
    limits: ClassVar[SinkLimits]

    def __init__(self, name: str, config: Any) -> None: ...

    async def open(self) -> None:
        """Make what delivering needs. Raises SinkError when that is not possible now; the caller tries again."""

    async def deliver(self, batch: SinkBatch) -> DeliveryReport:
        """Write the batch; what is reported delivered is as durable as the system can make it.

        Raises SinkError when nothing of it was taken; any other exception means the same.
        """

    async def check(self) -> Health:
        """Whether a batch would be taken now: the address, the credential and the place to write, without writing an event."""

    async def close(self) -> None:
        """Let go of everything; what was reported delivered stays."""


def describe(error: BaseException) -> str:
    """A foreign error in one line: its class and the start of its text."""
    text = " ".join(str(error).split())[:RAISED_SHOWN]
    name = type(error).__name__
    return f"{name}: {text}" if text else name
