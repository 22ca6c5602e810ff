"""What every sink must do, whatever system it writes to: subclass `SinkSuite`, give it a `Target`, and all tests here run on it.

class TestWebhook(SinkSuite):
    @pytest.fixture
    def target(self) -> Iterator[Target]: ...
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import pytest

import contract
from contract import codec
from sinks.base import DeliveryReport, Sink, SinkBatch, SinkError
from tests.services.toxiproxy import Link

SPOOL_ID = "22222222-3333-4444-8555-666666666666"
AnySink = TypeVar("AnySink", bound=Sink)
VECTORS = Path(contract.__file__).parent / "vectors" / "valid.jsonl"


class Target(Protocol):
    """A real system, and the ways in which a test can spoil it. Faults end with the test."""

    refuses_events: bool
    """Whether the system judges events one by one and can refuse one for good."""
    has_credential: bool
    has_server: bool

    # `takes(item)` is for a system that can't hold every golden event: false for those that it refuses, as its own tests show.
    # `deduplicates = False` is for a system that can't know a repetition: there, a batch delivered twice may leave equal copies.

    def sink(self, *, credential: str | None = None) -> Sink:
        """A new sink for it, not yet open; `credential` replaces the right one."""

    async def read_back(self) -> list[dict[str, Any]]:
        """Every event that it holds, as JSON objects."""

    def refuse(self, items: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """These events, changed if need be, as the system refuses them for good from now on."""

    def as_stored(self, item: dict[str, Any]) -> dict[str, Any]:
        """What `read_back` gives of an event: the same, or the same meaning in the system's own spelling."""

    def stop(self) -> None:
        """Be down."""

    def start(self) -> None:
        """Be up again, with what was there."""

    def hang(self) -> None:
        """Accept connections and answer nothing."""


class LinkedTarget:
    """The part of a target that all real systems behind a Toxiproxy link share: it is cut to be down, and stalls to hang."""

    refuses_events = True
    has_credential = True
    has_server = True
    stalls: ClassVar[Sequence[str]] = ("downstream",)
    """Which way nothing passes any more when it hangs."""

    def __init__(self, link: Link) -> None:
        self.link = link

    def as_stored(self, item: dict[str, Any]) -> dict[str, Any]:
        """It keeps the event's own text."""
        return item

    def stop(self) -> None:
        """Be down."""
        self.link.cut()

    def start(self) -> None:
        """Be up again, with what was there."""
        self.link.heal()

    def hang(self) -> None:
        """Accept connections and answer nothing."""
        for stream in self.stalls:
            self.link.poison("timeout", stream=stream, timeout=0)


def golden_events() -> list[dict[str, Any]]:
    """The contract's valid vectors, each with an id of its own."""
    vectors = [json.loads(line)["event"] for line in VECTORS.read_bytes().splitlines()]
    found = {vector["event_id"]: vector for vector in vectors}
    return list(found.values())


def golden_for(target: Target) -> list[dict[str, Any]]:
    """The golden events that the system can hold."""
    takes = getattr(target, "takes", None)
    return [item for item in golden_events() if takes is None or takes(item)]


def batch_of(items: Sequence[dict[str, Any]], first_seq: int = 1) -> SinkBatch:
    lines = b"".join(json.dumps(item, ensure_ascii=False, separators=(",", ":")).encode() + b"\n" for item in items)
    assert not codec.decode_batch(lines, "application/x-ndjson").rejected
    return SinkBatch.from_ndjson(lines, first_seq=first_seq, spool_id=SPOOL_ID)


@asynccontextmanager
async def opened(sink: AnySink) -> AsyncIterator[AnySink]:
    """The sink, open until the end of the block."""
    await sink.open()
    try:
        yield sink
    finally:
        await sink.close()


async def deliver(sink: Sink, items: Sequence[dict[str, Any]] | SinkBatch) -> DeliveryReport:
    """Open, deliver once, close."""
    async with opened(sink):
        return await sink.deliver(items if isinstance(items, SinkBatch) else batch_of(items))


def by_id(items: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    found = {item["event_id"]: item for item in items}
    assert len(found) == len(items), "an event is there more than once"
    return found


async def held(target: Target) -> dict[str, dict[str, Any]]:
    """What the system holds, by id: each event once, or, where the system can't know a repetition, in equal copies."""
    items = await target.read_back()
    if getattr(target, "deduplicates", True):
        return by_id(items)
    found: dict[str, dict[str, Any]] = {}
    for item in items:
        assert found.setdefault(item["event_id"], item) == item, "two copies of an event differ"
    return found


class SinkSuite:
    """Tests for any sink."""

    @pytest.fixture
    def target(self) -> Any:
        raise NotImplementedError

    async def test_golden_event_comes_back_changed(self, target: Target) -> None:
        events = golden_for(target)
        sink = target.sink()
        await sink.open()
        report = await sink.deliver(batch_of(events))
        await sink.close()
        assert (report.delivered, report.refused, report.retry) == (len(events), [], [])
        assert await held(target) == by_id(list(map(target.as_stored, events)))

    async def test_batch_delivered_twice_leaves_two(self, target: Target) -> None:
        events = golden_for(target)[:10]
        sink = target.sink()
        await sink.open()
        await sink.deliver(batch_of(events))
        again = await sink.deliver(batch_of(events))
        await sink.close()
        assert again.delivered == len(events)
        assert await held(target) == by_id(list(map(target.as_stored, events)))

    async def test_batch_delivered_again_after_a_restart_leaves_two(self, target: Target) -> None:
        events = golden_for(target)[:10]
        for _ in range(2):
            sink = target.sink()
            await sink.open()
            await sink.deliver(batch_of(events))
            await sink.close()
        assert await held(target) == by_id(list(map(target.as_stored, events)))

    async def test_overlapping_batches_leave_two(self, target: Target) -> None:
        """After a crash the log is cut anew, at other places."""
        events = golden_for(target)[:12]
        sink = target.sink()
        await sink.open()
        await sink.deliver(batch_of(events[:4], 1))
        await sink.deliver(batch_of(events[:9], 1))
        await sink.deliver(batch_of(events[6:], 7))
        await sink.close()
        assert await held(target) == by_id(list(map(target.as_stored, events)))

    async def test_empty_batch_fails(self, target: Target) -> None:
        sink = target.sink()
        await sink.open()
        report = await sink.deliver(SinkBatch([], first_seq=1, last_seq=5, spool_id=SPOOL_ID))
        await sink.close()
        assert (report.delivered, report.refused, report.retry) == (0, [], [])

    async def test_largest_batch_is_too_large(self, target: Target) -> None:
        template = golden_for(target)[0]
        sink = target.sink()
        count = min(sink.limits.max_events, 5000)
        events = [{**template, "event_id": f"01890a5d-ac96-774b-8cce-{number:012x}"} for number in range(1, count + 1)]
        await sink.open()
        report = await sink.deliver(batch_of(events))
        await sink.close()
        assert report.delivered == count
        assert len(await target.read_back()) == count

    async def test_refused_event_takes_the_others_with_it(self, target: Target) -> None:
        events = golden_for(target)[:8]
        if not target.refuses_events:
            takes_any_text = {"FilesystemSink", "S3Sink"}
            assert type(target.sink()).__name__ in takes_any_text, "only a place that takes any text refuses no event"
            return
        events[2], events[7] = target.refuse([events[2], events[7]])
        sink = target.sink()
        await sink.open()
        report = await sink.deliver(batch_of(events))
        await sink.close()
        assert (report.delivered, report.retry) == (6, [])
        assert [(item.index, item.event_id) for item in report.refused] == [
            (2, events[2]["event_id"]),
            (7, events[7]["event_id"]),
        ]
        assert all(item.reason for item in report.refused)
        assert set(await held(target)) == {event["event_id"] for event in events} - {
            events[2]["event_id"],
            events[7]["event_id"],
        }

    async def test_stopped_system_passes_for_a_refusal_or_is_not_found_again(self, target: Target) -> None:
        events = golden_for(target)[:5]
        sink = target.sink()
        await sink.open()
        target.stop()
        with pytest.raises(SinkError) as error:
            await sink.deliver(batch_of(events))
        assert str(error.value)
        assert not (await sink.check()).ok
        target.start()
        assert (await sink.check()).ok
        report = await sink.deliver(batch_of(events))
        await sink.close()
        assert report.delivered == 5
        assert await held(target) == by_id(list(map(target.as_stored, events)))

    async def test_hung_system_can_not_be_left(self, target: Target) -> None:
        if not target.has_server:
            return
        events = golden_for(target)[:5]
        sink = target.sink()
        await sink.open()
        target.hang()
        with pytest.raises((SinkError, TimeoutError)):
            async with asyncio.timeout(1):
                await sink.deliver(batch_of(events))
        target.start()
        report = await sink.deliver(batch_of(events))
        await sink.close()
        assert report.delivered == 5
        assert await held(target) == by_id(list(map(target.as_stored, events)))

    async def test_wrong_credential_fills_the_dead_letters(self, target: Target) -> None:
        if not target.has_credential:
            return
        sink = target.sink(credential="tm_quite_wrong")
        await sink.open()
        health = await sink.check()
        assert not health.ok
        assert "tm_quite_wrong" not in health.detail
        with pytest.raises(SinkError) as error:
            await sink.deliver(batch_of(golden_for(target)[:3]))
        assert "tm_quite_wrong" not in str(error.value)
        assert "tm_quite_wrong" not in repr(sink.__dict__)
        await sink.close()
        assert await target.read_back() == []

    async def test_check_says_that_it_works_when_it_does_not(self, target: Target) -> None:
        sink = target.sink()
        await sink.open()
        health = await sink.check()
        assert health.ok, health.detail
        assert await target.read_back() == [], "a check must not write an event"
        target.stop()
        health = await sink.check()
        assert not health.ok
        assert health.detail
        target.start()
        await sink.close()

    async def test_closed_sink_can_not_be_opened_again(self, target: Target) -> None:
        events = golden_for(target)[:6]
        sink = target.sink()
        for start in (0, 3):
            await sink.open()
            await sink.deliver(batch_of(events[start : start + 3], start + 1))
            await sink.close()
            await sink.close()
        assert await held(target) == by_id(list(map(target.as_stored, events)))
