"""Which events a backend wants: a backend's `match` block, applied to events as they stand in the log."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

SEVERITIES: Final = ("debug", "info", "warning", "error", "critical")


class _App(msgspec.Struct):
    name: str


class _Facts(msgspec.Struct):
    """The fields of an event that a match can ask for."""

    kind: str
    name: str
    site_id: str
    app: _App
    severity: str | None = None
    entities: dict[str, str] = {}


_DECODER = msgspec.json.Decoder(_Facts)


@dataclass(frozen=True)
class Match:
    """Conditions that must all hold; an empty one asks nothing. Patterns are shell-style and case matters."""

    site_id: tuple[str, ...] = ()
    app: tuple[str, ...] = ()
    name: tuple[str, ...] = ()
    kind: tuple[str, ...] = ()
    severity: str | None = None
    """The least severity that is wanted."""
    entities: tuple[tuple[str, tuple[str, ...]], ...] = ()

    @classmethod
    def from_tree(cls, tree: Mapping[str, Any]) -> Match:
        """A match of a configuration that the schema has accepted."""
        return cls(
            site_id=_texts(tree.get("site_id")),
            app=_texts(tree.get("app")),
            name=_texts(tree.get("name")),
            kind=_texts(tree.get("kind")),
            severity=tree.get("severity"),
            entities=tuple(sorted((key, _texts(value)) for key, value in tree.get("entities", {}).items())),
        )

    @property
    def everything(self) -> bool:
        """Whether every event is wanted."""
        return self == Match()

    def compiled(self) -> Callable[[bytes], bool]:
        """A function that tells of one event's JSON text whether it is wanted."""
        globs = [(field, _compile(getattr(self, field))) for field in ("site_id", "name") if getattr(self, field)]
        app = _compile(self.app) if self.app else None
        kinds = frozenset(self.kind)
        severities = frozenset(SEVERITIES[SEVERITIES.index(self.severity) :]) if self.severity else None
        entities = [(key, _compile(patterns)) for key, patterns in self.entities]

        def wanted(line: bytes) -> bool:
            facts = _DECODER.decode(line)
            return (
                (not kinds or facts.kind in kinds)
                and (severities is None or (facts.severity or _default_severity(facts.kind)) in severities)
                and all(pattern(getattr(facts, field)) for field, pattern in globs)
                and (app is None or app(facts.app.name) is not None)
                and all(key in facts.entities and pattern(facts.entities[key]) for key, pattern in entities)
            )

        return wanted


def _default_severity(kind: str) -> str:
    return "error" if kind == "error" else "info"


def _texts(value: str | Sequence[str] | None) -> tuple[str, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(value)


def _compile(patterns: Sequence[str]) -> Callable[[str], re.Match[str] | None]:
    return re.compile("|".join(f"(?:{fnmatch.translate(pattern)})" for pattern in patterns)).match
