"""The backends that need no other package, held against TrackMate's sinks of the same names."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import json
import os
import socket
from pathlib import Path

import pytest
from sinks import registry, webhook_address
from sinks.base import SinkBatch
from sinks.webhook import WebhookSink
from tests.services.scripted_http import Garbage, Hang, Reply, ScriptedHttp

from monitoring_sdk._addresses import is_public
from monitoring_sdk._batch import Batch
from monitoring_sdk._config import BackendSettings
from monitoring_sdk._filesystem import FilesystemBackend
from monitoring_sdk._transport import Outcome
from monitoring_sdk._webhook import WebhookBackend, problems, serves

LOG = "01890a5d-ac96-774b-8cce-000000000001"
OTHER = "01890a5d-ac96-774b-8cce-000000000002"


def line(number, timestamp="2026-07-01T09:30:00.000000Z"):
    event = {"event_id": f"01890a5d-ac96-774b-8cce-{number:012d}", "timestamp": timestamp, "kind": "log", "name": "x"}
    return json.dumps({**event, "site_id": "fab1", "app": {"name": "etcher"}}, separators=(",", ":")).encode()


def batch(numbers, log=LOG, **moments):
    return Batch([line(number, **moments) for number in numbers], numbers[0], log=log)


def settings(kind, config):
    return BackendSettings(kind, kind, 1, False, 5.0, 0, config)


class Clock:
    now = 1_782_898_200.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def files(tmp_path, clock):
    made = []

    def make(log=LOG, folder="out", **config):
        made.append(FilesystemBackend(settings("filesystem", {"path": str(tmp_path / folder), **config}), log, clock=clock))
        return made[-1]

    yield make
    for backend in made:
        backend.forget()


def tree(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def events_in(folder):
    return [entry for name, data in tree(folder).items() if not name.startswith(".state") for entry in data.splitlines()]


async def test_files_are_those_that_the_sink_writes(files, tmp_path):
    moments = ["2026-07-01T09:59:59.9Z", "2026-07-01T10:00:00Z", "2026-07-01T12:30:00+02:00", "2026-06-30T23:00:00-01:30"]
    lines = [line(number, moment) for number, moment in enumerate(moments, start=1)]
    backend = files()
    assert backend.send(Batch(lines, 1, log=LOG), 5).outcome is Outcome.ACCEPTED
    sink = registry.make_sink("filesystem", "files", {"path": str(tmp_path / "sink")})
    await sink.open()
    await sink.deliver(SinkBatch(lines, first_seq=1, last_seq=4, spool_id=LOG))
    growing = {name: data for name, data in tree(tmp_path / "sink").items() if not name.startswith(".state")}
    assert {name: data for name, data in tree(tmp_path / "out").items() if not name.startswith(".state")} == growing
    assert len(growing) == 3
    backend.close()
    await sink.close()
    complete = {name: data for name, data in tree(tmp_path / "sink").items() if not name.startswith(".state")}
    assert tree(tmp_path / "out") == complete
    assert all(name.endswith(".jsonl") for name in complete)


def test_batch_that_comes_twice_stands_once(files, tmp_path):
    backend = files()
    for numbers in ([1, 2], [1, 2], [2, 3], [3]):
        assert backend.send(batch(numbers), 5).outcome is Outcome.ACCEPTED
    backend.forget()
    again = files()
    again.send(batch([2, 3, 4]), 5)
    assert events_in(tmp_path / "out") == [line(number) for number in (1, 2, 3, 4)]


def test_what_a_crash_left_half_written_comes_again_whole(files, tmp_path):
    backend = files()
    backend.send(batch([1, 2]), 5)
    (growing,) = tmp_path.glob("out/date=*/hour=*/*.open")
    with growing.open("ab") as file:
        file.write(line(3)[:40])
    stray = growing.with_name(f"{LOG}-{9:020}.jsonl.open")
    stray.write_bytes(line(9))
    backend.forget()
    again = files()
    again.send(batch([3]), 5)
    assert events_in(tmp_path / "out") == [line(number) for number in (1, 2, 3)]


def test_file_is_completed_by_size_and_by_age(files, tmp_path, clock):
    backend = files(rotate_size_mb=0.0001, rotate_seconds=60)
    backend.send(batch([1]), 5)
    assert len(list(tmp_path.glob("out/*/*/*.jsonl"))) == 1
    slow = files(log=OTHER, rotate_seconds=60)
    slow.send(batch([1], log=OTHER), 5)
    clock.now += 59
    slow.tick()
    assert len(list(tmp_path.glob("out/*/*/*.open"))) == 1
    clock.now += 2
    slow.tick()
    assert list(tmp_path.glob("out/*/*/*.open")) == []


def test_files_of_the_dead_are_completed_and_those_of_the_living_let_be(files, tmp_path, clock):
    dead, living = files(), files(log=OTHER)
    dead.send(batch([1]), 5)
    living.send(batch([1], log=OTHER), 5)
    dead.forget()  # as when the process ends: the lock is free
    third = files(log="01890a5d-ac96-774b-8cce-000000000003")
    third.tick()
    assert [path.name[:36] for path in tmp_path.glob("out/*/*/*.open")] == [OTHER]
    assert [path.name[:36] for path in tmp_path.glob("out/*/*/*.jsonl")] == [LOG]
    assert len(list(tmp_path.glob("out/.state/*.json"))) == 2
    for state in tmp_path.glob("out/.state/*.json"):
        os.utime(state, (clock.now, clock.now))
    clock.now += 40 * 86_400
    third.tick()
    assert [path.stem for path in tmp_path.glob("out/.state/*.json")] == [OTHER]


def test_events_of_a_dead_process_s_log_are_written_by_whoever_replays_them_once(files, tmp_path):
    one, two = files(log=OTHER), files(log="01890a5d-ac96-774b-8cce-000000000003")
    for backend, numbers in ((one, [1, 2]), (two, [3]), (two, [1, 2]), (one, [3, 4])):
        assert backend.send(batch(numbers), 5).outcome is Outcome.ACCEPTED
    assert sorted(events_in(tmp_path / "out")) == [line(number) for number in (1, 2, 3, 4)]


def test_clean_end_leaves_nothing_but_the_files(files, tmp_path):
    backend = files()
    backend.send(batch([1]), 5)
    backend.close()
    assert list((tmp_path / "out" / ".state").iterdir()) == []


def test_folder_that_can_t_be_is_said_with_what_to_do(files, tmp_path):
    (tmp_path / "out").write_text("a file")
    backend = files()
    answer = backend.send(batch([1]), 5)
    assert answer.outcome is Outcome.RETRY
    assert "is a file, not a folder: change `path`" in answer.detail
    backend.tick()
    (tmp_path / "out").unlink()
    assert backend.send(batch([1]), 5).outcome is Outcome.ACCEPTED


def test_state_that_can_t_be_read_is_not_overwritten(files, tmp_path):
    backend = files()
    backend.send(batch([1]), 5)
    backend.forget()
    (tmp_path / "out" / ".state" / f"{LOG}.json").write_text("{")
    answer = files().send(batch([2]), 5)
    assert answer.outcome is Outcome.KEEP
    assert "move it away" in answer.detail


# --------------------------------------------------------------------------------------------------------------- webhook


@pytest.fixture
def endpoint():
    with ScriptedHttp() as server:
        yield server


def hook(endpoint, path="/hook?key=very-secret", **config):
    url = f"http://127.0.0.1:{endpoint.port}{path}"
    return WebhookBackend(settings("webhook", {"url": url, "allow_private": True, **config}))


def asked(endpoint):
    return endpoint.asked[-1]


async def sent_by_the_sink(endpoint, lines, **config):
    url = f"http://127.0.0.1:{endpoint.port}/hook?key=very-secret"
    parsed = registry.parse_config("webhook", {"url": url, "allow_private": True, **config})
    sink = WebhookSink("hook", parsed, clock=lambda: 1_782_898_200.0)
    await sink.open()
    await sink.deliver(SinkBatch(lines, first_seq=1, last_seq=len(lines), spool_id=LOG))
    await sink.close()
    return asked(endpoint)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"secret": "a secret", "headers": {"Authorization": "Bearer abc"}, "method": "PUT"},
        {"body": "array", "compression": "gzip", "secret": "s"},
        {"body": "event", "headers": {"Content-Type": "application/vnd.x+json"}},
    ],
    ids=["plain", "signed", "array", "event"],
)
async def test_request_is_the_one_that_the_sink_sends(endpoint, config):
    lines = [line(1)] if config.get("body") == "event" else [line(1), line(2)]
    theirs = await sent_by_the_sink(endpoint, lines, **config)
    backend = hook(endpoint, **config)
    backend._clock = lambda: 1_782_898_200.0
    assert backend.send(Batch(lines, 1, log=LOG), 5).outcome is Outcome.ACCEPTED
    backend.close()
    ours = asked(endpoint)
    assert ours is not theirs
    assert (ours.method, ours.path, ours.body) == (theirs.method, theirs.path, theirs.body)
    names = {
        "content-type",
        "content-encoding",
        "idempotency-key",
        "x-trackmate-signature",
        "x-trackmate-timestamp",
        "authorization",
    }
    if "compression" in config:  # the compressed bytes may differ, and with them the signature over them
        names.discard("x-trackmate-signature")
    ours_shown = {name.lower(): value for name, value in ours.headers.items() if name.lower() in names}
    assert ours_shown == {name.lower(): value for name, value in theirs.headers.items() if name.lower() in names}


def test_signature_is_over_the_body_as_it_was_sent(endpoint):
    backend = hook(endpoint, secret="a secret", compression="gzip")
    backend.send(batch([1, 2]), 5)
    backend.close()
    headers = {name.lower(): value for name, value in asked(endpoint).headers.items()}
    signed = headers["x-trackmate-timestamp"].encode() + b"." + asked(endpoint).sent
    assert headers["x-trackmate-signature"] == "v1=" + hmac.new(b"a secret", signed, hashlib.sha256).hexdigest()


@pytest.mark.parametrize(
    ("status", "events", "outcome"),
    [
        (204, 2, Outcome.ACCEPTED), (302, 2, Outcome.KEEP), (400, 2, Outcome.TOO_LARGE), (400, 1, Outcome.REFUSED),
        (401, 1, Outcome.KEEP), (404, 1, Outcome.KEEP), (413, 2, Outcome.TOO_LARGE), (422, 1, Outcome.REFUSED),
        (429, 1, Outcome.RETRY), (500, 1, Outcome.RETRY), (503, 1, Outcome.RETRY),
    ],
)  # fmt: skip
def test_status_is_read_as_the_sink_does(endpoint, status, events, outcome):
    said = b"no: key=very-secret" if status != 204 else b""
    endpoint.script = Reply(status, said, {"Retry-After": "7"})
    backend = hook(endpoint)
    answer = backend.send(batch(list(range(1, events + 1))), 5)
    backend.close()
    assert answer.outcome is outcome
    assert "very-secret" not in answer.detail
    if status in {429, 503}:
        assert answer.retry_after == 7
    assert answer.alive is (status == 429)


def test_success_is_what_the_config_says(endpoint):
    backend = hook(endpoint, success=[201])
    assert backend.send(batch([1]), 5).outcome is Outcome.KEEP
    endpoint.script = Reply(201)
    assert backend.send(batch([1]), 5).outcome is Outcome.ACCEPTED
    backend.close()


@pytest.mark.parametrize("step", [Garbage(), Hang()], ids=["garbage", "hang"])
def test_what_is_no_answer_is_tried_again(endpoint, step):
    endpoint.script = step
    backend = hook(endpoint)
    answer = backend.send(batch([1]), 0.5)
    backend.close()
    assert answer.outcome is Outcome.RETRY
    assert "very-secret" not in answer.detail


def test_address_of_this_host_is_not_called_unless_allowed(endpoint):
    backend = hook(endpoint, allow_private=False)
    answer = backend.send(batch([1]), 5)
    backend.close()
    assert answer.outcome is Outcome.RETRY
    assert "set allow_private to true" in answer.detail
    assert endpoint.asked == []


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.1.2.3", "169.254.169.254", "0.0.0.0", "8.8.8.8", "224.0.0.1", "100.64.0.1", "::1", "fe80::1", "fd00::1",
     "fec0::1", "2606:4700::1111", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "2002:808:808::"],
)  # fmt: skip
def test_address_is_judged_as_the_sink_does(address):
    parsed = ipaddress.ip_address(address)
    assert is_public(parsed) == webhook_address.is_public(parsed)


def test_name_is_resolved_once_and_connected_to_as_judged(endpoint, monkeypatch):
    lookups = []

    def resolve(host, port, *args, **kwargs):
        lookups.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("93.184.216.34", port))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    dialled = []

    def connect(address, timeout, *_):
        dialled.append(address[0])
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "create_connection", connect)
    backend = WebhookBackend(settings("webhook", {"url": "http://hooks.example/x"}))
    assert "http://hooks.example: ConnectionRefusedError" in backend.send(batch([1]), 5).detail
    assert (lookups, dialled) == (["hooks.example"], ["93.184.216.34"])


def test_mistakes_of_a_config_are_named_and_templates_are_the_sink_s():
    assert problems({"url": "http://u:p@h/", "headers": {"Host": "x", "X-A": "ä"}}) == [
        ("config.headers.Host", "it is no header's name, or one that is set here"),
        ("config.headers.X-A", "expected one line of ASCII"),
        ("config.url", "expected an http:// or https:// address without a name, a password or a # in it"),
    ]
    assert serves({"url": "x", "headers": {"A": "b"}, "body": "array"})
    assert not serves({"url": "x", "headers": {"A": "${event.name}"}, "body": "event"})
    assert not serves({"url": "x", "body": "template", "template": "{}"})


def test_tls_file_that_is_missing_is_said(tmp_path):
    backend = WebhookBackend(
        settings("webhook", {"url": "https://127.0.0.1:9/x", "allow_private": True, "tls": {"ca_file": "no.pem"}})
    )
    answer = backend.send(batch([1]), 5)
    assert answer.outcome is Outcome.KEEP
    assert "a file of its `tls` block" in answer.detail
    assert not Path("no.pem").exists()
