"""The SDKs that the suite drives, and what the design promises of each."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

SDKS = Path(__file__).parent.parent

_EVERYWHERE = frozenset(
    ("sidecar", "direct", "nan", "backend:sidecar", "backend:filesystem", "backend:s3", "backend:elk", "backend:webhook")
)
_ALL = _EVERYWHERE | {"threads", "fork", "background", "int64", "bytes", "backend:zabbix"}
_NO_WORKER = "the language has no threads: the SDK sends within the calls of the program"


@dataclass(frozen=True)
class Language:
    """One SDK, the program that speaks the harness protocol for it, and why it lacks what it lacks."""

    name: str
    title: str
    lacks: Mapping[str, str] = field(default_factory=dict, compare=False)

    @property
    def program(self) -> Path:
        """What to start."""
        return SDKS / self.name / "harness" / "run"

    @property
    def promised(self) -> frozenset[str]:
        """What it must be able to do."""
        return _ALL - set(self.lacks)


_NO_ZABBIX = "the design asks for no Zabbix backend in this language; use the sidecar's"

LANGUAGES = (
    Language("python", "Python"),
    Language("c", "C"),
    Language("java", "Java", {"fork": "the JVM has no fork"}),
    Language("perl", "Perl", {"threads": _NO_WORKER, "background": _NO_WORKER, "backend:zabbix": _NO_ZABBIX}),
    Language(
        "r",
        "R",
        {
            "threads": _NO_WORKER,
            "background": _NO_WORKER,
            "int64": "numbers are doubles",
            "backend:zabbix": _NO_ZABBIX,
        },
    ),
)


def language_named(name: str) -> Language:
    """The language of this name. Raises StopIteration for another."""
    return next(language for language in LANGUAGES if language.name == name)


@cache
def capabilities(language: Language) -> frozenset[str]:
    """What the language's harness says in its first line."""
    done = subprocess.run([language.program], input=b"", stdout=subprocess.PIPE, check=True, timeout=900)
    return frozenset(json.loads(done.stdout.splitlines()[0])["capabilities"])
