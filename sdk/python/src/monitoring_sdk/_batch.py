"""A batch: events as the lines that go over the wire or to the disk."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from monitoring_sdk._event import Captured, text_of
from monitoring_sdk._limits import MAX_BATCH_BYTES, MAX_BATCH_EVENTS

if TYPE_CHECKING:
    from monitoring_sdk._results import Verdict, Watch

Entry = tuple[int, int, str, str, Captured]
"""An event in the queue: its number; when it was emitted (ns since 1970) and its id, each empty when the program gave its own;
the text of the fields from elsewhere, with a comma at the end; its own fields."""


class Batch:
    """Some events, each a line of JSON without its line feed. `ordinal` is the place of the first in the order of taking.

    In direct mode `first_seq` numbers the events without a gap in the order in which they were taken, and `log` names that
    numbering: the same numbers of the same log are always the same events.
    """

    __slots__ = ("first_seq", "lines", "log", "ordinal", "report", "settled", "watches")

    def __init__(self, lines: Sequence[bytes], first_seq: int, ordinal: int = -1, log: str = "") -> None:
        self.lines = lines
        self.first_seq = first_seq
        self.ordinal = ordinal
        self.log = log
        self.watches: dict[int, Watch] = {}
        """Who wants to hear what becomes of the event at a place."""
        self.report: dict[str, int] = {}
        """Drops that this batch reports."""
        self.settled = False

    def __len__(self) -> int:
        return len(self.lines)

    def body(self) -> bytes:
        """The batch as NDJSON."""
        return b"\n".join(self.lines) + b"\n"

    def events(self) -> list[dict[str, Any]]:
        """The batch decoded."""
        return [json.loads(line) for line in self.lines]

    def halves(self, seq_of: int | None = None) -> tuple[Batch, Batch]:
        """Two batches in place of this one, which has two events or more."""
        middle = len(self.lines) // 2
        first = Batch(self.lines[:middle], self.first_seq, self.ordinal)
        second = Batch(self.lines[middle:], _seq(self.lines[middle]) if seq_of is None else seq_of, self.ordinal + middle)
        first.report = self.report
        first.watches = {index: watch for index, watch in self.watches.items() if index < middle}
        second.watches = {index - middle: watch for index, watch in self.watches.items() if index >= middle}
        return first, second

    def tell(self, backend: str, verdict: Verdict, places: Iterable[int]) -> None:
        """Let those who watch the events at these places hear what became of them at a backend."""
        for place in places:
            watch = self.watches.get(place)
            if watch is not None:
                watch.hear(backend, verdict)


def pack(entries: Iterable[Entry], emitter_id: str, ordinal: int) -> list[Batch]:
    """The entries as batches that keep to the limits of a request."""
    batches: list[Batch] = []
    lines: list[bytes] = []
    first_seq = size = 0
    for entry in entries:
        line = _line(entry, emitter_id)
        if lines and (size + len(line) >= MAX_BATCH_BYTES or len(lines) >= MAX_BATCH_EVENTS):
            batches.append(Batch(lines, first_seq, ordinal))
            ordinal += len(lines)
            lines, size = [], 0
        if not lines:
            first_seq = entry[0]
        lines.append(line)
        size += len(line) + 1
    if lines:
        batches.append(Batch(lines, first_seq, ordinal))
    return batches


def unpack(data: bytes) -> list[Batch]:
    """The whole lines of a spool file as batches within the limits of a request; what follows the last line feed is torn."""
    batches: list[Batch] = []
    lines: list[bytes] = []
    size = 0
    for line in data[: data.rfind(b"\n") + 1].split(b"\n"):
        if not line:
            continue
        if lines and (size + len(line) >= MAX_BATCH_BYTES or len(lines) >= MAX_BATCH_EVENTS):
            batches.append(Batch(lines, 0))
            lines, size = [], 0
        lines.append(line)
        size += len(line) + 1
    if lines:
        batches.append(Batch(lines, 0))
    return batches


def _line(entry: Entry, emitter_id: str) -> bytes:
    seq, time_ns, event_id, head, captured = entry
    own_id = f'"event_id":"{event_id}",' if event_id else ""
    own_time = ""
    if time_ns:
        micros = time_ns // 1000
        own_time = f'"timestamp":"{_second(micros // 1_000_000)}.{micros % 1_000_000:06d}Z",'
    return f'{{{own_id}{own_time}"emitter":{{"id":"{emitter_id}","seq":{seq}}},{head}{text_of(captured)[1:]}'.encode()


@lru_cache(maxsize=64)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def _seq(line: bytes) -> int:
    seq: int = json.loads(line)["emitter"]["seq"]
    return seq
