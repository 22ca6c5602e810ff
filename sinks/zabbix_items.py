"""What Zabbix gets of an event: the items (keys, types, names) and the values, in the words of a Zabbix operator.

    trackmate.metric[site,app,name,metric,tool]    numeric (float)      each value of `metrics`
    trackmate.run.state[site,app,name,tool]        numeric (unsigned)   1 running, 2 ok, 3 failed, 4 aborted
    trackmate.run.progress[site,app,name,tool]     numeric (float), %
    trackmate.run.duration[site,app,name,tool]     numeric (float), s
    trackmate.state[site,app,name,tool]            text                 the state from now on
    trackmate.log[site,app]                        log                  messages and errors

Of the entities only `tool` is part of a key: lots and wafers are without number, and each key is an item for ever. They stand
in the log's text, with the event's id.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Final, NamedTuple

from msgspec import UNSET

from contract.event import Event, kind_of, severity_of

MAX_KEY_CHARS: Final = 2048
"""Zabbix manual, "Item object": items.key_ is varchar(2048)."""
MAX_TAG_CHARS: Final = 255
"""Zabbix manual, "Item tag": a tag's value."""
MAX_SUBJECT_CHARS: Final = 230
"""Zabbix manual, "Item object": a name has 255 characters, of which the family's title takes some."""
MAX_TEXT_BYTES: Final = 65_535
"""Zabbix manual, "Item types": text and log values; the server cuts what is longer, in silence, in bytes on MySQL."""
MAX_FLOAT: Final = 1e308
"""What the server takes, though the manual ("Numeric (float)") says 1.79E+308; it drops what is beyond in silence, and calls the
item unsupported."""
MAX_SOURCE_CHARS: Final = 64
"""history_log.source is varchar(64)."""

FLOAT, LOG, UNSIGNED, TEXT = 0, 2, 3, 4
"""Zabbix's numbers of value types."""

RUNNING, OK, FAILED, ABORTED = 1, 2, 3, 4
RUN_STATES: Final = {RUNNING: "running", OK: "ok", FAILED: "failed", ABORTED: "aborted"}
_BY_STATUS: Final = {"ok": OK, "failed": FAILED, "aborted": ABORTED}

LOG_SEVERITIES: Final = {"debug": 10, "info": 1, "warning": 2, "error": 4, "critical": 9}
"""As the frontend shows the levels of log items: Verbose, Information, Warning, Error, Critical."""

_UNPRINTABLE: Final = re.compile(r"[\x00-\x1f\x7f]|%(?=[0-9A-F]{2})|\\$")
_NEEDS_QUOTES: Final = re.compile(r'^["\x20\[]|[,\]]')


class Family(NamedTuple):
    """A kind of item: what its key begins with, what stands in its brackets, and how Zabbix keeps it."""

    prefix: str
    parameters: tuple[str, ...]
    value_type: int
    title: str
    """What the item's name begins with."""
    units: str = ""
    mapped: bool = False
    """Whether the values are shown by the names of RUN_STATES."""
    discovery: str = ""
    """The parameter of the template's discovery rule that makes such items."""


_RUN: Final = ("site", "app", "name", "tool")
METRIC: Final = Family("trackmate.metric", ("site", "app", "name", "metric", "tool"), FLOAT, "Metric", discovery="metric")
RUN_STATE: Final = Family("trackmate.run.state", _RUN, UNSIGNED, "Run state", mapped=True, discovery="run")
RUN_PROGRESS: Final = Family("trackmate.run.progress", _RUN, FLOAT, "Run progress", "%", discovery="run")
RUN_DURATION: Final = Family("trackmate.run.duration", _RUN, FLOAT, "Run duration", "s", discovery="run")
STATE: Final = Family("trackmate.state", _RUN, TEXT, "State", discovery="state")
LOGS: Final = Family("trackmate.log", ("site", "app"), LOG, "Log", discovery="log")
FAMILIES: Final = (METRIC, RUN_STATE, RUN_PROGRESS, RUN_DURATION, STATE, LOGS)


class Item(NamedTuple):
    """One item of the host: a family and what stands in the key's brackets."""

    family: Family
    values: tuple[str, ...]

    @property
    def key(self) -> str:
        """The key as the server spells it."""
        return key_of(self.family.prefix, self.values)

    @property
    def subject(self) -> str:
        """What the item is about, for its name: `temperature of etch on ETCH-01 (fab1, wafer-processing)`."""
        parts = dict(zip(self.family.parameters, self.values, strict=True))
        named = " of ".join(parts[key] for key in ("metric", "name") if key in parts)
        tool = f"on {parts['tool']}" if parts.get("tool") else ""
        return " ".join(f"{named} {tool} ({parts['site']}, {parts['app']})".split())[:MAX_SUBJECT_CHARS]

    @property
    def title(self) -> str:
        """The item's name."""
        return f"{self.family.title}: {self.subject}"

    @property
    def tags(self) -> list[dict[str, str]]:
        """What to filter by in "Latest data"."""
        parts = zip(self.family.parameters, self.values, strict=True)
        component = {"tag": "component", "value": self.family.prefix.removeprefix("trackmate.")}
        return [component, *({"tag": name, "value": value[:MAX_TAG_CHARS]} for name, value in parts if value)]

    @property
    def macros(self) -> dict[str, str]:
        """The item as one row of low-level discovery."""
        named = {f"{{#{n.upper()}}}": printable(v) for n, v in zip(self.family.parameters, self.values, strict=True)}
        return {**named, "{#SUBJECT}": self.subject}


class Reading(NamedTuple):
    """One value for one item; `extra` is what a log item takes besides."""

    item: Item
    text: str
    extra: dict[str, Any] | None = None


def printable(text: str) -> str:
    """A parameter without what a key can't hold: control characters and a last backslash become %XX, and so does such a %."""
    return _UNPRINTABLE.sub(lambda found: f"%{ord(found[0]):02X}", text)


@lru_cache(maxsize=8192)
def key_of(prefix: str, values: tuple[str, ...]) -> str:
    """`prefix[a,b]` with quotes only where Zabbix itself would set them: keys are compared letter by letter."""
    return f"{prefix}[{','.join(map(_quoted, values))}]"


def _quoted(value: str) -> str:
    text = printable(value)
    return '"' + text.replace('"', '\\"') + '"' if _NEEDS_QUOTES.search(text) else text


def readings_of(event: Event) -> list[Reading]:
    """Every value that Zabbix gets of an event; none when it carries neither number, state nor text."""
    kind = kind_of(event)
    site, app, name = event.site_id, event.app.name, event.name
    tool = "" if event.entities is UNSET else event.entities.get("tool", "")
    run = (site, app, name, tool)
    found: list[Reading] = []
    state = _run_state(event, kind)
    if state is not None:
        found.append(Reading(Item(RUN_STATE, run), str(state)))
    progress = getattr(event, "progress", UNSET)
    if progress is not UNSET:
        found.append(Reading(Item(RUN_PROGRESS, run), f"{progress * 100:.12g}"))
    duration = getattr(event, "duration_ms", UNSET)
    if duration is not UNSET:
        found.append(Reading(Item(RUN_DURATION, run), repr(duration / 1000)))
    if kind == "state":
        found.append(Reading(Item(STATE, run), storable(event.state.to)))  # type: ignore[union-attr]
    if event.metrics is not UNSET:
        found += [Reading(Item(METRIC, (site, app, name, metric, tool)), repr(value)) for metric, value in event.metrics.items()]
    text = _log_text(event, kind)
    if text is not None:
        extra = {"source": storable(name)[:MAX_SOURCE_CHARS], "severity": LOG_SEVERITIES[severity_of(event)]}
        found.append(Reading(Item(LOGS, (site, app)), text, extra))
    return found


def _run_state(event: Event, kind: str) -> int | None:
    status = getattr(event, "status", UNSET)
    match kind:
        case "start":
            return RUNNING
        case "finish":
            return OK if status is UNSET else _BY_STATUS[status]
        case "error" if event.run_id is not UNSET:
            return FAILED if status is UNSET else _BY_STATUS[status]
    return None


def _log_text(event: Event, kind: str) -> str | None:
    error = getattr(event, "error", UNSET)
    if kind not in {"log", "error"} and event.message is UNSET and error is UNSET:
        return None
    named = {} if event.entities is UNSET else dict(sorted(event.entities.items()))
    named["event_id"] = event.event_id
    if event.run_id is not UNSET:
        named["run_id"] = event.run_id
    message = "" if event.message is UNSET else f": {event.message}"
    lines = [f"{event.name}{message} [{', '.join(f'{key}={value}' for key, value in named.items())}]"]
    if error is not UNSET:
        lines.append(f"{error.type}: {error.message}")
        if error.stack is not UNSET:
            lines.append(error.stack)
    return storable("\n".join(lines))


def storable(text: str) -> str:
    """Text as Zabbix keeps it whole: no more bytes than it takes, with a word on the rest."""
    data = text.encode()
    if len(data) <= MAX_TEXT_BYTES:
        return text
    mark = f"… ({len(data)} bytes in all)"
    return data[: MAX_TEXT_BYTES - len(mark.encode())].decode(errors="ignore") + mark
