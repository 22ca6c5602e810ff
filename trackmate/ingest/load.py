"""One file's way into the sidecar: read, map, check, send in batches, and keep what is bad with its reason."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any, cast

import msgspec

from contract.codec import decode_batch
from contract.errors import InvalidBody, TrackMateError
from contract.ids import stable_id
from trackmate.ingest.journal import Journal, fingerprint
from trackmate.ingest.mapping import Mapping, RowMapper
from trackmate.ingest.rows import BadRow, CsvRows, Source, flat_object, guess_format, ndjson_lines, open_source
from trackmate.ingest.sender import Answer, Sender
from trackmate.ingest.times import TimeReader

BATCH_EVENTS = 2_000
BATCH_BYTES = 4 * 1024 * 1024
IN_FLIGHT = 3
"""Batches on their way at once: while one is written to disk, the next is being made."""
SAVE_SECONDS = 1.0
SHOWN_REASONS = 5

_RAW_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])


@dataclass(frozen=True, slots=True)
class _Good:
    """A row that became events."""

    events: list[bytes]
    original: Any


@dataclass(frozen=True, slots=True)
class _Bad:
    """A row that can't become events, and why."""

    reason: str
    original: Any


@dataclass
class Summary:
    """What became of one file."""

    path: Path
    rows: int = 0
    events: int = 0
    accepted: int = 0
    quarantined: int = 0
    resumed_at: int = 0
    seconds: float = 0.0
    quarantine: Path | None = None
    shared_ids: int | None = None
    """Only of a dry run: events whose id another event of the file has too, which would become one."""
    sample: list[bytes] = field(default_factory=list)
    reasons: list[tuple[int, str, str]] = field(default_factory=list)
    """Only of a dry run, which writes no quarantine: row, path and reason of the first bad rows."""


@dataclass
class _Batch:
    last_row: int = 0
    rows: list[int] = field(default_factory=list)
    first_event: list[int] = field(default_factory=list)
    originals: list[Any] = field(default_factory=list)
    events: list[bytes] = field(default_factory=list)
    size: int = 0
    refused: list[tuple[int, str, str, Any]] = field(default_factory=list)

    def full(self) -> bool:
        return len(self.events) >= BATCH_EVENTS or self.size >= BATCH_BYTES or len(self.refused) >= BATCH_EVENTS

    def add(self, row: int, events: list[bytes], original: Any) -> None:
        self.rows.append(row)
        self.first_event.append(len(self.events))
        self.originals.append(original)
        self.events += events
        self.size += sum(map(len, events))

    def place(self, index: int) -> int:
        """Which of `rows` the event at `index` came from."""
        return bisect_right(self.first_event, index) - 1

    def without(self, bad: set[int]) -> _Batch:
        """The same without the rows at those places."""
        kept = _Batch(self.last_row, refused=self.refused)
        ends = [*self.first_event[1:], len(self.events)]
        for place, row in enumerate(self.rows):
            if place not in bad:
                kept.add(row, self.events[self.first_event[place] : ends[place]], self.originals[place])
        return kept


def lacks_mapping(path: Path) -> TrackMateError:
    """What is said of a CSV file that comes without a mapping."""
    return TrackMateError(
        f"{path.name} is CSV, so a mapping must say what its columns mean: give --mapping map.yaml. "
        f"'trackmate ingest --suggest-mapping {path}' prints a draft"
    )


@dataclass
class Loader:
    """Loads files through one sender; `sender` None makes it a dry run that sends nothing."""

    sender: Sender | None
    mapping: Mapping | None = None
    site: str | None = None
    app: str | None = None
    work_dir: Path | None = None
    resume: bool = False
    on_progress: Callable[[Summary, int, int], None] = lambda _summary, _position, _size: None
    clock: Callable[[], float] = time.monotonic

    def load(self, path: Path) -> Summary:
        """Load one file to its end; raises TrackMateError when that is not possible, with what came before sent and noted."""
        began = self.clock()
        summary = Summary(path)
        with open_source(path) as source:
            journal = None
            if self.sender is not None:
                journal = Journal(path, self.work_dir)
                mark = fingerprint(path, f"{self.mapping.digest if self.mapping else ''}\0{self.site}\0{self.app}")
                done = journal.begin(mark, resume=self.resume)
                summary.resumed_at = done.rows
            finished = False
            try:
                self._run(source, journal, summary)
                finished = True
            finally:
                if journal is not None:
                    journal.close(finished=finished)
                    kept = journal.progress
                    summary.rows, summary.events, summary.accepted = kept.rows, kept.events, kept.accepted
                    summary.quarantined = kept.quarantined
                    summary.quarantine = journal.quarantine_path if kept.quarantined else None
                summary.seconds = self.clock() - began
        return summary

    def _run(self, source: Source, journal: Journal | None, summary: Summary) -> None:
        flying: deque[tuple[_Batch, Future[Answer]]] = deque()
        seen: set[bytes] = set()
        saved_at = self.clock()

        def settle() -> None:
            nonlocal saved_at
            batch, answer = flying.popleft()
            self._settle(batch, answer.result(), journal, summary)
            if journal is not None and self.clock() - saved_at >= SAVE_SECONDS:
                journal.save()
                saved_at = self.clock()
            self.on_progress(summary, source.position(), source.size)

        with ThreadPoolExecutor(max_workers=IN_FLIGHT, thread_name_prefix="ingest") as pool:
            try:
                for made in self._batches(source, summary.resumed_at):
                    batch = _check(made)
                    if self.sender is None:
                        self._note_ids(batch, seen, summary)
                    flying.append((batch, pool.submit(self._send, batch)))
                    while len(flying) >= IN_FLIGHT:
                        settle()
                while flying:
                    settle()
            except BaseException:
                if self.sender is not None:
                    self.sender.close()
                raise

    def _send(self, batch: _Batch) -> Answer:
        if self.sender is None or not batch.events:
            return Answer(len(batch.events))
        return self.sender.send(batch.events)

    def _settle(self, batch: _Batch, answer: Answer, journal: Journal | None, summary: Summary) -> None:
        refused = list(batch.refused)
        for place, path, reason in {batch.place(i): (batch.place(i), p, r) for i, p, r in reversed(answer.rejected)}.values():
            refused.append((batch.rows[place], path, reason, _shown(batch.originals[place])))
        refused.sort(key=itemgetter(0))
        if journal is None:
            summary.rows, summary.quarantined = batch.last_row, summary.quarantined + len(refused)
            summary.events += len(batch.events)
            summary.reasons += [entry[:3] for entry in refused[: SHOWN_REASONS - len(summary.reasons)]]
            return
        for row, path, reason, original in refused:
            journal.quarantine(row, path, reason, original)
        kept = journal.progress
        kept.rows = batch.last_row
        kept.events += len(batch.events)
        kept.accepted += answer.accepted
        summary.rows, summary.events, summary.accepted, summary.quarantined = (
            kept.rows,
            kept.events,
            kept.accepted,
            kept.quarantined,
        )

    @staticmethod
    def _note_ids(batch: _Batch, seen: set[bytes], summary: Summary) -> None:
        if summary.shared_ids is None:
            summary.shared_ids = 0
        if len(summary.sample) < 2:
            summary.sample = batch.events[:2]
        for event in decode_batch(b"\n".join(batch.events), "application/x-ndjson").events if batch.events else ():
            event_id = bytes.fromhex(event.event_id.replace("-", ""))
            summary.shared_ids += event_id in seen
            seen.add(event_id)

    def _batches(self, source: Source, skip: int) -> Iterator[_Batch]:
        batch = _Batch(skip)
        for row, made in self._rows(source, skip):
            batch.last_row = row
            if isinstance(made, _Good):
                batch.add(row, made.events, made.original)
            else:
                batch.refused.append((row, "", made.reason, made.original))
            if batch.full():
                yield batch
                batch = _Batch(row)
        if batch.rows or batch.refused:
            yield batch

    def _rows(self, source: Source, skip: int) -> Iterator[tuple[int, _Good | _Bad]]:
        kind = (self.mapping.row_format if self.mapping else None) or guess_format(source.path)
        if kind == "csv":
            return self._csv(source, skip)
        return self._ndjson(source, skip)

    def _csv(self, source: Source, skip: int) -> Iterator[tuple[int, _Good | _Bad]]:
        if self.mapping is None:
            raise lacks_mapping(source.path)
        rows = CsvRows(source, **self.mapping.csv)
        places = {name: place for place, name in enumerate(rows.header)}
        mapper = RowMapper(self.mapping, lambda name: itemgetter(places[name]), rows.header)
        events = mapper.events
        for number, row in enumerate(rows, 1):
            if number <= skip:
                continue
            if isinstance(row, BadRow):
                yield number, _Bad(row.reason, row.text)
                continue
            try:
                yield number, _Good(events(number, row), row)
            except UnicodeEncodeError:
                yield number, _Bad("the row is not valid in the file's encoding; see csv.encoding in the mapping", _shown(row))
            except ValueError as error:
                yield number, _Bad(str(error), _shown(row))

    def _ndjson(self, source: Source, skip: int) -> Iterator[tuple[int, _Good | _Bad]]:
        mapper = None
        if self.mapping is not None:

            def resolve(name: str) -> Callable[[Any], str]:
                return lambda row: cast("str", row.get(name, ""))

            mapper = RowMapper(self.mapping, resolve, None)
        times = TimeReader()
        for number, line in enumerate(ndjson_lines(source), 1):
            if number <= skip:
                continue
            if isinstance(line, BadRow):
                yield number, _Bad(line.reason, line.text)
                continue
            try:
                events = mapper.events(number, flat_object(line)) if mapper else [self._complete(line, times)]
                yield number, _Good(events, line)
            except ValueError as error:
                yield number, _Bad(str(error), _shown(line))

    def _complete(self, line: bytes, times: TimeReader) -> bytes:
        """Give an event what it lacks: an id made from its own text, the site and the application given on the command line."""
        if not (self.site or self.app) and b'"event_id"' in line:
            return line
        try:
            event = _RAW_OBJECT.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return line  # the check that follows says what is wrong
        if "event_id" not in event:
            moment = msgspec.json.decode(event.get("timestamp", msgspec.Raw(b'""')))
            if not isinstance(moment, str):
                return line
            event["event_id"] = _raw(stable_id(line.decode("utf-8", "replace"), times.read(moment)))
        if self.site and "site_id" not in event:
            event["site_id"] = _raw(self.site)
        if self.app and "app" not in event:
            event["app"] = _raw({"name": self.app})
        return msgspec.json.encode(event)


def _raw(value: Any) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))


def _check(batch: _Batch) -> _Batch:
    """The batch without the rows that break the contract; those are noted with the reason."""
    if not batch.events:
        return batch
    try:
        rejected = [(r.index, r.path, r.error) for r in decode_batch(b"\n".join(batch.events), "application/x-ndjson").rejected]
    except InvalidBody as error:
        rejected = [(index, "", str(error)) for index in range(len(batch.events))]
    if not rejected:
        return batch
    bad: dict[int, tuple[str, str]] = {}
    for index, path, reason in rejected:
        bad.setdefault(batch.place(index), (path, reason))
    for place, (path, reason) in bad.items():
        batch.refused.append((batch.rows[place], path, reason, _shown(batch.originals[place])))
    return batch.without(set(bad))


def _shown(original: Any) -> Any:
    """A row as the quarantine keeps it."""
    if isinstance(original, bytes):
        return original.decode("utf-8", "replace")
    if isinstance(original, list):
        return [value.encode("utf-8", "surrogateescape").decode("utf-8", "replace") for value in original]
    return original
