"""`trackmate ingest` against a real sidecar: nothing twice, nothing lost, bad rows kept with their reason."""

from __future__ import annotations

import csv
import gzip
import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
import zstandard

from contract.ids import stable_id, uuid7
from tests.services.base import wait_until
from tests.trackmate.conftest import TRACKMATE, SidecarService, trackmate
from tests.trackmate.slow_front import SlowFront

MAPPING = """
site_id: fab1
app: {name: loader}
key: "{id}"
event: {kind: log, name: "{what}", timestamp: "{when}"}
metrics: {value: "{value}"}
"""


@pytest.fixture
def mapping(roomy: Path) -> Path:
    path = roomy / "map.yaml"
    path.write_text(MAPPING)
    return path


def write_csv(path: Path, rows: int) -> Path:
    with path.open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["id", "what", "when", "value"])
        for number in range(rows):
            writer.writerow(
                [
                    number,
                    f"step {number % 7}",
                    f"2024-01-01T{number // 3600 % 24:02}:{number // 60 % 60:02}:{number % 60:02}Z",
                    number / 8,
                ]
            )
    return path


def ids(sidecar: SidecarService) -> list[str]:
    return [event["event_id"] for event in sidecar.events()]


def event(number: int, **fields: object) -> dict[str, object]:
    return {
        "event_id": uuid7(),
        "timestamp": "2024-01-01T00:00:00Z",
        "kind": "log",
        "name": f"n{number}",
        "site_id": "fab1",
        "app": {"name": "x"},
        **fields,
    }


def test_loading_a_csv_twice_adds_nothing(sidecar: SidecarService, roomy: Path, mapping: Path):
    path = write_csv(roomy / "rows.csv", 4500)
    for _ in range(2):
        done = trackmate("ingest", path, "--mapping", mapping, "--url", sidecar.url)
        assert done.returncode == 0, done.stderr
        assert "4,500" in done.stdout
    assert len(ids(sidecar)) == len(set(ids(sidecar))) == 4500
    assert not list(roomy.glob("*.ingest.json"))
    assert not list(roomy.glob("*.quarantine.ndjson"))


def test_bad_rows_go_to_quarantine_with_number_and_reason_and_good_ones_in(sidecar: SidecarService, roomy: Path, mapping: Path):
    path = roomy / "rows.csv"
    path.write_bytes(
        b"\xef\xbb\xbfid,what,when,value\n"
        b"1,good,2024-01-01T00:00:00Z,1\n"
        b"2,bad time,whenever,1\n"
        b"3,too few\n"
        b"4,no number,2024-01-01T00:00:00Z,x\n"
        b"5,\xff\xfe,2024-01-01T00:00:00Z,1\n"
        b"6,year,2150-01-01T00:00:00Z,1\n"
        b"7,,2024-01-01T00:00:00Z,1\n"
        b'8,"a ""quoted"", one\nwith a line end",2024-01-01T00:00:00Z,1\n'
        b"\n"
        b"10,good,2024-01-01T00:00:00+02:00,1\n"
    )
    done = trackmate("ingest", path, "--mapping", mapping, "--url", sidecar.url)
    assert done.returncode == 1, done.stderr
    assert {e["name"] for e in sidecar.events()} == {"good", 'a "quoted", one\nwith a line end'}
    kept = [json.loads(line) for line in (roomy / "rows.csv.quarantine.ndjson").read_text().splitlines()]
    assert {entry["row"]: entry["error"].split(":")[0] for entry in kept} == {
        2: "'whenever' is not a time in the format ISO 8601",
        3: "line 4",
        4: "metrics.value",
        5: "the row is not valid in the file's encoding; see csv.encoding in the mapping",
        6: kept[4]["error"].split(":")[0],
        7: kept[5]["error"].split(":")[0],
    }
    assert [entry["path"] for entry in kept if entry["row"] in {6, 7}] == ["timestamp", "name"]
    assert kept[0]["data"] == ["2", "bad time", "whenever", "1"]


@pytest.mark.parametrize(
    "compress", [lambda b: b, gzip.compress, zstandard.ZstdCompressor().compress], ids=["plain", "gz", "zst"]
)
def test_events_as_ndjson_pass_with_their_own_text(sidecar: SidecarService, roomy: Path, compress):
    events = [event(n, attributes={"exact": 0.1, "deep": {"n": n}}) for n in range(300)]
    path = roomy / "events.ndjson"
    path.write_bytes(compress("\n".join(map(json.dumps, events)).encode()))
    done = trackmate("ingest", path, "--url", sidecar.url)
    assert done.returncode == 0, done.stderr
    assert sidecar.events() == events


def test_events_without_id_site_or_app_are_completed_and_stay_the_same_when_loaded_again(sidecar: SidecarService, roomy: Path):
    path = roomy / "events.ndjson"
    bare = [{"timestamp": "2024-01-01T00:00:00Z", "kind": "log", "name": f"n{n}", "attributes": {"x": 1.50}} for n in range(3)]
    path.write_text("".join(json.dumps(line) + "\n" for line in bare) + "{broken\n[1]\n")
    for _ in range(2):
        done = trackmate("ingest", path, "--url", sidecar.url, "--site", "fab9", "--app", "old")
        assert done.returncode == 1, done.stderr
    assert len(ids(sidecar)) == len(set(ids(sidecar))) == 3
    assert {(e["site_id"], e["app"]["name"]) for e in sidecar.events()} == {("fab9", "old")}
    kept = [json.loads(line) for line in (roomy / "events.ndjson.quarantine.ndjson").read_text().splitlines()]
    assert [entry["row"] for entry in kept] == [4, 5]
    assert kept[0]["data"] == "{broken"


def test_a_load_that_was_killed_goes_on_where_it_stopped_and_loses_no_row(sidecar: SidecarService, roomy: Path, mapping: Path):
    path = write_csv(roomy / "rows.csv", 30_000)
    with path.open("a") as handle:
        handle.write("bad,row\n")
    progress = roomy / "rows.csv.ingest.json"
    arguments = ["ingest", str(path), "--mapping", str(mapping)]
    with SlowFront(sidecar.url, delay=0.6) as front:
        process = subprocess.Popen(
            [*TRACKMATE, *arguments, "--url", front.url], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_until(
            lambda: progress.exists() and json.loads(progress.read_text())["rows"] > 0,
            seconds=60,
            what="the load to note its progress",
        )
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    before = len(ids(sidecar))
    assert 0 < before < 30_000
    done = trackmate(*arguments, "--url", sidecar.url, "--resume")
    assert done.returncode == 1, done.stderr
    assert "went on after row" in done.stdout
    assert set(ids(sidecar)) == {stable_id(f"event\0{n}", _moment(n)) for n in range(30_000)}
    assert len(ids(sidecar)) < before + 30_000
    assert len((roomy / "rows.csv.quarantine.ndjson").read_text().splitlines()) == 1
    assert not progress.exists()


def _moment(number: int):
    from datetime import UTC, datetime

    return datetime(2024, 1, 1, number // 3600 % 24, number // 60 % 60, number % 60, tzinfo=UTC)


def test_a_resume_of_another_file_is_refused(sidecar: SidecarService, roomy: Path, mapping: Path):
    path = write_csv(roomy / "rows.csv", 10)
    (roomy / "rows.csv.ingest.json").write_text('{"fingerprint": "other", "rows": 5}')
    done = trackmate("ingest", path, "--mapping", mapping, "--url", sidecar.url, "--resume")
    assert done.returncode == 2
    assert "has changed since" in done.stderr


def test_a_busy_sidecar_is_waited_for_as_long_as_it_asks_and_nothing_is_lost(sidecar: SidecarService, roomy: Path, mapping: Path):
    path = write_csv(roomy / "rows.csv", 5000)
    with SlowFront(sidecar.url, busy=4, retry_after="0.2") as front:
        done = trackmate("ingest", path, "--mapping", mapping, "--url", front.url)
        assert done.returncode == 0, done.stderr
        assert front.refused == 4
        assert front.shortest_wait >= 0.2
    assert len(set(ids(sidecar))) == 5000


def test_a_sidecar_that_stays_busy_ends_the_load_with_advice(sidecar: SidecarService, roomy: Path, mapping: Path):
    path = write_csv(roomy / "rows.csv", 10)
    with SlowFront(sidecar.url, busy=10**6, retry_after="0.1") as front:
        done = trackmate("ingest", path, "--mapping", mapping, "--url", front.url, "--patience", "0.5")
    assert done.returncode == 2
    assert "--resume" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_a_sidecar_one_line_says_what_to_start(roomy: Path, mapping: Path):
    path = write_csv(roomy / "rows.csv", 10)
    done = trackmate("ingest", path, "--mapping", mapping, "--url", "http://127.0.0.1:9")
    assert done.returncode == 2
    assert done.stderr.startswith("error: no sidecar answers at http://127.0.0.1:9")
    assert "trackmate up" in done.stderr


def test_a_file_that_was_cut_short_says_so_and_keeps_what_came_before(sidecar: SidecarService, roomy: Path, mapping: Path):
    whole = gzip.compress(write_csv(roomy / "rows.csv", 20_000).read_bytes())
    path = roomy / "cut.csv.gz"
    path.write_bytes(whole[: len(whole) // 2])
    done = trackmate("ingest", path, "--mapping", mapping, "--url", sidecar.url)
    assert done.returncode == 2
    assert "cut short or damaged" in done.stderr


def test_a_dry_run_sends_nothing_and_warns_of_rows_that_share_an_id(roomy: Path, mapping: Path):
    path = roomy / "rows.csv"
    path.write_text("id,what,when,value\n" + "1,a,2024-01-01T00:00:00Z,1\n" * 3)
    done = trackmate("ingest", path, "--mapping", mapping, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "2 events share their id" in done.stdout
    assert "would send" in done.stdout
    assert sorted(p.name for p in roomy.iterdir()) == ["map.yaml", "rows.csv"]


def test_a_dry_run_counts_bad_rows_without_their_reasons(roomy: Path, mapping: Path):
    path = roomy / "rows[old].csv"
    path.write_text("id,what,when,value\n" + "1,a,yesterday,1\n" * 7)
    done = trackmate("ingest", path, "--mapping", mapping, "--dry-run")
    assert done.returncode == 1
    assert "rows[old].csv: row 1: 'yesterday' is not a time in the format ISO 8601" in done.stdout
    assert "and 2 more bad rows" in done.stdout


def test_rows_behind_a_quote_that_is_never_closed_are_lost(sidecar: SidecarService, roomy: Path, mapping: Path):
    path = roomy / "rows.csv"
    swallowed = '2,"b,2024-01-01T00:00:01Z,2\n' + "".join(f"{n},c,2024-01-01T00:00:02Z,{n}\n" for n in range(3, 40))
    path.write_text("id,what,when,value\n1,a,2024-01-01T00:00:00Z,1\n" + swallowed)
    done = trackmate("ingest", path, "--mapping", mapping, "--url", sidecar.url)
    assert done.returncode == 1, done.stderr
    (kept,) = [json.loads(line) for line in (roomy / "rows.csv.quarantine.ndjson").read_text().splitlines()]
    assert kept["data"] == swallowed
    assert kept["error"].startswith("lines 3 to 40: not CSV")
    assert len(ids(sidecar)) == 1


def test_a_byte_order_mark_costs_the_first_event(sidecar: SidecarService, roomy: Path):
    path = roomy / "events.ndjson"
    path.write_bytes(b"\xef\xbb\xbf" + b"".join(json.dumps(event(n)).encode() + b"\n" for n in range(3)))
    done = trackmate("ingest", path, "--url", sidecar.url)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(ids(sidecar)) == 3


@pytest.mark.parametrize("indent", [None, 1])
def test_a_json_array_is_taken_apart_into_bad_lines(roomy: Path, indent: int | None):
    path = roomy / "events.json"
    path.write_text(json.dumps([event(1), event(2)], indent=indent))
    done = trackmate("ingest", path, "--dry-run")
    assert done.returncode == 2
    assert "one JSON array; expected NDJSON" in done.stderr


def test_an_app_that_is_only_a_name_gives_a_traceback_with_app(roomy: Path, mapping: Path):
    mapping.write_text(MAPPING.replace("{name: loader}", "loader"))
    done = trackmate("ingest", write_csv(roomy / "rows.csv", 1), "--mapping", mapping, "--app", "mine", "--dry-run")
    assert done.returncode == 2
    assert "app: expected object" in done.stderr


@pytest.mark.parametrize("sign", [";", "\t"])
def test_columns_that_are_not_parted_by_commas_make_a_draft_of_no_use(roomy: Path, mapping: Path, sign: str):
    path = write_csv(roomy / "rows.csv", 3)
    path.write_text(path.read_text().replace(",", sign))
    refused = trackmate("ingest", path, "--mapping", mapping, "--dry-run")
    assert refused.returncode == 2
    assert f"parted by {sign!r}, say so with csv.delimiter" in refused.stderr
    (roomy / "draft.yaml").write_text(trackmate("ingest", "--suggest-mapping", path).stdout)
    done = trackmate("ingest", path, "--mapping", roomy / "draft.yaml", "--dry-run")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_suggested_mapping_loads_the_file_it_was_made_for(sidecar: SidecarService, roomy: Path):
    path = roomy / "log.csv"
    path.write_text(
        "case,activity,start_time,end_time,resource,kwh\n"
        "c1,press,2024-01-01 08:00:00,2024-01-01 08:10:00,ana,1.5\nc1,pack,2024-01-01 08:10:00,2024-01-01 08:11:00,bram,0.2\n"
    )
    draft = trackmate("ingest", "--suggest-mapping", path)
    assert draft.returncode == 0, draft.stderr
    (roomy / "draft.yaml").write_text(draft.stdout)
    done = trackmate("ingest", path, "--mapping", roomy / "draft.yaml", "--url", sidecar.url)
    assert done.returncode == 0, done.stderr
    events = sidecar.events()
    assert [(e["kind"], e["name"]) for e in events] == [
        ("start", "press"),
        ("finish", "press"),
        ("start", "pack"),
        ("finish", "pack"),
    ]
    assert events[0]["entities"] == {"operator": "ana", "case": "c1"}
    assert events[0]["metrics"] == {"kwh": 1.5}


def test_process_metrics_of_one_process_arrive(sidecar: SidecarService):
    done = trackmate(
        "ingest", "--process-metrics", "--pid", os.getpid(), "--seconds", "0.3", "--interval", "0.1", "--url", sidecar.url
    )
    assert done.returncode == 0, done.stderr
    events = sidecar.events()
    assert len(events) >= 3
    assert {e["entities"]["pid"] for e in events} == {str(os.getpid())}
    assert all(e["kind"] == "metric" and e["metrics"]["resident_bytes"] > 0 for e in events)
    assert len({e["event_id"] for e in events}) == len(events)
