"""What belongs together among the events of one page: by run, by trace, by shared entities, or nearest in time.

`nearest` is an as-of match: each event gets the event closest in time, before or after, among those of
other sources, when one lies within the tolerance; of two equally close ones the earlier. Exact-time matching would drop what
clocks smear.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from contract.columns import PROMOTED_ENTITIES
from federation.merge import SOURCES_COLUMN

CORRELATIONS: Final = ("run_id", "trace_id", "entities", "nearest")
"""The ways that events can be brought together."""


class Group(msgspec.Struct, kw_only=True):
    """Events that share `by` = `value`, in the page's order."""

    by: str
    value: str
    event_ids: list[str]


class Pair(msgspec.Struct, kw_only=True):
    """An event and the one of another source that is nearest to it; `offset_seconds` is positive when that one is later."""

    event_id: str
    nearest: str
    offset_seconds: float


def correlate(table: pa.Table, by: str, tolerance: float) -> list[Group] | list[Pair]:
    """Groups of two or more events by `by` (of `CORRELATIONS`), or pairs nearest in time within `tolerance` seconds.

    `table` is a merged page: the flat layout and `sources`.
    """
    match by:
        case "nearest":
            return _nearest(table, tolerance)
        case "entities":
            return [group for name in PROMOTED_ENTITIES for group in _groups(table, name, f"entity.{name}")]
        case _:
            return _groups(table, by, by)


def _groups(table: pa.Table, column: str, label: str) -> list[Group]:
    present = table.select([column, "event_id"]).filter(pc.is_valid(table[column]))
    grouped = present.group_by(column, use_threads=False).aggregate([("event_id", "list")])
    return [
        Group(by=label, value=row[column], event_ids=row["event_id_list"])
        for row in grouped.to_pylist()
        if len(row["event_id_list"]) > 1
    ]


def _nearest(table: pa.Table, tolerance: float) -> list[Pair]:
    if table.num_rows == 0:
        return []
    times = table["timestamp"].cast(pa.int64()).to_numpy()
    ids: list[Any] = table["event_id"].to_pylist()
    first_source = pc.list_element(table[SOURCES_COLUMN].combine_chunks(), 0)
    if isinstance(first_source, pa.ChunkedArray):
        first_source = first_source.combine_chunks()
    owners = first_source.dictionary_encode().indices.to_numpy()
    pairs: dict[int, Pair] = {}
    reach = round(tolerance * 1_000_000)
    for owner in np.unique(owners):
        mine = np.flatnonzero(owners == owner)
        others = np.flatnonzero(owners != owner)
        if not len(others):
            continue
        ordered = others[np.lexsort((others, times[others]))]
        found, offsets = nearest_places(times[mine], times[ordered])
        for place, other, offset in zip(mine, found, offsets, strict=True):
            if abs(int(offset)) <= reach:
                pairs[int(place)] = Pair(
                    event_id=ids[place], nearest=ids[int(ordered[other])], offset_seconds=int(offset) / 1_000_000
                )
    return [pairs[place] for place in sorted(pairs)]


def nearest_places(times: np.ndarray, candidates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each of `times` the place of the nearest of the ascending, non-empty `candidates` and how much later it is.

    Of two equally near ones the earlier, of equal ones the first.
    """
    right = np.searchsorted(candidates, times, side="left")
    later = np.minimum(right, len(candidates) - 1)
    earlier = np.maximum(right - 1, 0)
    takes_earlier = (right > 0) & ((right == len(candidates)) | (times - candidates[earlier] <= candidates[later] - times))
    found = np.where(takes_earlier, earlier, later)
    found = np.searchsorted(candidates, candidates[found], side="left")
    return found, candidates[found] - times
