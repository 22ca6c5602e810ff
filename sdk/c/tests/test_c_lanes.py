"""The C SDK's direct mode with several backends: each has a lane of its own, and trouble with one is nothing to the others."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sdk.c.tests.conftest import Harness, Speaker, direct
from tests.services.base import wait_until
from tests.services.scripted_http import Asked, Hang, Reply, ScriptedHttp, Step, json_reply

EVENT = {"kind": "log", "name": "etch"}


class Hung:
    """Takes connections and never says a word."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=16)
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.taken: list[socket.socket] = []
        self.thread = threading.Thread(target=self._take, daemon=True)
        self.thread.start()

    def _take(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.taken.append(connection)

    def stop(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join(30)
        for connection in self.taken:
            connection.close()


@pytest.fixture
def hung() -> Iterator[Hung]:
    server = Hung()
    yield server
    server.stop()


def files(tmp_path: Path, **entry: Any) -> dict[str, Any]:
    return {"type": "filesystem", "config": {"path": str(tmp_path / "out")}, **entry}


def hook(url: str, **entry: Any) -> dict[str, Any]:
    return {"type": "webhook", "config": {"url": url}, **entry}


def spooled(tmp_path: Path, backend: str, program: str = "c-da287f83") -> Path:
    """The folder of what waits for a backend; `program` is as in SPOOL_FORMAT.md, of the program `c` at `fab1`."""
    return tmp_path / "spool" / "direct" / program / backend


def numbers(folder: Path) -> list[int]:
    """The emitter's numbers in all whole lines below a folder, growing files included, in order."""
    while True:  # files are renamed when they are complete: read again when that happened meanwhile
        found = sorted(folder.rglob("*.jsonl*"))
        try:
            lines = [line for file in found for line in file.read_bytes().split(b"\n")[:-1]]
        except FileNotFoundError:
            continue
        if sorted(folder.rglob("*.jsonl*")) == found:
            return sorted(json.loads(line)["emitter"]["seq"] for line in lines)


def wait_for_numbers(folder: Path, last: int) -> None:
    wait_until(lambda: numbers(folder) == list(range(1, last + 1)), seconds=60, what=f"events 1 to {last} in {folder.name}")


def asked_numbers(server: ScriptedHttp) -> set[int]:
    return {event["emitter"]["seq"] for asked in list(server.asked) for event in asked.lines}


def repeat(speaker: Speaker, times: int) -> None:
    assert speaker.do("repeat", event=EVENT, times=times)["ok"]


@pytest.mark.parametrize("order", ["first", "last"])
def test_a_hung_backend_keeps_the_others_waiting(order: str, harness: Harness, hung: Hung, tmp_path: Path) -> None:
    priority = 1 if order == "first" else 9
    backends = [hook(hung.url, priority=priority, timeout=600), files(tmp_path, priority=5)]
    speaker = harness()
    assert speaker.do("initialize", config=direct(backends, tmp_path))["ok"]
    repeat(speaker, 10)
    # The call that hangs does so for ten minutes: what arrives before the deadline of this test did not wait for it.
    wait_for_numbers(tmp_path / "out", 10)
    wait_until(lambda: len(hung.taken) > 0, seconds=60, what="the call that hangs")
    for round_ in range(2, 12):
        repeat(speaker, 10)
        wait_for_numbers(tmp_path / "out", 10 * round_)
    answer = speaker.do("flush", timeout=0.2)
    assert not answer["flushed"]
    assert answer["backends"]["filesystem"]["delivered"] == 110
    assert answer["backends"]["webhook"]["delivered"] == 0
    assert speaker.do("close")["ok"]
    assert speaker.end() == 0
    assert numbers(spooled(tmp_path, "webhook")) == list(range(1, 111))
    assert numbers(tmp_path / "out") == list(range(1, 111))


def test_the_end_waits_for_a_backend_that_hangs(harness: Harness, hung: Hung, tmp_path: Path) -> None:
    others = [hook(hung.url, name=f"hung-{place}", timeout=600) for place in range(4)]
    speaker = harness()
    assert speaker.do("initialize", config=direct([*others, files(tmp_path, priority=200)], tmp_path))["ok"]
    repeat(speaker, 50)
    wait_until(lambda: len(hung.taken) == 4, seconds=60, what="the four calls that hang")
    repeat(speaker, 50)
    started = time.monotonic()
    assert speaker.end() == 0
    assert time.monotonic() - started < 60  # two seconds, on a machine with nothing else to do
    for place in range(4):
        assert numbers(spooled(tmp_path, f"hung-{place}")) == list(range(1, 101))
    assert numbers(tmp_path / "out") == list(range(1, 101))


@pytest.mark.parametrize("on_full", ["spool", "drop_oldest", "block"])
def test_what_a_hung_backend_does_not_take_fills_the_memory(on_full: str, harness: Harness, hung: Hung, tmp_path: Path) -> None:
    backends = [hook(hung.url, timeout=600 if on_full != "block" else 1), files(tmp_path)]
    queue = {"max_events": 2000, "batch_size": 100, "flush_interval": 0.1, "on_full": on_full}
    speaker = harness()
    assert speaker.do("initialize", config=direct(backends, tmp_path, queue=queue))["ok"]
    for _ in range(20):
        repeat(speaker, 1000)
        wait_until(
            lambda: speaker.do("stats")["stats"]["queued"] <= 2 * 2000 + 2 * 5000, seconds=60, what="the backlog to be bounded"
        )
    answer = speaker.do("flush", timeout=0.2)
    assert speaker.do("close")["ok"]
    stats = speaker.do("stats")["stats"]
    assert stats["queued"] == 0
    assert stats["sent"] + stats["spooled"] + stats["dropped"] == stats["emitted"]
    assert speaker.end() == 0
    everything = set(range(1, stats["emitted"] + 1))
    kept = set(numbers(spooled(tmp_path, "webhook")))
    written = set(numbers(tmp_path / "out")) | set(numbers(spooled(tmp_path, "filesystem")))
    if on_full == "drop_oldest":
        # For each its own oldest are given up, and reported by events of the SDK's own.
        assert stats["emitted"] > 20_000
        assert answer["backends"]["webhook"]["dropped"] > 10_000
        assert stats["dropped"] >= max(len(everything - kept), len(everything - written))
    else:
        assert stats["emitted"] == 20_000
        assert stats["dropped"] == 0
        assert kept == written == everything


def test_a_fallback_stands_in_for_one_of_two(harness: Harness, tmp_path: Path) -> None:
    """It gets what all of better priority failed to take, and nothing else."""
    with ScriptedHttp(Reply(200)) as good, ScriptedHttp(Reply(503)) as bad:
        backends = [
            hook(good.url, name="good", priority=1),
            hook(bad.url, name="bad", priority=2),
            files(tmp_path, delivery="fallback", priority=3),
        ]
        speaker = harness()
        assert speaker.do("initialize", config=direct(backends, tmp_path))["ok"]
        repeat(speaker, 20)
        assert speaker.do("flush", timeout=60)["flushed"]
        good.script = Reply(503)
        repeat(speaker, 30)
        answer = speaker.do("flush", timeout=60)
        assert answer["flushed"]
        assert answer["backends"]["filesystem"]["delivered"] == 30
        assert answer["backends"]["good"]["delivered"] == 20
        good.script = Reply(200)
        wait_until(
            lambda: speaker.do("stats")["stats"]["replayed"] == 30, seconds=60, what="the replay to the one that works again"
        )
        assert speaker.end() == 0
        assert asked_numbers(good) == set(range(1, 51))
    assert numbers(tmp_path / "out") == list(range(21, 51))
    assert set(numbers(spooled(tmp_path, "bad"))) == set(range(1, 51))


def test_a_fallback_stands_in_for_the_half_that_was_too_large(harness: Harness, tmp_path: Path) -> None:
    """A batch that goes in halves may fail in part: the fallback gets this part and not the rest."""

    def script(asked: Asked) -> Step:
        taken = {event["emitter"]["seq"] for event in asked.lines}
        if len(taken) > 25:
            return Reply(413)
        return Reply(503 if 80 in taken else 200)

    with ScriptedHttp(script) as server:
        backends = [hook(server.url, priority=1), files(tmp_path, delivery="fallback", priority=2)]
        config = direct(backends, tmp_path, queue={"flush_interval": 60})
        speaker = harness()
        assert speaker.do("initialize", config=config)["ok"]
        repeat(speaker, 100)
        answer = speaker.do("flush", timeout=60)
        assert answer["flushed"]
        delivered = answer["backends"]["webhook"]["delivered"]
        stats = speaker.do("stats")["stats"]
        assert stats["sent"] == delivered
        assert stats["spooled"] == 100 - delivered
        assert speaker.end() == 0
        written = numbers(tmp_path / "out")
        assert 80 in written
        assert len(written) == len(set(written)) == answer["backends"]["filesystem"]["delivered"] == 100 - delivered
        assert set(numbers(spooled(tmp_path, "webhook"))) == set(written)


def test_without_a_spool_a_fallback_gets_nothing_while_the_primary_is_down(harness: Harness, tmp_path: Path) -> None:
    with ScriptedHttp(Reply(503)) as bad:
        backends = [hook(bad.url, priority=1), files(tmp_path, delivery="fallback", priority=2)]
        config = direct(backends, tmp_path)
        config["sdk"]["sidecar"]["enable_spooling"] = False
        speaker = harness()
        assert speaker.do("initialize", config=config)["ok"]
        for round_ in range(1, 6):
            repeat(speaker, 10)
            wait_for_numbers(tmp_path / "out", 10 * round_)
        bad.script = Reply(200)
        assert speaker.do("flush", timeout=60)["flushed"]
        stats = speaker.do("stats")["stats"]
        assert stats["sent"] == 50
        assert stats["dropped"] == 0
        assert speaker.end() == 0
        assert asked_numbers(bad) == set(range(1, 51))
        assert numbers(tmp_path / "out") == list(range(1, 51))


def test_a_forked_child_sends_what_the_lanes_of_its_parent_have(harness: Harness, hung: Hung, tmp_path: Path) -> None:
    speaker = harness()
    assert speaker.do("initialize", config=direct([hook(hung.url, timeout=600), files(tmp_path)], tmp_path))["ok"]
    repeat(speaker, 10)
    wait_until(lambda: len(numbers(tmp_path / "out")) == 10, seconds=60, what="the parent's events")
    wait_until(lambda: len(hung.taken) == 1, seconds=60, what="the call that hangs")
    child = speaker.do("fork", commands=[{"do": "emit_event", "event": {"kind": "log", "name": "child"}}, {"do": "close"}])
    assert child["status"] == 0, speaker.log.read_text()
    repeat(speaker, 10)
    wait_until(lambda: len(numbers(tmp_path / "out")) == 21, seconds=60, what="the events of both")
    assert speaker.end() == 0
    assert numbers(tmp_path / "out") == sorted([*range(1, 21), 1])
    assert numbers(spooled(tmp_path, "webhook")) == sorted([*range(1, 21), 1])


def test_a_document_that_elasticsearch_refuses_is_kept_nowhere(harness: Harness, tmp_path: Path) -> None:
    error = {"type": "document_parsing_exception", "reason": 'failed to parse field "t"'}

    def bulk(asked: Asked) -> Step:
        if asked.method != "POST":
            return json_reply({"acknowledged": True}) if asked.method == "PUT" else Reply(404)
        bad = [event["attributes"]["n"] % 10 == 3 for event in asked.lines[1::2]]
        return json_reply({"items": [{"create": {"status": 400, "error": error} if each else {"status": 201}} for each in bad]})

    with ScriptedHttp(bulk) as elasticsearch:
        speaker = harness()
        backends = [{"type": "elk", "config": {"url": elasticsearch.url}}]
        assert speaker.do("initialize", config=direct(backends, tmp_path))["ok"]
        repeat(speaker, 40)
        answer = speaker.do("flush", timeout=60)
        assert answer["flushed"]
        assert {key: answer["backends"]["elk"][key] for key in ("delivered", "failed", "rejected")} == {
            "delivered": 36,
            "failed": 4,
            "rejected": 0,
        }
        stats = speaker.do("stats")["stats"]
        assert (stats["sent"], stats["failed"], stats["rejected"]) == (36, 4, 0)
        assert speaker.end() == 0
    letters = [json.loads(line) for file in spooled(tmp_path, "elk").glob("*.refused") for line in file.read_bytes().splitlines()]
    assert sorted(json.loads(letter["event"])["attributes"]["n"] for letter in letters) == [3, 13, 23, 33]
    assert {letter["reason"] for letter in letters} == {f"{error['type']}: {error['reason']}"}
    assert all(
        letter["seq"] == (event := json.loads(letter["event"]))["emitter"]["seq"] and letter["event_id"] == event["event_id"]
        for letter in letters
    )
    assert {letter["backend"] for letter in letters} == {"elk"}
    log = speaker.log.read_text()
    assert "kept as *.refused in" in log
    assert "quarantine" not in log


def test_what_waits_for_one_program_goes_to_the_address_of_another(harness: Harness, tmp_path: Path) -> None:
    with ScriptedHttp(Reply(503)) as down, ScriptedHttp(Reply(200)) as other:
        for name, server in (("Ätzer 3/b", down), ("c", other)):
            config = direct([hook(server.url)], tmp_path)
            config["sdk"]["app"]["name"] = name
            speaker = harness()
            assert speaker.do("initialize", config=config)["ok"]
            assert speaker.do("emit_event", event={"kind": "log", "name": name})["ok"]
            assert speaker.do("flush", timeout=60)["flushed"]
            assert speaker.do("close")["ok"]
            assert speaker.end() == 0
        assert {event["name"] for asked in list(other.asked) for event in asked.lines} == {"c"}
    # The same folder as that of the other SDKs, so that a program in any language sends what one of its name has left.
    assert numbers(spooled(tmp_path, "webhook", "_tzer_3_b-d03d264e")) == [1]


def test_a_thread_or_a_file_is_left_behind(harness: Harness, hung: Hung, tmp_path: Path) -> None:
    with ScriptedHttp(Reply(200)) as good:
        speaker = harness()
        backends = [hook(good.url, name="good"), hook(hung.url, name="hung", timeout=600), files(tmp_path)]
        seen = []
        for _ in range(4):
            assert speaker.do("initialize", config=direct(backends, tmp_path))["ok"]
            repeat(speaker, 10)
            assert speaker.do("close")["ok"]
            wait_until(lambda: speaker.do("resources")["threads"] == 1, seconds=60, what="the threads to end")
            seen.append(speaker.do("resources")["files"])
        assert seen[1] == seen[-1]
        assert speaker.end() == 0


def test_hung_answers_are_waited_for_one_after_the_other(harness: Harness, tmp_path: Path) -> None:
    """Two backends that answer late take their time side by side: each has what the other has not yet said that it took."""
    with ScriptedHttp(Hang()) as one, ScriptedHttp(Hang()) as two:
        speaker = harness()
        backends = [hook(one.url, name="one", timeout=600), hook(two.url, name="two", timeout=600)]
        assert speaker.do("initialize", config=direct(backends, tmp_path))["ok"]
        repeat(speaker, 10)
        everything = set(range(1, 11))
        wait_until(lambda: asked_numbers(one) == asked_numbers(two) == everything, seconds=60, what="the batch at both")
        assert speaker.end() == 0
