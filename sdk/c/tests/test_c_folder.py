"""Growing files that others left in the folder of the C SDK's filesystem backend: completed, unless somebody else does it."""

from __future__ import annotations

import fcntl
import json
from pathlib import Path

import pytest

from sdk.c.tests.conftest import SANITIZERS, Harness, direct

LOG = "01890a5d-ac96-774b-8cce-000000000001"
HOUR = "date=2026-07-01/hour=09"
EVENT = json.dumps({"event_id": LOG, "emitter": {"id": LOG, "seq": 9}, "name": "left"}).encode() + b"\n"
TORN = EVENT + b'{"event_id": "in the mid'


@pytest.fixture
def growing(tmp_path: Path) -> Path:
    file = tmp_path / "out" / HOUR / f"{LOG}-{9:020}.jsonl.open"
    file.parent.mkdir(parents=True)
    file.write_bytes(TORN)
    (tmp_path / "out" / ".state").mkdir()
    return file


def deliver(harness: Harness, tmp_path: Path) -> None:
    """Start a program that writes to the same folder, and let it write."""
    speaker = harness("sanitize", env=SANITIZERS)
    backends = [{"type": "filesystem", "config": {"path": str(tmp_path / "out")}}]
    assert speaker.do("initialize", config=direct(backends, tmp_path))["ok"]
    assert speaker.do("emit_batch", events=[{"kind": "log", "name": "new"}])["ok"]
    assert speaker.do("flush", timeout=60)["flushed"]
    speaker.end()


@pytest.mark.parametrize("owner", [None, "dead"])
def test_file_that_a_dead_process_left_grows_for_ever(harness: Harness, growing: Path, tmp_path: Path, owner: str | None) -> None:
    if owner is not None:
        (tmp_path / "out" / ".state" / f"{LOG}.owner").touch()
    deliver(harness, tmp_path)
    assert not growing.exists()
    assert growing.with_name(f"{LOG}-{9:020}-{9:020}.jsonl").read_bytes() == EVENT


def test_file_of_a_living_java_program_is_taken_away(harness: Harness, growing: Path, tmp_path: Path) -> None:
    with (tmp_path / "out" / ".state" / f"{LOG}.owner").open("w") as owner:
        fcntl.lockf(owner, fcntl.LOCK_EX)
        deliver(harness, tmp_path)
    assert growing.read_bytes() == TORN


def test_file_whose_length_a_state_tells_is_cut_at_another_place(harness: Harness, growing: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / ".state" / f"{LOG}.json").write_text("{}")
    deliver(harness, tmp_path)
    assert growing.read_bytes() == TORN
