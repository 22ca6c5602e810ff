"""The page that shows which case holds in which language, made from a run of the suite."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from pathlib import Path

from sdk.conformance.cases import Case
from sdk.conformance.languages import Language, capabilities

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "conformance.md"
PASSED, FAILED, LACKED = "yes", "**no**", "lacks it"

Outcomes = Mapping[tuple[str, str], bool]
"""Whether a case held, by the names of language and case."""


def page(languages: tuple[Language, ...], cases: list[Case], outcomes: Outcomes) -> str:
    """The page in Markdown."""
    lines = [
        "<!-- Written by `make conformance` from its run. -->",
        "",
        "# Conformance",
        "",
        "One suite holds all SDKs together (`sdk/conformance`): each case drives each harness against real servers, and looks",
        f"at what arrives. Of {len(cases)} cases, these held in the last run.",
        "",
        "| language | cases that held | lacks |",
        "| --- | --- | --- |",
    ]
    for language in languages:
        held = sum(outcomes.get((language.name, case.id), False) for case in cases)
        lacks = "; ".join(f"`{name}`: {reason}" for name, reason in sorted(language.lacks.items())) or "nothing"
        lines.append(f"| {language.title} | {held} of {len(cases)} | {lacks} |")
    titles = " | ".join(language.title for language in languages)
    for topic, group in groupby(cases, key=lambda case: case.topic):
        lines += ["", f"## {topic.capitalize()}", "", f"| case | {titles} |", "| --- |" + " --- |" * len(languages)]
        lines += [f"| {case.name} | {' | '.join(cell(language, case, outcomes) for language in languages)} |" for case in group]
    return "\n".join(lines) + "\n"


def cell(language: Language, case: Case, outcomes: Outcomes) -> str:
    """What the table says of a case in a language."""
    if case.missing(capabilities(language)) is not None:
        return LACKED
    return PASSED if outcomes.get((language.name, case.id), False) else FAILED
