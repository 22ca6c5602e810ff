"""The C SDK under ThreadSanitizer, built with MON_SANITIZE_THREADS: no two threads touch the same memory unordered.

libcurl and OpenSSL are not built for it, and no suppression is needed: each handle is used by one thread at a time. A forked
child is out of its reach (no threads start there under it); AddressSanitizer and valgrind watch that in test_c_sdk.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from sdk.c.tests.conftest import Build, Harness, direct, run, settings
from sdk.conformance import suite
from sdk.conformance.backends import Services
from sdk.conformance.cases import Case, load_cases
from sdk.conformance.world import World
from tests.services.base import wait_until
from tests.services.scripted_http import Hang, Reply, ScriptedHttp
from tests.sidecar.harness import RunningSidecar, files_backend

# A unit test forks a child that starts no thread.
WATCHED = {"TSAN_OPTIONS": "exitcode=66:die_after_fork=0:second_deadlock_stack=1"}


def sixteen_threads() -> list[Case]:
    return [case for case in load_cases() if "sixteen threads" in case.name]


def test_a_unit_races_with_itself(build: Build, tmp_path: Path) -> None:
    assert " 0 failures" in run([build("tsan") / "tests" / "unit"], tmp_path, WATCHED)
    run([build("tsan") / "tests" / "unit_cpp"], tmp_path, WATCHED)


@pytest.mark.parametrize("case", [pytest.param(case, id=case.id) for case in sixteen_threads()])
def test_sixteen_threads_race(
    case: Case, build: Build, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TSAN_OPTIONS", WATCHED["TSAN_OPTIONS"])
    world = World(build("tsan") / "harness" / "monitoring-harness", tmp_path, Services(request.getfixturevalue))
    try:
        suite.run(Case(case.topic, case.name, case.needs, [*case.steps, {"end": {"status": 0}}]), world)
    finally:
        world.close()


def test_the_name_of_the_sidecar_races(harness: Harness, tmp_path: Path) -> None:
    """libcurl looks names up on a thread of its own."""
    with RunningSidecar(backends=[files_backend()]) as sidecar:
        speaker = harness("tsan", env=WATCHED)
        config = settings(sidecar.url.replace("127.0.0.1", "localhost"), tmp_path)
        assert speaker.do("initialize", config=config)["ok"]
        assert speaker.do("threads", event={"kind": "log", "name": "a"}, threads=16, times=250)["ok"]
        assert speaker.do("flush", timeout=60)["flushed"]
        assert speaker.end() == 0, speaker.log.read_text()


def test_lanes_race(harness: Harness, tmp_path: Path) -> None:
    """Backends that work, fail, refuse, want less at once, hang; a fallback; a backlog that overflows; and an end amidst it."""
    with (
        ScriptedHttp(Reply(200)) as good,
        ScriptedHttp(Reply(503)) as bad,
        ScriptedHttp(Reply(400)) as refusing,
        ScriptedHttp(lambda asked: Reply(413 if len(asked.lines) > 20 else 200)) as small,
        ScriptedHttp(Hang()) as hung,
    ):
        hooks = {"good": good, "bad": bad, "refusing": refusing, "small": small, "hung": hung}
        backends = [
            {"type": "webhook", "name": name, "priority": place, "timeout": 600, "config": {"url": server.url}}
            for place, (name, server) in enumerate(hooks.items(), 1)
        ]
        rest = {"type": "filesystem", "config": {"path": str(tmp_path / "rest")}}
        backends += [
            {"type": "filesystem", "priority": 50, "config": {"path": str(tmp_path / "out")}},
            {**rest, "name": "rest", "priority": 3, "delivery": "fallback"},
        ]
        queue = {"max_events": 1000, "batch_size": 50, "flush_interval": 0.05}
        speaker = harness("tsan", env=WATCHED)
        assert speaker.do("initialize", config=direct(backends, tmp_path, queue=queue))["ok"]
        for _ in range(4):
            assert speaker.do("threads", event={"kind": "log", "name": "a"}, threads=16, times=100)["ok"]
            speaker.do("flush", timeout=0.1)
        bad.script = Reply(200)
        wait_until(lambda: speaker.do("stats")["stats"]["replayed"] > 0, seconds=120, what="the first replay")
        assert speaker.do("threads", event={"kind": "log", "name": "b"}, threads=16, times=50)["ok"]
        assert speaker.do("close")["ok"]
        stats = speaker.do("stats")["stats"]
        assert stats["queued"] == 0
        # What was refused when it came back from the disk counts as spooled and as failed.
        assert stats["emitted"] <= sum(stats[outcome] for outcome in ("sent", "spooled", "rejected", "failed", "dropped"))
        assert speaker.end() == 0, speaker.log.read_text()
