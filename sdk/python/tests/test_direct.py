"""Direct mode: one program, several backends, each with troubles of its own."""

from __future__ import annotations

import errno
import json
import logging
import threading
import time
from pathlib import Path

import pytest
from sdk.python.tests.conftest import written

import monitoring_sdk as m
from monitoring_sdk._batch import Batch
from monitoring_sdk._config import BackendSettings, QueueSettings
from monitoring_sdk._lane import Lane
from monitoring_sdk._shipments import Numbers
from monitoring_sdk._spool import Spool
from monitoring_sdk._transport import Answer, Bounds, Outcome

EVENT = {"kind": "log", "name": "x"}
SLACK = 4.0
"""The contract says two seconds; the machine that runs the tests may be busy."""


def emit(count, start=0):
    return [m.emit_event({**EVENT, "attributes": {"i": i}}) for i in range(start, start + count)]


def files(folder, **entry):
    return {"type": "filesystem", "config": {"path": str(folder)}, **entry}


def managed(gateway, **entry):
    return {"type": "managed", "config": {"url": gateway.url}, **entry}


def odd(path, behaviour="", **entry):
    return {"type": "odd", "config": {"path": str(path), "behaviour": behaviour}, **entry}


def notes(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def taken(path):
    return [event["event_id"] for note in notes(path) for event in note["events"]]


def ids_in(folder):
    return [event["event_id"] for event in written(folder)]


def spooled_for(spool_dir, backend):
    return [
        json.loads(line)["event_id"]
        for file in sorted(spool_dir.glob(f"direct/*/{backend}/*.jsonl"))
        for line in file.read_bytes().splitlines()
    ]


def test_every_backend_gets_every_event_as_it_was_emitted(direct, sidecar, gateway, tmp_path):
    direct(files(tmp_path / "out"), {"type": "sidecar"}, managed(gateway))
    with m.monitored_context("etch", {"lot": "L1"}) as run:
        run.metric("chuck", temperature=21.5)
    ids = emit(1200)
    assert m.flush(30)
    assert len(ids) == 1200
    reported = written(tmp_path / "out")
    assert len(reported) == 1203
    assert [event["event_id"] for event in reported[3:]] == ids
    by_id = {event["event_id"]: event for event in reported}
    for server in (sidecar, gateway):
        assert {event["event_id"]: event for event in server.accepted} == by_id
        assert len(server.accepted) == 1203
    stats = m.stats()
    assert (stats.emitted, stats.sent, stats.queued) == (1203, 1203, 0)
    assert {name: result.delivered for name, result in stats.backends.items()} == {
        "filesystem": 1203, "sidecar": 1203, "managed": 1203,
    }  # fmt: skip


def test_dead_backend_delays_no_other_and_gets_its_own_later(direct, sidecar, gateway, tmp_path, spool_dir, eventually):
    gateway.stop()
    direct(files(tmp_path / "out"), {"type": "sidecar"}, managed(gateway))
    ids = emit(700)
    result = m.flush(30)
    assert result
    assert ids_in(tmp_path / "out") == ids
    assert sidecar.ids == ids
    assert result.backends["managed"].spooled == 700
    assert "can't be reached" in result.backends["managed"].error
    assert spooled_for(spool_dir, "managed") == ids
    gateway.start()
    eventually(lambda: m.stats().backends["managed"].replayed == 700)
    assert sorted(gateway.ids) == ids
    assert ids_in(tmp_path / "out") == ids
    assert sidecar.ids == ids
    assert spooled_for(spool_dir, "managed") == []
    assert m.stats().backends["managed"].error is None


@pytest.mark.parametrize("behaviour", ["never", "block", "deaf", "executor"])
def test_backend_that_never_returns_holds_up_neither_the_others_nor_the_end(
    direct, third_party, sidecar, tmp_path, spool_dir, behaviour
):
    path = tmp_path / "odd.jsonl"
    direct(odd(path, behaviour, priority=1), {"type": "sidecar", "priority": 2}, files(tmp_path / "out", priority=3))
    ids = emit(100)
    deadline = time.monotonic() + 20
    while len(sidecar.ids) < 100 or len(ids_in(tmp_path / "out")) < 100:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    began = time.monotonic()
    m.close()
    assert time.monotonic() - began < SLACK
    assert sidecar.ids == ids_in(tmp_path / "out") == ids
    assert spooled_for(spool_dir, "odd") == ids
    assert m.stats().backends["odd"].spooled == 100


def test_hung_backend_is_given_up_after_its_timeout_and_its_own_events_are_safe(direct, third_party, tmp_path, spool_dir):
    direct(odd(tmp_path / "odd.jsonl", "deaf", timeout=0.3), files(tmp_path / "out"))
    ids = emit(20)
    result = m.flush(30)
    assert result
    assert "did not answer within 0.3 s" in result.backends["odd"].error
    assert spooled_for(spool_dir, "odd") == ids


def test_thread_that_hangs_in_a_built_in_backend_is_written_off(direct, tmp_path, spool_dir, sidecar, monkeypatch):
    hang = threading.Event()
    monkeypatch.setattr("monitoring_sdk._lane.HUNG_AFTER", 0.1)
    monkeypatch.setattr("monitoring_sdk._filesystem.FilesystemBackend._append", lambda *_: hang.wait(60))
    direct(files(tmp_path / "out", timeout=0.2), {"type": "sidecar"})
    ids = emit(30)
    try:
        result = m.flush(30)
        assert result
        assert "it hangs" in result.backends["filesystem"].error
        more = emit(5)
        assert m.flush(30)
        assert spooled_for(spool_dir, "filesystem") == ids + more
        assert sidecar.ids == ids + more
    finally:
        hang.set()


def test_limits_of_a_sink_are_kept_and_its_numbers_have_no_gap(direct, third_party, tmp_path):
    path = tmp_path / "odd.jsonl"
    direct(odd(path))
    ids = emit(40)
    assert m.flush(30)
    assert taken(path) == ids
    seen = notes(path)
    assert max(len(note["events"]) for note in seen) == 7
    assert {note["running"] for note in seen} == {1}
    assert len({note["log"] for note in seen}) == 1
    ends = [0] + [note["last"] for note in seen]
    assert [note["first"] for note in seen] == [end + 1 for end in ends[:-1]]
    m.close()
    assert path.with_suffix(".closed").exists()


def test_what_is_tried_again_has_the_same_numbers(direct, gateway, tmp_path, third_party):
    path = tmp_path / "odd.jsonl"
    direct(odd(path, "crash"), sidecar__retries=0)
    ids = emit(20)
    assert m.flush(30)
    m.close()
    path.with_suffix(".mended").touch()
    direct(odd(path), sidecar__retries=0)
    deadline = time.monotonic() + 20
    while len(taken(path)) < 20:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert taken(path) == ids
    first = notes(path)[0]
    assert (first["first"], first["last"]) == (1, 7)
    assert first["log"] == first["events"][0]["emitter"]["id"]


def test_refused_events_are_kept_aside_with_the_reason_and_counted(direct, third_party, tmp_path, spool_dir, caplog):
    path = tmp_path / "odd.jsonl"
    with caplog.at_level(logging.WARNING, "monitoring_sdk"):
        direct(odd(path, "refuse-third"), files(tmp_path / "out"))
        ids = emit(7)
        assert m.flush(30)
    refused = [ids[2], ids[5]]
    assert taken(path) == [event_id for event_id in ids if event_id not in refused]
    (aside,) = spool_dir.glob("direct/*/odd/*.refused")
    letters = [json.loads(line) for line in aside.read_bytes().splitlines()]
    assert [letter["event_id"] for letter in letters] == refused
    assert {(letter["backend"], letter["reason"]) for letter in letters} == {("odd", "a third one")}
    assert json.loads(letters[0]["event"])["event_id"] == refused[0]
    stats = m.stats()
    assert (stats.backends["odd"].delivered, stats.backends["odd"].failed) == (5, 2)
    assert (stats.sent, stats.failed) == (5, 2)
    assert ids_in(tmp_path / "out") == ids
    assert "a third one" in caplog.text


def test_only_what_a_sink_did_not_take_is_tried_again(direct, third_party, tmp_path):
    path = tmp_path / "odd.jsonl"
    direct(odd(path, "retry-odd"), sidecar__retries=5)
    ids = emit(7)
    assert m.flush(30)
    assert sorted(taken(path)) == ids
    assert m.stats().backends["odd"].delivered == 7


def test_file_of_which_a_part_can_t_be_written_is_not_claimed_for_ever(tmp_path, monkeypatch):
    class Picky:
        """Takes all but the first event, and asks for that one again."""

        bounds = Bounds()
        keeps_rejected = False
        outlives_executors = True

        def send(self, batch, timeout):
            return Answer(Outcome.ACCEPTED, retry=(0,))

    settings = BackendSettings("picky", "picky", 1, False, 1.0, 0, {}, None)
    spool = Spool(tmp_path, "01890a5d-ac96-774b-bcce-b302099a8057")
    queue = QueueSettings(10, 10, 1.0, "spool")
    lane = Lane(settings, Picky(), queue, Numbers(), "log", spool=spool, drop=lambda *_: None, replayed=lambda _: None)
    spool.write(Batch([b"{}", b"{}"], 1))

    def fail(batch):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(spool, "write", fail)
    lane._replay()
    assert [path.name.endswith(".jsonl") for path in tmp_path.glob("*.jsonl*")] == [True]
    assert lane.result().waiting == 0
    (waiting,) = spool.own()
    claim = spool.claim(waiting)
    assert claim is not None
    claim.done()
    spool.close()


def test_sink_whose_count_does_not_add_up_is_not_believed(direct, third_party, tmp_path, spool_dir):
    direct(odd(tmp_path / "odd.jsonl", "lie"), sidecar__retries=0)
    ids = emit(3)
    result = m.flush(30)
    assert "doesn't add up" in result.backends["odd"].error
    assert spooled_for(spool_dir, "odd") == ids


def test_throttled_sink_gets_everything_in_the_end(direct, third_party, tmp_path, eventually):
    path = tmp_path / "odd.jsonl"
    direct(odd(path, "throttle"), sidecar__retries=1)
    ids = emit(3)
    assert m.flush(30)
    assert m.stats().backends["odd"].error == "too many requests"
    path.with_suffix(".mended").touch()
    eventually(lambda: taken(path) == ids)


def test_retry_after_of_one_backend_is_honoured_and_no_other_waits(direct, sidecar, gateway):
    gateway.then({"status": 429, "headers": {"Retry-After": "1"}})
    direct(managed(gateway), {"type": "sidecar"})
    ids = emit(1)
    assert m.flush(30)
    assert gateway.ids == sidecar.ids == ids
    assert gateway.requests[1].at - gateway.requests[0].at > 0.9
    assert sidecar.requests[0].at < gateway.requests[1].at


def test_dead_backend_is_probed_seldom(direct, gateway):
    gateway.default = {"status": 503, "headers": {"Retry-After": "60"}}
    direct(managed(gateway))
    for _ in range(20):
        emit(1)
        assert m.flush(30)
    assert len(gateway.requests) == 1
    assert m.stats().backends["managed"].spooled == 20


def test_too_large_batch_is_split_until_it_fits(direct, sidecar):
    direct({"type": "sidecar"})
    sidecar.then({"status": 413}, {"status": 413})
    ids = emit(8)
    assert m.flush(30)
    assert sorted(sidecar.ids) == ids
    assert [len(request.events) for request in sidecar.requests] == [8, 4, 2, 2, 4]
    assert m.stats().backends["sidecar"].delivered == 8


def test_half_of_a_split_batch_that_fails_is_on_disk_alone(direct, sidecar, spool_dir):
    direct({"type": "sidecar"}, sidecar__retries=0)
    sidecar.then({"status": 413}, {}, {"status": 503, "headers": {"Retry-After": "60"}})
    ids = emit(4)
    assert m.flush(30)
    assert sidecar.ids == ids[:2]
    assert spooled_for(spool_dir, "sidecar") == ids[2:]


# ------------------------------------------------------------------------------------------------------------- fallbacks


def test_fallback_gets_nothing_while_its_primaries_work(direct, sidecar, tmp_path):
    direct({"type": "sidecar", "priority": 1}, files(tmp_path / "out", priority=2, delivery="fallback"))
    emit(50)
    assert m.flush(30)
    assert len(sidecar.ids) == 50
    assert not (tmp_path / "out").exists()


def test_fallback_steps_in_and_the_primary_gets_it_later(direct, sidecar, tmp_path, eventually):
    direct({"type": "sidecar", "priority": 1}, files(tmp_path / "out", priority=2, delivery="fallback"), sidecar__retries=0)
    sidecar.stop()
    ids = emit(50)
    result = m.flush(30)
    assert result
    eventually(lambda: ids_in(tmp_path / "out") == ids)
    assert result.backends["sidecar"].spooled == 50
    sidecar.start()
    eventually(lambda: sorted(sidecar.ids) == ids)
    eventually(lambda: m.stats().backends["sidecar"].error is None)
    more = emit(10)
    assert m.flush(30)
    eventually(lambda: sorted(sidecar.ids) == sorted(ids + more))
    assert ids_in(tmp_path / "out") == ids


def test_fallback_waits_for_all_that_it_stands_in_for(direct, sidecar, gateway, tmp_path):
    direct(
        {"type": "sidecar", "priority": 1},
        managed(gateway, priority=2),
        files(tmp_path / "second", name="second", priority=3, delivery="fallback"),
        files(tmp_path / "third", name="third", priority=4, delivery="fallback"),
        sidecar__retries=0,
    )
    sidecar.stop()
    emit(5)
    assert m.flush(30)
    assert len(gateway.ids) == 5
    assert not (tmp_path / "second").exists()
    gateway.default = {"status": 503}
    more = emit(5)
    assert m.flush(30)
    assert ids_in(tmp_path / "second") == more
    assert not (tmp_path / "third").exists()


def test_fallback_gets_only_the_events_that_the_primary_did_not_take(direct, third_party, tmp_path, spool_dir):
    path = tmp_path / "odd.jsonl"
    direct(odd(path, "retry-odd", priority=1), files(tmp_path / "out", priority=2, delivery="fallback"), sidecar__retries=0)
    ids = emit(6)
    assert m.flush(30)
    assert taken(path) == ids[::2]
    assert ids_in(tmp_path / "out") == spooled_for(spool_dir, "odd") == ids[1::2]


# --------------------------------------------------------------------------------------------------------------- results


def test_emit_batch_tells_how_its_events_stand_with_each_backend(direct, sidecar, gateway, tmp_path):
    gateway.stop()
    direct(files(tmp_path / "out"), managed(gateway), sidecar__retries=0)
    emit(3)
    result = m.emit_batch([EVENT] * 5)
    assert isinstance(result, list)
    assert len(result) == len(set(result)) == 5
    assert set(result.backends) == {"filesystem", "managed"}
    flushed = result.flush(30)
    assert flushed
    assert (flushed.backends["filesystem"].delivered, flushed.backends["managed"].spooled) == (5, 5)
    assert result.backends["filesystem"].waiting == 0
    assert "can't be reached" in result.backends["managed"].error
    assert m.emit_batch([]).flush(5)


def test_flush_is_false_while_something_is_in_memory_only(direct, third_party, tmp_path):
    direct(odd(tmp_path / "odd.jsonl", "never"), files(tmp_path / "out"), sidecar__enable_spooling=False)
    emit(3)
    result = m.flush(0.5)
    assert not result
    assert result.backends["odd"].waiting == 3


def test_what_no_disk_keeps_waits_in_memory_and_is_dropped_in_the_end_with_its_count(direct, gateway, tmp_path, eventually):
    gateway.default = {"status": 503}
    direct(managed(gateway), files(tmp_path / "out"), sidecar__enable_spooling=False, sidecar__retries=0, queue__max_events=20)
    ids = emit(10)
    eventually(lambda: m.stats().backends["managed"].error)
    assert m.stats().backends["managed"].waiting == 10
    assert m.stats().queued == 10
    gateway.default = {}
    eventually(lambda: sorted(gateway.ids) == ids)
    gateway.default = {"status": 503}
    for start in range(0, 100, 10):
        emit(10, start)
        eventually(lambda start=start: m.stats().backends["filesystem"].delivered >= 20 + start)
    eventually(lambda: m.stats().dropped)
    gateway.default = {}
    eventually(lambda: any(event["name"] == "sdk.dropped" for event in written(tmp_path / "out")))
    report = next(event for event in written(tmp_path / "out") if event["name"] == "sdk.dropped")
    assert set(report["attributes"]["backends"]) == {"managed"}
    assert sum(report["metrics"].values()) == sum(report["attributes"]["backends"]["managed"].values())
    m.close()
    stats = m.stats()
    assert stats.emitted == stats.sent + stats.dropped
    assert stats.backends["filesystem"].delivered == stats.emitted
    assert stats.backends["managed"].dropped == stats.dropped


def test_folder_that_can_t_be_written_loses_nothing_while_there_is_memory(direct, gateway, spool_dir, eventually, caplog):
    spool_dir.write_text("no folder")
    gateway.default = {"status": 503}
    direct(managed(gateway), sidecar__retries=0)
    ids = emit(10)
    eventually(lambda: "can't write to the spool folder" in caplog.text)
    gateway.default = {}
    eventually(lambda: sorted(gateway.ids) == ids)
    assert m.flush(30)


def test_folder_that_can_t_be_written_is_not_tried_without_a_pause(direct, gateway, spool_dir, eventually, monkeypatch):
    tries = []
    write = Spool.write
    monkeypatch.setattr(Spool, "write", lambda spool, batch: (tries.append(None), write(spool, batch)))
    monkeypatch.setattr("monitoring_sdk._retry.FIRST_COOLDOWN", 3600.0)
    monkeypatch.setattr("monitoring_sdk._retry.LONGEST_COOLDOWN", 3600.0)
    spool_dir.write_text("no folder")
    gateway.default = {"status": 503}
    direct(managed(gateway), sidecar__retries=0, queue__flush_interval=0.1)
    emit(10)
    eventually(lambda: m.stats().backends["managed"].error)
    emit(10)
    eventually(lambda: len(tries) > 3)
    before = len(tries)
    time.sleep(1)
    assert len(tries) - before < 50


def test_fallback_without_disk_waits_for_the_primary_s_next_probe(direct, sidecar, tmp_path, eventually, monkeypatch):
    monkeypatch.setattr("monitoring_sdk._retry.FIRST_COOLDOWN", 3600.0)
    monkeypatch.setattr("monitoring_sdk._retry.LONGEST_COOLDOWN", 3600.0)
    sidecar.stop()
    direct(
        {"type": "sidecar", "priority": 1},
        files(tmp_path / "out", priority=2, delivery="fallback"),
        sidecar__retries=0,
        sidecar__enable_spooling=False,
    )
    ids = emit(10)
    eventually(lambda: ids_in(tmp_path / "out") == ids)
    ids += emit(10)
    eventually(lambda: ids_in(tmp_path / "out") == ids)
    assert m.stats().backends["sidecar"].waiting == 20


def test_close_ends_with_a_line_of_totals_for_each_backend(direct, sidecar, tmp_path, caplog):
    direct(files(tmp_path / "out"), {"type": "sidecar"})
    emit(2)
    with caplog.at_level(logging.INFO, "monitoring_sdk"):
        m.close()
    assert "emitted=2 sent=2" in caplog.text
    assert "filesystem: delivered=2 spooled=0 replayed=0 failed=0 dropped=0; sidecar: delivered=2" in caplog.text


# ---------------------------------------------------------------------------------------------------------- many and much


def test_sixteen_threads_lose_nothing_at_any_backend(direct, sidecar, gateway, tmp_path):
    direct(files(tmp_path / "out"), {"type": "sidecar"}, managed(gateway), queue__max_events=100_000)
    ids = [[] for _ in range(16)]

    def work(mine):
        mine += emit(500)

    threads = [threading.Thread(target=work, args=(mine,)) for mine in ids]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert m.flush(60)
    expected = sorted(event_id for mine in ids for event_id in mine)
    assert sorted(sidecar.ids) == sorted(gateway.ids) == sorted(ids_in(tmp_path / "out")) == expected
    assert [event["emitter"]["seq"] for event in written(tmp_path / "out")] == list(range(1, 8001))


def test_backlog_of_a_hung_backend_is_bounded_and_goes_to_disk(direct, third_party, tmp_path, spool_dir):
    direct(odd(tmp_path / "odd.jsonl", "never"), files(tmp_path / "out"), queue__max_events=1000)
    ids = []
    for start in range(0, 20_000, 500):
        ids += emit(500, start)
        deadline = time.monotonic() + 30
        while m.stats().backends["filesystem"].delivered < start + 500:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        assert m.stats().backends["odd"].waiting <= 2000
    assert ids_in(tmp_path / "out") == ids
    m.close()
    assert spooled_for(spool_dir, "odd") == ids
    assert m.stats().dropped == 0


def test_on_full_block_waits_for_a_slow_backend_and_writes_nothing_to_disk(direct, gateway, spool_dir):
    gateway.default = {"wait": 0.01}
    direct(managed(gateway), queue__max_events=100, queue__batch_size=50, queue__on_full="block")
    ids = emit(2000)
    assert m.flush(60)
    assert sorted(gateway.ids) == ids
    assert m.stats().backends["managed"].delivered == 2000
    assert not spool_dir.exists()


def test_on_full_drop_oldest_loses_the_oldest_of_the_hung_backend_alone(direct, third_party, tmp_path, spool_dir, eventually):
    path = tmp_path / "odd.jsonl"
    direct(odd(path, "never"), files(tmp_path / "out"), queue__max_events=100, queue__on_full="drop_oldest")
    ids = []
    for start in range(0, 1000, 50):
        ids += emit(50, start)
        eventually(lambda start=start: m.stats().backends["filesystem"].delivered >= start + 50)
    stats = m.stats()
    assert stats.backends["odd"].dropped > 500
    assert stats.backends["odd"].waiting <= 200
    m.close()
    reports = [event for event in written(tmp_path / "out") if event["name"] == "sdk.dropped"]
    assert [event["event_id"] for event in written(tmp_path / "out") if event not in reports] == ids
    assert set(spooled_for(spool_dir, "odd")) >= set(ids[-50:])
    assert all(set(report["metrics"]) == {"queue_full"} for report in reports)
    stats = m.stats()
    assert stats.emitted == stats.sent + stats.spooled + stats.dropped


def test_nothing_stays_open(direct, third_party, sidecar, gateway, tmp_path):
    def once():
        direct(files(tmp_path / "out"), {"type": "sidecar"}, managed(gateway), odd(tmp_path / "odd.jsonl"))
        emit(10)
        assert m.flush(30)
        m.close()

    def handles():
        return sorted(entry.name for entry in Path("/proc/self/fd").iterdir())

    once()
    before_threads, before = set(threading.enumerate()), handles()
    for _ in range(3):
        once()
    deadline = time.monotonic() + 20
    while len(handles()) > len(before) + 3:  # the servers close their own ends when they notice
        assert time.monotonic() < deadline, handles()
        time.sleep(0.05)
    mine = [thread.name for thread in set(threading.enumerate()) - before_threads if thread.name.startswith("monitoring-sdk")]
    assert mine == []


def test_two_clients_one_after_another_share_nothing_but_the_disk(direct, gateway, tmp_path, eventually):
    gateway.stop()
    direct(managed(gateway), sidecar__retries=0)
    ids = emit(30)
    m.close()
    gateway.start()
    direct(managed(gateway), sidecar__retries=0)
    eventually(lambda: sorted(gateway.ids) == ids)
    eventually(lambda: m.stats().backends["managed"].replayed == 30)


def test_other_program_s_events_are_let_be(direct, gateway, tmp_path, spool_dir, eventually):
    gateway.stop()
    direct(managed(gateway), sidecar__retries=0)
    ids = emit(3)
    m.close()
    gateway.start()
    direct(managed(gateway), app={"name": "another", "site_id": "fab1"})
    emit(1)
    assert m.flush(30)
    assert len(gateway.ids) == 1
    assert spooled_for(spool_dir, "managed") == ids
