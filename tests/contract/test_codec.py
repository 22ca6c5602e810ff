"""Bodies as the outside world sends them: wrong, huge, hostile, and in every accepted framing."""

import gzip
import json
import tracemalloc

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from contract.codec import decode_batch
from contract.compression import decompress
from contract.errors import InvalidBody
from contract.framing import BodyFormat, split_ndjson
from contract.ids import uuid7
from contract.limits import MAX_BATCH_EVENTS, MAX_BODY_BYTES


def event(**fields):
    return {
        "event_id": uuid7(),
        "timestamp": "2026-01-31T12:00:00Z",
        "kind": "log",
        "name": "n",
        "site_id": "fab1",
        "app": {"name": "a"},
        **fields,
    }


def refusal(body, content_type="application/json"):
    with pytest.raises(InvalidBody) as caught:
        decode_batch(body if isinstance(body, bytes) else json.dumps(body).encode(), content_type)
    return caught.value.status, caught.value.code


@pytest.mark.parametrize(
    "body", [b"", b"   ", b"[", b"[1,", b'[{"a":1}', b"nonsense", b'"text"', b"3", b"[]x", b'{"events":[1]', b"\xff\xfe"]
)
def test_a_body_that_is_not_json_is_taken(body):
    assert refusal(body)[0] == 400


def test_an_envelope_with_more_than_events_is_taken_silently():
    assert refusal({"events": [], "source": "x"}) == (400, "bad_envelope")
    assert refusal({"events": {}}) == (400, "bad_envelope")


def test_another_content_type_is_guessed_at():
    assert refusal([], "text/plain") == (415, "unsupported_media_type")
    assert refusal([], "multipart/form-data; boundary=x") == (415, "unsupported_media_type")


@pytest.mark.parametrize("content_type", [None, "application/json", "application/json; charset=utf-8", "Application/JSON"])
def test_a_usual_content_type_is_refused(content_type):
    assert len(decode_batch(json.dumps([event()]).encode(), content_type).events) == 1


def test_an_empty_batch_is_an_error():
    for body, kind in (
        (b"[]", "application/json"),
        (b'{"events":[]}', "application/json"),
        (b"", "application/x-ndjson"),
        (b"\n\n", "application/x-ndjson"),
    ):
        batch = decode_batch(body, kind)
        assert (batch.events, batch.rejected) == ([], [])


@pytest.mark.parametrize("make", [json.dumps, lambda es: json.dumps({"events": es}), lambda es: "\n".join(map(json.dumps, es))])
def test_the_limit_of_events_is_off_by_one(make):
    events = [event() for _ in range(MAX_BATCH_EVENTS + 1)]
    kind = "application/json" if make([]) else "application/x-ndjson"
    assert refusal(make(events).encode(), kind) == (413, "too_many_events")
    assert len(decode_batch(make(events[:-1]).encode(), kind).events) == MAX_BATCH_EVENTS


def test_the_limit_of_bytes_is_off_by_one():
    frame = json.dumps([event(attributes={"x": ""})]).encode()
    events = [event(attributes={"x": "y" * 200_000}) for _ in range(50)]
    exact = json.dumps(events).encode()
    exact += b" " * (MAX_BODY_BYTES - len(exact))
    assert len(decode_batch(exact, None).events) == 50
    assert refusal(exact + b" ")[0] == 413
    assert frame


def test_the_limit_of_one_event_is_off_by_one():
    room = 256 * 1024 - len(json.dumps(event(attributes={"x": ""})))
    fits = event(attributes={"x": "y" * room})
    over = event(attributes={"x": "y" * (room + 1)})
    batch = decode_batch(json.dumps([fits, over]).encode(), None)
    assert [len(batch.events), [(r.index, r.event_id) for r in batch.rejected]] == [1, [(1, over["event_id"])]]
    assert len(decode_batch(json.dumps([fits, fits]).encode(), None).events) == 2


def test_one_event_that_nests_too_deep_takes_the_whole_batch_with_it():
    deep = json.dumps(event(attributes={"a": "@"})).replace('"@"', "[" * 1000 + "]" * 1000)
    batch = decode_batch(f"[{json.dumps(event())},{deep},{json.dumps(event())}]".encode(), None)
    assert [len(batch.events), [r.index for r in batch.rejected]] == [2, [1]]
    assert refusal(b"[" * 100_000)[0] == 400


def test_one_event_of_invalid_utf8_takes_the_whole_batch_with_it():
    bad = json.dumps(event(attributes={"a": "@"})).encode().replace(b"@", b"\xff")
    for body, kind in (
        (b"[" + bad + b"," + json.dumps(event()).encode() + b"]", None),
        (bad + b"\n" + json.dumps(event()).encode(), "application/x-ndjson"),
    ):
        batch = decode_batch(body, kind)
        assert [len(batch.events), [(r.index, r.error) for r in batch.rejected]] == [1, [(0, "not valid UTF-8")]]


@pytest.mark.parametrize("body", [b"[" + b"1," * 5_000_000 + b"1]", b"[" + b"{}," * 3_000_000 + b"{}]", b"{}\n" * 3_000_000])
def test_a_body_of_millions_of_tiny_things_costs_memory_for_all_of_them(body):
    tracemalloc.start()
    assert refusal(body, "application/x-ndjson" if body.endswith(b"\n") else None)[0] == 413
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 * 1024 * 1024


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress])
def test_compression_is_not_undone(compress):
    encoding = "gzip" if compress is gzip.compress else "zstd"
    text = b"abc" * 100_000
    assert decompress(compress(text), encoding) == text
    assert decompress(compress(text) + compress(b"more"), encoding) == text + b"more"
    assert decompress(compress(b""), encoding) == b""


CUT_GZIP = gzip.compress(b"x" * 1000, mtime=0)[:-5]
CUT_ZSTD = zstandard.compress(b"x" * 1000)[:-3]


@pytest.mark.parametrize(
    ("body", "encoding", "status"),
    [(CUT_GZIP, "gzip", 400), (b"junk", "gzip", 400), (CUT_ZSTD, "zstd", 400), (b"junk", "zstd", 400), (b"x", "br", 415)],
    ids=["cut gzip", "no gzip", "cut zstd", "no zstd", "another encoding"],
)
def test_broken_compression_is_taken(body, encoding, status):
    with pytest.raises(InvalidBody) as caught:
        decompress(body, encoding)
    assert caught.value.status == status


def test_a_small_bomb_costs_the_memory_of_what_it_holds():
    bombs = (
        (zstandard.ZstdCompressor().compress(b"0" * (512 * 1024 * 1024)), "zstd"),
        (gzip.compress(b"0" * (64 * 1024 * 1024)), "gzip"),
    )
    for bomb, encoding in bombs:
        tracemalloc.start()
        with pytest.raises(InvalidBody) as caught:
            decompress(bomb, encoding)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert caught.value.status == 413
        assert peak < 4 * MAX_BODY_BYTES


keys = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), max_size=8)
keepable = st.characters(blacklist_categories=("Cs",), blacklist_characters="\0")

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**18), 10**18) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(keepable),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(
    st.lists(
        st.dictionaries(keys, json_values, max_size=4),
        max_size=6,
    ),
    st.sampled_from([None, 2]),
    st.booleans(),
    st.sampled_from(list(BodyFormat)),
)
def test_a_framing_alters_the_events_in_it(attributes, indent, ascii_only, layout):
    events = [event(attributes=entry) for entry in attributes]
    if layout is BodyFormat.SINGLE:
        events = events[:1] or [event()]
    content_type = "application/x-ndjson" if layout is BodyFormat.NDJSON else "application/json"
    match layout:
        case BodyFormat.ARRAY:
            body = json.dumps(events, indent=indent, ensure_ascii=ascii_only)
        case BodyFormat.WRAPPED:
            body = json.dumps({"events": events}, indent=indent, ensure_ascii=ascii_only)
        case BodyFormat.SINGLE:
            body = json.dumps(events[0], indent=indent, ensure_ascii=ascii_only)
        case BodyFormat.NDJSON:
            body = "\r\n".join(json.dumps(e, ensure_ascii=ascii_only) for e in events)
    batch = decode_batch(body.encode(), content_type)
    assert (batch.rejected, batch.format, len(batch.events)) == ([], layout, len(events))
    lines = split_ndjson(body.encode(), layout).split(b"\n")
    assert lines.pop() == b""
    assert [json.loads(line) for line in lines] == events
