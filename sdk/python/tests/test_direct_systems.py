"""Direct mode on real systems: S3 and Elasticsearch beside files; what each holds in the end is what the program emitted."""

from __future__ import annotations

import gzip
import json
import time

import boto3
import pytest
import zstandard
from sdk.python.tests.conftest import written
from tests.services.base import free_port
from tests.services.proxy import Proxy

import monitoring_sdk as m

EVENT = {"kind": "metric", "name": "chuck", "entities": {"tool": "E7"}, "metrics": {"temperature": 21.5}}


class Bucket:
    """A fresh bucket behind a proxy that can be down or hang."""

    def __init__(self, server):
        self.server = server
        self.name = server.fresh_bucket()
        self.proxy = Proxy(server.port)
        self.client = boto3.client(
            "s3",
            endpoint_url=server.endpoint,
            region_name="us-east-1",
            aws_access_key_id=server.access_key_id,
            aws_secret_access_key=server.secret_access_key,
        )

    def backend(self, port=None):
        """The configuration as published, with an address of this machine."""
        credentials = {"access_key_id": self.server.access_key_id, "secret_access_key": self.server.secret_access_key}
        return {
            "type": "s3",
            "priority": 2,
            "config": {
                "bucket": self.name,
                "region": "us-east-1",
                "prefix": "events/",
                "endpoint_url": f"http://127.0.0.1:{port or self.proxy.port}",
                "credentials": credentials,
            },
        }

    def events(self):
        found = []
        for entry in self.client.list_objects_v2(Bucket=self.name).get("Contents", ()):
            data = self.client.get_object(Bucket=self.name, Key=entry["Key"])["Body"].read()
            if entry["Key"].endswith(".zst"):
                data = zstandard.ZstdDecompressor().stream_reader(data).read()
            elif entry["Key"].endswith(".gz"):
                data = gzip.decompress(data)
            found += [json.loads(line) for line in data.splitlines()]
        return sorted(found, key=lambda event: event["emitter"]["seq"])


@pytest.fixture
def bucket(versitygw):
    made = Bucket(versitygw)
    with made.proxy:
        yield made
    made.client.close()


@pytest.fixture
def index(elasticsearch):
    name = elasticsearch.fresh_index()
    backend = {
        "type": "elk",
        "priority": 3,
        "config": {
            "url": elasticsearch.url,
            "index": name,
            "username": elasticsearch.username,
            "password": elasticsearch.password,
        },
    }
    return backend, lambda: sorted(document["_id"] for document in elasticsearch.documents(f"{name}*"))


def files(folder):
    return {"type": "filesystem", "priority": 1, "config": {"path": str(folder), "format": "jsonl", "rotate_size_mb": 100}}


def test_one_program_s_events_are_in_files_bucket_and_index_at_once(direct, bucket, index, tmp_path):
    backend, documents = index
    direct(files(tmp_path / "out"), bucket.backend(), backend)
    ids = list(m.emit_batch([EVENT] * 1500))
    result = m.flush(60)
    assert result, result
    assert {name: counts.delivered for name, counts in result.backends.items()} == dict.fromkeys(
        ("filesystem", "s3", "elk"), 1500
    )
    assert bucket.events() == written(tmp_path / "out")
    assert [event["event_id"] for event in bucket.events()] == ids
    assert documents() == sorted(ids)
    m.close()
    assert m.stats().sent == 1500


@pytest.mark.parametrize("trouble", ["down", "hung"])
def test_bucket_in_trouble_gets_its_own_events_later_and_nobody_else_anything_twice(
    direct, bucket, index, tmp_path, spool_dir, eventually, trouble
):
    backend, documents = index
    bucket.proxy.deaf()
    troubled = bucket.backend(free_port() if trouble == "down" else None)
    direct(files(tmp_path / "out"), {**troubled, "timeout": 3}, backend, sidecar__retries=0)
    ids = list(m.emit_batch([EVENT] * 300))
    result = m.flush(60)
    assert result, result
    assert result.backends["s3"].spooled == 300
    assert [event["event_id"] for event in written(tmp_path / "out")] == ids
    assert documents() == sorted(ids)
    m.close()
    assert bucket.events() == []
    bucket.proxy.hear()
    direct(files(tmp_path / "out"), bucket.backend(), backend)
    eventually(lambda: m.stats().backends["s3"].replayed == 300, 60)
    m.close()
    assert [event["event_id"] for event in bucket.events()] == ids
    assert [event["event_id"] for event in written(tmp_path / "out")] == ids
    assert documents() == sorted(ids)
    assert list(spool_dir.glob("direct/*/*/*.jsonl*")) == []


def test_wrong_credential_is_said_and_the_events_wait(direct, bucket, tmp_path, spool_dir):
    backend = bucket.backend()
    backend["config"]["credentials"] = {"access_key_id": "tests", "secret_access_key": "not the right one at all"}
    direct(files(tmp_path / "out"), backend, sidecar__retries=0)
    m.emit_event(EVENT)
    result = m.flush(60)
    assert result.backends["s3"].spooled == 1
    assert "not the right one" not in (result.backends["s3"].error or "")
    assert result.backends["s3"].error
    assert len(written(tmp_path / "out")) == 1


def test_short_program_s_last_events_never_reach_the_bucket(run_program, bucket, tmp_path):
    """What a busy machine leaves no time for at the end is on disk, and the next start of the program brings it."""
    settings = {"mode": "direct", "direct_backends": [bucket.backend(), files(tmp_path / "out")]}
    program = "start()\nfor i in range(100):\n    log(i)\ntime.sleep(1.5)\nfor i in range(100, 200):\n    log(i)\n"
    _, err = run_program(program, **settings).communicate(timeout=90)
    assert err == ""
    deadline = time.monotonic() + 60
    while len(bucket.events()) < 200 and time.monotonic() < deadline:
        run_program("start()\nm.flush(30)\n", **settings).communicate(timeout=90)
    assert [event["attributes"]["i"] for event in bucket.events()] == list(range(200))
