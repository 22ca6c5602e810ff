"""What an event may be, what is mended, and what the SDK adds."""

from __future__ import annotations

import datetime as dt
import enum
import json
import math
import pathlib
import re
import uuid
from collections import OrderedDict
from decimal import Decimal

import pytest

import monitoring_sdk as m
from monitoring_sdk import _clean, _event
from monitoring_sdk.testing import capture

VECTORS = pathlib.Path(__file__).parents[3] / "contract" / "vectors"
SDK_MAKES = {"emitter"}


def vectors(name):
    return [json.loads(line) for line in (VECTORS / name).read_bytes().splitlines()]


@pytest.fixture
def recorded():
    with capture() as recorder:
        yield recorder


def emit(recorded, **event):
    m.emit_event({"kind": "log", "name": "x", **event})
    return recorded.events[-1]


def test_sdk_adds_what_the_contract_requires(recorded):
    event = emit(recorded)
    assert set(event) == {"event_id", "timestamp", "emitter", "site_id", "app", "kind", "name"}
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", event["event_id"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", event["timestamp"])
    moment = dt.datetime.fromisoformat(event["timestamp"].replace("Z", "+00:00"))
    assert abs((dt.datetime.now(dt.timezone.utc) - moment).total_seconds()) < 60
    assert int(event["event_id"].replace("-", "")[:12], 16) == math.floor(moment.timestamp() * 1000 + 1e-6)
    assert event["emitter"]["seq"] == 1


def test_emit_returns_the_id(recorded):
    assert m.emit_event({"kind": "log", "name": "x"}) == recorded.events[-1]["event_id"]
    ids = m.emit_batch([{"kind": "log", "name": "a"}, {"kind": "log", "name": "b", "attributes": {"deep": [1]}}])
    assert [event["event_id"] for event in recorded.events[-2:]] == ids


def test_ids_of_one_process_sort_as_they_were_made(recorded):
    ids = [m.emit_event({"kind": "log", "name": "x"}) for _ in range(1000)]
    assert ids == sorted(set(ids))


@pytest.mark.parametrize(
    "vector", [v for v in vectors("valid.jsonl") if not SDK_MAKES & set(v["event"])], ids=lambda v: v["name"]
)
def test_valid_vector_arrives_as_it_is(recorded, vector):
    m.emit_event(vector["event"])
    arrived = recorded.events[-1]
    arrived.pop("emitter")
    assert arrived == vector["event"]


def is_for_the_wire(vector):
    """What only the wire can break: what the SDK adds or mends."""
    event = vector.get("event")
    missing = vector["error"] == "required field is missing" and vector["path"] in {"event_id", "timestamp", "site_id", "app"}
    mended = "U+0000" in vector["error"] or "of UTF-8" in vector["error"]
    return event is None or missing or mended or "emitter" in vector["path"]


@pytest.mark.parametrize("vector", [v for v in vectors("invalid.jsonl") if not is_for_the_wire(v)], ids=lambda v: v["name"])
def test_invalid_vector_is_refused_at_once_with_that_path_and_reason(recorded, vector):
    with pytest.raises(m.InvalidEventError) as caught:
        m.emit_event(vector["event"])
    assert (caught.value.path, caught.value.error) == (vector["path"], vector["error"])
    assert recorded.events == []


@pytest.mark.parametrize(
    "event", [None, [], "log", 3, {}, {"kind": "log"}, {"name": "x"}, {"kind": ["log"], "name": "x"}, {1: 2}]
)
def test_what_is_no_event_is_refused(recorded, event):
    with pytest.raises(m.InvalidEventError):
        m.emit_event(event)


def test_emitter_is_the_sdk_s_own(recorded):
    with pytest.raises(m.InvalidEventError, match="made by the SDK"):
        emit(recorded, emitter={"id": str(uuid.uuid4()), "seq": 1})


def test_refused_event_leaves_no_gap_in_the_numbers(recorded):
    emit(recorded)
    with pytest.raises(m.InvalidEventError):
        emit(recorded, attributes={"a": object()})
    assert emit(recorded)["emitter"]["seq"] == 2


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (object(), "attributes.a"),
        ({"b": [1, {1, 2}]}, "attributes.a.b.1"),
        (b"bytes", "attributes.a"),
        (1 + 2j, "attributes.a"),
        ({(1, 2): 3}, "attributes.a"),
        (10**308, "attributes.a"),
        ([-(10**5000)], "attributes.a.0"),
    ],
)
def test_what_is_not_json_is_refused_with_its_place(recorded, value, path):
    with pytest.raises(m.InvalidEventError) as caught:
        emit(recorded, attributes={"a": value})
    assert caught.value.path == path


def test_attributes_that_contain_themselves_are_refused(recorded):
    loop = []
    loop.append(loop)
    with pytest.raises(m.InvalidEventError, match="64 levels"):
        emit(recorded, attributes={"a": loop})


class Colour(enum.Enum):
    RED = "red"


@pytest.mark.parametrize(
    ("value", "arrives"),
    [
        (dt.datetime(2026, 1, 2, 3, 4, tzinfo=dt.timezone.utc), "2026-01-02T03:04:00+00:00"),
        (pathlib.PurePosixPath("/data"), "/data"),
        (uuid.UUID(int=7), "00000000-0000-0000-0000-000000000007"),
        (Decimal("1.10"), "1.10"),
        (Colour.RED, "red"),
        ((1, 2), [1, 2]),
        (OrderedDict(b=1), {"b": 1}),
        ({1: "a", False: "b", None: "c"}, {"1": "a", "false": "b", "null": "c"}),
        (math.nan, None),
        ([math.inf, 1.5], [None, 1.5]),
        (10**300, 10**300),
        ("x" * 400 + "9" * 400, "x" * 400 + "9" * 400),
        ("\\u0000", "\\u0000"),
        ("é⚙😀", "é⚙😀"),
    ],
)
def test_near_json_becomes_json(recorded, value, arrives):
    assert emit(recorded, attributes={"a": value})["attributes"] == {"a": arrives}


def test_metrics_that_are_no_numbers_are_left_out_and_named(recorded):
    event = emit(recorded, kind="metric", metrics={"a": 1.5, "b": math.nan, "c": -math.inf, "d": 2}, attributes={"k": 1})
    assert event["metrics"] == {"a": 1.5, "d": 2}
    assert event["attributes"] == {"k": 1, "dropped_metrics": ["b", "c"]}


def test_numbers_of_numpy_are_numbers(recorded):
    import numpy as np

    event = emit(recorded, metrics={"a": np.float32(1.5), "b": np.int64(7)}, attributes={"c": [np.int8(1)]})
    assert event["metrics"] == {"a": 1.5, "b": 7}
    assert event["attributes"] == {"c": [1]}


@pytest.mark.parametrize("nested", [False, True])
def test_invalid_text_is_mended_everywhere(recorded, nested):
    bad = "a\ud800b\0c\udfff"
    extra = {"list": [bad]} if nested else {}
    event = emit(recorded, name=bad, message=bad, entities={bad: bad}, attributes={bad: bad, **extra})
    good = "a\ufffdb\ufffdc\ufffd"
    assert (event["name"], event["message"], event["entities"], event["attributes"][good]) == (good, good, {good: good}, good)
    assert not nested or event["attributes"]["list"] == [good]


@pytest.mark.parametrize("letter", ["x", "é", "⚙", "😀", "x\ud800"])
def test_long_message_is_cut_between_characters(recorded, letter):
    event = emit(recorded, message=letter * 9000, attributes={"k": 1})
    size = len(event["message"].encode())
    assert 8192 - 4 < size <= 8192
    assert set(event["message"]) <= set(letter) | {"\ufffd"}
    assert event["attributes"] == {"k": 1, "truncated": True}


def test_message_of_exactly_the_limit_is_kept(recorded):
    event = emit(recorded, message="é" * 4096)
    assert (len(event["message"]), "attributes" in event) == (4096, False)


def test_event_over_the_limit_is_misuse(recorded):
    with pytest.raises(m.InvalidEventError, match="262144 bytes"):
        emit(recorded, attributes={"a": "⚙" * 90_000})
    assert len(emit(recorded, attributes={"a": "x" * 261_000})["attributes"]["a"]) == 261_000


@pytest.mark.parametrize("text", ["\x01" * 256, "\0" * 256, '"' * 256, "😀" * 256])
def test_plain_event_can_never_be_over_the_limit(text):
    entries = {f"{i:02}" + text[2:]: text for i in range(24)}
    numbers = dict.fromkeys(entries, -1.2345678901234567e-300)
    event = {"kind": "log", "name": text, "message": text * 8, "entities": entries, "metrics": numbers, "attributes": entries}
    copy = _event.plain_copy(event)
    assert copy is not None
    assert len(_event.text_of(copy).encode()) < 262_144 - 4096


def test_later_changes_of_the_program_don_t_reach_the_event(recorded):
    inner = {"a": 1}
    deep = {"list": [1]}
    event = {"kind": "metric", "name": "x", "metrics": inner, "attributes": deep}
    m.emit_event(event)
    flat = {"kind": "metric", "name": "y", "metrics": inner, "attributes": {"b": 1}}
    m.emit_event(flat)
    inner["a"] = 2
    deep["list"].append(2)
    flat["attributes"]["b"] = 2
    event["name"] = "z"
    first, second = recorded.events
    assert (first["name"], first["metrics"], first["attributes"]) == ("x", {"a": 1}, {"list": [1]})
    assert (second["metrics"], second["attributes"]) == ({"a": 1}, {"b": 1})


def test_program_s_own_dict_is_left_alone(recorded):
    event = {"kind": "log", "name": "x", "entities": {"lot": "L"}, "message": "m" * 9000}
    before = json.dumps(event)
    with m.monitored_context("etch", {"tool": "T"}):
        m.emit_event(event)
    assert json.dumps(event) == before


def test_given_id_time_and_origin_are_kept(recorded):
    event_id = "01890a5d-ac96-774b-8cce-000000000001"
    given = {"event_id": event_id, "timestamp": "2026-01-31T12:00:00+01:00", "site_id": "fab9", "app": {"name": "other"}}
    event = emit(recorded, **given)
    assert {key: event[key] for key in given} == given
    assert recorded.events[-1]["event_id"] == event_id


def test_datetime_becomes_utc(recorded):
    moment = dt.datetime(2026, 1, 31, 12, 0, 0, 5, tzinfo=dt.timezone(dt.timedelta(hours=5, minutes=30)))
    assert emit(recorded, timestamp=moment)["timestamp"] == "2026-01-31T06:30:00.000005Z"
    with pytest.raises(m.InvalidEventError, match="time zone"):
        emit(recorded, timestamp=moment.replace(tzinfo=None))
    with pytest.raises(m.InvalidEventError, match="year 1"):
        emit(recorded, timestamp=dt.datetime.min.replace(tzinfo=dt.timezone.utc))


def test_batch_is_all_or_nothing(recorded):
    good = {"kind": "log", "name": "x"}
    with pytest.raises(m.InvalidEventError) as caught:
        m.emit_batch([good, {"kind": "metric", "name": "x", "metrics": {"a": "1"}}, {}])
    assert caught.value.path == "[1].metrics.a"
    assert recorded.events == []
    assert len(m.emit_batch(iter([good] * 3))) == 3
    assert len(recorded.events) == 3
    for wrong in (good, "log", 3):
        with pytest.raises(m.InvalidEventError, match="list of events"):
            m.emit_batch(wrong)
    assert m.emit_batch([]) == []


def test_plain_check_is_never_laxer_than_the_full_one():
    """Whatever the quick look lets through is valid by the full check, and the worker can write it."""
    import hypothesis
    from hypothesis import strategies as st

    scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.just({}), st.just([]))
    tables = st.dictionaries(st.one_of(st.text(max_size=3), st.integers()), scalars, max_size=3)
    fields = st.sampled_from([*_clean._FIELDS, "emitter", "other"])
    kinds = st.one_of(st.sampled_from(_clean.KINDS), scalars)
    events = st.builds(
        lambda rest, kind, name: {**rest, "kind": kind, "name": name},
        st.dictionaries(fields, st.one_of(scalars, tables), max_size=4),
        kinds,
        st.one_of(st.text(min_size=1, max_size=3), scalars),
    )

    @hypothesis.settings(max_examples=150, deadline=None)
    @hypothesis.given(events)
    def check(event):
        copy = _event.plain_copy(event)
        if copy is not None:
            assert set(json.loads(_event.text_of(copy))) == set(_clean.clean(event))

    check()


class FakeSpan:
    is_valid = True
    trace_id = 0x4BF92F3577B34DA6A3CE929D0E0E4736
    span_id = 0x00F067AA0BA902B7

    def get_span_context(self):
        return self


@pytest.mark.parametrize("nested", [False, True])
def test_active_span_is_taken_along(recorded, monkeypatch, nested):
    import sys
    import types

    trace = types.ModuleType("opentelemetry.trace")
    span = FakeSpan()
    trace.get_current_span = lambda: span
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", trace)
    extra = {"attributes": {"a": [1]}} if nested else {}
    event = emit(recorded, **extra)
    assert (event["trace_id"], event["span_id"]) == ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7")
    given = emit(recorded, trace_id="1" * 32)
    assert (given["trace_id"], "span_id" in given) == ("1" * 32, False)
    m.emit_batch([{"kind": "log", "name": "x", **extra}])
    assert recorded.events[-1]["trace_id"] == event["trace_id"]
    span.is_valid = False
    assert "trace_id" not in emit(recorded, **extra)
