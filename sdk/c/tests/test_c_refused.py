"""What a backend of the C SDK's direct mode will never take: kept aside as letters with the reason, in nobody's way."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from sdk.c.tests.conftest import SANITIZERS, Harness, Speaker, Trapper, direct
from tests.services.base import wait_until
from tests.services.scripted_http import Asked, Reply, ScriptedHttp, Step, json_reply
from tests.services.zabbix import Zabbix

EMITTER = "01890a5d-ac96-774b-8cce-000000000001"
PROGRAM = "c-da287f83"  # as in SPOOL_FORMAT.md, of the program `c` at `fab1`
DAMAGE = [b"\xff\x00 garbage", b"[1]", b'{"torn": "in the mid', b'{"bytes": "\xff"}', b"7"]
DAMAGED = "the spool file is damaged here"


@pytest.fixture
def trapper() -> Iterator[Trapper]:
    running = Trapper(set())
    running.start()
    yield running
    running.stop()


def key(metric: str) -> str:
    return f"trackmate.metric[fab1,c,etch,{metric},]"


def metric(name: str, number: int) -> dict[str, Any]:
    return {"kind": "metric", "name": "etch", "metrics": {name: 1.5}, "attributes": {"n": number}}


def waiting(number: int) -> bytes:
    """The line of an event that another process has left."""
    event = {
        "event_id": f"01890a5d-ac96-774b-8cce-{number:012}",
        "timestamp": f"2026-07-01T12:00:{number:02}.000000Z",
        "emitter": {"id": EMITTER, "seq": number},
        "site_id": "fab1",
        "app": {"name": "c"},
        **metric("depth", number),
    }
    return json.dumps(event).encode()


def folder_of(tmp_path: Path, backend: str) -> Path:
    folder = tmp_path / "spool" / "direct" / PROGRAM / backend
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def leave(folder: Path, number: int, *lines: bytes) -> None:
    (folder / f"{EMITTER}.7.{number:020}.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))


def letters(tmp_path: Path, backend: str) -> list[dict[str, Any]]:
    """All letters that were kept, each of which must have the one form."""
    files = sorted(folder_of(tmp_path, backend).glob("*.jsonl.refused"))
    kept = [json.loads(line) for file in files for line in file.read_bytes().splitlines()]
    assert all(list(letter) == ["dead_at", "backend", "seq", "event_id", "reason", "event"] for letter in kept)
    assert {letter["backend"] for letter in kept} <= {backend}
    return kept


def numbers(kept: list[dict[str, Any]]) -> list[int]:
    """The `n` of the events in letters, of which each letter says the same as its event."""
    events = [json.loads(letter["event"]) for letter in kept]
    for letter, event in zip(kept, events, strict=True):
        assert (letter["seq"], letter["event_id"]) == (event["emitter"]["seq"], event["event_id"])
    return sorted(event["attributes"]["n"] for event in events)


def counted(answer: Mapping[str, Any], backend: str) -> dict[str, int]:
    return {name: answer["backends"][backend][name] for name in ("delivered", "replayed", "failed", "rejected")}


def done(speaker: Speaker) -> int:
    """Events that are delivered, at once or from disk."""
    stats = speaker.do("stats")["stats"]
    return int(stats["sent"] + stats["replayed"])


# --------------------------------------------------------------------------------------------------------------------- Zabbix


def test_values_that_zabbix_refuses_are_kept_nowhere(harness: Harness, trapper: Trapper, tmp_path: Path) -> None:
    """They are sent again for `item_wait` seconds, since an item may be new; then their events alone are refused."""
    trapper.items = {key("depth"), key("width")}
    names = ["lost" if number % 10 == 3 else "width" if number % 2 else "depth" for number in range(40)]
    backends = [{"type": "zabbix", "config": {**trapper.config, "item_wait": 0.5}}]
    speaker = harness("sanitize", env=SANITIZERS)
    assert speaker.do("initialize", config=direct(backends, tmp_path))["ok"]
    assert speaker.do("emit_batch", events=[metric(name, number) for number, name in enumerate(names)])["ok"]
    wait_until(lambda: done(speaker) == 36, seconds=60, what="what Zabbix has items for")
    answer = speaker.do("flush", timeout=60)
    assert (answer["backends"]["zabbix"]["failed"], answer["backends"]["zabbix"]["rejected"]) == (4, 0)
    # From now on it is known that the item takes nothing: what comes is refused at once, and holds up nothing.
    sent = len(trapper.requests)
    assert speaker.do("emit_batch", events=[metric("depth", 40), metric("lost", 43), metric("width", 41)])["ok"]
    answer = speaker.do("flush", timeout=60)
    assert answer["flushed"]
    assert (answer["backends"]["zabbix"]["failed"], answer["backends"]["zabbix"]["rejected"]) == (5, 0)
    assert sorted(value["key"] for request in trapper.requests[sent:] for value in request) == [
        key("depth"),
        key("lost"),
        key("width"),
    ]
    assert done(speaker) == 38
    assert speaker.do("stats")["stats"]["failed"] == 5
    assert speaker.end() == 0
    kept = letters(tmp_path, "zabbix")
    assert numbers(kept) == [3, 13, 23, 33, 43]
    reason = f"Zabbix took no value for {key('lost')} in 0.5 s: the host 'wafer-monitor' has no such enabled trapper item"
    assert {letter["reason"] for letter in kept} == {reason}
    assert len({(value["clock"], value["ns"]) for value in trapper.values}) == 38
    assert not list(folder_of(tmp_path, "zabbix").glob("*.jsonl"))


def test_a_value_is_refused_before_its_new_item_is_known(harness: Harness, trapper: Trapper, tmp_path: Path) -> None:
    trapper.items = {key("depth")}
    speaker = harness()
    assert speaker.do("initialize", config=direct([{"type": "zabbix", "config": trapper.config}], tmp_path))["ok"]
    assert speaker.do("emit_batch", events=[metric("depth", 0), metric("new", 1), metric("depth", 2)])["ok"]
    wait_until(lambda: len(trapper.requests) > 6, seconds=60, what="several tries")
    trapper.items = {key("depth"), key("new")}
    wait_until(lambda: done(speaker) == 3, seconds=60, what="the values of both items")
    assert speaker.do("stats")["stats"]["failed"] == 0
    assert speaker.end() == 0
    assert letters(tmp_path, "zabbix") == []


def test_the_events_of_a_host_that_takes_nothing_are_given_up(harness: Harness, trapper: Trapper, tmp_path: Path) -> None:
    """As of one whose name is wrong, or that is disabled for a while: nothing is the events' fault."""
    backends = [{"type": "zabbix", "config": {**trapper.config, "item_wait": 0.001}}]
    speaker = harness()
    assert speaker.do("initialize", config=direct(backends, tmp_path))["ok"]
    assert speaker.do("emit_batch", events=[metric("depth", 0), metric("width", 1)])["ok"]

    def checks() -> int:
        return sum(request[0]["key"] == "trackmate.check" for request in list(trapper.requests))

    wait_until(lambda: checks() > 3, seconds=60, what="several tries")
    assert letters(tmp_path, "zabbix") == []
    trapper.items = None
    wait_until(lambda: speaker.do("stats")["stats"]["replayed"] == 2, seconds=60, what="the values")
    assert speaker.do("stats")["stats"]["failed"] == 0
    assert speaker.end() == 0
    assert letters(tmp_path, "zabbix") == []


def test_a_real_zabbix_refuses_another_value(harness: Harness, zabbix: Zabbix, tmp_path: Path) -> None:
    host = zabbix.fresh_name()
    zabbix.make_host(host)
    zabbix.make_item(host, key("depth"), 0)
    config = {"url": f"http://127.0.0.1:{zabbix.port}", "host": host, "item_wait": 1}
    zabbix.make_item(host, "trackmate.check", 0)
    speaker = harness()
    assert speaker.do("initialize", config=direct([{"type": "zabbix", "config": config}], tmp_path))["ok"]
    names = ["lost" if number in {3, 7} else "depth" for number in range(10)]
    assert speaker.do("emit_batch", events=[metric(name, number) for number, name in enumerate(names)])["ok"]
    wait_until(lambda: done(speaker) == 8, seconds=90, what="the values that have an item", interval=0.5)
    wait_until(lambda: speaker.do("stats")["stats"]["failed"] == 2, seconds=60, what="those that have none")
    assert speaker.end() == 0
    assert numbers(letters(tmp_path, "zabbix")) == [3, 7]

    def kept() -> int:
        zabbix.flush()
        return sum(found == key("depth") for found, _ in zabbix.history(host))

    wait_until(lambda: kept() == 8, seconds=60, what="the values in the history", interval=0.5)


# --------------------------------------------------------------------------------------------------------------- whole batches


def test_a_batch_that_is_refused_is_kept_without_the_reason(harness: Harness, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "webhook")
    leave(folder, 1, waiting(1), waiting(2))
    leave(folder, 3, waiting(3))

    def script(asked: Asked) -> Step:
        found = {event["attributes"]["n"] for event in asked.lines}
        if len(found) > 1 and 2 in found:
            return Reply(413)
        return Reply(400, b"not this one") if found & {2, 103, 104} else Reply(200)

    with ScriptedHttp(script) as server:
        speaker = harness("sanitize", env=SANITIZERS)
        assert speaker.do("initialize", config=direct([{"type": "webhook", "config": {"url": server.url}}], tmp_path))["ok"]
        assert speaker.do("emit_batch", events=[metric("depth", 103), metric("depth", 104)])["ok"]
        wait_until(lambda: speaker.do("stats")["stats"]["replayed"] == 2, seconds=60, what="what was left")
        answer = speaker.do("flush", timeout=60)
        assert answer["flushed"]
        assert counted(answer, "webhook") == {"delivered": 0, "replayed": 2, "failed": 3, "rejected": 0}
        assert speaker.end() == 0
        assert {1, 3} <= {event["attributes"]["n"] for asked in list(server.asked) for event in asked.lines}
    kept = letters(tmp_path, "webhook")
    assert numbers(kept) == [2, 103, 104]
    assert {letter["reason"] for letter in kept} == {"it answered 400: not this one"}
    assert not list(folder.glob("*.jsonl"))


def test_what_a_sidecar_refuses_as_a_whole_is_no_longer_the_batch_itself(harness: Harness, tmp_path: Path) -> None:
    """In sidecar mode: SPOOL_FORMAT.md says that a person looks at it, as it was sent."""
    with ScriptedHttp(Reply(400, b"no")) as server:
        config = direct([], tmp_path)
        config["sdk"] |= {"mode": "sidecar", "sidecar": {**config["sdk"]["sidecar"], "url": server.url}}
        speaker = harness()
        assert speaker.do("initialize", config=config)["ok"]
        assert speaker.do("emit_event", event=metric("depth", 1))["ok"]
        assert speaker.do("flush", timeout=60)["flushed"]
        assert speaker.end() == 0
    (file,) = (tmp_path / "spool").glob("*.jsonl.refused")
    assert json.loads(file.read_bytes())["attributes"] == {"n": 1}


# -------------------------------------------------------------------------------------------------------------- damaged lines


@pytest.mark.parametrize("kind", ["elk", "filesystem", "webhook", "zabbix"])
def test_a_damaged_line_is_delivered_or_holds_up_the_others(
    kind: str, harness: Harness, trapper: Trapper, tmp_path: Path
) -> None:
    trapper.items = None
    folder = folder_of(tmp_path, kind)
    leave(folder, 1, waiting(1), *DAMAGE[:3], waiting(2), DAMAGE[3])
    leave(folder, 7, b"\x00" * 9)
    leave(folder, 8, DAMAGE[4], waiting(3))

    def script(asked: Asked) -> Step:
        if kind == "elk" and asked.method != "POST":
            return json_reply({"acknowledged": True}) if asked.method == "PUT" else Reply(404)
        return json_reply({"items": [{"create": {"status": 201}} for line in asked.lines if "create" in line]})

    with ScriptedHttp(script) as server:
        configs = {"filesystem": {"path": str(tmp_path / "out")}, "zabbix": trapper.config}
        speaker = harness("sanitize", env=SANITIZERS)
        backend = {"type": kind, "config": configs.get(kind, {"url": server.url})}
        assert speaker.do("initialize", config=direct([backend], tmp_path))["ok"]
        assert speaker.do("emit_event", event=metric("depth", 4))["ok"]
        wait_until(lambda: speaker.do("stats")["stats"]["replayed"] == 3, seconds=60, what="the files")
        answer = speaker.do("flush", timeout=60)
        assert counted(answer, kind) == {"delivered": 1, "replayed": 3, "failed": 6, "rejected": 0}
        assert speaker.end() == 0
        asked = [event for each in list(server.asked) if each.method == "POST" for event in each.lines if "name" in event]
    files = [json.loads(line) for file in (tmp_path / "out").rglob("*.jsonl") for line in file.read_bytes().splitlines()]
    if kind == "zabbix":
        assert len(trapper.values) == 4
    else:
        assert sorted(event["attributes"]["n"] for event in files + asked) == [1, 2, 3, 4]
    assert {path.suffix for path in folder.iterdir()} == {".refused"}
    kept = letters(tmp_path, kind)
    texts = [*(line.decode(errors="replace") for line in DAMAGE), "\x00" * 9]
    assert sorted((letter["seq"], letter["event"]) for letter in kept) == sorted(
        zip([2, 3, 4, 6, 8, 7], texts, strict=True), key=lambda each: each[0]
    )
    assert {(letter["reason"], letter["event_id"]) for letter in kept} == {(DAMAGED, None)}
    log = speaker.log.read_text()
    assert log.count(f"the first: {DAMAGED}") == 3
    assert "kept as *.refused in" in log


def test_damage_is_counted_at_every_try_and_hides_what_the_backend_refuses(harness: Harness, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "elk")
    leave(folder, 1, waiting(1), b"[1]", waiting(2))

    def bulk(asked: Asked) -> Step:
        if asked.method != "POST":
            return json_reply({"acknowledged": True}) if asked.method == "PUT" else Reply(404)
        bad = [event["attributes"]["n"] == 1 for event in asked.lines[1::2]]
        error = {"type": "document_parsing_exception", "reason": "no"}
        return json_reply({"items": [{"create": {"status": 400, "error": error} if each else {"status": 201}} for each in bad]})

    with ScriptedHttp(Reply(503)) as server:
        speaker = harness()
        assert speaker.do("initialize", config=direct([{"type": "elk", "config": {"url": server.url}}], tmp_path))["ok"]
        assert speaker.do("emit_event", event=metric("depth", 4))["ok"]
        wait_until(lambda: len(server.asked) > 3, seconds=60, what="several tries")
        server.script = bulk
        wait_until(lambda: speaker.do("stats")["stats"]["replayed"] == 2, seconds=60, what="the events")
        assert counted(speaker.do("flush", timeout=60), "elk") == {"delivered": 0, "replayed": 2, "failed": 2, "rejected": 0}
        assert speaker.end() == 0
    kept = sorted((letter["seq"], letter["reason"]) for letter in letters(tmp_path, "elk"))
    assert kept == [(1, "document_parsing_exception: no"), (2, DAMAGED)]
