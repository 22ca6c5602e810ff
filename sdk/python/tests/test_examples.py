"""The examples run as they stand, and report what they say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from sdk.python.tests.conftest import written

EXAMPLES = Path(__file__).parents[3] / "examples" / "python"


def run(name, *arguments):
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *map(str, arguments)], capture_output=True, text=True, timeout=120
    )
    return done.returncode, done.stdout, done.stderr


def test_batch_job_reports_every_wafer(sidecar, spool_dir, monkeypatch):
    monkeypatch.setenv("MONITORING_SDK__SIDECAR__URL", sidecar.url)
    monkeypatch.setenv("MONITORING_SDK__SIDECAR__SPOOL_DIR", str(spool_dir))
    code, _, err = run("batch_job.py", "--wafers", 5)
    assert code == 0, err
    assert len([event for event in sidecar.named("etch-wafer") if event["kind"] == "start"]) == 5
    assert [event["kind"] for event in sidecar.named("etch-lot") if event["kind"] != "progress"] == ["start", "finish"]


def test_direct_mode_writes_files_and_calls_the_webhook(sidecar, tmp_path, spool_dir):
    url = f"{sidecar.url}/events"
    code, out, err = run("direct_mode.py", "--folder", tmp_path / "out", "--spool", spool_dir, "--webhook", url, "--wafers", 4)
    assert (code, err) == (0, "")
    assert out.splitlines() == ["filesystem: 10 delivered, 0 wait on disk", "webhook: 10 delivered, 0 wait on disk"]
    assert len(written(tmp_path / "out")) == 10
    assert {request.path for request in sidecar.requests} == {"/events"}


@pytest.mark.parametrize("up", [True, False], ids=["up", "down"])
def test_route_and_know_releases_the_lot_only_when_the_record_is_safe(sidecar, tmp_path, spool_dir, up):
    if not up:
        sidecar.stop()
    arguments = ("--spool", spool_dir, "--sidecar", sidecar.url)
    code, out, _ = run("route_and_know.py", "--folder", tmp_path / "out", *arguments)
    assert code == 0
    assert out.splitlines()[0] == str({"sidecar": True} if up else {"sidecar": False, "filesystem": True})
    if not up:
        (tmp_path / "blocked").write_text("no folder")
        code, _, err = run("route_and_know.py", "--folder", tmp_path / "blocked", *arguments)
        assert code == 1
        assert "stays on hold" in err
