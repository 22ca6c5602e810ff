"""Several calls at once to a real object store that is far away, and an agent that is killed in the middle of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from tests.services.base import wait_until
from tests.services.toxiproxy import Toxiproxy
from tests.services.versitygw import VersityGw
from tests.sidecar.harness import RunningSidecar, events, ndjson

NewSidecar = Callable[..., RunningSidecar]


def s3_backend(server: VersityGw, bucket: str, port: int, **settings: Any) -> dict[str, Any]:
    config = {
        "bucket": bucket,
        "region": "us-east-1",
        "endpoint_url": f"http://127.0.0.1:{port}",
        "credentials": {"access_key_id": server.access_key_id, "secret_access_key": server.secret_access_key},
    }
    return {"name": "archive", "type": "s3", "config": config, **settings}


def stored(folder: Path) -> Counter[str]:
    """The ids of all events in a bucket's folder."""
    ids: list[str] = []
    for file in folder.rglob("*.zst"):
        with file.open("rb") as handle:
            text = zstandard.ZstdDecompressor().stream_reader(handle).read()
        ids += [json.loads(line)["event_id"] for line in text.splitlines()]
    return Counter(ids)


@pytest.mark.parametrize("concurrency", ["adaptive", 4])
def test_kill_in_the_middle_of_several_calls_loses_or_doubles_events(
    concurrency: str | int, new_sidecar: NewSidecar, versitygw: VersityGw, toxiproxy: Toxiproxy
) -> None:
    bucket = versitygw.fresh_bucket()
    link = toxiproxy.link(bucket, versitygw.port)
    link.poison("latency", latency=150)
    sidecar = new_sidecar(backends=[s3_backend(versitygw, bucket, link.port, concurrency=concurrency, timeout="60s")]).start()
    sent: list[str] = []
    for _ in range(24):
        batch = events(100, message="x" * 8000, attributes={"more": "y" * 12_000})
        answer = sidecar.post(ndjson(batch), headers={"Content-Type": "application/x-ndjson"}, timeout=60)
        assert answer.status_code == 202
        sent += [item["event_id"] for item in batch]
    state = wait_until(
        lambda: next((s for s in [sidecar.backend("archive")] if s["in_flight"] > 1), None),
        seconds=60,
        what="two calls at once",
        interval=0.01,
    )
    assert state["concurrency_max"] == 4
    assert state["concurrency"] > 1
    assert 0 < state["bytes_in_flight"] < 32 * 1024 * 1024
    sidecar.kill()
    sidecar.start()
    sidecar.wait_for_backend("archive", seconds=120, lag_events=0)
    assert stored(versitygw.buckets / bucket) == Counter(sent)
