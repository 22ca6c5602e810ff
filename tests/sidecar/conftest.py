"""A sidecar for each test module that only looks at answers, and one for each test that changes what it runs on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.sidecar.harness import RunningSidecar, files_backend
from tests.sinks.gateway_double import GatewayDouble


@pytest.fixture(scope="module")
def shared_sidecar() -> Iterator[RunningSidecar]:
    """Delivers to files in `out`; body timeout 1.5 s."""
    with RunningSidecar(backends=[files_backend()], body_timeout="1.5s") as sidecar:
        yield sidecar


@pytest.fixture
def new_sidecar() -> Iterator[Callable[..., RunningSidecar]]:
    """Makes sidecars (not started) that are stopped at the end of the test."""
    made: list[RunningSidecar] = []

    def make(**settings: Any) -> RunningSidecar:
        made.append(RunningSidecar(**settings))
        return made[-1]

    yield make
    for sidecar in made:
        sidecar.stop()


@pytest.fixture
def gateway() -> Iterator[GatewayDouble]:
    with GatewayDouble() as server:
        yield server
