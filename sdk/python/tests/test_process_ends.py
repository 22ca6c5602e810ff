"""Exit, crash, signals, forks: programs of their own, judged by what reached the sidecar or the disk."""

from __future__ import annotations

import os
import signal
import time

import pytest

SLACK = 4.0
"""The contract says two seconds; the machine that runs the tests may be busy."""


def ended(process, deadline=60):
    out, err = process.communicate(timeout=deadline)
    return out.split(), err, time.time()


def test_program_that_just_ends_delivers_everything(run_program, sidecar, spooled_events):
    _, err, _ = ended(run_program("start()\nfor i in range(2000):\n    log(i)\n"))
    assert err == ""
    assert sorted(event["attributes"]["i"] for event in sidecar.accepted) == list(range(2000))
    assert spooled_events() == []


@pytest.mark.parametrize("trouble", ["dead", "hung", "slow", "dripping"])
def test_program_ends_within_two_seconds_and_loses_nothing(run_program, sidecar, spooled_events, trouble):
    if trouble == "dead":
        sidecar.stop()
    sidecar.default = {"dead": {}, "hung": {"hang": True}, "slow": {"wait": 0.7}, "dripping": {"drip": 0.2}}[trouble]
    program = "start()\nfor i in range(9000):\n    log(i)\nsay(time.time())\n"
    out, _, end = ended(run_program(program))
    assert end - float(out[0]) < SLACK
    found = {event["attributes"]["i"] for event in sidecar.accepted + spooled_events()}
    assert found == set(range(9000))


def test_dead_sidecar_in_the_middle_of_a_long_retry_does_not_hold_up_the_exit(run_program, sidecar, spooled_events):
    sidecar.default = {"status": 503, "headers": {"Retry-After": "9"}}
    program = "start()\nlog(1)\ntime.sleep(0.3)\nlog(2)\nsay(time.time())\n"
    out, _, end = ended(run_program(program))
    assert end - float(out[0]) < SLACK
    assert {event["attributes"]["i"] for event in spooled_events()} == {1, 2}


def test_unhandled_exception_loses_nothing_and_keeps_its_exit_code(run_program, sidecar):
    process = run_program("start()\nwith m.monitored_context('etch'):\n    log(1)\n    raise OSError('broken')\n")
    _, err, _ = ended(process)
    assert process.returncode == 1
    assert "OSError: broken" in err
    assert [event["kind"] for event in sidecar.accepted] == ["start", "log", "error"]
    assert sidecar.accepted[2]["error"]["message"] == "broken"


def test_sys_exit_aborts_the_run(run_program, sidecar):
    process = run_program("start()\nwith m.monitored_context('etch'):\n    sys.exit(3)\n")
    ended(process)
    assert process.returncode == 3
    assert (sidecar.accepted[-1]["kind"], sidecar.accepted[-1]["status"]) == ("finish", "aborted")


def test_events_of_exit_handlers_that_run_before_ours_are_delivered(run_program, sidecar):
    _, err, _ = ended(run_program("import atexit\nstart()\natexit.register(log, 7)\n"))
    assert err == ""
    assert [event["attributes"]["i"] for event in sidecar.accepted] == [7]


def test_initialized_in_an_exit_handler(run_program, sidecar, spooled_events):
    _, err, _ = ended(run_program("import atexit\n@atexit.register\ndef last():\n    start()\n    log(1)\n    m.close()\n"))
    assert "Traceback" not in err
    assert [event["attributes"]["i"] for event in sidecar.accepted + spooled_events()] == [1]


@pytest.mark.parametrize("sidecar_is", ["up", "dead", "hung"])
def test_sigterm_loses_nothing_and_still_kills(run_program, sidecar, spooled_events, sidecar_is):
    if sidecar_is == "dead":
        sidecar.stop()
    sidecar.default = {"hang": True} if sidecar_is == "hung" else {}
    program = """
start()
with m.monitored_context('etch'):
    for i in range(300):
        log(i)
    say('ready')
    wait()
"""
    process = run_program(program, queue__flush_interval=30)
    assert process.stdout.readline() == "ready\n"
    sent = time.time()
    process.send_signal(signal.SIGTERM)
    _, _, end = ended(process)
    assert process.returncode == -signal.SIGTERM
    assert end - sent < SLACK
    events = sidecar.accepted + spooled_events()
    assert {event["attributes"]["i"] for event in events if event["kind"] == "log"} == set(range(300))
    (finish,) = [event for event in events if event["kind"] == "finish"]
    assert finish["status"] == "aborted"
    assert finish["error"]["type"] == "SIGTERM"


def test_sigterm_goes_to_the_handler_that_was_there_before(run_program, sidecar):
    program = "signal.signal(signal.SIGTERM, lambda *_: (say('mine'), sys.exit(5)))\nstart()\nlog(1)\nsay('ready')\nwait()\n"
    process = run_program(program, queue__flush_interval=30)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    out, _, _ = ended(process)
    assert (out, process.returncode) == (["mine"], 5)
    assert len(sidecar.accepted) == 1


def test_ignored_sigterm_stays_ignored(run_program, sidecar):
    program = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nstart()\nsay(signal.getsignal(signal.SIGTERM) is signal.SIG_IGN)\n"
    assert ended(run_program(program))[0] == ["True"]


def test_ctrl_c_is_a_keyboard_interrupt_as_ever(run_program, sidecar):
    # A shell has what it runs in the background ignore SIGINT, and whoever runs the tests may be run like that.
    program = "signal.signal(signal.SIGINT, signal.default_int_handler)\nstart()\n"
    process = run_program(program + "with m.monitored_context('etch'):\n    log(1)\n    say('ready')\n    wait()\n")
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    _, err, _ = ended(process)
    assert process.returncode == -signal.SIGINT
    assert "KeyboardInterrupt" in err
    assert sidecar.accepted[-1]["status"] == "aborted"


def test_handlers_are_given_back_on_close(run_program):
    program = "start()\nm.close()\nsay(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)\n"
    assert ended(run_program(program))[0] == ["True"]


def test_initialize_in_another_thread_installs_no_signal_handler(run_program, sidecar):
    program = (
        "thread = threading.Thread(target=lambda: (start(), log(1)))\nthread.start()\nthread.join()\n"
        "say(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)\n"
    )
    out, err, _ = ended(run_program(program))
    assert (out, err) == (["True"], "")
    assert len(sidecar.accepted) == 1


def test_kill_loses_no_more_than_what_was_in_memory(run_program, sidecar, spool_dir, spooled_events, initialize, eventually):
    sidecar.stop()
    program = (
        "start()\nfor i in range(1000):\n    log(i)\nm.flush(20)\nsay('safe')\nlog(1000)\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    process = run_program(program, queue__flush_interval=30)
    ended(process)
    assert process.returncode == -signal.SIGKILL
    assert {event["attributes"]["i"] for event in spooled_events()} >= set(range(1000))
    sidecar.start()
    initialize()  # the next process finds what the dead one left, without a single event of its own
    eventually(lambda: {event["attributes"]["i"] for event in sidecar.accepted} >= set(range(1000)))
    eventually(lambda: list(spool_dir.glob("*.jsonl*")) == [])


def test_next_program_replays_what_the_last_one_left(run_program, sidecar, spool_dir, spooled_events):
    sidecar.stop()
    ended(run_program("start()\nfor i in range(50):\n    log(i)\n"))
    assert len(spooled_events()) == 50
    sidecar.start()
    program = "start()\nwhile m.stats().replayed < 50:\n    time.sleep(0.01)\n"
    _, err, _ = ended(run_program(program))
    assert err == ""
    assert sorted(event["attributes"]["i"] for event in sidecar.accepted) == list(range(50))
    assert list(spool_dir.iterdir()) == []


def test_two_programs_on_one_folder_replay_no_file_twice(run_program, sidecar, spool_dir, eventually):
    sidecar.stop()
    for n in range(3):
        ended(run_program(f"start()\nfor i in range(40):\n    log({n} * 1000 + i)\n    m.flush(20)\n", sidecar__retries=0))
    assert len(list(spool_dir.glob("*.jsonl"))) == 120
    sidecar.start()
    go = spool_dir / "go"
    program = f"start()\nwhile os.path.exists({str(go)!r}):\n    time.sleep(0.01)\n"
    go.touch()
    processes = [run_program(program) for _ in range(3)]
    eventually(lambda: len(sidecar.ids) >= 120)
    go.unlink()
    for process in processes:
        _, err, _ = ended(process)
        assert err == ""
    assert len(sidecar.ids) == 120
    assert len(set(sidecar.ids)) == 120
    assert list(spool_dir.glob("*.jsonl*")) == []


def test_forked_child_is_an_emitter_of_its_own(run_program, sidecar):
    program = """
start()
for i in range(100):
    log(i)
child = os.fork()
for i in range(100, 150):
    log(i if child else -i)
if child:
    os.waitpid(child, 0)
"""
    _, err, _ = ended(run_program(program, queue__flush_interval=0.5))
    assert err == ""
    emitters = {}
    for event in sidecar.accepted:
        emitters.setdefault(event["emitter"]["id"], []).append((event["emitter"]["seq"], event["attributes"]["i"]))
    parent, child = sorted(emitters.values(), key=len, reverse=True)
    assert sorted(parent) == [(i + 1, i) for i in range(150)]
    assert sorted(child) == [(i + 1, -(i + 100)) for i in range(50)]
    assert len(set(sidecar.ids)) == 200


def test_fork_under_load_never_hangs_the_child(run_program, sidecar):
    program = """
start()
stop = False
def load():
    while not stop:
        log(1)
        time.sleep(0.0001)
threads = [threading.Thread(target=load) for _ in range(4)]
for thread in threads:
    thread.start()
for _ in range(20):
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
    _, err, _ = ended(run_program(program))
    assert "Traceback" not in err
    assert len(sidecar.named("child")) == 20
    assert len({event["emitter"]["id"] for event in sidecar.named("child")}) == 20
    assert len(set(sidecar.ids)) == len(sidecar.ids)


def test_child_forked_inside_a_run_does_not_end_it(run_program, sidecar):
    program = """
start()
with m.monitored_context('etch') as run:
    child = os.fork()
    if not child:
        m.emit_event({'kind': 'log', 'name': 'child'})
if child:
    os.waitpid(child, 0)
"""
    ended(run_program(program))
    assert sorted(event["kind"] for event in sidecar.accepted) == ["finish", "log", "start"]
    assert len({event["run_id"] for event in sidecar.accepted}) == 1


def test_lock_of_the_parent_outlives_its_child_and_ends_with_the_parent(run_program, sidecar, spool_dir, initialize, eventually):
    sidecar.stop()
    program = """
start()
log(1)
m.flush(20)
child = os.fork()
if not child:
    time.sleep(60)
    os._exit(0)
say(child)
time.sleep(0.2)
os.kill(os.getpid(), signal.SIGKILL)
"""
    process = run_program(program, sidecar__retries=0)
    child = int(process.stdout.readline())
    process.wait(20)
    try:
        sidecar.start()
        initialize()
        eventually(lambda: len(sidecar.ids) == 1)
    finally:
        os.kill(child, signal.SIGKILL)
        process.communicate(timeout=20)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers_of_multiprocessing_lose_nothing(run_program, sidecar, method):
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
    out, err, _ = ended(run_program(program, queue__flush_interval=30))
    assert err == ""
    assert out == ["0", "0", "0"]
    assert sorted(event["attributes"]["i"] for event in sidecar.accepted) == [n * 100 + i for n in range(3) for i in range(20)]
    assert len({event["emitter"]["id"] for event in sidecar.accepted}) == 3


def test_pool_that_is_terminated_loses_nothing(run_program, sidecar, spooled_events):
    program = """
import multiprocessing
def work(n):
    log(n)
    return n
if __name__ == '__main__':
    start()
    with multiprocessing.get_context('fork').Pool(2) as pool:
        say(sum(pool.map(work, range(40))))
"""
    out, _, _ = ended(run_program(program, queue__flush_interval=30))
    assert out == ["780"]
    assert sorted(event["attributes"]["i"] for event in sidecar.accepted + spooled_events()) == list(range(40))
