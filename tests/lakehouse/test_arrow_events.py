"""NDJSON to columns: every value as the contract's own model reads it, and nothing that is no event slips in."""

from __future__ import annotations

import json
import random
from datetime import datetime
from pathlib import Path

import msgspec
import pyarrow as pa
import pytest

import contract
from contract.columns import NAMES, flatten
from contract.event import Event
from lakehouse.arrow_events import LineParser, from_ndjson, split_lines
from lakehouse.tables import FLAT_SCHEMA
from tests.lakehouse.lakes import an_event, run_events, state_events

VECTORS = [
    json.loads(line) for line in (Path(contract.__file__).parent / "vectors/valid.jsonl").read_bytes().split(b"\n") if line
]


def as_python_reads(row):
    return {
        name: json.loads(value) if name in {"entities", "metrics", "attributes"} and value else value
        for name, value in row.items()
    }


def from_model(text: bytes):
    return dict(zip(NAMES, flatten(msgspec.json.decode(text, type=Event)), strict=True))


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_a_golden_event_differs_from_the_model(vector):
    text = json.dumps(vector["event"]).encode()
    (row,) = from_ndjson([text + b"\n"]).to_pylist()
    assert as_python_reads(row) == as_python_reads(from_model(text))


@pytest.mark.parametrize(
    "value",
    [
        "9007199254740993", "18446744073709551616", "123456789012345678901234567890", "1e308", "1e400", "-1e400", "1.0", "-0.0",
        "0.1", "5e-324", "2.2250738585072011e-308", "1e-400", "0.30000000000000004", "123456789.123456789123456789",
        "12345678901234567890.5", '"\\u00e9\\ud83d\\ude00é😀"', '"\\/\\b\\f\\n\\r\\t\\"\\\\"', '"\\u007f\\u2028"', "null",
        "true", "[]", "{}", '[1,{"a":[]}]', '{"a":1,"a":2}', '{ "a" :\t[ 1 , 2 ] }', '"  "',
    ],
)  # fmt: skip
def test_a_value_in_the_attributes_changes(value):
    text = json.dumps(an_event(attributes={"v": "@"})).replace('"@"', value)
    (row,) = from_ndjson([text.encode() + b"\n"]).to_pylist()
    assert repr(json.loads(row["attributes"])) == repr(json.loads(text)["attributes"])


@pytest.mark.parametrize(
    "text",
    [
        "2026-03-01T12:34:56Z", "2026-03-01t12:34:56z", "2026-03-01T12:34:56.1+05:30", "2026-03-01T12:34:56.123456Z",
        "2026-03-01T12:34:56.1234565Z", "2026-03-01T12:34:56.1234564Z", "2026-03-01T12:34:56.123456999-08:00",
        "2026-12-31T23:59:59.9999999Z", "2026-03-01T12:34:56.12+05:50", "2026-03-01T00:30:00+14:00", "1970-01-01T00:00:00Z",
    ],
)  # fmt: skip
def test_a_timestamp_differs_from_the_model_by_a_microsecond(text):
    line = json.dumps(an_event() | {"timestamp": text}).encode()
    assert from_ndjson([line])["timestamp"].to_pylist() == [from_model(line)["timestamp"]]


def test_random_events_differ_from_the_model():
    rng = random.Random(5)
    lines = [json.dumps(event).encode() for event in run_events(rng, 40) + state_events(rng, 40)]
    body = b"\n".join(lines)
    got = from_ndjson([body[: body.index(b"\n", 5000) + 1], body[body.index(b"\n", 5000) + 1 :]])
    assert got.schema == FLAT_SCHEMA
    assert [as_python_reads(row) for row in got.to_pylist()] == [as_python_reads(from_model(line)) for line in lines]


@pytest.mark.parametrize(
    "line",
    [
        b"garbage", b"[1]", b'"text"', b"{}", b'{"event_id": "x"}', b'{"a":1} trailing', b"\xff\xfe", b'{"event_id": \x01}',
        json.dumps(an_event() | {"timestamp": "soon"}).encode(), json.dumps(an_event(app={})).encode(), b'"\\ud800"',
    ],
)  # fmt: skip
def test_a_line_that_is_no_event_is_taken_for_one_or_takes_its_neighbours_along(line):
    good = [json.dumps(an_event()).encode() for _ in range(2)]
    with LineParser() as parser:
        parsed = parser.parse(b"\n".join([good[0], line, good[1]]))
    assert parsed.numbers.to_pylist() == [0, 2]
    assert parsed.invalid["number"].to_pylist() == [1]
    assert parsed.invalid["line"].to_pylist() == [line.decode("utf-8", "replace")]
    assert parsed.events["event_id"].to_pylist() == [json.loads(text)["event_id"] for text in good]
    with pytest.raises(ValueError, match="line 2 is no event"):
        from_ndjson([b"\n".join([good[0], line, good[1]])])


def test_white_space_splits_an_event_or_counts_as_one():
    event = json.dumps(an_event()).encode()
    body = b"\n" + event.replace(b", ", b",\r ", 1) + b"\r\n  \n\r\n" + event + b"\n"
    assert from_ndjson([body])["event_id"].to_pylist() == [json.loads(event)["event_id"]] * 2
    assert from_ndjson([]).num_rows == from_ndjson([b""]).num_rows == from_ndjson([b"\n"]).num_rows == 0


def test_a_line_longer_than_a_block_is_cut():
    events = [json.dumps(an_event(message="m" * size)).encode() for size in (1, 5 * 1024 * 1024, 1)]
    assert split_lines(b"\n".join(events)).to_pylist() == [event.decode() for event in events]


def test_numbers_are_given_to_the_wrong_lines():
    lines = [json.dumps(an_event(name=f"n{n}")).encode() for n in range(5000)]
    with LineParser() as parser:
        parsed = parser.parse(b"\n".join(lines), pa.array(range(7, 5007)))
    assert parsed.numbers.to_pylist() == list(range(7, 5007))
    assert parsed.events["name"].to_pylist() == [f"n{n}" for n in range(5000)]
    assert isinstance(parsed.events["timestamp"][0].as_py(), datetime)
    with LineParser() as parser, pytest.raises(ValueError, match="2 lines came with 1 numbers"):
        parser.parse(b"a\nb", pa.array([1]))
