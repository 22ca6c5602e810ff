"""The cases themselves are in order."""

from __future__ import annotations

from collections import Counter

from sdk.conformance import matrix
from sdk.conformance.cases import load_cases
from sdk.conformance.languages import LANGUAGES, capabilities


def test_two_cases_have_one_name() -> None:
    twice = [name for name, count in Counter(case.id for case in load_cases()).items() if count > 1]
    assert twice == []


def test_matrix_of_the_docs_is_of_another_suite() -> None:
    """The page is written by `make conformance`; it must name every case and language of today, and no failure."""
    outcomes = {
        (language.name, case.id): True
        for language in LANGUAGES
        for case in load_cases()
        if case.missing(capabilities(language)) is None
    }
    assert matrix.PAGE.read_text(encoding="utf-8") == matrix.page(LANGUAGES, load_cases(), outcomes)


def test_case_is_left_out_without_a_reason() -> None:
    for language in LANGUAGES:
        for case in load_cases():
            unexplained = case.needs - capabilities(language) - language.lacks.keys()
            assert not unexplained, f"{language.name}: {case.name}: {sorted(unexplained)}"
