"""One suite for every SDK: each case of `cases/` in each language, against real servers and one that misbehaves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sdk.conformance.backends import Services
from sdk.conformance.cases import Case, load_cases
from sdk.conformance.languages import LANGUAGES, Language, capabilities
from sdk.conformance.world import World

CASES = load_cases()


@pytest.fixture
def world(request: pytest.FixtureRequest, language: Language, tmp_path: Path) -> Iterator[World]:
    world = World(language.program, tmp_path, Services(request.getfixturevalue))
    yield world
    world.close()


def chosen() -> list[Any]:
    """Every case with every language; which of them a language can't do is told by its capabilities, and stands in the matrix."""
    return [
        pytest.param(language, case, id=f"{language.name}-{case.id}")
        for language in LANGUAGES
        for case in CASES
        if case.missing(capabilities(language)) is None
    ]


@pytest.mark.parametrize(("language", "case"), chosen())
def test_an_sdk_breaks_the_contract(language: Language, case: Case, world: World) -> None:
    world.run(case.steps)


def test_a_case_has_no_name_of_its_own() -> None:
    ids = [case.id for case in CASES]
    assert len(set(ids)) == len(ids)


def test_an_sdk_lacks_what_the_design_promises() -> None:
    for language in LANGUAGES:
        missing = language.promised - capabilities(language)
        assert not missing, f"{language.name} lacks {sorted(missing)}"
