"""Reads the cases of `cases/*.yaml`: what they are called, what a language must be able to do for them, and their steps."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

import contract

FOLDER = Path(__file__).parent / "cases"
VECTORS = Path(contract.__file__).parent / "vectors"


@dataclass(frozen=True)
class Case:
    """One case: `topic` is its file, `name` a sentence about what must hold."""

    topic: str
    name: str
    needs: frozenset[str]
    steps: list[dict[str, Any]]

    @property
    def id(self) -> str:
        """A name for pytest and for the matrix."""
        return f"{self.topic}-{re.sub('[^a-z0-9]+', '-', self.name.lower()).strip('-')}"

    def missing(self, capabilities: frozenset[str]) -> str | None:
        """The capabilities that a language lacks for it; None when it lacks none."""
        return ", ".join(sorted(self.needs - capabilities)) or None


def load_cases() -> list[Case]:
    """Every case, in the order of its file, those of the golden vectors last."""
    cases: list[Case] = []
    for file in sorted(FOLDER.glob("*.yaml")):
        document = yaml.safe_load(file.read_text(encoding="utf-8"))
        needs = frozenset(document.get("needs", ()))
        cases += [
            Case(file.stem, case["name"], needs | frozenset(case.get("needs", ())), case["steps"]) for case in document["cases"]
        ]
    return cases + _valid_vectors() + _invalid_vectors()


def _valid_vectors() -> list[Case]:
    """Every valid vector is taken, and arrives as it is; vectors that have what a language may lack stand apart."""
    vectors = _read("valid")
    events = [{key: value for key, value in vector["event"].items() if key != "emitter"} for vector in vectors]
    emits = [{"emit_event": {"event": event}} for event in events]
    batch = {"emit_batch": {"events": [{**event, "event_id": _other(event["event_id"])} for event in events]}}
    changed = [{**event, "event_id": _other(event["event_id"])} for event in events]
    return [
        Case(
            "vectors",
            "every valid event arrives byte for byte",
            frozenset({"sidecar"}),
            [{"receiver": None}, {"initialize": {}}, *emits, {"flush": {"timeout": 30}}, {"vectors_arrive": events}],
        ),
        Case(
            "vectors",
            "every valid event arrives byte for byte at a real sidecar, in one batch",
            frozenset({"sidecar"}),
            [{"sidecar": None}, {"initialize": {}}, batch, {"flush": {"timeout": 30}}, {"vectors_arrive": changed}],
        ),
    ]


def _other(event_id: str) -> str:
    """The same id a millisecond later, so that both cases may run against one server."""
    return event_id[:9] + "ac97" + event_id[13:]


_MENDED = ("U+0000", "message of 819", "no event_id", "no timestamp", "no site_id", "no app", "emitter ")
"""Vectors that an SDK mends, or fills in, or that speak of what only the SDK itself makes."""


def _invalid_vectors() -> list[Case]:
    steps: list[dict[str, Any]] = [{"receiver": None}, {"initialize": {}}]
    for vector in _read("invalid"):
        if "raw" in vector or vector["name"].startswith(_MENDED):
            continue
        event = {key: value for key, value in vector["event"].items() if key != "emitter"}
        steps.append({"emit_event": {"event": event}, "fails": {"kind": "event", "path": vector["path"]}})
    steps += [
        {"emit_event": {"event": {"kind": "log", "name": "last"}}},
        {"flush": {"timeout": 30}},
        {"received": {"events": [{"name": "last"}], "settled": True}},
    ]
    name = "every invalid event is refused at once with the same path, and the next one is taken"
    return [Case("vectors", name, frozenset({"sidecar"}), steps)]


def _read(kind: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (VECTORS / f"{kind}.jsonl").read_bytes().splitlines()]
