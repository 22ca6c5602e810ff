"""Bronze: events as received, appended exactly once from spools, the hot store and pulled systems; and what was refused."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from contract.settings import Secret
from lakehouse.arrow_events import CHUNK_BYTES, LineParser, consecutive
from lakehouse.lake import Lake
from lakehouse.tables import BRONZE_EVENTS, BRONZE_QUARANTINE, DATE, INT, STRING, TIMESTAMP
from lakehouse.writer import Commit, append_once, transaction_version

if TYPE_CHECKING:
    from lakehouse.hot.ahead import ReadAhead

MAX_EVENTS: Final = 250_000
"""Events in one commit."""

MAX_BYTES: Final = 256 * 1024 * 1024
"""NDJSON in one commit, in bytes."""

HOT_ROWS: Final = 200_000
"""Rows of the hot store in one commit, about; two such pages are held in memory at a time."""

HOT_READER: Final = "lake"
"""The name under which the lake confirms to the hot store what it has."""


class SpoolRecord(Protocol):
    """One record of a spool: a batch of events, numbered `seq` to `seq + count - 1`."""

    @property
    def seq(self) -> int:
        """Number of its first event."""

    @property
    def count(self) -> int:
        """How many events it holds."""

    def ndjson(self) -> bytes:
        """The events, one a line."""


@dataclass(frozen=True)
class Appended:
    """What one step brought into bronze.

    `from_seq` and `to_seq` are the source's cursor before and after (None: nothing ever came); `more` says that there is more to
    read at once; `version` is the version of bronze.events.
    """

    rows: int
    quarantined: int
    bytes: int
    from_seq: int | None
    to_seq: int | None
    version: int
    seconds: float
    more: bool = False


def spool_cursor(lake: Lake, spool_id: str) -> int:
    """Number of the last event of that spool that is in bronze; 0: none yet. What is up to here, the spool may forget."""
    return transaction_version(lake, BRONZE_EVENTS.name, spool_app_id(spool_id)) or 0


def spool_app_id(spool_id: str) -> str:
    """The cursor's name in the Delta log."""
    return f"spool:{spool_id}"


def hot_app_id(system_identifier: str) -> str:
    """The cursor's name in the Delta log."""
    return f"hot:{system_identifier}"


def now_utc() -> datetime:
    """The clock, as UTC without zone."""
    return datetime.now(UTC).replace(tzinfo=None)


def append_spool(
    lake: Lake,
    spool_id: str,
    records: Iterable[SpoolRecord],
    *,
    max_events: int = MAX_EVENTS,
    max_bytes: int = MAX_BYTES,
    now: Callable[[], datetime] = now_utc,
) -> Appended:
    """Append a spool's records, in the order of their numbers, in one commit; records that are in already are stepped over.

    Lines that are no events go to bronze.quarantine. Holds at most `max_events` events and about `max_bytes` of NDJSON.
    """
    started = time.monotonic()
    app_id = spool_app_id(spool_id)
    cursor = transaction_version(lake, BRONZE_EVENTS.name, app_id)
    page = _SpoolPage(cursor or 0, max_events, max_bytes)
    events, invalid = page.read(records)
    moment = now()
    if page.last_seq == page.after:
        return Appended(0, 0, 0, cursor, cursor, lake.version(BRONZE_EVENTS.name), time.monotonic() - started)
    if invalid.num_rows:
        # First, so that a crash between the two commits loses none; the next run's page may be another one.
        _quarantine_lines(lake, invalid, app_id=app_id, source_id=spool_id, version=page.last_seq, moment=moment)
    commit = append_once(
        lake, BRONZE_EVENTS.name, _with_source(events, "spool", spool_id, moment), app_id, page.last_seq, after=cursor
    )
    return Appended(
        rows=commit.rows,
        quarantined=invalid.num_rows,
        bytes=commit.bytes,
        from_seq=cursor,
        to_seq=page.last_seq,
        version=commit.version,
        seconds=time.monotonic() - started,
        more=page.more,
    )


class _SpoolPage:
    """Reads records until the page is full; `last_seq` and `more` are right once `read` has returned."""

    def __init__(self, after: int, max_events: int, max_bytes: int) -> None:
        self.after = after
        self.last_seq = after
        self.more = False
        self._max_events = max_events
        self._max_bytes = max_bytes

    def read(self, records: Iterable[SpoolRecord]) -> tuple[pa.Table, pa.Table]:
        """Events with their numbers as `source_seq`, and the lines that are none (`number`, `line`)."""
        events, invalid = [], []
        with LineParser() as parser:
            for body, numbers in self._chunks(records):
                parsed = parser.parse(body, numbers)
                events.append(parsed.events.append_column("source_seq", parsed.numbers))
                invalid.append(parsed.invalid)
        empty = pa.schema([pa.field("number", INT), pa.field("line", STRING)]).empty_table()
        return (pa.concat_tables(events) if events else pa.table({})), pa.concat_tables([empty, *invalid])

    def _chunks(self, records: Iterable[SpoolRecord]) -> Iterator[tuple[bytes, pa.ChunkedArray[Any]]]:
        bodies: list[bytes] = []
        numbers: list[pa.Array[Any]] = []
        size = total_events = total_bytes = 0
        for record in records:
            last = record.seq + record.count - 1
            if last <= self.last_seq:
                continue
            if total_events and (total_events + record.count > self._max_events or total_bytes >= self._max_bytes):
                self.more = True
                break
            body = record.ndjson()
            if not body.endswith(b"\n"):
                body += b"\n"
            bodies.append(body)
            numbers.append(_numbers(record, body.count(b"\n")))
            size += len(body)
            total_events += record.count
            total_bytes += len(body)
            self.last_seq = last
            if size >= CHUNK_BYTES:
                yield b"".join(bodies), pa.chunked_array(numbers)
                bodies, numbers, size = [], [], 0
        if bodies:
            yield b"".join(bodies), pa.chunked_array(numbers)


def _numbers(record: SpoolRecord, lines: int) -> pa.Array[Any]:
    """A number for each line of the record; lines beyond its count, which a damaged record may have, bear its last number."""
    numbers = consecutive(record.seq, lines)
    if lines > record.count:
        numbers = pc.min_element_wise(numbers, record.seq + record.count - 1)
    return numbers


def append_hot(
    lake: Lake,
    dsn: str | Secret,
    *,
    max_rows: int = HOT_ROWS,
    pages: int = 8,
    now: Callable[[], datetime] = now_utc,
) -> Appended:
    """Append what the hot store has and the lake has not, in commits of about `max_rows` rows, and confirm it to the hot store.

    Follows transaction ids, so late events and transactions that commit out of order are never skipped; at most `pages` commits.
    """
    from lakehouse.hot.ahead import ReadAhead
    from lakehouse.hot.arrow import Sessions
    from lakehouse.hot.reader import confirm, plan, system_identifier

    started = time.monotonic()
    cluster = system_identifier(dsn)
    app_id = hot_app_id(cluster)
    first = cursor = transaction_version(lake, BRONZE_EVENTS.name, app_id)
    if cursor is not None:
        # A run that died between its commit and its confirmation is made good here.
        confirm(dsn, HOT_READER, cursor)
    rows = size = 0
    version = None
    with (
        closing(Sessions(most=1)) as sessions,
        ThreadPoolExecutor(1, thread_name_prefix="hot-plan") as planner,
        ThreadPoolExecutor(1, thread_name_prefix="hot-page") as ahead,
    ):
        following = ReadAhead(ahead, dsn, planner.submit(plan, dsn, cursor or 0, max_rows).result, sessions)
        for number in range(1, pages + 1):
            page = following
            reading = page.opened()
            if reading.more and number < pages:
                # The database plans the next page while it sends this one, and sends it while this one is written.
                following = ReadAhead(ahead, dsn, planner.submit(plan, dsn, reading.last_xid, max_rows).result, sessions)
            if reading.rows:
                commit = _append_page(lake, page, cluster, app_id, reading.last_xid, after=cursor, moment=now())
                rows, size, version, cursor = rows + commit.rows, size + commit.bytes, commit.version, reading.last_xid
                confirm(dsn, HOT_READER, cursor)
            if not reading.more:
                break
    return Appended(
        rows=rows,
        quarantined=0,
        bytes=size,
        from_seq=first,
        to_seq=cursor,
        version=lake.version(BRONZE_EVENTS.name) if version is None else version,
        seconds=time.monotonic() - started,
        more=reading.more,
    )


def _append_page(
    lake: Lake, page: ReadAhead, cluster: str, app_id: str, version: int, *, after: int | None, moment: datetime
) -> Commit:
    """Commit a page whose rows may still be coming in."""
    from lakehouse.hot.reader import FOLLOWED_SCHEMA

    schema = _from_hot(FOLLOWED_SCHEMA.empty_table(), cluster, moment).schema

    def rows() -> pa.RecordBatchReader:
        tables = (_from_hot(pa.Table.from_batches([batch]), cluster, moment) for batch in page.batches())
        return pa.RecordBatchReader.from_batches(schema, (batch for table in tables for batch in table.to_batches()))

    try:
        return append_once(lake, BRONZE_EVENTS.name, rows, app_id, version, after=after)
    except Exception:
        page.check()  # says more than what delta-rs makes of a reading that broke off
        raise


def _from_hot(page: pa.Table, system_identifier: str, moment: datetime) -> pa.Table:
    events = page.append_column("source_seq", page["ingest_xid"].cast(INT)).drop_columns(["ingest_xid"])
    return _with_source(events, "hot", system_identifier, moment)


def append_events(
    lake: Lake,
    events: pa.Table,
    *,
    source: str,
    source_id: str,
    version: int,
    after: int | None = None,
    now: Callable[[], datetime] = now_utc,
) -> Commit:
    """Append a table in the flat layout from any other source once; `version` is the source's cursor, such as a watermark.

    `after` is where the cursor stood when the events were read (None: never set); StaleCursor if it stands elsewhere.
    """
    return append_once(
        lake, BRONZE_EVENTS.name, _with_source(events, source, source_id, now()), f"{source}:{source_id}", version, after=after
    )


def _with_source(events: pa.Table, source: str, source_id: str, moment: datetime) -> pa.Table:
    return _with_constants(
        events,
        {
            "source": pa.scalar(source, STRING),
            "source_id": pa.scalar(source_id, STRING),
            "ingested_at": pa.scalar(moment, TIMESTAMP),
            "ingest_date": pa.scalar(moment.date(), DATE),
        },
    )


def _with_constants(table: pa.Table, constants: Mapping[str, Any]) -> pa.Table:
    for name, value in constants.items():
        table = table.append_column(name, pa.repeat(value, table.num_rows))
    return table


def _quarantine_lines(lake: Lake, lines: pa.Table, *, app_id: str, source_id: str, version: int, moment: datetime) -> Commit:
    known = transaction_version(lake, BRONZE_QUARANTINE.name, app_id)
    if known is not None:
        lines = lines.filter(pc.greater(lines["number"], pa.scalar(known, INT)))
    table = pa.table({"event": lines["line"], "index": lines["number"]})
    constants = {
        "quarantined_at": pa.scalar(moment, TIMESTAMP),
        "source": pa.scalar("lake", STRING),
        "source_id": pa.scalar(source_id, STRING),
        "path": pa.scalar("", STRING),
        "error": pa.scalar("not an event of the contract, though its sender was told that it was accepted", STRING),
        "ingested_at": pa.scalar(moment, TIMESTAMP),
        "ingest_date": pa.scalar(moment.date(), DATE),
    }
    return append_once(lake, BRONZE_QUARANTINE.name, _with_constants(table, constants), app_id, version, after=known)


def append_quarantine(lake: Lake, spool_id: str, files: Iterable[Path], *, now: Callable[[], datetime] = now_utc) -> Appended:
    """Append what the sidecar refused: its NDJSON files, which may still be growing; each is read on from where it was left.

    A file's cursor is the number of its bytes that are in, always the end of a whole line.
    """
    started = time.monotonic()
    moment = now()
    rows = size = 0
    for file in files:
        app_id = f"quarantine:{spool_id}:{file.name}"
        cursor = transaction_version(lake, BRONZE_QUARANTINE.name, app_id)
        with file.open("rb") as handle:
            handle.seek(cursor or 0)
            body = handle.read(MAX_BYTES)
        body = body[: body.rfind(b"\n") + 1]
        if not body:
            continue
        table = _quarantine_table(body, spool_id, moment)
        commit = append_once(lake, BRONZE_QUARANTINE.name, table, app_id, (cursor or 0) + len(body), after=cursor)
        rows, size = rows + commit.rows, size + commit.bytes
    version = lake.version(BRONZE_QUARANTINE.name)
    return Appended(rows, rows, size, None, None, version, time.monotonic() - started)


def _quarantine_table(body: bytes, source_id: str, moment: datetime) -> pa.Table:
    """Refusals are few, so these rows are Python objects; a line that can't be read is kept as it stands."""
    rows = []
    for line in body.split(b"\n"):
        if not line.strip():
            continue
        rows.append({**_refusal(line), "source_id": source_id, "ingested_at": moment, "ingest_date": moment.date()})
        rows[-1].setdefault("quarantined_at", moment)
    schema = pa.schema([pa.field(column.name, column.type) for column in BRONZE_QUARANTINE.columns])
    return pa.Table.from_pylist(rows, schema=schema)


def _refusal(line: bytes) -> dict[str, Any]:
    unreadable = {
        "source": "sidecar",
        "error": "the quarantine's own line can't be read",
        "event": line.decode("utf-8", "replace"),
    }
    try:
        entry = json.loads(line)
        refusal = {name: entry.get(name) for name in ("source", "index", "event_id", "path", "error", "event")}
        at = datetime.fromisoformat(entry["quarantined_at"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return unreadable
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in refusal.items() if value is not None}
    index = refusal["index"]
    known = {**texts, "index": index if isinstance(index, int) else None}
    return {**unreadable, **known, "quarantined_at": at.astimezone(UTC).replace(tzinfo=None)}
