"""One answer from many sources: all asked at once, each with its own deadline, merged by time, without duplicates.

A source that fails or is late costs its own rows only: the answer says `partial` and, for each source, what became of it.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import msgspec
import pyarrow as pa

from contract.errors import TrackMateError
from contract.request import Cursor, EventRequest
from federation.adapters.base import Adapter, answer, moment_of
from federation.auth import Principal
from federation.cache import AnswerCache
from federation.merge import Key, SourceRows, merge
from federation.renditions import Renditions, aside
from lakehouse.tables import FLAT_SCHEMA

LOG = logging.getLogger(__name__)

PRECEDENCE: Final = ("managed", "lake")
"""Whose copy of an event is shown, by the adapter's kind; all others come after, in the order they are configured."""

OPEN_SECONDS: Final = 2.0
"""How old an answer may be whose time range still grows, when the caller sets no `max_staleness`."""

CLOSED_SECONDS: Final = 60.0
"""The same for a range that ended at least `SETTLED` ago: only late events can still change it."""

SETTLED: Final = dt.timedelta(minutes=5)

Observer = Callable[[str, float, bool], None]
"""Is told of every source that was asked: its name, the seconds it took, and whether it failed."""


class UnknownSource(TrackMateError):
    """A caller named a source that is not configured."""


class NoAnswer(TrackMateError):
    """Not one source answered; `reports` says why, one for each."""

    def __init__(self, reports: Sequence[SourceReport]) -> None:
        self.reports = list(reports)
        super().__init__("; ".join(f"{report.name}: {report.error}" for report in reports) or "no source is configured")


class SourceReport(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one source: `rows` it gave before the merge, up to when it is complete (`as_of`), how long ago that is."""

    name: str
    type: str
    rows: int
    seconds: float
    as_of: dt.datetime | None = None
    lag_seconds: float | None = None
    cache: str = "miss"
    error: str | None = None


@dataclass(frozen=True)
class Answer:
    """Merged rows (flat layout and `sources`) from `start` to `end`, where the next page starts, what became of each source."""

    start: dt.datetime
    end: dt.datetime
    table: pa.Table
    after: Key | None
    reports: tuple[SourceReport, ...]
    cache: str = "miss"
    age: float = 0.0
    renditions: Renditions = field(default_factory=Renditions, repr=False, compare=False)

    async def render(self, form: str, make: Callable[[pa.Table], bytes]) -> bytes:
        """The rows as bytes of a form, made once however often the answer is given again."""
        return await self.renditions.get(form, self.table.num_rows, lambda: make(self.table))

    @property
    def partial(self) -> bool:
        """Whether any source that was asked gave nothing because it failed or was late."""
        return any(report.error is not None for report in self.reports)


@dataclass(frozen=True)
class Question:
    """A request and how it may be answered.

    `range_key` stands for the time range in the cache's key: a relative range such as "the last hour" is the same question a
    second later. `sources` None means all; `max_staleness` is in seconds.
    """

    request: EventRequest
    range_key: Hashable
    sources: tuple[str, ...] | None = None
    max_staleness: float | None = None


@dataclass
class Unified:
    """All configured sources behind one question. `adapters` in any order; precedence is settled here."""

    adapters: Sequence[Adapter]
    timeout: float = 5.0
    cache_bytes: int = 64 * 2**20
    observe: Observer = lambda _name, _seconds, _failed: None
    now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC)
    _by_name: Mapping[str, Adapter] = field(init=False)
    _cache: AnswerCache[Answer] = field(init=False)

    def __post_init__(self) -> None:
        ranked = sorted(self.adapters, key=lambda a: PRECEDENCE.index(a.kind) if a.kind in PRECEDENCE else len(PRECEDENCE))
        self._by_name = {adapter.name: adapter for adapter in ranked}
        self._cache = AnswerCache(
            self.cache_bytes, lambda answered: answered.table.nbytes + 4_096, lambda answered: answered.renditions
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The sources there are, best first."""
        return tuple(self._by_name)

    def chosen(self, names: Sequence[str] | None) -> list[Adapter]:
        """The adapters of these names, best first; all for None. Raises `UnknownSource`."""
        if names is None:
            return list(self._by_name.values())
        unknown = sorted(set(names) - self._by_name.keys())
        if unknown:
            message = f"there is no source {', '.join(unknown)}; known: {', '.join(self._by_name) or 'none'}"
            raise UnknownSource(message)
        return [adapter for name, adapter in self._by_name.items() if name in set(names)]

    async def ask(self, question: Question, principal: Principal) -> Answer:
        """The answer to `question` within the sites of `principal`.

        Raises `UnknownSource`, and `NoAnswer` when not a single source answered.
        """
        adapters = self.chosen(question.sources)
        request = msgspec.structs.replace(question.request, sites=_within(question.request.sites, principal.sites))
        if request.sites is not None and not request.sites:
            nothing = merge([SourceRows("", FLAT_SCHEMA.empty_table(), complete=True)], limit=1).table
            return Answer(request.start, request.end, nothing, None, ())
        key = (_question_key(request), question.range_key, tuple(a.name for a in adapters), principal.cache_key())
        closed = request.end <= self.now() - SETTLED

        async def versions() -> Hashable:
            return tuple([await _version(adapter, request, self.timeout) for adapter in adapters]) if closed else ()

        answered, result, age = await self._cache.get(
            key,
            max_age=_max_age(question, closed=closed),
            versions=versions,
            make=lambda: self._ask_all(adapters, request),
            keep=lambda made: not made.partial,
        )
        if result == "miss":
            return answered
        return replace(answered, reports=tuple(_cached(report, result) for report in answered.reports), cache=result, age=age)

    async def _ask_all(self, adapters: Sequence[Adapter], request: EventRequest) -> Answer:
        outcomes = await asyncio.gather(*(self._ask_one(adapter, request) for adapter in adapters))
        reports = tuple(report for _, report in outcomes)
        parts = [rows for rows, _ in outcomes if rows is not None]
        if not parts:
            raise NoAnswer(reports)
        rows = sum(part.table.num_rows for part in parts)
        page = await aside(rows, merge, parts, limit=request.limit, order=request.order)
        return Answer(request.start, request.end, page.table, page.after, reports)

    async def _ask_one(self, adapter: Adapter, request: EventRequest) -> tuple[SourceRows | None, SourceReport]:
        started = time.monotonic()
        rows: SourceRows | None = None
        as_of: dt.datetime | None = None
        error: str | None = None
        try:
            async with asyncio.timeout(self.timeout):
                as_of = await adapter.as_of()
                rows = await answer(adapter, request)
        except TimeoutError:
            error = f"no answer within {self.timeout:g} s"
        except TrackMateError as failure:
            error = str(failure)
        except Exception:  # whatever a system's client raises, the other sources' rows are still an answer
            LOG.exception("source %s failed", adapter.name)
            error = "failed for an unforeseen reason; the gateway's log has it"
        seconds = time.monotonic() - started
        self.observe(adapter.name, seconds, error is not None)
        return rows, SourceReport(
            name=adapter.name,
            type=adapter.kind,
            rows=rows.table.num_rows if rows is not None else 0,
            seconds=round(seconds, 6),
            as_of=as_of,
            lag_seconds=None if as_of is None else max(0.0, round((self.now() - as_of).total_seconds(), 3)),
            error=error,
        )


def _max_age(question: Question, *, closed: bool) -> float:
    if question.max_staleness is not None:
        return question.max_staleness
    return CLOSED_SECONDS if closed else OPEN_SECONDS


def cursor_of(key: Key) -> Cursor:
    """A merged page's end as the `after` of the next request."""
    return Cursor(moment_of(key.micros), key.event_id)


def _within(asked: frozenset[str] | None, allowed: frozenset[str] | None) -> frozenset[str] | None:
    if asked is None or allowed is None:
        return allowed if asked is None else asked
    return asked & allowed


def _question_key(request: EventRequest) -> Hashable:
    timeless = msgspec.structs.replace(request, start=_NEVER, end=_NEVER)
    return msgspec.json.encode(timeless, order="deterministic", enc_hook=sorted)


_NEVER: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


async def _version(adapter: Adapter, request: EventRequest, seconds: float) -> Hashable:
    try:
        async with asyncio.timeout(seconds):
            return await adapter.version(request)
    except (TimeoutError, TrackMateError, OSError):
        return None


def _cached(report: SourceReport, result: str) -> SourceReport:
    return msgspec.structs.replace(report, cache=result)
