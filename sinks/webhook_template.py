"""Templates of a webhook: `${event.name}` and the like are replaced by an event's fields; nothing is ever executed.

`${event.entities.tool}` gives a field's text, escaped for the place that it stands in; `${json:event.metrics}` gives it as JSON,
where the body is JSON; `$${` gives `${` itself. A field that an event lacks is empty, or null. Which fields there are is known
beforehand, so a name that is none is a mistake of the configuration.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

import msgspec

Escape = Literal["json", "header", "text"]

_PLACEHOLDER: Final = re.compile(r"\$\$\{|\$\{([^{}]*)\}")
_FIELDS: Final = frozenset(
    {
        "event_id", "timestamp", "kind", "name", "site_id", "app", "app.name", "app.version", "app.instance_id", "run_id",
        "parent_run_id", "emitter", "emitter.id", "emitter.seq", "entities", "status", "severity", "message", "progress",
        "duration_ms", "state", "state.from", "state.to", "metrics", "error", "error.type", "error.message", "error.stack",
        "trace_id", "span_id", "attributes",
    }
)  # fmt: skip
_OPEN: Final = ("entities", "metrics", "attributes")
"""Fields with any keys in them; a key may have dots."""

_BATCH: Final = ("count", "id", "first_event_id", "last_event_id")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]+")
_encode: Final = msgspec.json.Encoder().encode


class Template:
    """A text with placeholders; `scopes` says which of `event` and `batch` they may name. Raises ValueError for a wrong one."""

    def __init__(self, text: str, *, scopes: frozenset[str], escape: Escape) -> None:
        self.text = text
        self._escape = _ESCAPES[escape]
        self._json = escape == "json"
        self.names: set[str] = set()
        for found in _PLACEHOLDER.finditer(text):
            if found[1] is not None:
                self._check(found[1], scopes)
                self.names.add(found[1])

    @property
    def fixed(self) -> bool:
        """Whether there is nothing to replace."""
        return not self.names

    def render(self, values: Mapping[str, Any]) -> str:
        """The text with every placeholder replaced; `values` has `event` (its JSON object) and `batch`."""

        def replace(found: re.Match[str]) -> str:
            if found[1] is None:
                return "${"
            name = found[1].removeprefix("json:")
            value = _look_up(values, name)
            return _encode(value).decode() if found[1] != name else self._escape(_text(value))

        return _PLACEHOLDER.sub(replace, self.text)

    def _check(self, placeholder: str, scopes: frozenset[str]) -> None:
        name = placeholder.removeprefix("json:")
        scope, _, path = name.partition(".")
        problem = None
        if name != placeholder and not self._json:
            problem = "json: is for a body that is JSON"
        elif scope not in scopes:
            problem = f"here it may begin with {' or '.join(sorted(scopes))}"
        elif scope == "batch" and path not in _BATCH:
            problem = f"of a batch there are {', '.join(_BATCH)}"
        elif scope == "event" and path and path not in _FIELDS and not path.startswith(tuple(f"{name}." for name in _OPEN)):
            problem = f"of an event there are {', '.join(sorted(_FIELDS))}, and what is in {', '.join(_OPEN)}"
        elif scope == "event" and not path and name == placeholder:
            problem = "the whole event is ${json:event}"
        if problem:
            message = f"'${{{placeholder}}}' can't be replaced: {problem} (write $${{ for a literal ${{)"
            raise ValueError(message)


def _look_up(values: Mapping[str, Any], name: str) -> Any:
    scope, _, path = name.partition(".")
    found: Any = values[scope]
    if not path:
        return found
    first, _, rest = path.partition(".")
    if first == "severity" and scope == "event" and "severity" not in found:
        return "error" if found.get("kind") == "error" else "info"
    found = found.get(first)
    return _inside(found, rest) if rest else found


def _inside(value: Any, path: str) -> Any:
    """What stands at a dotted path, where a key may have dots itself; None when there is nothing."""
    if not isinstance(value, dict):
        return None
    if path in value:
        return value[path]
    for place, character in enumerate(path):
        if character == "." and path[:place] in value:
            return _inside(value[path[:place]], path[place + 1 :])
    return None


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else _encode(value).decode()


def _in_json(text: str) -> str:
    return _encode(text).decode()[1:-1]


def _in_header(text: str) -> str:
    """Text that no header can be ended with; what is not ASCII is percent-encoded UTF-8, as headers are ASCII (RFC 9110)."""
    line = _CONTROL.sub(" ", text).strip()
    return "".join(c if c.isascii() else "".join(f"%{byte:02X}" for byte in c.encode()) for c in line)


_ESCAPES: Final[dict[str, Callable[[str], str]]] = {"json": _in_json, "header": _in_header, "text": lambda text: text}

SAMPLE: Final[dict[str, Any]] = {
    "event": {
        "event_id": "01890a5d-ac96-774b-8cce-000000000001", "timestamp": "2026-01-31T12:00:00Z", "kind": "log", "name": "sample",
        "site_id": "fab1", "app": {"name": "sample"},
    },
    "batch": dict.fromkeys(_BATCH, "1"),
}  # fmt: skip
"""What a template is tried with before there is an event: only the fields that every event has."""
