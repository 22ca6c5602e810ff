"""What fallbacks took and their primaries lack: kept over restarts, merged, struck when it is settled."""

from __future__ import annotations

import tempfile
from itertools import pairwise
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.ledger import Ledger


def held(ledger: Ledger) -> list[tuple[int, int]]:
    return [(stretch.first, stretch.last) for stretch in ledger.owed("backup")]


def test_stretch_that_comes_late_is_swallowed_by_a_later_one(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.add("backup", 20, 29)
    ledger.add("backup", 10, 19)
    ledger.add("backup", 40, 45)
    ledger.add("backup", 1, 2)
    assert held(ledger) == [(1, 2), (10, 29), (40, 45)]
    ledger.settle("backup", 15)
    assert held(Ledger(tmp_path)) == [(16, 29), (40, 45)]


def test_damaged_file_stops_the_start(tmp_path: Path) -> None:
    Ledger(tmp_path).add("backup", 1, 2)
    (tmp_path / "fallback-ledger.json").write_bytes(b"{")
    assert held(Ledger(tmp_path)) == []


@settings(max_examples=50, deadline=None)
@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("add"), st.integers(1, 40), st.integers(0, 10)),
            st.tuples(st.just("settle"), st.integers(0, 50), st.just(0)),
        ),
        max_size=20,
    )
)
def test_stretches_hold_other_events_than_were_taken(steps: list[tuple[str, int, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        ledger, model = Ledger(Path(folder)), set[int]()
        for kind, number, more in steps:
            if kind == "add":
                ledger.add("backup", number, number + more)
                model |= set(range(number, number + more + 1))
            else:
                ledger.settle("backup", number)
                model = {seq for seq in model if seq > number}
            spans = held(ledger)
            assert {seq for first, last in spans for seq in range(first, last + 1)} == model
            assert all(earlier[1] + 1 < later[0] for earlier, later in pairwise(spans))
