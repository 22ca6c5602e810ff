"""Unified data from the running gateway, over a real hot store and a real lake."""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
import os
import signal
import threading
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet
import pytest

from federation.gateway import formats
from lakehouse.bronze import append_spool
from lakehouse.config import LakeConfig
from lakehouse.lake import Lake
from lakehouse.silver.events import refresh_events
from tests.federation.gateway.conftest import TOKENS
from tests.federation.gateway_service import GatewayService, error_of, event, events, eventually, lake_folder
from tests.lakehouse.lakes import records
from tests.services.postgres import Postgres15

START = dt.datetime(2026, 3, 4, 10, tzinfo=dt.UTC)
SPAN = {"start": "2026-03-04T10:00:00Z", "end": "2026-03-04T12:00:00Z"}


def to_lake(gateway: GatewayService, batch: list[dict[str, object]], spool: str) -> None:
    """Bring events to silver the way they come: a spool's segment, bronze, silver."""
    lake = Lake(LakeConfig(root=str(lake_folder(gateway))), threads=1)
    append_spool(lake, spool, records(batch))
    refresh_events(lake)


@pytest.fixture(scope="module")
def filled(postgres15: Postgres15) -> Iterator[tuple[GatewayService, list[dict[str, object]]]]:
    """60 events: the first 40 in the lake, the last 40 in the hot store, so 20 in both."""
    with GatewayService(postgres15.fresh_database(), TOKENS) as service:
        batch = [
            event(
                START + dt.timedelta(minutes=index),
                kind="metric" if index % 3 == 0 else "log",
                metrics={"t": index / 8},
                name=f"step-{index % 4}",
                severity="error" if index % 10 == 0 else "info",
                message=f"Wafer {index} moved",
                entities={"lot": f"L{index % 2}", "own key": str(index % 5)},
                attributes={"n": index, "deep": {"list": [1, None, "x"]}},
                run_id=f"01890a5d-ac96-774b-bcce-{index % 6:012x}",
                trace_id=f"{index % 7:032x}",
            )
            for index in range(60)
        ]
        to_lake(service, batch[:40], "01890a5d-ac96-774b-bcce-b302099a8057")
        service.ingest(batch[20:], "all")
        yield service, batch


def ids(body: dict[str, object]) -> list[object]:
    return [entry["event_id"] for entry in body["events"]]  # type: ignore[attr-defined]


def test_events_of_hot_store_and_lake_come_in_one_order_each_once_with_its_sources(filled):
    gateway, batch = filled
    body = gateway.get("/v1/data/unified", "all", **SPAN).json()
    assert ids(body) == [entry["event_id"] for entry in batch]
    held = [entry["sources"] for entry in body["events"]]
    assert held == [["lake"]] * 20 + [["managed", "lake"]] * 20 + [["managed"]] * 20
    assert (body["partial"], body["next_cursor"]) == (False, None)
    reports = {report["name"]: report for report in body["sources"]}
    assert (reports["managed"]["rows"], reports["lake"]["rows"]) == (40, 40)
    assert reports["lake"]["lag_seconds"] is not None


def test_an_event_comes_back_as_it_was_sent(filled):
    gateway, batch = filled
    body = gateway.get("/v1/data/unified", "all", **SPAN).json()
    for index in (0, 30, 59):
        got = dict(body["events"][index])
        got.pop("sources")
        sent = dict(batch[index])
        assert dt.datetime.fromisoformat(got.pop("timestamp")) == dt.datetime.fromisoformat(str(sent.pop("timestamp")))
        assert got == {**sent, "severity": sent["severity"]}


FILTERS = [
    ({"kind": "metric"}, lambda e: e["kind"] == "metric"),
    ({"name": ["step-1", "step-2"]}, lambda e: e["name"] in {"step-1", "step-2"}),
    ({"entity.lot": "L1"}, lambda e: e["entities"]["lot"] == "L1"),
    ({"entity.own key": "3"}, lambda e: e["entities"]["own key"] == "3"),
    ({"entity.own key": "3", "entity.lot": "L0"}, lambda e: e["entities"] == {"own key": "3", "lot": "L0"}),
    ({"severity": "warning"}, lambda e: e["severity"] == "error"),
    ({"text": "wafer 5"}, lambda e: "Wafer 5" in e["message"]),
    ({"text": "%"}, lambda e: False),
    ({"run_id": "01890a5d-ac96-774b-bcce-000000000002"}, lambda e: e["run_id"].endswith("002")),
    ({"trace_id": "0" * 31 + "4"}, lambda e: e["trace_id"].endswith("4")),
    ({"site": "fab9"}, lambda e: False),
]


@pytest.mark.parametrize(("parameters", "wanted"), FILTERS, ids=lambda value: str(value)[:40] if isinstance(value, dict) else "")
@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("source", ["managed", "lake", "managed,lake"])
def test_every_filter_means_the_same_in_every_source(filled, parameters, wanted, order, source):
    gateway, batch = filled
    held = {"managed": batch[20:], "lake": batch[:40], "managed,lake": batch}[source]
    expected = [entry["event_id"] for entry in held if wanted(entry)]
    body = gateway.get("/v1/data/unified", "all", **SPAN, **parameters, order=order, sources=source).json()
    assert not body["partial"], body["sources"]
    assert ids(body) == (expected if order == "asc" else expected[::-1])


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("limit", [1, 7, 59, 60])
def test_pages_joined_are_the_whole(filled, limit, order):
    gateway, batch = filled
    got, cursor, pages = [], None, 0
    while True:
        more = {"cursor": cursor} if cursor else SPAN
        body = gateway.get("/v1/data/unified", "all", limit=limit, order=order, **more).json()
        assert len(body["events"]) <= limit
        got += ids(body)
        pages += 1
        cursor = body["next_cursor"]
        if cursor is None:
            break
    expected = [entry["event_id"] for entry in batch]
    assert got == (expected if order == "asc" else expected[::-1])
    assert pages <= 60 // limit + 1


def test_a_cursor_of_another_question_is_refused(filled):
    gateway, _ = filled
    cursor = gateway.get("/v1/data/unified", "all", limit=3, **SPAN).json()["next_cursor"]
    assert gateway.get("/v1/data/unified", "all", limit=9, cursor=cursor).status_code == 200
    for other in ({"order": "desc"}, {"kind": "log"}, {"sources": "lake"}):
        response = gateway.get("/v1/data/unified", "all", limit=3, cursor=cursor, **other)
        assert (response.status_code, error_of(response)["code"]) == (400, "bad_cursor")
    damaged = cursor[:20] + ("A" if cursor[20] != "A" else "B") + cursor[21:]
    assert gateway.get("/v1/data/unified", "all", limit=3, cursor=damaged).status_code == 400


def test_every_form_holds_the_same_rows(filled):
    gateway, batch = filled
    expected = [entry["event_id"] for entry in batch][:50]
    found = {}
    for form in ("application/x-ndjson", "application/vnd.apache.arrow.stream", "application/vnd.apache.parquet", "text/csv"):
        with gateway.client("all") as client:
            response = client.get("/v1/data/unified", params={**SPAN, "limit": 50}, headers={"Accept": form})
        assert response.headers["content-type"].startswith(form)
        assert response.headers["x-trackmate-partial"] == "false"
        assert response.headers["x-trackmate-next-cursor"]
        assert {report["name"] for report in json.loads(response.headers["x-trackmate-sources"])} == {"managed", "lake"}
        found[form] = response.content
    assert [json.loads(line)["event_id"] for line in found["application/x-ndjson"].splitlines()] == expected
    arrow = pa.ipc.open_stream(found["application/vnd.apache.arrow.stream"]).read_all()
    parquet = pyarrow.parquet.read_table(io.BytesIO(found["application/vnd.apache.parquet"]))
    assert arrow["event_id"].to_pylist() == parquet["event_id"].to_pylist() == expected
    assert arrow.schema.field("timestamp").type == pa.timestamp("us", "UTC")
    rows = list(csv.DictReader(io.StringIO(found["text/csv"].decode())))
    assert [row["event_id"] for row in rows] == expected
    assert json.loads(rows[0]["sources"]) == ["lake"]


@pytest.mark.parametrize("accept", [form.value for form in formats.Form])
def test_a_kept_answer_holds_other_rows_than_the_first(filled, accept):
    gateway, batch = filled
    with gateway.client("all") as client:
        first, kept = (
            client.get("/v1/data/unified", params={**SPAN, "limit": 1_000}, headers={"Accept": accept}) for _ in range(2)
        )
        statement = {"sql": "SELECT event_id, timestamp, metrics, tool FROM silver.events ORDER BY event_id"}
        asked, again = (client.post("/v1/sql", json=statement, headers={"Accept": accept}) for _ in range(2))
    if accept == formats.Form.JSON:
        assert kept.json()["cache"]["result"] == again.json()["stats"]["cache"] == "hit"
        assert kept.json()["events"] == first.json()["events"]
        assert [event["event_id"] for event in kept.json()["events"]] == [entry["event_id"] for entry in batch]
        assert again.json()["rows"] == asked.json()["rows"]
        assert again.json()["columns"] == asked.json()["columns"]
    else:
        assert {report["cache"] for report in json.loads(kept.headers["x-trackmate-sources"])} == {"hit"}
        assert json.loads(again.headers["x-trackmate-stats"])["cache"] == "hit"
        assert kept.content == first.content
        assert again.content == asked.content


def test_pages_neither_repeat_nor_lose_an_event_while_others_arrive(gateway: GatewayService):
    start = dt.datetime(2026, 4, 1, tzinfo=dt.UTC)
    there = events(300, start, site_id="paging")
    gateway.ingest(there, "all")
    stop = threading.Event()
    sent: list[str] = []

    def arrive() -> None:
        number = 0
        while not stop.is_set() and number < 200:
            late = event(start + dt.timedelta(seconds=number % 300, microseconds=number + 1), site_id="paging")
            assert gateway.ingest([late], "all").status_code == 200
            sent.append(str(late["event_id"]))
            number += 1

    arriving = threading.Thread(target=arrive)
    arriving.start()
    try:
        got: list[str] = []
        cursor = None
        while True:
            more = {"cursor": cursor} if cursor else {"start": "2026-04-01T00:00:00Z", "end": "2026-04-01T01:00:00Z"}
            body = gateway.get("/v1/data/unified", "all", site="paging", limit=20, **more).json()
            got += ids(body)
            cursor = body["next_cursor"]
            if cursor is None:
                break
    finally:
        stop.set()
        arriving.join()
    assert len(got) == len(set(got))
    assert {entry["event_id"] for entry in there} <= set(got) <= {entry["event_id"] for entry in there} | set(sent)


def test_a_late_event_is_seen_in_a_range_that_was_kept(gateway: GatewayService):
    start = dt.datetime(2026, 5, 1, tzinfo=dt.UTC)
    span = {"start": "2026-05-01T00:00:00Z", "end": "2026-05-01T01:00:00Z", "site": "late"}
    gateway.ingest([event(start, site_id="late")], "all")
    assert len(gateway.get("/v1/data/unified", "all", **span).json()["events"]) == 1
    assert gateway.get("/v1/data/unified", "all", **span).json()["cache"]["result"] == "hit"
    gateway.ingest([event(start, site_id="late")], "all")
    assert len(gateway.get("/v1/data/unified", "all", **span).json()["events"]) == 2


def test_a_new_version_of_the_lake_is_seen_in_a_range_that_was_kept(filled):
    gateway, _ = filled
    span = {"start": "2026-03-05T00:00:00Z", "end": "2026-03-05T01:00:00Z", "site": "later"}
    assert gateway.get("/v1/data/unified", "all", **span).json()["events"] == []
    to_lake(gateway, [event(dt.datetime(2026, 3, 5, tzinfo=dt.UTC), site_id="later")], "01890a5d-ac96-774b-bcce-b302099a8058")
    assert len(gateway.get("/v1/data/unified", "all", **span).json()["events"]) == 1


def test_max_staleness_zero_is_never_answered_from_what_was_kept(gateway: GatewayService):
    for _ in range(2):
        body = gateway.get("/v1/data/unified", "all", start="-1h", max_staleness=0).json()
        assert body["cache"]["result"] == "miss"


def test_a_trace_tells_every_place_and_when_it_came_there(filled):
    gateway, batch = filled
    body = gateway.get(f"/v1/events/{batch[30]['event_id']}/trace", "all").json()
    places = {place["place"]: place for place in body["places"]}
    assert [places[name]["status"] for name in ("hot", "bronze", "silver")] == ["found"] * 3, body
    assert all(places[name]["at"] for name in ("hot", "bronze", "silver"))
    only_lake = gateway.get(f"/v1/events/{batch[0]['event_id']}/trace", "all").json()
    assert [place["status"] for place in only_lake["places"][:3]] == ["absent", "found", "found"]
    nowhere = gateway.get("/v1/events/01890a5d-ac96-774b-bcce-b302099a8057/trace", "all").json()
    assert nowhere["found"] is False


def test_correlation_brings_together_what_shares_a_run(filled):
    gateway, batch = filled
    body = gateway.get("/v1/data/unified", "all", **SPAN, correlate="run_id").json()
    groups = {group["value"]: group["event_ids"] for group in body["correlations"]}
    expected: dict[object, list[object]] = {}
    for entry in batch:
        expected.setdefault(entry["run_id"], []).append(entry["event_id"])
    assert groups == expected


def test_a_source_that_hangs_costs_its_own_rows_only():
    with Postgres15() as own, GatewayService(own.fresh_database(), TOKENS, gateway={"source_timeout": "1s"}) as gateway:
        batch = events(5, START)
        to_lake(gateway, batch, "01890a5d-ac96-774b-bcce-b302099a8057")
        assert own.process is not None
        os.killpg(own.process.pid, signal.SIGSTOP)
        try:
            response = gateway.get("/v1/data/unified", "all", **SPAN)
        finally:
            os.killpg(own.process.pid, signal.SIGCONT)
        body = response.json()
        assert response.status_code == 200
        assert body["partial"] is True
        assert ids(body) == [entry["event_id"] for entry in batch]
        reports = {report["name"]: report for report in body["sources"]}
        assert "1 s" in reports["managed"]["error"]
        assert reports["lake"]["error"] is None

        own.crash()
        eventually(
            lambda: gateway.get("/v1/data/unified", "all", **SPAN, max_staleness=0).json()["partial"],
            "the dead source to be told",
        )
        body = gateway.get("/v1/data/unified", "all", **SPAN, max_staleness=0).json()
        assert ids(body) == [entry["event_id"] for entry in batch]
        response = gateway.get("/v1/data/unified", "all", **SPAN, sources="managed")
        assert (response.status_code, error_of(response)["code"]) == (503, "no_source")

        own.restart()
        eventually(
            lambda: not gateway.get("/v1/data/unified", "all", **SPAN, max_staleness=0).json()["partial"],
            "the source to answer again",
        )
