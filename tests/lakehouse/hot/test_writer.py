"""The writer: each event once, exactly as it was sent, and nothing acknowledged that isn't there."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta, timezone

import psycopg
import pytest

from contract.columns import NAMES, PROMOTED_ENTITIES, flatten
from contract.ids import uuid7
from lakehouse.config import HotConfig
from lakehouse.hot import reader
from lakehouse.hot.errors import HotStoreError, HotStoreUnavailable, RowsLost
from lakehouse.hot.writer import HotWriter, WriteResult
from tests.lakehouse.hot.events import NOW, event, many, rows, stored, value

FULL = {
    "finish": {"status": "failed", "duration_ms": 12.75, "error": {"type": "E", "message": "", "stack": "line 1\nline 2\r\n"}},
    "error": {"error": {"type": "IOError", "message": "no\tgas"}},
    "progress": {"progress": 0.25},
    "state": {"state": {"from": "standby", "to": "productive"}},
    "metric": {"metrics": {"temp": 21.5, "p": -0.0}},
    "start": {"parent_run_id": "01a20878-f2b0-798f-93e4-346563c82805"},
    "log": {"severity": "critical", "message": ""},
}


async def test_a_field_changes_or_vanishes_on_its_way_in(writer: HotWriter, dsn: str) -> None:
    sent = [
        event(
            kind=kind,
            timestamp=NOW.astimezone(timezone(timedelta(hours=9))) + timedelta(microseconds=number),
            app={"name": "a", "version": "1", "instance_id": "h"},
            run_id=uuid7(),
            emitter={"id": uuid7(), "seq": 2**63 - 1},
            entities={name: f"{name} {kind}" for name in (*PROMOTED_ENTITIES, "slot")},
            trace_id="0af7651916cd43dd8448eb211c80319c",
            span_id="b7ad6b7169203331",
            attributes={"a": [1, None, {"b": '\\ " \x01\x02 \n'}]},
            **fields,
        )
        for number, (kind, fields) in enumerate(FULL.items())
    ] + [event(kind=kind, **({"state": {"to": "standby"}} if kind == "state" else {})) for kind in FULL]
    assert await writer.write(sent) == WriteResult(inserted=len(sent))
    all_found = rows(dsn)
    for each in sent:
        found = all_found[each.event_id]
        expected = dict(zip(NAMES, flatten(each), strict=True))
        for name in ("entities", "metrics"):
            found[name], expected[name] = (json.loads(row[name]) if row[name] else row[name] for row in (found, expected))
        assert {name: found[name] for name in NAMES} == expected


TEXTS = {
    "the delimiter": "a\x01b",
    "the quote": "a\x02b",
    "two quotes alone": "\x02\x02",
    "line ends": "a\nb\r\nc\r",
    "backslashes": "\\N \\. \\\\ \\t",
    "commas and quotes": '",",""',
    "end of data": "\\.",
    "every plane": "naïve 中文 \U0001f600 \u202e \ufeff \x7f",
    "control characters": "".join(map(chr, range(1, 32))),
    "only a space": " ",
    "NULL": "NULL",
}


async def test_text_that_means_something_to_copy_is_taken_for_syntax(writer: HotWriter, dsn: str) -> None:
    odd = {
        text: event(
            kind="finish", name=text, message=text, entities={"lot": text, text: text},
            error={"type": text, "message": text, "stack": text},
        )
        for text in TEXTS.values()
    }  # fmt: skip
    for each in odd.values():
        assert await writer.write([each, event(message="ordinary")]) == WriteResult(inserted=2)
    all_found = rows(dsn)
    for text, each in odd.items():
        found = all_found[each.event_id]
        fields = ("name", "message", "lot", "error_type", "error_message", "error_stack")
        assert [found[field] for field in fields] == [text] * len(fields)
        assert json.loads(found["entities"]) == {"lot": text, text: text}
    assert value(dsn, "SELECT count(*) FROM trackmate.events WHERE message = 'ordinary'") == len(odd)


async def test_numbers_lose_digits(writer: HotWriter, dsn: str) -> None:
    metrics = {"big": 1e308, "tiny": 5e-324, "negative": -1.7976931348623157e308, "tenth": 0.1, "third": 1 / 3}
    sent = event(kind="metric", metrics=metrics, attributes={"exact": 2**53 + 1, "decimal": 0.1})
    await writer.write([sent])
    with psycopg.connect(dsn) as connection:
        assert dict(connection.execute("SELECT name, value FROM trackmate.metrics").fetchall()) == metrics
    found = reader.find(dsn, sent.event_id).to_pylist()[0]
    assert json.loads(found["metrics"]) == metrics
    assert found["attributes"] == bytes(sent.attributes).decode()
    assert "9007199254740993" in found["attributes"]


async def test_a_large_event_is_refused_or_cut(writer: HotWriter, dsn: str) -> None:
    sent = event(attributes={"text": "é\n" * 500_000}, message="m" * 8000)
    assert await writer.write([sent, *many(20)]) == WriteResult(inserted=21)
    assert reader.find(dsn, sent.event_id)["attributes"][0].as_py() == bytes(sent.attributes).decode()


async def test_a_batch_sent_again_is_stored_again(writer: HotWriter, dsn: str) -> None:
    batch = many(600, kind="metric", metrics={"a": 1.0, "b": 2.0})
    assert await writer.write(batch) == WriteResult(inserted=600)
    assert await writer.write(batch) == WriteResult(duplicates=600)
    fresh = many(3, kind="metric", metrics={"a": 1.0, "b": 2.0})
    assert await writer.write([*batch[:5], *fresh]) == WriteResult(inserted=3, duplicates=5)
    assert len(stored(dsn)) == 603
    assert value(dsn, "SELECT count(*) FROM trackmate.metrics") == 1206


async def test_an_event_twice_in_one_batch_is_stored_or_measured_twice(writer: HotWriter, dsn: str) -> None:
    batch = many(4, kind="metric", metrics={"a": 1.0})
    assert await writer.write([*batch, batch[1], batch[1], batch[3]]) == WriteResult(inserted=4, duplicates=3)
    assert await writer.write([*batch, batch[0]]) == WriteResult(duplicates=5)
    assert value(dsn, "SELECT count(*) FROM trackmate.metrics") == 4


async def test_an_empty_batch_is_an_error(writer: HotWriter) -> None:
    assert await writer.write([]) == WriteResult()


async def test_writers_that_overlap_deadlock_or_store_twice(config: HotConfig, dsn: str) -> None:
    batch = many(400, kind="metric", metrics={"a": 1.0})
    cuts = [batch[start : start + 200] for start in (0, 50, 100, 150, 200)]
    async with await HotWriter.open(config, clock=lambda: NOW) as one, await HotWriter.open(config, clock=lambda: NOW) as two:
        results = await asyncio.gather(*((one if turn % 2 else two).write(cut[::turn]) for cut in cuts for turn in (1, -1, 1)))
    assert sum(result.inserted for result in results) == 400
    assert all(result.inserted + result.duplicates == 200 and not result.refused for result in results)
    assert stored(dsn) == sorted(each.event_id for each in batch)
    assert value(dsn, "SELECT count(*) FROM trackmate.metrics") == 400


@pytest.mark.parametrize("staged", [False, True], ids=["copy", "staged"])
async def test_one_event_that_the_database_refuses_holds_back_the_others(writer: HotWriter, dsn: str, staged: bool) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("ALTER TABLE trackmate.events ADD CONSTRAINT no_bad CHECK (name <> 'bad')")
    if staged:
        first = many(1)
        await writer.write(first)
        await writer.write(first)
    batch = many(50)
    batch[17] = event(name="bad")
    batch[31] = event(name="bad")
    result = await writer.write(batch)
    assert result.inserted == 48
    assert [(refused.index, refused.event_id) for refused in result.refused] == [
        (17, batch[17].event_id),
        (31, batch[31].event_id),
    ]
    assert all("no_bad" in refused.reason for refused in result.refused)


async def test_rows_that_the_server_loses_are_acknowledged(writer: HotWriter, dsn: str) -> None:
    """A trigger stands in for the server's bug: it swallows rows, and the server says that all is well."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            "CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RETURN CASE WHEN new.name <> 'lost' THEN new END; END $$"
        )
        connection.execute("CREATE TRIGGER swallow BEFORE INSERT ON trackmate.events FOR EACH ROW EXECUTE FUNCTION swallow()")
    batch = [*many(10), event(name="lost")]
    with pytest.raises(RowsLost, match="nothing of the batch was kept"):
        await writer.write(batch)
    await writer.write(batch[:1])
    await writer.write(batch[:1])
    with pytest.raises(RowsLost, match="lacks 1"):
        await writer.write(batch)
    assert stored(dsn) == [batch[0].event_id]


async def test_late_and_early_events_have_no_place(writer: HotWriter, dsn: str) -> None:
    moments = [NOW - timedelta(days=days) for days in (0, 1, 40, 80, 400, 20_000)] + [
        NOW + timedelta(days=days) for days in (1, 6, 30, 20_000)
    ]
    batch = [event(timestamp=moment, kind="metric", metrics={"a": 1.0}) for moment in moments]
    assert await writer.write(batch) == WriteResult(inserted=len(batch))
    assert await writer.write(batch) == WriteResult(duplicates=len(batch))
    assert value(dsn, "SELECT count(*) FROM trackmate.metrics") == len(batch)


async def test_a_store_that_is_not_migrated_is_an_odd_error(server, writer: HotWriter, dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("DROP SCHEMA trackmate CASCADE")
    with pytest.raises(HotStoreError, match="trackmate migrate"):
        await writer.write(many(1))


async def test_a_store_that_is_down_blocks_for_ever_or_shows_its_password() -> None:
    from contract.settings import Secret
    from tests.services.base import free_port

    config = HotConfig(
        dsn=Secret(f"postgresql://someone:hunter2@127.0.0.1:{free_port()}/nothing"), connect_timeout=timedelta(seconds=1)
    )
    async with await HotWriter.open(config) as writer:
        with pytest.raises(HotStoreUnavailable, match=r"database 'nothing' on 127\.0\.0\.1") as failure:
            await writer.write(many(1))
        with pytest.raises(HotStoreUnavailable):
            await writer.check()
    assert "hunter2" not in str(failure.value) + repr(config)
