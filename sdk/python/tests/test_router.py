"""BackendRouter: what it answers, and that it keeps what it could not deliver."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest
from sdk.python.tests.conftest import written

import monitoring_sdk as m
from monitoring_sdk import _state
from monitoring_sdk.testing import capture

EVENT = {"kind": "log", "name": "x"}


@pytest.fixture
def config(tmp_path, sidecar, gateway):
    """Files, a sidecar and a gateway, with the mode left as it is published: sidecar."""
    return {
        "sdk": {
            "app": {"name": "etcher", "site_id": "fab1"},
            "mode": "sidecar",
            "sidecar": {"spool_dir": str(tmp_path / "sdk-spool"), "retries": 0},
            "direct_backends": [
                {"type": "managed", "priority": 3, "config": {"url": gateway.url}},
                {"type": "filesystem", "priority": 1, "config": {"path": str(tmp_path / "out")}},
                {"type": "sidecar", "priority": 2, "config": {"url": sidecar.url}},
            ],
        }
    }


def test_each_backend_is_named_with_whether_it_has_the_event(config, sidecar, gateway, tmp_path):
    with m.BackendRouter(config) as router:
        answer = router.route_event({**EVENT, "entities": {"lot": "L1"}})
        assert answer == {"filesystem": True, "sidecar": True, "managed": True}
        assert list(answer) == ["filesystem", "sidecar", "managed"]
        (event,) = written(tmp_path / "out")
        assert event == sidecar.accepted[0] == gateway.accepted[0]
        assert event["entities"] == {"lot": "L1"}
        assert router.stats().sent == 1
    assert router.stats().emitted == 1


def test_batch_is_true_only_where_all_of_it_is(config, sidecar, gateway):
    gateway.then({"reject": (1,)})
    with m.BackendRouter(config) as router:
        assert router.route_batch([EVENT] * 3) == {"filesystem": True, "sidecar": True, "managed": False}
        assert router.stats().backends["managed"].failed == 1


def test_dead_backend_is_false_and_gets_the_event_later(config, sidecar, tmp_path, eventually):
    sidecar.stop()
    with m.BackendRouter(config) as router:
        assert router.route_event(EVENT) == {"filesystem": True, "sidecar": False, "managed": True}
        sidecar.start()
        eventually(lambda: len(sidecar.ids) == 1)
        assert router.route_event(EVENT) == {"filesystem": True, "sidecar": True, "managed": True}
    assert len(written(tmp_path / "out")) == 2


def test_hung_backend_costs_no_more_than_the_timeout(config, gateway):
    gateway.default = {"hang": True}
    with m.BackendRouter(config, timeout=2) as router:
        began = time.monotonic()
        assert router.route_event(EVENT) == {"filesystem": True, "sidecar": True, "managed": False}
        assert time.monotonic() - began < 10


def test_fallback_stands_in_the_answer_when_it_was_asked(config, sidecar, tmp_path):
    backends = config["sdk"]["direct_backends"]
    backends[1].update(delivery="fallback", priority=9)
    del backends[0]
    with m.BackendRouter(config) as router:
        assert router.route_event(EVENT) == {"sidecar": True}
        sidecar.default = {"status": 503}
        assert router.route_event(EVENT) == {"sidecar": False, "filesystem": True}


def test_router_and_initialize_do_not_disturb_each_other(config, direct, tmp_path, sidecar):
    direct({"type": "filesystem", "config": {"path": str(tmp_path / "own")}})
    with m.BackendRouter(config) as router, m.monitored_context("etch") as run:
        router.route_event(EVENT)
        m.emit_event(EVENT)
    assert m.flush(20)
    assert [event["name"] for event in written(tmp_path / "own")] == ["etch", "x", "etch"]
    (routed,) = written(tmp_path / "out")
    assert routed["run_id"] == run.run_id


def test_calls_from_many_threads_each_get_their_own_answer(config, tmp_path, gateway):
    answers = []
    with m.BackendRouter(config, timeout=60) as router:
        threads = [
            threading.Thread(target=lambda: answers.extend(router.route_event(EVENT) for _ in range(10))) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert answers == [{"filesystem": True, "sidecar": True, "managed": True}] * 80
    assert len({event["event_id"] for event in written(tmp_path / "out")}) == len(gateway.ids) == 80


def test_misuse_is_an_error_at_once(config):
    router = m.BackendRouter(config)
    with pytest.raises(m.InvalidEventError, match="route_event for one"):
        router.route_batch(EVENT)
    with pytest.raises(m.InvalidEventError, match=r"\[0\]\.kind"):
        router.route_event({"kind": "nonsense", "name": "x"})
    router.close()
    router.close()
    with pytest.raises(m.NotInitializedError):
        router.route_event(EVENT)
    assert _state.routers == set()
    with pytest.raises(m.ConfigurationError, match="at least one backend"):
        m.BackendRouter({"sdk": {"app": {"name": "a", "site_id": "s"}}})


def test_in_a_test_of_the_user_s_own_nothing_is_delivered(config, tmp_path):
    config["sdk"]["direct_backends"].append({"type": "s3", "config": {"bucket": "b"}})
    with capture() as recorded, m.BackendRouter(config) as router:
        assert router.route_event({**EVENT, "name": "routed"}) == dict.fromkeys(("filesystem", "sidecar", "managed", "s3"), True)
        assert [event["name"] for event in recorded.named("routed")] == ["routed"]
        recorded.fail("the bucket is gone")
        assert not any(router.route_event(EVENT).values())
        recorded.work()
    assert not (tmp_path / "out").exists()


def test_capture_takes_direct_mode_and_gives_results(direct, tmp_path):
    with capture() as recorded:
        direct({"type": "kafka"}, {"type": "filesystem", "config": {"path": str(tmp_path / "out")}})
        ids = m.emit_batch([EVENT, EVENT])
        assert [event["event_id"] for event in recorded.events] == ids
        assert {name: counts.delivered for name, counts in ids.backends.items()} == {"kafka": 2, "filesystem": 2}
        assert set(m.flush(5).backends) == {"kafka", "filesystem"}
    assert not (tmp_path / "out").exists()


def test_published_configuration_works_as_it_stands(tmp_path, monkeypatch, sidecar):
    """DESIGN section 3, with another folder, and no account at the systems that this machine lacks."""
    published = Path(__file__).with_name("published-config.yaml").read_text()
    file = tmp_path / "monitoring-config.yaml"
    file.write_text(published.replace("/data/monitoring", str(tmp_path / "out")))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "ELK_USER", "ELK_PASSWORD", "HOSTNAME"):
        monkeypatch.setenv(name, name.lower())
    monkeypatch.delenv("ZABBIX_API_KEY", raising=False)
    sdk = {"sidecar__spool_dir": str(tmp_path / "sdk-spool"), "sidecar__retries": 0}
    router = m.BackendRouter(file, timeout=2, **sdk)
    try:
        answer = router.route_event(EVENT)
    finally:
        router.close()
    assert list(answer) == ["filesystem", "s3", "elk"]
    assert answer["filesystem"]
    assert not any(answer[name] for name in ("s3", "elk"))
    m.initialize(file, sidecar__url=sidecar.url, **sdk)
    m.emit_event(EVENT)
    m.close()
    assert json.dumps(sidecar.accepted[0]["app"]) == json.dumps(
        {"name": "wafer-processing", "version": "1.0.0", "instance_id": "hostname"}
    )
