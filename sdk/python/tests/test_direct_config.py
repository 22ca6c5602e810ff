"""What is said of a configuration of direct mode that is wrong."""

from __future__ import annotations

import pytest

import monitoring_sdk as m
from monitoring_sdk import _backends, _config

APP = {"name": "etcher", "site_id": "fab1"}


def load(*backends, environ=None, mode="direct", **sdk):
    document = {"sdk": {"app": APP, "mode": mode, "direct_backends": list(backends), **sdk}}
    return _config.load(document, {}, environ or {}, judge=_backends.judge)


def problems(*backends, **more):
    with pytest.raises(m.ConfigurationError) as caught:
        load(*backends, **more)
    return {problem.path.removeprefix("sdk.direct_backends"): problem.message for problem in caught.value.problems}


def test_backends_are_those_that_are_enabled_in_order_of_priority():
    settings = load(
        {"type": "filesystem", "priority": 20, "config": {"path": "a"}},
        {"type": "sidecar", "priority": 3, "timeout": 7},
        {"type": "zabbix", "enabled": False, "priority": 1},
        {"type": "filesystem", "name": "more", "config": {"path": "b"}},
        {"type": "filesystem", "name": "last", "delivery": "fallback", "priority": 200, "config": {"path": "b"}},
    )
    assert [(entry.name, entry.timeout, entry.fallback) for entry in settings.backends] == [
        ("sidecar", 7, False), ("filesystem", 30, False), ("more", 30, False), ("last", 30, True),
    ]  # fmt: skip


def test_what_only_the_sink_can_tell_is_told_with_the_rest_at_once():
    found = problems(
        {"type": "filesystem", "config": {}},
        {"type": "s3", "config": {"bucket": "events", "regio": "x", "credentials": {"access_key_id": 1}}},
        {"type": "s4"},
        queue={"batch_size": "many"},
    )
    assert found["[0].config.path"] == "required but missing"
    assert found["[1].config.regio"].startswith("unknown setting of a 's3' backend")
    assert any(path.startswith("[1].config.credentials") for path in found)
    assert found["[2].type"].startswith("expected one of cloudwatch, elk, filesystem,")
    assert "sdk.queue.batch_size" in found
    assert len(found) == 5


def test_third_party_type_is_taken_and_named_among_those_known(third_party, tmp_path):
    (entry,) = load({"type": "odd", "config": {"path": str(tmp_path / "x")}}).backends
    assert entry.type == "odd"
    assert problems({"type": "odd", "config": {"pfad": "x"}})["[0].config.pfad"].startswith("unknown setting of a 'odd'")
    assert ", odd, " in problems({"type": "even"})["[0].type"]


def test_missing_package_is_named_with_what_to_install(third_party, monkeypatch):
    message = problems({"type": "lacking"})["[0].type"]
    assert "No module named 'a_package_that_nobody_has'" in message
    monkeypatch.setattr("monitoring_sdk._sinks.entry_points", lambda group: {})
    assert problems({"type": "kafka", "config": {}})["[0].type"] == (
        "the package for 'kafka' backends is missing or too old; "
        "install it with: pip install 'monitoring-sdk[kafka]' (Python 3.11 or later)"
    )


def test_direct_mode_needs_a_backend():
    assert "at least one backend that is enabled" in problems()[""]
    assert "at least one backend that is enabled" in problems({"type": "sidecar", "enabled": False})[""]


def test_two_backends_of_one_name_are_told_apart_by_the_user():
    found = problems({"type": "filesystem", "config": {"path": "a"}}, {"type": "filesystem", "config": {"path": "b"}})
    assert found == {"[1].name": "'filesystem' is sdk.direct_backends[0] already; give one of them another `name`"}


def test_fallback_needs_somebody_to_stand_in_for():
    fallback = {"type": "filesystem", "priority": 1, "delivery": "fallback", "config": {"path": "a"}}
    assert "lower `priority`" in problems(fallback, {"type": "sidecar"})["[0].delivery"]
    assert "lower `priority`" in problems({**fallback, "priority": 5}, {"type": "sidecar", "enabled": False})["[0].delivery"]
    load({**fallback, "priority": 5}, {"type": "sidecar", "priority": 4})


def test_disabled_backend_needs_neither_its_variables_nor_its_package_nor_a_sound_config():
    off = {"type": "zabbix", "enabled": False, "config": {"url": 7, "api_key": "${ZABBIX_API_KEY}"}}
    files = {"type": "filesystem", "enabled": False, "name": "f", "config": {"path": "${NO_SUCH}"}}
    load({"type": "sidecar"}, off, files)
    on = problems({"type": "sidecar"}, {**off, "enabled": True}, {**files, "enabled": True})
    assert "ZABBIX_API_KEY is not set" in on["[1].config.api_key"]
    assert "NO_SUCH is not set" in on["[2].config.path"]
    assert "unknown key" in problems({"type": "sidecar"}, {**off, "priorty": 1})["[1].priorty"]


def test_config_of_a_backend_is_shown_nowhere():
    settings = load({"type": "managed", "config": {"url": "http://127.0.0.1:1", "token": "tm_very_secret"}})
    assert "tm_very_secret" not in repr(settings)


def test_relative_path_belongs_to_the_file_that_names_it(tmp_path):
    folder = tmp_path / "etc"
    folder.mkdir()
    (folder / "c.yaml").write_text(
        "sdk: {app: {name: a, site_id: s}, mode: direct, direct_backends: [{type: filesystem, config: {path: out}}], "
        "sidecar: {spool_dir: spool}}"
    )
    m.initialize(folder / "c.yaml")
    m.emit_event({"kind": "log", "name": "x"})
    m.close()
    assert len(list(folder.glob("out/date=*/hour=*/*.jsonl"))) == 1
