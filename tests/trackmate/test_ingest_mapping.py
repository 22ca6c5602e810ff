"""What a mapping makes of a row, and what it says about its own mistakes."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from operator import itemgetter
from typing import Any

import pytest
import yaml

from contract.codec import decode_batch
from contract.errors import ConfigError
from trackmate.ingest.mapping import RowMapper, check_mapping
from trackmate.ingest.templates import columns_of, compile_template
from trackmate.ingest.times import TimeReader

POINT = """
site_id: fab1
app: {name: loader, version: "{release}"}
key: "{id}"
event:
  kind: {value: "{type}", map: {done: finish, note: log}}
  name: "{what}"
  timestamp: "{when}"
  status: {value: "{result}", map: {good: ok, bad: failed}}
  run_id: {key: "{id}"}
  parent_run_id: {key: "{order}"}
entities: {lot: "L-{order}", tool: "{tool}"}
metrics: {thickness: "{nm}"}
"""
COLUMNS = ["id", "type", "what", "when", "result", "order", "tool", "nm", "release", "remark"]
ROW = ["17", "done", "etch", "2024-05-06T07:08:09+02:00", "bad", "44", "ETCH-1", "4.5", "2.0", "long, and with commas"]


def mapper(text: str, columns: list[str] = COLUMNS) -> RowMapper:
    places = {name: place for place, name in enumerate(columns)}
    return RowMapper(check_mapping("map.yaml", yaml.safe_load(text)), lambda name: itemgetter(places[name]), columns)


def one(text: str, row: list[str], columns: list[str] = COLUMNS) -> dict[str, Any]:
    (event,) = mapper(text, columns).events(1, row)
    return json.loads(event)


def changed(**values: str) -> list[str]:
    return [values.get(name, value) for name, value in zip(COLUMNS, ROW, strict=True)]


def test_a_row_becomes_a_valid_event_and_no_column_is_lost():
    event = one(POINT, ROW)
    assert event["timestamp"] == "2024-05-06T05:08:09Z"
    assert (event["kind"], event["name"], event["status"]) == ("finish", "etch", "failed")
    assert event["entities"] == {"lot": "L-44", "tool": "ETCH-1"}
    assert event["metrics"] == {"thickness": 4.5}
    assert event["app"] == {"name": "loader", "version": "2.0"}
    assert event["attributes"] == {"remark": "long, and with commas"}
    assert decode_batch(json.dumps(event).encode(), None).rejected == []


def test_ids_do_not_depend_on_the_row_number_when_there_is_a_key():
    made = mapper(POINT)
    assert made.events(1, ROW) == made.events(999, ROW)
    assert made.events(1, ROW) != made.events(1, changed(id="18"))


def test_two_equal_rows_stay_two_events_without_a_key():
    made = mapper(POINT.replace('key: "{id}"\n', ""))
    assert made.events(1, ROW) != made.events(2, ROW)
    assert made.events(1, ROW) == made.events(1, ROW)


def test_all_rows_of_a_case_name_the_same_parent_run():
    first, second = one(POINT, ROW), one(POINT, changed(id="18", when="2024-09-01T00:00:00Z"))
    assert first["parent_run_id"] == second["parent_run_id"]
    assert first["run_id"] != second["run_id"]


def test_an_empty_column_leaves_its_field_out_instead_of_giving_an_empty_one():
    event = one(POINT, changed(order="", tool="", nm="", release="", remark=""))
    assert "entities" not in event
    assert "attributes" not in event
    assert "parent_run_id" not in event
    assert event["app"] == {"name": "loader"}
    assert not event.get("metrics")


def test_a_metric_that_is_no_number_is_refused_with_its_value():
    with pytest.raises(ValueError, match=r"metrics\.thickness: 'thick' is not a number"):
        one(POINT, changed(nm="thick"))


def test_a_metric_without_a_finite_value_is_named_not_sent():
    event = one(POINT, changed(nm="NaN"))
    assert event["metrics"] == {}
    assert event["attributes"]["dropped_metrics"] == ["thickness"]


def test_a_value_that_the_table_does_not_know_is_refused_with_what_it_knows():
    with pytest.raises(ValueError, match="'odd' is not in the mapping's table"):
        one(POINT, changed(type="odd"))


INTERVAL = """
site_id: fab1
app: {name: loader}
run: {name: "{what}", started_at: "{from}", ended_at: "{to}"}
"""


def test_an_interval_becomes_a_run_with_start_finish_and_duration():
    start, finish = map(
        json.loads, mapper(INTERVAL, ["what", "from", "to"]).events(1, ["wash", "2024-01-01T00:00:00Z", "2024-01-01T00:01:30Z"])
    )
    assert (start["kind"], finish["kind"]) == ("start", "finish")
    assert start["run_id"] == finish["run_id"]
    assert finish["duration_ms"] == 90_000
    assert finish["status"] == "ok"
    assert start["event_id"] != finish["event_id"]


def test_an_interval_that_ends_before_it_starts_is_refused():
    with pytest.raises(ValueError, match="before it starts"):
        mapper(INTERVAL, ["what", "from", "to"]).events(1, ["wash", "2024-01-01T00:00:00Z", "2023-01-01T00:00:00Z"])


def test_every_mistake_of_a_mapping_is_reported_at_once():
    text = "app: {nam: x}\nevent: {kind: log, name: 5}\ntime: {timezone: Mars/Olympus, ambiguous: never}\nmetric: {}\n"
    with pytest.raises(ConfigError) as raised:
        check_mapping("map.yaml", yaml.safe_load(text))
    said = str(raised.value)
    for part in ("site_id", "app", "timestamp", "time.timezone", "time.ambiguous", "metric"):
        assert part in said


def test_a_column_that_the_file_lacks_is_named_with_those_it_has():
    with pytest.raises(ConfigError, match=r"entities.tool: the file has no column 'tool'; it has id, what, when"):
        mapper(
            'site_id: a\napp: {name: b}\nevent: {kind: log, name: "{what}", timestamp: "{when}"}\nentities: {tool: "{tool}"}\n',
            ["id", "what", "when"],
        )


@pytest.mark.parametrize(
    ("reader", "text", "expected"),
    [
        (TimeReader(), "2011-10-11 13:45:40.276000+02:00", "2011-10-11T11:45:40.276000+00:00"),
        (TimeReader("iso", "Europe/Amsterdam"), "2024-01-15 12:00", "2024-01-15T11:00:00+00:00"),
        (TimeReader("iso", "Europe/Amsterdam"), "2024-07-15 12:00", "2024-07-15T10:00:00+00:00"),
        (TimeReader("%d.%m.%Y %H:%M:%S", "UTC"), "15.07.2024 12:00:01", "2024-07-15T12:00:01+00:00"),
        (TimeReader("epoch"), "1700000000.25", "2023-11-14T22:13:20.250000+00:00"),
        (TimeReader("epoch_ms"), "1700000000123", "2023-11-14T22:13:20.123000+00:00"),
        (TimeReader("epoch_ns"), "1700000000123456789", "2023-11-14T22:13:20.123456+00:00"),
        (TimeReader("iso", "Europe/Amsterdam", "earlier"), "2024-10-27 02:30", "2024-10-27T00:30:00+00:00"),
        (TimeReader("iso", "Europe/Amsterdam", "later"), "2024-10-27 02:30", "2024-10-27T01:30:00+00:00"),
    ],
)
def test_times_are_read_in_their_own_zone(reader: TimeReader, text: str, expected: str):
    assert reader.read(text) == datetime.fromisoformat(expected).astimezone(UTC)


@pytest.mark.parametrize(
    ("reader", "text", "reason"),
    [
        (TimeReader(), "", "empty"),
        (TimeReader(), "yesterday", "not a time in the format ISO 8601"),
        (TimeReader(), "2024-01-01 00:00", "has no offset"),
        (TimeReader("iso", "Europe/Amsterdam"), "2024-03-31 02:30", "does not exist"),
        (TimeReader("iso", "Europe/Amsterdam"), "2024-10-27 02:30", "comes twice"),
        (TimeReader("epoch"), "1700000000000000", "outside the years"),
        (TimeReader("epoch"), "inf", "not a number of seconds"),
        (TimeReader("epoch_ns"), "x", "not a number of seconds"),
    ],
)
def test_a_time_that_means_nothing_is_refused_with_the_reason(reader: TimeReader, text: str, reason: str):
    with pytest.raises(ValueError, match=reason):
        reader.read(text)


def test_column_names_may_hold_colons_and_templates_may_hold_braces():
    assert columns_of("{case:concept:name}/{x}{{y}}") == ["case:concept:name", "x"]
    fill = compile_template("{{{a}}}-{b}", lambda name: itemgetter({"a": 0, "b": 1}[name]))
    assert fill(["1", "2"]) == "{1}-2"
