"""Where one event is, and when it came there: hot store, bronze, silver, and what custody says about its emitter's hour."""

# ruff: noqa: S608 - ids stand in SQL only after they were checked to be UUIDs, times only as our own datetime

from __future__ import annotations

import asyncio
import datetime as dt
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec

from contract.errors import TrackMateError
from contract.ids import is_uuid, uuid7_millis
from federation.auth import Principal
from federation.engines.base import Engine

LOG = logging.getLogger(__name__)

Status = Literal["found", "absent", "unknown"]

PLACES: Final = ("hot", "bronze", "silver", "custody")
"""The places that are looked at, in the order an event passes them."""


_BRONZE: Final = "source, source_id, source_seq, ingested_at, site_id, emitter_id, timestamp"
_SILVER: Final = "first_source, ingested_at, site_id, emitter_id, timestamp"


class Place(msgspec.Struct, kw_only=True):
    """One place: whether the event is there (`unknown` when that could not be found out, see `error`), when it came, and details.

    In bronze an event is once for each way it came; `at` is the first time, `copies` are all.
    """

    place: str
    status: Status
    at: dt.datetime | None = None
    error: str | None = None
    copies: list[dict[str, Any]] = []


class Trace(msgspec.Struct, kw_only=True):
    """Every place that was looked at; `made_at` is the time that the id itself holds (UUIDv7)."""

    event_id: str
    made_at: dt.datetime | None
    places: list[Place]

    @property
    def found(self) -> bool:
        """Whether the event is anywhere."""
        return any(place.status == "found" for place in self.places if place.place != "custody")


class BadEventId(TrackMateError):
    """What was given is not an event id."""


FindHot = Callable[[str], Awaitable[Sequence[dict[str, Any]]]]
"""Rows of the hot store with this event id (flat layout and `ingested_at`)."""


@dataclass
class Tracer:
    """Looks at every place at once; a place that fails or is late is `unknown` and keeps no other from being told."""

    find_hot: FindHot
    engine: Engine
    timeout: float = 5.0

    async def trace(self, event_id: str, principal: Principal) -> Trace:
        """Where `event_id` is, as far as the principal's sites let it be seen. Raises `BadEventId`."""
        if not is_uuid(event_id):
            message = f"{event_id[:64]!r} is not an event id: expected a UUID in lower case"
            raise BadEventId(message)
        event = f"event_id = '{event_id}'"
        hot, bronze, silver = await asyncio.gather(
            self._look("hot", self._hot(event_id, principal)),
            self._look("bronze", self._rows(f"SELECT {_BRONZE} FROM bronze.events WHERE {event}", principal)),
            self._look("silver", self._rows(f"SELECT {_SILVER} FROM silver.events WHERE {event}", principal)),
        )
        custody = await self._look("custody", self._custody((*hot.copies, *bronze.copies, *silver.copies), principal))
        millis = uuid7_millis(event_id)
        made_at = None if millis is None else dt.datetime.fromtimestamp(millis / 1000, dt.UTC)
        return Trace(event_id=event_id, made_at=made_at, places=[hot, bronze, silver, custody])

    async def _look(self, place: str, looking: Awaitable[list[dict[str, Any]]]) -> Place:
        try:
            async with asyncio.timeout(self.timeout):
                copies = await looking
        except TimeoutError:
            return Place(place=place, status="unknown", error=f"no answer within {self.timeout:g} s")
        except TrackMateError as error:
            return Place(place=place, status="unknown", error=str(error))
        except Exception:  # one broken place must not hide the others
            LOG.exception("tracing in %s failed", place)
            return Place(place=place, status="unknown", error="failed for an unforeseen reason; the gateway's log has it")
        copies = [{key: _zoned(value) for key, value in copy.items()} for copy in copies]
        times = [copy["ingested_at"] for copy in copies if copy.get("ingested_at") is not None]
        return Place(place=place, status="found" if copies else "absent", at=min(times, default=None), copies=copies)

    async def _hot(self, event_id: str, principal: Principal) -> list[dict[str, Any]]:
        rows = await self.find_hot(event_id)
        shown = ("ingested_at", "site_id", "emitter_id", "emitter_seq", "timestamp", "kind", "name")
        return [{key: row.get(key) for key in shown} for row in rows if principal.sees(str(row["site_id"]))]

    async def _rows(self, sql: str, principal: Principal) -> list[dict[str, Any]]:
        async with await self.engine.query(sql, principal=principal) as result:
            rows: list[dict[str, Any]] = (await result.read_all()).to_pylist()
        return rows

    async def _custody(self, copies: Sequence[dict[str, Any]], principal: Principal) -> list[dict[str, Any]]:
        """What custody counted for the emitter of the event in the hour of the event."""
        known = next((copy for copy in copies if copy.get("emitter_id") and copy.get("timestamp")), None)
        if known is None or not is_uuid(str(known["emitter_id"])):
            return []
        hour = known["timestamp"].astimezone(dt.UTC).replace(minute=0, second=0, microsecond=0, tzinfo=None)
        return await self._rows(
            f"SELECT * FROM gold.custody WHERE emitter_id = '{known['emitter_id']}' AND hour = TIMESTAMP '{hour}'", principal
        )


def _zoned(value: Any) -> Any:
    return value.replace(tzinfo=dt.UTC) if isinstance(value, dt.datetime) and value.tzinfo is None else value
