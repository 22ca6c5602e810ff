"""What runs every case of `cases/` in one language: against real servers, and one that misbehaves.

Each language has a file of its own, so that several can run side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sdk.conformance.backends import Services
from sdk.conformance.cases import Case, load_cases
from sdk.conformance.languages import Language, capabilities, language_named
from sdk.conformance.world import World


def cases_of(name: str) -> Callable[[Any], Any]:
    """Parametrises a test by every case that the language can do; the others stand in the matrix with their reasons."""
    language = language_named(name)
    able = capabilities(language)
    return pytest.mark.parametrize(
        ("language", "case"),
        [pytest.param(language, case, id=f"{name}-{case.id}") for case in load_cases() if case.missing(able) is None],
    )


@pytest.fixture
def world(request: pytest.FixtureRequest, language: Language, tmp_path: Path) -> Iterator[World]:
    """One run of one case, ended whatever comes of it."""
    world = World(language.program, tmp_path, Services(request.getfixturevalue))
    yield world
    world.close()


def run(case: Case, world: World) -> None:
    """Do the case's steps. Raises AssertionError that names the step."""
    world.run(case.steps)


def lacking(name: str) -> list[str]:
    """What the design promises of the language and its harness does not say that it can."""
    language = language_named(name)
    return sorted(language.promised - capabilities(language))
