"""Every case in R."""

from __future__ import annotations

from sdk.conformance import suite
from sdk.conformance.cases import Case
from sdk.conformance.suite import world  # noqa: F401 - a fixture
from sdk.conformance.world import World


@suite.cases_of("r")
def test_an_sdk_breaks_the_contract(case: Case, world: World) -> None:  # noqa: F811 - the fixture
    suite.run(case, world)


def test_an_sdk_lacks_what_the_design_promises() -> None:
    assert suite.lacking("r") == []
