"""What users get for their own tests, and the handler for the standard library's logging."""

from __future__ import annotations

import logging

import pytest

import monitoring_sdk as m
from monitoring_sdk.testing import RecordingTransport, capture


def test_capture_needs_no_configuration_and_minds_none(tmp_path, monkeypatch):
    (tmp_path / "monitoring-config.yaml").write_text("sdk: broken")
    monkeypatch.setenv("MONITORING_SDK__QUEUE__MAX_EVENTS", "nonsense")
    with capture() as recorded:
        m.emit_event({"kind": "log", "name": "x"})
        assert [event["name"] for event in recorded.events] == ["x"]
        assert recorded.named("x") == recorded.of_kind("log") == recorded.events
        assert recorded.named("y") == []
    with pytest.raises(m.NotInitializedError):
        m.emit_event({"kind": "log", "name": "x"})


def test_capture_records_code_that_initializes_and_closes_by_itself():
    with capture() as recorded:
        m.initialize(app={"name": "mine", "site_id": "fab1"})
        m.emit_event({"kind": "log", "name": "x"})
        m.close()
    assert [event["app"]["name"] for event in recorded.events] == ["mine"]


def test_recording_transport_stands_in_for_the_sidecar(tmp_path):
    transport = RecordingTransport()
    m.initialize(app={"name": "a", "site_id": "s"}, transport=transport, sidecar__spool_dir=str(tmp_path / "spool"))
    m.emit_event({"kind": "log", "name": "x"})
    assert len(transport.events) == 1
    m.close()
    assert not (tmp_path / "spool").exists()


@pytest.fixture
def logger():
    # Of no tree, so that pytest does not capture it: it can't report a lone surrogate from a worker.
    log = logging.Logger("fab.etch")  # noqa: LOG001
    handler = m.MonitoringHandler()
    log.addHandler(handler)
    log.setLevel(1)
    yield log
    log.removeHandler(handler)


def test_log_records_become_events(logger):
    with capture() as recorded:
        with m.monitored_context("etch") as run:
            logger.warning("chuck at %d", 21)
            try:
                int("broken")
            except ValueError:
                logger.exception("failed")
        for level in (1, logging.DEBUG, logging.INFO, 35, logging.ERROR, logging.CRITICAL, 99):
            logger.log(level, "x")
        logs = recorded.of_kind("log")
    assert (logs[0]["name"], logs[0]["severity"], logs[0]["message"]) == ("fab.etch", "warning", "chuck at 21")
    assert logs[0]["run_id"] == run.run_id
    assert logs[0]["attributes"]["file"] == __file__
    assert "ValueError: invalid literal" in logs[1]["attributes"]["stack"]
    severities = [event["severity"] for event in logs[2:]]
    assert severities == ["debug", "debug", "info", "warning", "error", "critical", "critical"]


def test_handler_never_raises_and_needs_no_sdk(logger, monkeypatch):
    logger.info("nobody listens")
    monkeypatch.setattr(logging, "raiseExceptions", False)
    with capture() as recorded:
        logger.info("%d", "not a number")
        logger.info("\ud800\0" * 9000)
        assert len(recorded.events) == 1


def test_handler_leaves_out_the_sdk_s_own_log():
    handler = m.MonitoringHandler()
    with capture() as recorded:
        handler.handle(logging.LogRecord("monitoring_sdk", logging.ERROR, __file__, 1, "trouble", (), None))
        assert recorded.events == []
