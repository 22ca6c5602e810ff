"""Sources in memory, for what a real one can't be made to do: hang, fail, answer in any order, push down nothing."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
import pyarrow as pa

from contract.codec import decode_batch
from contract.columns import NAMES, flatten
from contract.request import EventRequest
from federation.adapters.base import EVERYTHING, FILTERS, SourceHealth, filters_in_use, matches
from lakehouse.tables import FLAT_SCHEMA


def table_of(events: Sequence[dict[str, Any]]) -> pa.Table:
    """Events as a table of the flat layout."""
    batch = decode_batch(msgspec.json.encode(list(events)), "application/json")
    assert not batch.rejected, batch.rejected
    rows = [flatten(event) for event in batch.events]
    return pa.Table.from_pylist([dict(zip(NAMES, row, strict=True)) for row in rows], FLAT_SCHEMA)


class MemorySource:
    """Answers from a table; pushes down what it is told to; may wait, fail, or wait for ever."""

    def __init__(
        self,
        name: str,
        events: Sequence[dict[str, Any]] = (),
        *,
        kind: str = "memory",
        pushes_down: frozenset[str] = EVERYTHING,
        seconds: float = 0.0,
        error: Exception | None = None,
        batch_rows: int = 7,
    ) -> None:
        self.name, self.kind, self.pushes_down = name, kind, pushes_down
        self.table = table_of(events)
        self.seconds, self.error, self.batch_rows = seconds, error, batch_rows
        self.current: str | None = "1"
        self.asked: list[EventRequest] = []
        self.cancelled = 0

    async def query(self, request: EventRequest) -> AsyncIterator[pa.RecordBatch]:
        self.asked.append(request)
        try:
            await asyncio.sleep(self.seconds)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error is not None:
            raise self.error
        table = self.table
        use = filters_in_use(request) & self.pushes_down & frozenset(FILTERS)
        if table.num_rows:
            table = table.filter(matches(table.combine_chunks().to_batches()[0], request, use))
        if "order" in self.pushes_down:
            way = "ascending" if request.order == "asc" else "descending"
            table = table.sort_by([("timestamp", way), ("event_id", way)])
        if "limit" in self.pushes_down and request.limit:
            table = table.slice(0, request.limit)
        for batch in table.combine_chunks().to_batches(self.batch_rows):
            yield batch

    async def version(self, request: EventRequest) -> str | None:
        return self.current

    async def as_of(self) -> dt.datetime | None:
        return None

    async def check(self) -> SourceHealth:
        return SourceHealth(ok=self.error is None, detail="memory")

    async def close(self) -> None:
        return None
