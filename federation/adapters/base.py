"""What every adapter is: a system that can be asked for events, in the flat layout and in one order.

An adapter declares what it applies on its own side (`pushes_down`); `answer` applies the rest, so a caller gets the same rows
whatever the system behind can do.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol, runtime_checkable

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from contract.columns import PROMOTED_ENTITIES
from contract.errors import TrackMateError
from contract.request import EventRequest, severities_from
from federation.merge import SourceRows
from lakehouse.tables import FLAT_SCHEMA

FILTERS: Final = ("time", "sites", "kinds", "names", "entities", "run_id", "trace_id", "text", "severity_min", "after")
"""What a request can ask for besides `order` and `limit`; the words that `pushes_down` may hold, with these two."""

EVERYTHING: Final = frozenset({*FILTERS, "order", "limit"})

Mask = Any
"""A Boolean Arrow array with a value for each row (the stubs of pyarrow are too narrow for its compute functions)."""

MAX_UNORDERED_ROWS: Final = 200_000
"""Rows that are held at once for a system that can't order by itself."""


class SourceError(TrackMateError):
    """A source can't answer; the text names the source and says why, without secrets."""


@dataclass(frozen=True)
class SourceHealth:
    """Whether a source answers now, and in words how."""

    ok: bool
    detail: str


@runtime_checkable
class Adapter(Protocol):
    """One system that holds events. Everything is asynchronous and may be cancelled at any await."""

    name: str
    """The name that callers use for it."""
    kind: str
    """The type under which it is registered, such as `managed`."""
    pushes_down: frozenset[str]
    """What it applies itself, of `FILTERS`, `order` and `limit`."""

    def query(self, request: EventRequest) -> AsyncIterator[pa.RecordBatch]:
        """The rows that match what it pushes down, in batches of the flat layout (`lakehouse.tables.FLAT_SCHEMA`)."""

    async def version(self, request: EventRequest) -> str | None:
        """What changes when this source's answer to `request` may have changed; None when that can't be told cheaply."""

    async def as_of(self) -> dt.datetime | None:
        """Up to when the source is known to be complete; None means it is always up to date."""

    async def check(self) -> SourceHealth:
        """Whether it answers, at little cost."""

    async def close(self) -> None:
        """Give back what it holds."""


def filters_in_use(request: EventRequest) -> frozenset[str]:
    """Which of `FILTERS` this request really asks for."""
    used = {"time"}
    if request.sites is not None:
        used.add("sites")
    used.update(name for name in FILTERS if name not in {"time", "sites"} and getattr(request, name))
    return frozenset(used)


async def answer(adapter: Adapter, request: EventRequest) -> SourceRows:
    """Ask `adapter` and apply what it does not; gives at most `request.limit` rows, in order, and whether there are no more.

    Raises `SourceError` when a system that can't order by itself holds too many rows for it to be done here.
    """
    rest = filters_in_use(request) - adapter.pushes_down
    ordered = "order" in adapter.pushes_down
    whole = not rest and ordered and "limit" in adapter.pushes_down
    wanted = request.limit + 1
    asked = msgspec.structs.replace(request, limit=wanted if whole else 0)
    kept: list[pa.RecordBatch] = []
    rows = 0
    batches = adapter.query(asked)
    try:
        async for given in batches:
            batch = given if given.schema.equals(FLAT_SCHEMA) else given.select(FLAT_SCHEMA.names).cast(FLAT_SCHEMA)
            matching = batch if not rest else batch.filter(matches(batch, request, rest))
            rows += matching.num_rows
            kept.append(matching)
            if ordered and not whole and rows >= wanted:
                break
            if not ordered and rows > MAX_UNORDERED_ROWS:
                message = (
                    f"source {adapter.name} has more than {MAX_UNORDERED_ROWS} matching rows and can't order them: "
                    "ask for a shorter time range or add filters"
                )
                raise SourceError(message)
    finally:
        closing = getattr(batches, "aclose", None)
        if closing is not None:
            await closing()
    table = pa.Table.from_batches(kept, FLAT_SCHEMA)
    if not ordered:
        direction: Literal["ascending", "descending"] = "ascending" if request.order == "asc" else "descending"
        table = table.sort_by([("timestamp", direction), ("event_id", direction)])
    return SourceRows(adapter.name, table.slice(0, request.limit), complete=table.num_rows <= request.limit)


def matches(batch: pa.RecordBatch, request: EventRequest, filters: frozenset[str]) -> Mask:
    """A Boolean for each row: whether it passes those of `filters` that the request uses. Never null."""
    mask: Mask = pa.repeat(True, batch.num_rows)
    for name in sorted(filters):
        mask = pc.and_(mask, pc.fill_null(_FILTERS[name](batch, request), False))
    return mask


def micros(moment: dt.datetime) -> int:
    """Microseconds since 1970 of an aware moment, exactly."""
    return (moment - _EPOCH) // dt.timedelta(microseconds=1)


def moment_of(micros_since_epoch: int) -> dt.datetime:
    """The aware moment (UTC) of microseconds since 1970."""
    return _EPOCH + dt.timedelta(microseconds=micros_since_epoch)


_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def _scalar(moment: dt.datetime) -> Any:
    return pa.scalar(micros(moment), pa.int64()).cast(pa.timestamp("us"))


def _time(batch: pa.RecordBatch, request: EventRequest) -> Mask:
    times: Any = batch["timestamp"]
    return pc.and_(pc.greater_equal(times, _scalar(request.start)), pc.less(times, _scalar(request.end)))


def _after(batch: pa.RecordBatch, request: EventRequest) -> Mask:
    cursor = request.after
    if cursor is None:
        return pa.repeat(True, batch.num_rows)
    beyond: Any = pc.greater if request.order == "asc" else pc.less
    moment = _scalar(cursor.timestamp)
    times: Any = batch["timestamp"]
    return pc.or_(beyond(times, moment), pc.and_(pc.equal(times, moment), beyond(batch["event_id"], cursor.event_id)))


def _entities(batch: pa.RecordBatch, request: EventRequest) -> Mask:
    mask: Mask = pa.repeat(True, batch.num_rows)
    own = {key: value for key, value in request.entities.items() if key not in PROMOTED_ENTITIES}
    for key in request.entities.keys() - own.keys():
        mask = pc.and_(mask, pc.fill_null(_equal(batch[key], request.entities[key]), False))
    if own:
        found = [
            text is not None and own.items() <= msgspec.json.decode(text, type=dict[str, Any]).items()
            for text in batch["entities"].to_pylist()
        ]
        mask = pc.and_(mask, pa.array(found, pa.bool_()))
    return mask


def _text(batch: pa.RecordBatch, request: EventRequest) -> Mask:
    mask: Mask = pa.repeat(False, batch.num_rows)
    for name in ("name", "message", "error_message"):
        hit: Mask = pc.match_substring(batch[name], request.text or "", ignore_case=True)
        mask = pc.or_(mask, pc.fill_null(hit, False))
    return mask


def _equal(column: Any, value: str | None) -> Mask:
    return pc.equal(column, pa.scalar(value, pa.string()))


def _one_of(column: str, values: Sequence[str]) -> Any:
    return lambda batch: pc.is_in(batch[column], value_set=pa.array(values, pa.string()))


_FILTERS: Final[Mapping[str, Any]] = {
    "time": _time,
    "after": _after,
    "entities": _entities,
    "text": _text,
    "sites": lambda batch, request: _one_of("site_id", sorted(request.sites or ()))(batch),
    "kinds": lambda batch, request: _one_of("kind", sorted(request.kinds))(batch),
    "names": lambda batch, request: _one_of("name", sorted(request.names))(batch),
    "severity_min": lambda batch, request: _one_of("severity", severities_from(request.severity_min or "debug"))(batch),
    "run_id": lambda batch, request: _equal(batch["run_id"], request.run_id),
    "trace_id": lambda batch, request: _equal(batch["trace_id"], request.trace_id),
}
