"""What Elasticsearch says of each document of a bulk request, and what that means for the event."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any, Final

from sinks.base import DeliveryReport, Refused, SinkError, Throttled, Unavailable

_CREATED: Final = frozenset({200, 201})
_CONFLICT: Final = 409
_TOO_MANY: Final = 429
_PLACE_IS_WRONG: Final = frozenset({"index_closed_exception", "invalid_index_name_exception", "validation_exception"})
"""Answers with status 400 that are about the index or the cluster, not about the document: they may be mended."""

_REASON_SHOWN: Final = 500


class Fate(Enum):
    """What becomes of one event."""

    DELIVERED = "delivered"
    REFUSED = "refused"
    BUSY = "busy"
    """To be sent again: the system has no room at the moment."""
    BLOCKED = "blocked"
    """To be sent again: somebody has to mend something first."""


def judge(result: Mapping[str, Any]) -> tuple[Fate, str]:
    """One element of `items` without its operation's name: the event's fate, and why."""
    status = result.get("status")
    error = result.get("error")
    error = error if isinstance(error, dict) else {}
    kind = str(error.get("type", ""))
    if status in _CREATED or (status == _CONFLICT and kind == "version_conflict_engine_exception"):
        return Fate.DELIVERED, ""
    reason = reason_of(error) or f"status {status}"
    if kind == "cluster_block_exception":
        return Fate.BLOCKED, f"{reason}: {_block_advice(reason)}"
    if status == _TOO_MANY:
        return Fate.BUSY, reason
    if status == 400 and kind not in _PLACE_IS_WRONG and "write index" not in reason:
        return Fate.REFUSED, f"{kind}: {reason}"
    return Fate.BLOCKED, f"{kind or status}: {reason}{_advice(kind)}"


def reason_of(error: Mapping[str, Any]) -> str:
    """An `error` object in one line, with what caused it."""
    reasons: list[str] = []
    level: Any = error
    while isinstance(level, dict) and len(reasons) < 4:
        text = " ".join(str(level.get("reason") or "").split()).rstrip(";")
        if text and text not in reasons:
            reasons.append(text)
        level = level.get("caused_by")
    return ": ".join(reasons)[:_REASON_SHOWN]


def _block_advice(reason: str) -> str:
    if "flood-stage" in reason:
        return "its disk is full: make room there or delete old indices; the block goes when there is room again"
    if "read-only" in reason:
        return "the index is read-only: set index.blocks.read_only or read_only_allow_delete to null, or change `index`"
    return "writing to it is blocked: take the index's block away (PUT /<index>/_settings), or change `index`"


def _advice(kind: str) -> str:
    match kind:
        case "index_closed_exception":
            return ": open the index (POST /<index>/_open) or change `index`"
        case "index_not_found_exception":
            return ": make the index, or let it be made (action.auto_create_index)"
        case "security_exception":
            return ": give the user or API key the privileges create_doc and auto_configure on this index"
        case "validation_exception":
            return ": raise cluster.max_shards_per_node, add a node or delete old indices"
        case "invalid_index_name_exception":
            return ": change `index`"
    return ""


class Outcome:
    """Fates of a batch's events, gathered over several requests."""

    def __init__(self) -> None:
        self._delivered = 0
        self._refused: list[Refused] = []
        self._retry: dict[Fate, list[int]] = {Fate.BUSY: [], Fate.BLOCKED: []}
        self._why: dict[Fate, str] = {}
        self._retry_after: float | None = None

    @property
    def settled(self) -> bool:
        """Whether anything is delivered or refused already."""
        return bool(self._delivered or self._refused)

    def add(self, index: int, event_id: str | None, fate: Fate, why: str) -> None:
        """Note the fate of the event at this place of the batch."""
        if fate is Fate.DELIVERED:
            self._delivered += 1
        elif fate is Fate.REFUSED:
            self._refused.append(Refused(index, event_id, why))
        else:
            self._retry[fate].append(index)
            self._why.setdefault(fate, why)

    def postpone(self, indexes: Iterable[int], error: SinkError) -> None:
        """Note that these could not be sent."""
        fate = Fate.BUSY if isinstance(error, Throttled) else Fate.BLOCKED
        self._retry[fate] += indexes
        self._why.setdefault(fate, str(error))
        self._retry_after = error.retry_after

    def report(self, shown: str) -> DeliveryReport:
        """The whole batch's report; `shown` names the system. Raises SinkError when not one event got through."""
        busy, blocked = self._retry[Fate.BUSY], self._retry[Fate.BLOCKED]
        why = self._why.get(Fate.BLOCKED) or self._why.get(Fate.BUSY)
        message = f"{shown} took only a part: {why}" if why else None
        if not self.settled and (busy or blocked):
            if blocked:
                raise Unavailable(f"{shown} takes no event: {why}", self._retry_after)
            raise Throttled(f"{shown} has no room at the moment: {why}", self._retry_after)
        self._refused.sort(key=lambda item: item.index)
        return DeliveryReport(self._delivered, self._refused, sorted(busy + blocked), self._retry_after, message)
