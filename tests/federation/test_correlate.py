"""The nearest event in time, against looking at every pair."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from federation.correlate import nearest_places


@given(
    times=st.lists(st.integers(-20, 20), min_size=1, max_size=30),
    candidates=st.lists(st.integers(-20, 20), min_size=1, max_size=30),
)
def test_the_nearest_candidate_is_the_one_that_looking_at_every_pair_finds(times, candidates):
    ordered = sorted(candidates)
    found, offsets = nearest_places(np.array(times), np.array(ordered))
    for time, place, offset in zip(times, found, offsets, strict=True):
        best = min(range(len(ordered)), key=lambda i: (abs(ordered[i] - time), ordered[i], i))
        assert (place, offset) == (best, ordered[best] - time)
