"""What happens between the queue and a sidecar that is slow, refuses, lies or is gone."""

from __future__ import annotations

import itertools
import json
import logging
import re
import threading
import time
from email.utils import formatdate

import pytest

import monitoring_sdk as m

EVENT = {"kind": "log", "name": "x"}


def emit(count):
    return [m.emit_event({**EVENT, "attributes": {"i": i}}) for i in range(count)]


def test_events_arrive_once_each_with_their_ids(initialize, sidecar):
    initialize()
    ids = emit(1200)
    assert m.flush(20)
    assert sorted(sidecar.ids) == sorted(ids)
    assert len(set(ids)) == 1200
    stats = m.stats()
    assert (stats.emitted, stats.sent, stats.queued, stats.dropped) == (1200, 1200, 0, 0)


def test_request_is_what_the_protocol_asks_for(initialize, sidecar):
    initialize(sidecar__token="tm_secret", sidecar__url=sidecar.url + "/behind/a/proxy/")
    emit(1)
    assert m.flush(20)
    request = sidecar.requests[0]
    assert request.path == "/behind/a/proxy/v1/ingest/events"
    assert request.headers["content-type"] == "application/x-ndjson"
    assert request.headers["authorization"] == "Bearer tm_secret"
    assert "content-encoding" not in request.headers  # on the loopback, compression costs more than it saves


def test_without_a_token_no_header_is_sent(initialize, sidecar):
    initialize()
    emit(1)
    assert m.flush(20)
    assert "authorization" not in sidecar.requests[0].headers


def test_body_is_compressed_on_the_way_to_another_host(initialize, sidecar, monkeypatch):
    monkeypatch.setattr("monitoring_sdk._http._is_loopback", lambda host: False)
    initialize()
    ids = emit(100)
    assert m.flush(20)
    request = sidecar.requests[0]
    assert request.headers["content-encoding"] == "gzip"
    assert request.size < len(request.body) / 2
    assert sidecar.ids == ids


def test_a_lone_event_does_not_wait_for_the_next(initialize, sidecar, eventually):
    initialize(queue__flush_interval=0.05, queue__batch_size=500)
    emit(1)
    eventually(lambda: len(sidecar.ids) == 1)


def test_a_full_batch_does_not_wait_for_the_interval(initialize, sidecar, eventually):
    initialize(queue__flush_interval=3600, queue__batch_size=10)
    emit(25)
    eventually(lambda: len(sidecar.ids) >= 20)
    assert {len(request.events) for request in sidecar.requests} == {10}
    assert m.flush(20)
    assert len(sidecar.ids) == 25


def test_connection_is_kept_between_batches(initialize, sidecar):
    initialize()
    for _ in range(5):
        emit(1)
        assert m.flush(20)
    assert len(sidecar.requests) == 5
    assert sidecar.connections == 1


def test_kept_connection_that_the_server_closed_costs_no_retry(initialize, sidecar):
    initialize(sidecar__retries=0)
    emit(1)
    assert m.flush(20)
    sidecar.then({"cut": True})  # read, then closed: to the client it looks like an idle connection that went away
    emit(1)
    assert m.flush(20)
    assert len(sidecar.ids) == 2
    assert m.stats().spooled == 0


@pytest.mark.parametrize(
    "answer",
    [
        {"status": 503},
        {"status": 500},
        {"status": 429},
        {"status": 408},
        {"cut": True},
        {"cut_after": 30},
        {"lose": True},
        {"raw": b"\x16\x03\x01\x00garbage\r\n\r\n"},
        {"raw": b"HTTP/1.1 two hundred\r\n\r\n"},
        {"status": 202, "body": b"<html>another service</html>"},
        {"status": 200, "body": b"[]"},
        {"status": 202, "body": b'{"accepted":"all"}'},
        {"status": 202, "body": b""},
    ],
    ids=lambda answer: re.sub(r"[^a-z0-9]+", "-", str(answer).lower())[:40],
)
def test_batch_is_sent_again_with_the_same_ids(initialize, sidecar, spooled_events, answer):
    initialize(sidecar__retries=3)
    sidecar.then(answer, answer)
    ids = emit(3)
    assert m.flush(20)
    assert len(sidecar.requests) == 3
    assert [request.ids for request in sidecar.requests] == [ids] * 3
    assert [request.body for request in sidecar.requests] == [sidecar.requests[0].body] * 3
    assert set(sidecar.ids) == set(ids)
    assert spooled_events() == []
    assert m.stats().sent == 3


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_honoured(initialize, sidecar, form):
    initialize()
    # A date has whole seconds: the one two seconds ahead is more than a second away.
    wait = "1" if form == "seconds" else formatdate(time.time() + 2, usegmt=True)
    sidecar.then({"status": 429, "headers": {"Retry-After": wait}})
    emit(1)
    assert m.flush(20)
    first, second = sidecar.requests
    assert second.at - first.at > 0.9


def test_long_retry_after_holds_nothing_up(initialize, sidecar, spooled_events):
    initialize()
    sidecar.then({"status": 503, "headers": {"Retry-After": "600"}})
    ids = emit(1)
    assert m.flush(20)
    assert [event["event_id"] for event in spooled_events()] == ids
    more = emit(1)  # and it is left alone until then
    assert m.flush(20)
    assert [event["event_id"] for event in spooled_events()] == ids + more
    assert len(sidecar.requests) == 1


def test_batch_goes_to_disk_after_the_last_retry(initialize, sidecar, spooled_events):
    initialize(sidecar__retries=2)
    sidecar.default = {"status": 503}
    ids = emit(2)
    assert m.flush(20)
    assert len(sidecar.requests) >= 3
    assert {tuple(request.ids) for request in sidecar.requests} == {tuple(ids)}
    stats = m.stats()
    assert (stats.spooled, stats.sent, stats.dropped) == (2, 0, 0)


def test_what_waits_on_disk_is_replayed_when_the_sidecar_is_back(initialize, sidecar, spool_dir, eventually):
    initialize(sidecar__retries=0)
    sidecar.stop()
    ids = emit(700)
    assert m.flush(20)
    assert m.stats().spooled == 700
    sidecar.start()
    eventually(lambda: set(sidecar.ids) == set(ids))
    eventually(lambda: m.stats().replayed == 700)
    assert list(spool_dir.glob("*.jsonl*")) == []
    assert len(sidecar.ids) == 700


def test_hung_sidecar_is_given_up_after_the_timeout(initialize, sidecar, spooled_events):
    initialize(sidecar__timeout=0.3, sidecar__retries=0)
    sidecar.default = {"hang": True}
    ids = emit(1)
    assert m.flush(20)
    assert [event["event_id"] for event in spooled_events()] == ids


def test_answer_that_drips_is_given_up_after_the_timeout(initialize, sidecar, spooled_events):
    initialize(sidecar__timeout=0.5, sidecar__retries=0)
    sidecar.default = {"drip": 0.1}  # some 100 bytes: ten seconds, each byte well within the timeout
    ids = emit(1)
    began = time.monotonic()
    assert m.flush(20)
    assert [event["event_id"] for event in spooled_events()] == ids
    assert time.monotonic() - began < 8


def test_emitting_does_not_wait_for_a_hung_sidecar(initialize, sidecar):
    initialize(sidecar__timeout=30)
    sidecar.default = {"hang": True}
    began = time.monotonic()
    emit(5000)
    assert time.monotonic() - began < 10


def test_dead_sidecar_is_probed_seldom_and_costs_no_request_each_batch(initialize, sidecar):
    initialize(sidecar__retries=0)
    sidecar.default = {"status": 503, "headers": {"Retry-After": "60"}}
    for _ in range(20):
        emit(1)
        assert m.flush(20)
    assert len(sidecar.requests) == 1
    assert m.stats().spooled == 20


@pytest.mark.parametrize("status", [400, 415, 422])
def test_refused_batch_is_kept_aside_and_not_sent_again(initialize, sidecar, spool_dir, caplog, status):
    initialize()
    sidecar.then({"status": status})
    with caplog.at_level(logging.ERROR, "monitoring_sdk"):
        ids = emit(2)
        assert m.flush(20)
        emit(1)
        assert m.flush(20)
    assert len(sidecar.requests) == 2
    assert m.stats().failed == 2
    (aside,) = spool_dir.glob("*.refused")
    assert [json.loads(line)["event_id"] for line in aside.read_text().splitlines()] == ids
    assert "as the test wants" in caplog.text


@pytest.mark.parametrize("status", [401, 403, 404])
def test_wrong_token_or_address_is_not_retried_but_keeps_the_events(initialize, sidecar, caplog, eventually, status):
    initialize(sidecar__token="tm_very_secret")
    sidecar.then({"status": status})
    with caplog.at_level(logging.WARNING, "monitoring_sdk"):
        ids = emit(2)
        assert m.flush(20)
    assert m.stats().spooled == 2
    assert len(sidecar.requests) == 1
    assert str(status) in caplog.text
    assert "tm_very_secret" not in caplog.text
    eventually(lambda: sidecar.ids == ids)  # once the operator has put it right


def test_too_large_batch_is_split_until_it_fits(initialize, sidecar):
    initialize()
    sidecar.then({"status": 413}, {"status": 413})
    ids = emit(8)
    assert m.flush(20)
    assert [len(request.events) for request in sidecar.requests] == [8, 4, 2, 2, 4]
    assert sorted(sidecar.ids) == sorted(ids)
    assert m.stats().sent == 8


def test_single_event_that_is_too_large_for_the_sidecar_is_kept_aside(initialize, sidecar, spool_dir):
    initialize()
    sidecar.default = {"status": 413}
    emit(2)
    assert m.flush(20)
    assert len(sidecar.requests) == 3
    assert m.stats().failed == 2
    assert len(list(spool_dir.glob("*.refused"))) == 2


def test_half_of_a_split_batch_survives_on_disk(initialize, sidecar, spooled_events):
    initialize(sidecar__retries=0)
    sidecar.then({"status": 413}, {}, {"status": 503, "headers": {"Retry-After": "60"}})
    ids = emit(4)
    assert m.flush(20)
    assert sidecar.ids == ids[:2]
    assert [event["event_id"] for event in spooled_events()] == ids[2:]


def test_rejected_events_are_counted_and_named_in_the_log(initialize, sidecar, caplog):
    initialize()
    sidecar.then({"reject": (1,)})
    with caplog.at_level(logging.WARNING, "monitoring_sdk"):
        emit(3)
        assert m.flush(20)
    stats = m.stats()
    assert (stats.sent, stats.rejected, stats.emitted) == (2, 1, 3)
    assert "metrics.x: expected number" in caplog.text


def test_requests_keep_below_a_mebibyte(initialize, sidecar):
    initialize(queue__batch_size=5000)
    for i in range(40):
        m.emit_event({**EVENT, "attributes": {"i": i, "text": "ä" * 50_000}})
    assert m.flush(20)
    assert len(sidecar.ids) == 40
    assert max(len(request.body) for request in sidecar.requests) < 1024 * 1024


def test_sixteen_threads_lose_nothing_and_number_without_a_gap(initialize, sidecar):
    initialize(queue__max_events=100_000)
    ids = [[] for _ in range(16)]

    def work(mine):
        mine += emit(1000)

    threads = [threading.Thread(target=work, args=(mine,)) for mine in ids]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert m.flush(30)
    assert sorted(sidecar.ids) == sorted(itertools.chain.from_iterable(ids))
    assert sorted(event["emitter"]["seq"] for event in sidecar.accepted) == list(range(1, 16_001))
    assert len({event["emitter"]["id"] for event in sidecar.accepted}) == 1


def test_flush_says_when_it_could_not(initialize, sidecar):
    initialize(sidecar__timeout=30, sidecar__enable_spooling=False)
    sidecar.default = {"hang": True}
    emit(1)
    assert not m.flush(0.2)
    assert m.stats().queued == 1


def test_flush_twice_and_with_nothing_to_do(initialize):
    initialize()
    assert m.flush(5)
    emit(1)
    assert m.flush(20)
    assert m.flush(20)


def test_close_twice_and_use_after_close(initialize, sidecar):
    initialize()
    ids = emit(3)
    m.close()
    m.close()
    assert sidecar.ids == ids
    assert m.stats().sent == 3
    for call in (lambda: m.emit_event(EVENT), lambda: m.emit_batch([EVENT]), m.flush):
        with pytest.raises(m.NotInitializedError):
            call()


def test_close_leaves_no_thread_and_no_socket(initialize, sidecar):
    before = set(threading.enumerate())
    initialize(queue__max_events=10)
    emit(500)
    assert m.flush(20)
    m.close()
    mine = {thread.name for thread in set(threading.enumerate()) - before if thread.name.startswith("monitoring-sdk")}
    assert mine == set()


def test_initialize_again_closes_the_first(initialize, sidecar):
    initialize()
    first = emit(3)
    initialize(app={"name": "other", "site_id": "fab2"})
    second = emit(2)
    assert m.flush(20)
    assert sidecar.ids == first + second
    assert [event["app"]["name"] for event in sidecar.accepted] == ["etcher"] * 3 + ["other"] * 2


def test_close_ends_with_a_line_of_totals(initialize, caplog):
    initialize()
    emit(2)
    with caplog.at_level(logging.INFO, "monitoring_sdk"):
        m.close()
    assert "emitted=2 sent=2 spooled=0" in caplog.text


def test_recovery_and_trouble_are_logged_once_each(initialize, sidecar, caplog, eventually):
    with caplog.at_level(logging.INFO, "monitoring_sdk"):
        initialize(sidecar__retries=0)
        sidecar.stop()
        for _ in range(5):
            emit(1)
            assert m.flush(20)
        sidecar.start()
        eventually(lambda: len(sidecar.ids) == 5)
    assert caplog.text.count("does not take events") == 1
    assert caplog.text.count("takes events again") == 1


@pytest.fixture
def left_on_disk(initialize, sidecar):
    """Four events of a client that found the sidecar dead, in one file; the sidecar is back."""
    sidecar.stop()
    initialize(sidecar__retries=0)
    ids = emit(4)
    m.close()
    assert m.stats().spooled == 4
    sidecar.start()
    return ids


def test_replay_splits_what_is_too_large(left_on_disk, initialize, sidecar, spool_dir, eventually):
    sidecar.then({"status": 413}, {"reject": (0,)})
    initialize()
    eventually(lambda: m.stats().replayed == 3)
    assert [len(request.events) for request in sidecar.requests] == [4, 2, 2]
    assert sidecar.ids == left_on_disk[1:]
    assert m.stats().rejected == 1
    assert list(spool_dir.iterdir()) == []


def test_replay_keeps_aside_what_is_refused(left_on_disk, initialize, sidecar, spool_dir, eventually):
    sidecar.then({"status": 400})
    initialize()
    eventually(lambda: m.stats().failed == 4)
    (aside,) = spool_dir.glob("*.refused")
    assert [json.loads(line)["event_id"] for line in aside.read_bytes().splitlines()] == left_on_disk
    more = emit(1)
    assert m.flush(20)
    assert sidecar.ids == more


def test_replay_that_fails_gives_the_file_back(left_on_disk, initialize, sidecar, spooled_events, eventually):
    sidecar.then({"status": 503}, {"cut": True})
    initialize()
    eventually(lambda: m.stats().replayed == 4)
    assert sidecar.ids == left_on_disk
    assert spooled_events() == []


def test_many_files_are_replayed_without_holding_up_what_is_new(initialize, sidecar, spool_dir, eventually):
    sidecar.stop()
    initialize(sidecar__retries=0)
    ids = []
    for _ in range(60):
        ids += emit(1)
        assert m.flush(20)
    m.close()
    assert len(list(spool_dir.glob("*.jsonl"))) == 60
    sidecar.start()
    initialize(queue__batch_size=5)
    new = emit(20)
    assert m.flush(20)
    eventually(lambda: set(sidecar.ids) == {*ids, *new})
    eventually(lambda: m.stats().replayed == 60)
    assert len(sidecar.ids) == 80


def test_transport_that_raises_loses_nothing(eventually):
    class Clumsy:
        def __init__(self):
            self.batches = []

        def send(self, batch, timeout):
            self.batches.append(batch.events())
            if len(self.batches) == 1:
                raise KeyError("a mistake")
            return m.Answer(m.Outcome.ACCEPTED)

        def interrupt(self):
            return

        def close(self):
            return

    transport = Clumsy()
    m.initialize(app={"name": "a", "site_id": "s"}, transport=transport)
    emit(3)
    assert m.flush(20)
    assert m.stats().sent == 3
    m.close()
    assert transport.batches[0] == transport.batches[1]
