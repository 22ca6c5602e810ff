"""The whole of TrackMate with one command: a simulated fab emits, and every event is everywhere exactly once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.trackmate.conftest import trackmate
from tests.trackmate.test_stack import processes_of, use_free_ports
from trackmate.data_folder import DataFolder


@pytest.mark.timeout(600)
def test_the_demo_brings_every_event_from_the_sdk_to_silver_and_leaves_nothing_running(roomy: Path):
    folder = DataFolder(roomy / "demo data")
    use_free_ports(folder)
    done = trackmate("demo", "--once", "--seconds", "5", "--seed", "7", "--data", folder.root, timeout=580)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Every event is in every place, exactly once." in done.stdout
    for title in ("Which step is slowest", "Which errors cost", "How long was each tool"):
        assert title in done.stdout
    assert "(no rows)" not in done.stdout
    assert processes_of(folder) == []
    ledgers = [json.loads(path.read_text()) for path in (folder.logs / "fab").glob("*.ledger.json")]
    assert len(ledgers) == 5
    assert f"{sum(ledger['emitted'] for ledger in ledgers):,}" in done.stdout
