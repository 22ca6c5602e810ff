"""Which events a backend's `match` chooses."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sidecar.match import Match
from tests.sidecar.harness import event


@pytest.mark.parametrize(
    ("match", "fields", "wanted"),
    [
        ({}, {}, True),
        ({"site_id": "fab*"}, {}, True),
        ({"site_id": ["fab2", "fab3"]}, {}, False),
        ({"site_id": ["fab2", "fab1"]}, {}, True),
        ({"kind": "metric"}, {}, False),
        ({"kind": ["metric", "log"]}, {}, True),
        ({"name": "et*"}, {}, True),
        ({"name": "ET*"}, {}, False),
        ({"name": "et"}, {}, False),
        ({"app": "wafer-*"}, {}, True),
        ({"app": "other"}, {}, False),
        ({"severity": "warning"}, {}, False),
        ({"severity": "info"}, {}, True),
        ({"severity": "warning"}, {"severity": "critical"}, True),
        ({"severity": "error"}, {"kind": "error"}, True),
        ({"entities": {"tool": "ETCH-*"}}, {}, False),
        ({"entities": {"tool": "ETCH-*"}}, {"entities": {"tool": "ETCH-07"}}, True),
        ({"entities": {"tool": "ETCH-*", "lot": ["L1", "L2"]}}, {"entities": {"tool": "ETCH-07", "lot": "L3"}}, False),
        ({"kind": "log", "site_id": "fab1", "severity": "debug"}, {"severity": "debug"}, True),
    ],
)
def test_match_chooses_the_wrong_events(match: dict[str, Any], fields: dict[str, Any], wanted: bool) -> None:
    assert Match.from_tree(match).compiled()(json.dumps(event(**fields)).encode()) is wanted


def test_empty_match_costs_a_look_at_every_event() -> None:
    assert Match.from_tree({}).everything
    assert not Match.from_tree({"kind": "log"}).everything
