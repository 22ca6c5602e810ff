"""Merging what several sources answered into one ordered page without duplicates, in Arrow columns: no Python object a row.

Every source hands in the first rows of its own order, by `(timestamp, event_id)`. A source that stopped early (because it had
given the rows that were asked of it) knows nothing about what lies after its last row, so the page ends at the earliest such row;
the next page goes on from there. An event that several sources have is taken from the one that stands first in the list, and the
list of all that had it is kept beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

Order = Literal["asc", "desc"]

SOURCES_COLUMN: Final = "sources"
"""The column that the merge adds: names of the sources that had the event, best first."""

_RANK: Final = "_rank"


class Key(NamedTuple):
    """A place in the unified order: microseconds since 1970 (UTC), then the event's id."""

    micros: int
    event_id: str


@dataclass(frozen=True)
class SourceRows:
    """What one source answered: rows of one schema in the request's order, and whether there is nothing after them."""

    source: str
    table: pa.Table
    complete: bool


@dataclass(frozen=True)
class Page:
    """Merged rows; `after` is where the next page starts, None when there is none."""

    table: pa.Table
    after: Key | None


def merge(parts: Sequence[SourceRows], *, limit: int, order: Order = "asc") -> Page:
    """Merge `parts`, given best first, into at most `limit` rows with the column `sources` added.

    All tables must have equal schemas with `timestamp` (timestamp[us]) and `event_id` (string). At most 63 sources.
    """
    schema = parts[0].table.schema
    rows = pa.concat_tables(part.table.select(schema.names) for part in parts).combine_chunks()
    if rows.num_rows == 0:
        return Page(_with_sources(rows, np.empty(0, np.int64), parts), None)
    ranks = np.repeat(np.arange(len(parts), dtype=np.int64), [part.table.num_rows for part in parts])
    direction: Literal["ascending", "descending"] = "ascending" if order == "asc" else "descending"
    keys = pa.table({"timestamp": rows["timestamp"], "event_id": rows["event_id"], _RANK: ranks})
    places = pc.sort_indices(keys, [("timestamp", direction), ("event_id", direction), (_RANK, "ascending")]).to_numpy()
    codes = _codes(rows["event_id"])[places]
    known, bound = _known(parts, places, codes)
    winners, held_by = _distinct(codes[:known], ranks[places[:known]])
    after: Key | None = None
    if len(winners) > limit:
        winners, held_by = winners[:limit], held_by[:limit]
        after = _key(rows, int(places[winners[-1]]))
    elif bound is not None:
        after = _key(rows, int(places[bound]))
    return Page(_with_sources(rows.take(pa.array(places[winners])), held_by, parts), after)


def _codes(event_ids: Any) -> np.ndarray:
    array = event_ids.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = array.chunk(0)
    codes: np.ndarray = array.dictionary_encode().indices.to_numpy()
    return codes


def _known(parts: Sequence[SourceRows], places: np.ndarray, codes: np.ndarray) -> tuple[int, int | None]:
    """How many rows of the sorted order are certain, and the place of the row that bounds them when a source stopped early."""
    ends = np.cumsum([part.table.num_rows for part in parts]) - 1
    last_rows = [int(end) for end, part in zip(ends, parts, strict=True) if not part.complete and part.table.num_rows]
    if not last_rows:
        return len(places), None
    position = np.empty(len(places), np.int64)
    position[places] = np.arange(len(places))
    bound = int(position[last_rows].min())
    while bound + 1 < len(places) and codes[bound + 1] == codes[bound]:
        bound += 1
    return bound + 1, bound


def _distinct(codes: np.ndarray, ranks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places (ascending) of the best row of each event, and for each a bit set of the sources that had it."""
    grouped = np.lexsort((ranks, codes))
    sorted_codes = codes[grouped]
    starts = np.flatnonzero(np.concatenate(([True], sorted_codes[1:] != sorted_codes[:-1])))
    held_by = np.bitwise_or.reduceat(np.left_shift(np.int64(1), ranks[grouped]), starts)
    winners = grouped[starts]
    in_order = np.argsort(winners)
    return winners[in_order], held_by[in_order]


def _with_sources(rows: pa.Table, held_by: np.ndarray, parts: Sequence[SourceRows]) -> pa.Table:
    sets, which = np.unique(held_by, return_inverse=True)
    names: Any = pa.array(
        [[part.source for rank, part in enumerate(parts) if int(bits) >> rank & 1] for bits in sets], pa.list_(pa.string())
    )
    return rows.append_column(SOURCES_COLUMN, names.take(pa.array(which.astype(np.int64))))


def _key(rows: pa.Table, row: int) -> Key:
    return Key(rows["timestamp"][row].value, rows["event_id"][row].as_py())
