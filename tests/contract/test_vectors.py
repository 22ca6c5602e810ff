"""The golden vectors prove that schema, model and codec agree with each other."""

import json

import pytest
from jsonschema import Draft202012Validator

from contract import settings
from contract.codec import decode_batch, decode_event
from contract.columns import NAMES, flatten, unflatten
from contract.errors import InvalidEvent
from tests.contract.vectors import load, raw

SCHEMA = Draft202012Validator(settings.schema("event"))

BEYOND_JSON_SCHEMA = (
    "timestamp '2026-02-30", "timestamp 0001", "timestamp 9999", "timestamp 1969", "timestamp 2100", "message of 8193 bytes in",
    "U+0000", "lone surrogate", "65 levels", "number beyond", "integer of 309",
)  # fmt: skip
"""What only words in the schema's description say: see `event.schema.json`."""


@pytest.mark.parametrize("vector", load("valid"))
def test_model_refuses_a_valid_event(vector):
    decode_event(raw(vector))


@pytest.mark.parametrize("vector", load("valid"))
def test_schema_refuses_a_valid_event(vector):
    SCHEMA.validate(vector["event"])


@pytest.mark.parametrize("vector", load("invalid"))
def test_model_takes_an_invalid_event_or_names_another_mistake(vector):
    with pytest.raises(InvalidEvent) as caught:
        decode_event(raw(vector))
    assert (caught.value.path, caught.value.error) == (vector["path"], vector["error"])


@pytest.mark.parametrize("vector", [p for p in load("invalid") if not p.values[0]["name"].startswith(BEYOND_JSON_SCHEMA)])
def test_schema_takes_an_invalid_event(vector):
    event = json.loads(raw(vector), parse_constant=str)
    assert not SCHEMA.is_valid(event)


@pytest.mark.parametrize("content_type", ["application/json", "application/x-ndjson"])
def test_a_batch_is_judged_otherwise_than_its_events_alone(content_type):
    good = [p.values[0] for p in load("valid")]
    bad = [p.values[0] for p in load("invalid")]
    texts = [text for pair in zip(bad, good, strict=False) for text in map(raw, pair)]
    body = b"[" + b",".join(texts) + b"]" if content_type == "application/json" else b"\n".join(texts)
    batch = decode_batch(body, content_type)
    assert [(r.path, r.error) for r in batch.rejected] == [(v["path"], v["error"]) for v in bad[: len(good)]]
    assert [r.index for r in batch.rejected] == list(range(0, 2 * len(batch.rejected), 2))
    assert batch.accepted_ndjson().split(b"\n")[:-1] == [raw(v) for v in good[: len(bad)]]


@pytest.mark.parametrize("content_type", ["application/json", "application/x-ndjson"])
def test_a_batch_of_valid_events_is_framed_again(content_type):
    texts = [raw(p.values[0]) for p in load("valid")]
    body = b"[" + b",".join(texts) + b"]" if content_type == "application/json" else b"\n".join(texts)
    batch = decode_batch(body, content_type)
    assert len(batch.events) == len(texts)
    assert batch.rejected == []
    assert batch.raw is None


@pytest.mark.parametrize("vector", load("valid"))
def test_the_flat_layout_loses_or_alters_a_field(vector):
    event = decode_event(raw(vector))
    row = dict(zip(NAMES, flatten(event), strict=True))
    again = unflatten(row)
    sent = dict(vector["event"])
    default = "error" if sent["kind"] == "error" else "info"
    assert again.pop("severity") == sent.pop("severity", default)
    again.pop("timestamp")
    sent.pop("timestamp")
    assert row["timestamp"] == event.timestamp.replace(tzinfo=None) - event.timestamp.utcoffset()
    assert again == sent
