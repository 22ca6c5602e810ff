"""The event as Python reads it: one msgspec struct for each kind, so that what a kind may carry is checked while decoding.

`event.schema.json` is the one truth; the golden vectors in `vectors/` prove that this model agrees with it.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, ClassVar, Final, Literal

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from contract.limits import MAX_NAME_LENGTH, MAX_SITE_LENGTH

UuidText = Annotated[str, Meta(min_length=36, max_length=36)]
"""A UUID; its spelling is checked for a whole batch at once by `contract.codec`."""

ShortText = Annotated[str, Meta(min_length=1, max_length=256)]
Name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME_LENGTH)]
Site = Annotated[str, Meta(min_length=1, max_length=MAX_SITE_LENGTH)]
Timestamp = Annotated[datetime, Meta(tz=True)]
Status = Literal["ok", "failed", "aborted"]
Severity = Literal["debug", "info", "warning", "error", "critical"]
NonNegative = Annotated[float, Meta(ge=0)]
TraceId = Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]
SpanId = Annotated[str, Meta(pattern="^[0-9a-f]{16}$")]


class App(Struct, forbid_unknown_fields=True, gc=False, omit_defaults=True):
    """The program that reports."""

    name: ShortText
    version: ShortText | UnsetType = UNSET
    instance_id: ShortText | UnsetType = UNSET


class Emitter(Struct, forbid_unknown_fields=True, gc=False):
    """One start of one process, and the event's number in it, from 1: a gap in the numbers proves a loss."""

    id: UuidText
    seq: Annotated[int, Meta(ge=1, le=2**63 - 1)]


class StateChange(Struct, forbid_unknown_fields=True, gc=False, omit_defaults=True, rename={"from_": "from"}):
    """A change of state; for equipment one of the SEMI E10 states."""

    to: ShortText
    from_: ShortText | UnsetType = UNSET


class ErrorDetail(Struct, forbid_unknown_fields=True, gc=False, omit_defaults=True):
    """What went wrong."""

    type: ShortText
    message: str
    stack: str | UnsetType = UNSET


class EventBase(Struct, forbid_unknown_fields=True, tag_field="kind", kw_only=True, omit_defaults=True, gc=False):
    """What an event of any kind carries."""

    event_id: UuidText
    timestamp: Timestamp
    name: Name
    site_id: Site
    app: App
    run_id: UuidText | UnsetType = UNSET
    parent_run_id: UuidText | UnsetType = UNSET
    emitter: Emitter | UnsetType = UNSET
    entities: dict[ShortText, ShortText] | UnsetType = UNSET
    severity: Severity | UnsetType = UNSET
    message: str | UnsetType = UNSET
    metrics: dict[ShortText, float] | UnsetType = UNSET
    trace_id: TraceId | UnsetType = UNSET
    span_id: SpanId | UnsetType = UNSET
    attributes: Raw | UnsetType = UNSET

    kind: ClassVar[str]
    default_severity: ClassVar[Severity] = "info"


class Start(EventBase, tag="start"):
    """A run begins."""

    kind = "start"


class Progress(EventBase, tag="progress"):
    """A run tells how far it is, from 0 to 1."""

    progress: Annotated[float, Meta(ge=0, le=1)] | UnsetType = UNSET

    kind = "progress"


class Finish(EventBase, tag="finish"):
    """A run ends."""

    status: Status | UnsetType = UNSET
    duration_ms: NonNegative | UnsetType = UNSET
    error: ErrorDetail | UnsetType = UNSET

    kind = "finish"


class Error(EventBase, tag="error"):
    """A run ends by an error, or an error is reported outside any run."""

    status: Status | UnsetType = UNSET
    duration_ms: NonNegative | UnsetType = UNSET
    error: ErrorDetail | UnsetType = UNSET

    kind = "error"
    default_severity = "error"


class Metric(EventBase, tag="metric"):
    """Measured values."""

    kind = "metric"


class Log(EventBase, tag="log"):
    """A line of a log."""

    kind = "log"


class State(EventBase, tag="state"):
    """Something is in another state from now on."""

    state: StateChange

    kind = "state"


Event = Start | Progress | Finish | Error | Metric | Log | State
"""Any event."""

KINDS: Final = ("start", "progress", "finish", "error", "metric", "log", "state")

E10_STATES: Final = (
    "productive",
    "standby",
    "engineering",
    "scheduled_down",
    "unscheduled_down",
    "non_scheduled",
)
"""The six basic equipment states of SEMI E10; together they partition all time."""

KIND_FIELDS: Final = {
    "status": ("finish", "error"),
    "duration_ms": ("finish", "error"),
    "error": ("finish", "error"),
    "progress": ("progress",),
    "state": ("state",),
}
"""Fields that only some kinds may carry."""


def kind_of(event: Event) -> str:
    """The event's kind."""
    return type(event).kind


def severity_of(event: Event) -> Severity:
    """The event's severity, or its kind's default."""
    return type(event).default_severity if event.severity is UNSET else event.severity
