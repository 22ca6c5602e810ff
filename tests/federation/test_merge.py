"""The merge against a brute-force one, with sources that overlap, stop early and disagree about times."""

from __future__ import annotations

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.merge import Key, SourceRows, merge

SCHEMA = pa.schema([("event_id", pa.string()), ("timestamp", pa.timestamp("us")), ("origin", pa.string())])


def table(source: str, keys: list[tuple[int, str]], order: str = "asc") -> pa.Table:
    keys = sorted(keys, reverse=order == "desc")
    return pa.table(
        {
            "event_id": [event_id for _, event_id in keys],
            "timestamp": pa.array([micros for micros, _ in keys], pa.timestamp("us")),
            "origin": [source] * len(keys),
        },
        schema=SCHEMA,
    )


def whole(*sources: tuple[str, list[tuple[int, str]]], order: str = "asc") -> list[SourceRows]:
    return [SourceRows(name, table(name, keys, order), complete=True) for name, keys in sources]


def test_an_event_that_two_sources_have_appears_once_and_from_the_better_one():
    page = merge(whole(("managed", [(1, "a"), (2, "b")]), ("lake", [(1, "a"), (3, "c")])), limit=10)
    assert page.table.select(["event_id", "origin", "sources"]).to_pylist() == [
        {"event_id": "a", "origin": "managed", "sources": ["managed", "lake"]},
        {"event_id": "b", "origin": "managed", "sources": ["managed"]},
        {"event_id": "c", "origin": "lake", "sources": ["lake"]},
    ]
    assert page.after is None


def test_a_copy_whose_time_was_rounded_by_its_source_is_still_the_same_event():
    page = merge(whole(("managed", [(1_999_999, "a")]), ("elk", [(1_000_000, "a"), (1_500_000, "b")])), limit=10)
    assert page.table["event_id"].to_pylist() == ["b", "a"]
    assert page.table["sources"].to_pylist() == [["elk"], ["managed", "elk"]]


def test_rows_after_the_end_of_a_source_that_stopped_early_are_not_given_before_its_own():
    parts = [
        SourceRows("managed", table("managed", [(1, "a"), (2, "b")]), complete=False),
        SourceRows("lake", table("lake", [(2, "b"), (9, "z")]), complete=True),
    ]
    page = merge(parts, limit=10)
    assert page.table["event_id"].to_pylist() == ["a", "b"]
    assert page.table["sources"].to_pylist() == [["managed"], ["managed", "lake"]]
    assert page.after == Key(2, "b")


def test_no_rows_at_all_is_an_empty_page_with_all_columns():
    page = merge(whole(("managed", []), ("lake", [])), limit=10)
    assert page.table.num_rows == 0
    assert page.table.column_names == ["event_id", "timestamp", "origin", "sources"]
    assert page.after is None


keys = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 12)), max_size=25, unique=True)


@settings(max_examples=200, deadline=None)
@given(contents=st.lists(keys, min_size=1, max_size=4), limit=st.integers(1, 7), order=st.sampled_from(["asc", "desc"]))
def test_pages_joined_give_each_event_exactly_once_in_order_whatever_the_sources_hold(contents, limit, order):
    # One event has one time: (n, id) with n made from the id, as the SDK promises.
    sources = [sorted({(identity % 5, f"{identity:02d}") for _, identity in content}) for content in contents]
    expected: dict[str, tuple[tuple[int, str], list[str]]] = {}
    for rank, content in enumerate(sources):
        for key in content:
            expected.setdefault(key[1], (key, []))[1].append(f"s{rank}")
    wanted = sorted((key, names) for key, names in expected.values())
    if order == "desc":
        wanted.reverse()

    got = []
    after: Key | None = None
    for _ in range(200):
        parts = []
        for rank, content in enumerate(sources):
            rest = [key for key in content if after is None or (key > after if order == "asc" else key < after)]
            rest.sort(reverse=order == "desc")
            given_now = rest[: limit + 1]
            parts.append(SourceRows(f"s{rank}", table(f"s{rank}", given_now, order), complete=len(given_now) == len(rest)))
        page = merge(parts, limit=limit, order=order)
        assert page.table.num_rows <= limit
        for row in page.table.to_pylist():
            micros = int(row["timestamp"].timestamp() * 1e6) if row["timestamp"].tzinfo else None
            assert micros is None
            got.append(((pa.scalar(row["timestamp"], pa.timestamp("us")).value, row["event_id"]), row["sources"]))
            assert row["origin"] == row["sources"][0]
        after = page.after
        if after is None:
            break
    assert got == wanted
