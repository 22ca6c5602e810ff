"""`trackmate trace` finds an event in this machine's own files; `trackmate backfill` takes the partitions that are meant."""

from __future__ import annotations

import json

import pytest
import yaml

from contract.errors import TrackMateError
from contract.ids import uuid7
from tests.trackmate.conftest import SidecarService, trackmate
from trackmate.backfill_command import choose_partitions
from trackmate.data_folder import DataFolder
from trackmate.generated_config import generate
from trackmate.ingest.sender import Sender


def test_an_event_that_waits_in_spool_or_sdk_spool_is_found_and_another_is_nowhere(sidecar: SidecarService, roomy, gateway: str):
    folder = DataFolder(roomy / "data")
    generate(folder)
    config = yaml.safe_load(folder.sidecar_yaml.read_text())
    config["sidecar"]["spool"]["dir"] = str(sidecar.folder / "spool")
    folder.sidecar_yaml.write_text(yaml.safe_dump(config))
    spooled, offline = uuid7(), uuid7()
    event = {"timestamp": "2024-01-01T00:00:00Z", "kind": "log", "name": "n", "site_id": "fab1", "app": {"name": "x"}}
    sender = Sender(sidecar.url)
    sender.send([json.dumps({**event, "event_id": i}).encode() for i in (uuid7(), spooled)])
    sender.close()
    (folder.sdk_spool / "one.jsonl").write_text(json.dumps({**event, "event_id": offline}) + "\n")

    def places(event_id: str, code: int) -> dict[str, dict[str, object]]:
        done = trackmate("trace", event_id, "--data", folder.root, "--url", gateway, "--json")
        assert done.returncode == code, done.stderr
        return {place["place"]: place for place in json.loads(done.stdout)["places"]}

    assert places(spooled, 0)["spool"]["copies"] == [{"seq": 2, "passed": []}]
    assert places(offline, 0)["sdk spool"]["copies"] == [{"file": str(folder.sdk_spool / "one.jsonl"), "line": 1}]
    assert {place["status"] for place in places(uuid7(), 1).values()} == {"absent"}


def test_what_is_no_event_id_is_refused():
    done = trackmate("trace", "it")
    assert done.returncode == 2
    assert "is not an event id" in done.stderr


DAYS = ["2026-01-01", "2026-01-02", "2026-01-03"]


@pytest.mark.parametrize(
    ("start", "end", "named", "chosen"),
    [
        (None, None, [], DAYS),
        ("2026-01-02", None, [], DAYS[1:]),
        (None, "2026-01-02", [], DAYS[:2]),
        ("2026-01-02", "2026-01-02", [], DAYS[1:2]),
        (None, None, ["2026-01-03", "2026-01-01"], ["2026-01-03", "2026-01-01"]),
    ],
)
def test_a_backfill_takes_the_partitions_that_are_meant(start, end, named, chosen):
    assert choose_partitions(DAYS, start, end, named, "gold.x") == chosen


@pytest.mark.parametrize(
    ("known", "start", "end", "named", "reason"),
    [
        (DAYS, "2025-12-31", None, [], "has no partition 2025-12-31: it has 2026-01-01 to 2026-01-03"),
        (DAYS, None, None, ["x"], "has no partition x"),
        (DAYS, "2026-01-03", "2026-01-01", [], "comes after"),
        ([], None, None, [], "has no partitions"),
    ],
)
def test_a_backfill_of_nothing_is_refused_with_what_there_is(known, start, end, named, reason):
    with pytest.raises(TrackMateError, match=reason):
        choose_partitions(known, start, end, named, "gold.x")
