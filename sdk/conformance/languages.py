"""The SDKs that the suite drives, and what the design promises of each."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

SDKS = Path(__file__).parent.parent

_EVERYWHERE = frozenset(
    ("sidecar", "direct", "backend:filesystem", "backend:s3", "backend:elk", "backend:webhook", "backend:sidecar")
)


@dataclass(frozen=True)
class Language:
    """One SDK and the program that speaks the harness protocol for it."""

    name: str
    promised: frozenset[str]

    @property
    def program(self) -> Path:
        """What to start."""
        return SDKS / self.name / "harness" / "run"


LANGUAGES = tuple(
    language
    for language in (
        Language("python", _EVERYWHERE | {"threads", "fork", "background", "int64", "bytes", "nan", "backend:zabbix"}),
        Language("c", _EVERYWHERE | {"threads", "fork", "background", "int64", "bytes", "nan", "backend:zabbix"}),
        Language("java", _EVERYWHERE | {"threads", "background", "int64", "bytes", "nan", "backend:zabbix"}),
        Language("perl", _EVERYWHERE | {"fork", "int64", "bytes", "nan"}),
        Language("r", _EVERYWHERE | {"nan"}),
    )
    if language.program.exists()
)


@cache
def capabilities(language: Language) -> frozenset[str]:
    """What the language's harness says in its first line."""
    done = subprocess.run([language.program], input=b"", stdout=subprocess.PIPE, check=True, timeout=900)
    return frozenset(json.loads(done.stdout.splitlines()[0])["capabilities"])
