"""Collects what came of every case and, when asked to, writes the matrix of the documentation."""

from __future__ import annotations

import re

import pytest

from sdk.conformance import matrix
from sdk.conformance.cases import load_cases
from sdk.conformance.languages import LANGUAGES

_CASE = re.compile(r"test_an_sdk_breaks_the_contract\[(?P<language>[a-z]+)-(?P<case>.+)\]$")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--conformance-matrix", action="store_true", help="write docs/reference/conformance.md from this run")


class Recorder:
    """Keeps the outcome of each case; where several workers run, it listens in the process that hands out the work."""

    def __init__(self) -> None:
        self._outcomes: dict[tuple[str, str], bool] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        found = _CASE.search(report.nodeid)
        if found:
            key = found["language"], found["case"]
            self._outcomes[key] = self._outcomes.get(key, True) and report.passed

    def pytest_sessionfinish(self) -> None:
        matrix.PAGE.write_text(matrix.page(LANGUAGES, load_cases(), self._outcomes), encoding="utf-8")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--conformance-matrix", default=False) and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Recorder())
