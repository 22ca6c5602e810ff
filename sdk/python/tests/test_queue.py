"""What happens when events come faster than they can go."""

from __future__ import annotations

import errno
import threading
import time

import pytest

import monitoring_sdk as m
from monitoring_sdk import _queue, _spool, _state
from monitoring_sdk._limits import MAX_BATCH_EVENTS

SMALL = {"queue__max_events": 100, "queue__batch_size": 10}


def emit(count, **extra):
    return [m.emit_event({"kind": "log", "name": "x", "attributes": {"i": i}, **extra}) for i in range(count)]


def everything(sidecar, spooled_events):
    return [event["event_id"] for event in sidecar.accepted + spooled_events()]


def test_full_queue_goes_to_disk_and_nothing_is_lost(initialize, sidecar, spooled_events):
    sidecar.default = {"hang": True}
    initialize(**SMALL, queue__on_full="spool", sidecar__timeout=30)
    ids = emit(5000)
    assert _state.client.stats().queued <= 100 + MAX_BATCH_EVENTS
    m.close()
    assert sorted(everything(sidecar, spooled_events)) == sorted(ids)
    stats = m.stats()
    assert (stats.emitted, stats.spooled, stats.dropped) == (5000, 5000, 0)


def test_oldest_are_dropped_counted_and_reported(initialize, sidecar, eventually):
    sidecar.default = {"hang": True}
    initialize(**SMALL, queue__on_full="drop_oldest", sidecar__timeout=0.5, sidecar__retries=0)
    emit(10)
    eventually(lambda: len(sidecar.requests) == 1)
    ids = emit(1000)
    dropped = m.stats().dropped
    assert dropped >= 900
    assert m.stats().dropped_by_reason == {"queue_full": dropped}
    sidecar.default = {}
    eventually(lambda: sidecar.named("sdk.dropped"))
    assert m.flush(20)
    (report,) = sidecar.named("sdk.dropped")
    assert (report["kind"], report["metrics"]) == ("metric", {"queue_full": dropped})
    assert report["severity"] == "warning"
    assert set(ids[-90:]) <= set(sidecar.ids)  # the newest survive
    eventually(lambda: m.stats().replayed > 0)
    # With the report, the numbers account for every event.
    stats = m.stats()
    assert stats.emitted == 1011
    assert stats.emitted == stats.sent + stats.spooled + stats.dropped
    sequences = {event["emitter"]["seq"] for event in sidecar.accepted}
    assert len(set(range(1, 1012)) - sequences) == dropped


def test_blocking_queue_waits_and_loses_nothing(initialize, sidecar):
    sidecar.default = {"wait": 0.02}
    initialize(**SMALL, queue__on_full="block")
    ids = emit(1000)
    assert m.flush(30)
    assert sorted(sidecar.ids) == sorted(ids)
    assert m.stats().dropped == 0


def test_blocked_emit_is_released_by_close(initialize, sidecar, spooled_events):
    sidecar.default = {"hang": True}
    initialize(**SMALL, queue__on_full="block", sidecar__timeout=30)
    refused = threading.Event()

    def work():
        try:
            emit(1000)
        except m.NotInitializedError:
            refused.set()

    thread = threading.Thread(target=work)
    thread.start()
    time.sleep(0.2)
    m.close()
    thread.join(20)
    assert not thread.is_alive()
    assert refused.is_set()
    ids = everything(sidecar, spooled_events)
    assert len(ids) == len(set(ids)) == m.stats().emitted


def test_without_spooling_a_full_queue_drops_the_oldest(initialize, sidecar):
    sidecar.default = {"hang": True}
    initialize(**SMALL, queue__on_full="spool", sidecar__enable_spooling=False, sidecar__timeout=30)
    began = time.monotonic()
    emit(2000)
    assert time.monotonic() - began < 10
    assert m.stats().dropped_by_reason["queue_full"] >= 1800


def test_without_spooling_a_dead_sidecar_is_waited_for_in_memory(initialize, sidecar, eventually, spool_dir):
    sidecar.stop()
    initialize(sidecar__enable_spooling=False, sidecar__retries=0)
    ids = emit(50)
    assert not m.flush(0.3)
    sidecar.start()
    eventually(lambda: sorted(sidecar.ids) == sorted(ids))
    assert not spool_dir.exists()


def test_memory_without_spooling_is_bounded_and_losses_are_reported(initialize, sidecar, eventually):
    sidecar.stop()
    initialize(**SMALL, sidecar__enable_spooling=False, sidecar__retries=0)
    for _ in range(30):
        emit(20)
        m.flush(0.05)
    assert m.stats().queued <= 220
    assert m.stats().dropped >= 300
    sidecar.start()
    eventually(lambda: m.stats().queued == 0)
    reported = sum(sum(event["metrics"].values()) for event in sidecar.named("sdk.dropped"))
    assert reported == m.stats().dropped


def test_full_disk_keeps_in_memory_then_drops_and_says_so(initialize, sidecar, monkeypatch, eventually, caplog):
    def full(self, name, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(_spool.Spool, "_write", full)
    sidecar.stop()
    initialize(**SMALL, sidecar__retries=0)
    kept = emit(50)
    assert not m.flush(0.3)
    assert m.stats().dropped == 0
    emit(1000)
    eventually(lambda: m.stats().dropped >= 800)
    assert m.stats().dropped_by_reason["spool_failed"] > 0
    assert caplog.text.count("No space left on device") == 1
    sidecar.start()
    eventually(lambda: m.stats().queued == 0)
    assert m.flush(20)
    assert len(kept) == 50
    assert sidecar.named("sdk.dropped")


def test_disk_that_has_room_again_is_used_again(initialize, sidecar, monkeypatch, spooled_events):
    write = _spool.Spool._write
    broken = True

    def sometimes(self, name, data):
        if broken:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, name, data)

    monkeypatch.setattr(_spool.Spool, "_write", sometimes)
    sidecar.stop()
    initialize(sidecar__retries=0)
    ids = emit(20)
    assert not m.flush(0.2)
    broken = False
    assert m.flush(20)
    assert sorted(event["event_id"] for event in spooled_events()) == sorted(ids)


def test_what_can_be_put_nowhere_at_the_end_is_counted(initialize, sidecar, monkeypatch, caplog):
    def full(self, name, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(_spool.Spool, "_write", full)
    sidecar.stop()
    initialize(sidecar__retries=0)
    emit(20)
    m.close()
    assert m.stats().dropped_by_reason == {"spool_failed": 20}
    assert "dropped=20" in caplog.text


def test_large_events_are_bounded_by_their_sum(initialize, sidecar, spooled_events, monkeypatch):
    monkeypatch.setattr(_queue, "LARGE_SUM", 1_000_000)
    sidecar.default = {"hang": True}
    initialize(sidecar__timeout=30, queue__max_events=10_000)
    ids = [m.emit_event({"kind": "log", "name": "x", "attributes": {"a": "x" * 100_000}}) for _ in range(100)]
    assert sum(len(entry[4]) for entry in list(_state.client._queue._entries)) <= 1_200_000
    m.close()
    assert sorted(everything(sidecar, spooled_events)) == sorted(ids)


@pytest.mark.parametrize("on_full", ["spool", "drop_oldest", "block"])
def test_sixteen_threads_on_a_tiny_queue_account_for_every_event(initialize, sidecar, spooled_events, on_full):
    initialize(queue__max_events=50, queue__batch_size=20, queue__on_full=on_full)
    threads = [threading.Thread(target=emit, args=(300,)) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    m.close()
    stats = m.stats()
    reports = [event for event in sidecar.accepted if event["name"] == "sdk.dropped"]
    assert stats.emitted == 4800 + len(reports)
    assert stats.emitted == stats.sent + stats.spooled + stats.dropped
    assert stats.dropped == 0 or on_full == "drop_oldest"
    ids = everything(sidecar, spooled_events)
    assert len(ids) == len(set(ids)) == stats.emitted - stats.dropped


def test_events_that_come_while_closing_are_not_lost(initialize, sidecar, spooled_events):
    initialize()
    emitted = []
    go_on = True

    def work():
        client = _state.client  # as code that was inside emit_event when close() was called
        while go_on:
            emitted.append(client.emit({"kind": "log", "name": "x"}, None))

    thread = threading.Thread(target=work)
    thread.start()
    while len(emitted) < 100:
        time.sleep(0.001)
    m.close()
    time.sleep(0.05)
    go_on = False
    thread.join()
    assert set(emitted) == set(everything(sidecar, spooled_events))
