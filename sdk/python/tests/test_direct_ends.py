"""The ends of programs in direct mode: exit, crash, signals, forks; judged by what each backend and the disk hold."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time

import pytest
from sdk.python.tests.conftest import written

import monitoring_sdk as m
from monitoring_sdk._config import AppSettings
from monitoring_sdk._spool import backend_folder

SLACK = 4.0
"""The contract says two seconds; the machine that runs the tests may be busy."""


@pytest.fixture
def run_direct(run_program, tmp_path, gateway, sidecar):
    """Start a program in direct mode with the backends files, sidecar and managed, and any more; see `run_program`."""

    def start(program, *backends, **overrides):
        return run_program(
            program,
            mode="direct",
            direct_backends=[
                {"type": "filesystem", "name": "files", "config": {"path": str(tmp_path / "out")}},
                {"type": "sidecar"},
                {"type": "managed", "config": {"url": gateway.url}},
                *backends,
            ],
            **overrides,
        )

    return start


@pytest.fixture
def held(spool_dir):
    """What waits on disk for a backend: the numbers `i` of the events."""

    def look(backend):
        found = []
        for file in spool_dir.glob(f"direct/*/{backend}/*.jsonl"):
            with contextlib.suppress(FileNotFoundError):  # somebody replays it
                found += [json.loads(line)["attributes"]["i"] for line in file.read_bytes().splitlines()]
        return found

    return look


def numbers(events):
    return sorted(event["attributes"]["i"] for event in events)


def ended(process, deadline=60):
    out, err = process.communicate(timeout=deadline)
    return out.split(), err, time.time()


def odd(tmp_path, behaviour):
    return {"type": "odd", "config": {"path": str(tmp_path / "odd.jsonl"), "behaviour": behaviour}}


def test_program_that_just_ends_delivers_everything_everywhere(run_direct, sidecar, gateway, tmp_path, held):
    _, err, _ = ended(run_direct("start()\nfor i in range(1000):\n    log(i)\n"))
    assert err == ""
    everything = list(range(1000))
    assert numbers(written(tmp_path / "out")) == numbers(sidecar.accepted) == numbers(gateway.accepted) == everything
    assert [held(name) for name in ("files", "sidecar", "managed")] == [[], [], []]
    assert list(tmp_path.glob("out/**/*.open")) == []


def test_events_of_exit_handlers_are_delivered_or_on_disk(run_direct, sidecar, gateway, tmp_path, held):
    _, err, _ = ended(run_direct("import atexit\nstart()\natexit.register(log, 7)\nlog(6)\n"))
    assert err == ""
    assert numbers(written(tmp_path / "out")) == numbers(sidecar.accepted) == [6, 7]
    assert sorted(numbers(gateway.accepted) + held("managed")) == [6, 7]


def test_sinks_deliver_at_the_end_also_when_the_first_client_was_of_another_mode(run_program, third_party, tmp_path):
    """What runs at the very end is called in the reverse order of registration, and the executors' end was registered since."""
    program = f"""
start()
m.close()
m.initialize(
    app={{'name': 'etcher', 'site_id': 'fab1'}}, mode='direct', sidecar__spool_dir={str(tmp_path / "spool")!r},
    direct_backends=[{odd(tmp_path, "executor-once")!r}], queue__flush_interval=30,
)
log(1)
"""
    _, err = run_program(program).communicate(timeout=60)
    assert err == ""
    (note,) = (tmp_path / "odd.jsonl").read_text().splitlines()
    assert [event["attributes"]["i"] for event in json.loads(note)["events"]] == [1]


@pytest.mark.parametrize("behaviour", ["never", "block", "deaf", "executor"])
def test_program_ends_within_two_seconds_whatever_hangs(run_direct, third_party, sidecar, gateway, tmp_path, held, behaviour):
    program = "start()\nfor i in range(3000):\n    log(i)\nsay(time.time())\n"
    process = run_direct(program, odd(tmp_path, behaviour))
    out, err, end = ended(process)
    assert process.returncode == 0
    assert "Traceback" not in err
    assert end - float(out[0]) < SLACK
    everything = list(range(3000))
    assert sorted(held("odd")) == everything
    # A busy machine delivers less within the two seconds; the rest is on disk.
    assert sorted(numbers(written(tmp_path / "out")) + held("files")) == everything
    for name, delivered in (("sidecar", sidecar.accepted), ("managed", gateway.accepted)):
        assert set(numbers(delivered)).union(held(name)) == set(everything)
        assert numbers(delivered)


@pytest.mark.parametrize("trouble", ["dead", "hung", "dripping"])
def test_program_ends_within_two_seconds_with_a_built_in_backend_in_trouble(run_direct, sidecar, tmp_path, held, trouble):
    if trouble == "dead":
        sidecar.stop()
    sidecar.default = {"dead": {}, "hung": {"hang": True}, "dripping": {"drip": 0.2}}[trouble]
    out, err, end = ended(run_direct("start()\nfor i in range(3000):\n    log(i)\nsay(time.time())\n"))
    assert "Traceback" not in err
    assert end - float(out[0]) < SLACK
    assert numbers(written(tmp_path / "out")) == list(range(3000))
    assert set(numbers(sidecar.accepted)).union(held("sidecar")) == set(range(3000))


def test_sigterm_loses_nothing_and_still_kills(run_direct, sidecar, gateway, tmp_path):
    process = run_direct("start()\nfor i in range(300):\n    log(i)\nsay('ready')\nwait()\n", queue__flush_interval=30)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    ended(process)
    assert process.returncode == -signal.SIGTERM
    assert numbers(written(tmp_path / "out")) == numbers(sidecar.accepted) == numbers(gateway.accepted) == list(range(300))


def test_killed_program_s_events_reach_every_backend_through_the_next_one(
    run_direct, sidecar, gateway, tmp_path, held, eventually
):
    """What was delivered or on disk before `kill -9` is at each backend in the end, once; what was in memory only is lost."""
    gateway.stop()
    program = """
start()
for i in range(1000):
    log(i)
m.flush(20)
say('safe')
log(1000)
os.kill(os.getpid(), signal.SIGKILL)
"""
    process = run_direct(program, queue__flush_interval=30, sidecar__retries=0)
    out, _, _ = ended(process)
    assert (out, process.returncode) == (["safe"], -signal.SIGKILL)
    everything = list(range(1000))
    assert sorted(held("managed")) == everything
    gateway.start()
    _, err, _ = ended(run_direct("start()\nwhile m.stats().replayed < 1000:\n    time.sleep(0.01)\n"))
    assert err == ""
    assert numbers(written(tmp_path / "out")) == numbers(sidecar.accepted) == numbers(gateway.accepted) == everything
    assert held("managed") == []
    assert list(tmp_path.glob("out/**/*.open")) == []


def test_kills_in_the_middle_of_replays_leave_each_event_once_in_the_files(run_direct, tmp_path, held, eventually, spool_dir):
    """The folder on disk can't be written to at first; then programs replay, and are killed while they do."""
    (tmp_path / "out").write_text("no folder")
    for n in range(3):
        program = f"start()\nfor i in range(200):\n    log({n} * 1000 + i)\n    if i % 20 == 0: m.flush(20)\n"
        ended(run_direct(program, sidecar__retries=0))
    everything = sorted(n * 1000 + i for n in range(3) for i in range(200))
    assert sorted(held("files")) == everything
    (tmp_path / "out").unlink()
    for _ in range(4):
        process = run_direct("start()\nsay('ready')\nwait()\n")
        assert process.stdout.readline() == "ready\n"
        known = len(held("files"))
        eventually(lambda known=known: len(held("files")) < known or not held("files"))
        process.kill()
        ended(process)
    process = run_direct("start()\nsay('ready')\nwait()\n")
    eventually(lambda: not list(spool_dir.glob("direct/*/files/*.jsonl*")), 60)
    process.terminate()
    ended(process)
    assert numbers(written(tmp_path / "out")) == everything


def test_forked_child_is_an_emitter_of_its_own_at_every_backend(run_direct, third_party, sidecar, gateway, tmp_path):
    program = """
start()
for i in range(100):
    log(i)
m.flush(20)
child = os.fork()
for i in range(100, 150):
    log(i if child else -i)
if child:
    os.waitpid(child, 0)
"""
    _, err, _ = ended(run_direct(program, odd(tmp_path, ""), queue__flush_interval=0.2))
    assert err == ""
    expected = sorted([*range(150), *(-i for i in range(100, 150))])
    taken = [event for line in (tmp_path / "odd.jsonl").read_text().splitlines() for event in json.loads(line)["events"]]
    for events in (written(tmp_path / "out"), sidecar.accepted, gateway.accepted, taken):
        assert numbers(events) == expected
        assert len({event["event_id"] for event in events}) == 200
        assert len({event["emitter"]["id"] for event in events}) == 2


def test_fork_under_load_never_hangs_the_child(run_direct, third_party, sidecar, tmp_path):
    program = """
start()
stop = False
def load():
    while not stop:
        log(1)
        time.sleep(0.001)
threads = [threading.Thread(target=load) for _ in range(3)]
for thread in threads:
    thread.start()
for _ in range(8):
    child = os.fork()
    if not child:
        m.emit_event({'kind': 'log', 'name': 'child'})
        m.close()
        os._exit(0)
    os.waitpid(child, 0)
stop = True
for thread in threads:
    thread.join()
"""
    _, err, _ = ended(run_direct(program, odd(tmp_path, "")), 90)
    assert "Traceback" not in err
    assert len(sidecar.named("child")) == 8
    assert len([event for event in written(tmp_path / "out") if event["name"] == "child"]) == 8
    assert len(set(sidecar.ids)) == len(sidecar.ids)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_of_multiprocessing_lose_nothing(run_direct, sidecar, gateway, tmp_path, method):
    program = f"""
import multiprocessing
def work(n):
    if {method!r} != 'fork':
        start()
    for i in range(20):
        log(n * 100 + i)
if __name__ == '__main__':
    if {method!r} == 'fork':
        start()
    context = multiprocessing.get_context({method!r})
    workers = [context.Process(target=work, args=(n,)) for n in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    say(*[worker.exitcode for worker in workers])
"""
    out, err, _ = ended(run_direct(program, queue__flush_interval=30))
    assert err == ""
    assert out == ["0", "0", "0"]
    expected = [n * 100 + i for n in range(3) for i in range(20)]
    assert numbers(written(tmp_path / "out")) == numbers(sidecar.accepted) == numbers(gateway.accepted) == expected


def test_router_is_closed_with_its_program(run_direct, sidecar, gateway, tmp_path):
    program = """
import json
router = m.BackendRouter({'sdk': json.loads(%r)})
router.route_event({'kind': 'log', 'name': 'x', 'attributes': {'i': 1}})
child = os.fork()
router.route_event({'kind': 'log', 'name': 'x', 'attributes': {'i': 2 if child else 3}})
if child:
    os.waitpid(child, 0)
"""
    settings = {
        "app": {"name": "etcher", "site_id": "fab1"},
        "sidecar": {"spool_dir": str(tmp_path / "sdk-spool")},
        "direct_backends": [{"type": "filesystem", "config": {"path": str(tmp_path / "out")}}],
    }
    _, err, _ = ended(run_direct(program % json.dumps(settings)))
    assert err == ""
    assert numbers(written(tmp_path / "out")) == [1, 2, 3]
    assert list(tmp_path.glob("out/**/*.open")) == []


def test_process_of_another_user_s_folder_is_no_reason_to_fail(direct, tmp_path, spool_dir):
    """Files and folders that stand in the way in the spool folder are left alone."""
    direct({"type": "filesystem", "config": {"path": str(tmp_path / "out")}})
    folder = backend_folder(spool_dir, AppSettings("etcher", "fab1", None, None), "filesystem")
    folder.mkdir(parents=True)
    (folder / "notes.txt").write_text("mine")
    os.mkfifo(folder / "01890a5d-ac96-774b-8cce-000000000001.7.00000000000000000001.jsonl")
    m.emit_event({"kind": "log", "name": "x"})
    assert m.flush(20)
    m.close()
    assert len(written(tmp_path / "out")) == 1
    assert len(list(folder.iterdir())) == 2


def test_damaged_line_on_disk_holds_up_what_waits_behind_it(direct, tmp_path, spool_dir, eventually):
    folder = backend_folder(spool_dir, AppSettings("etcher", "fab1", None, None), "filesystem")
    folder.mkdir(parents=True)
    events = [
        {"event_id": f"01890a5d-ac96-774b-8cce-00000000010{i}", "timestamp": "2026-07-01T12:00:00Z", "kind": "log", "name": "x",
         "site_id": "fab1", "app": {"name": "etcher"}, "emitter": {"id": "01890a5d-ac96-774b-8cce-000000000001", "seq": i + 1},
         "attributes": {"i": i}}
        for i in range(4)
    ]  # fmt: skip
    lines = [json.dumps(event).encode() for event in events]
    for number, content in ((1, [lines[0], b"\xff\x00 garbage", b"[1]", lines[1]]), (5, [b"\x00" * 9]), (6, lines[2:])):
        name = f"01890a5d-ac96-774b-8cce-000000000001.7.{number:020}.jsonl"
        (folder / name).write_bytes(b"".join(line + b"\n" for line in content))
    direct({"type": "filesystem", "config": {"path": str(tmp_path / "out")}})
    m.emit_event({"kind": "log", "name": "x", "attributes": {"i": 4}})
    eventually(lambda: numbers(written(tmp_path / "out")) == [0, 1, 2, 3, 4])
    eventually(lambda: {file.suffix for file in folder.iterdir()} <= {".refused", ".lock"})
    m.close()
    kept = [json.loads(line) for file in folder.glob("*.refused") for line in file.read_bytes().splitlines()]
    assert sorted(letter["event"] for letter in kept) == sorted(["\ufffd\x00 garbage", "[1]", "\x00" * 9])
    assert {letter["reason"] for letter in kept} == {"the spool file is damaged here"}
