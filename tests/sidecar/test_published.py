"""The backends as they are published, with nothing changed but addresses and credentials, behind a sidecar on real servers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
import zstandard

from contract import columns
from lakehouse.hot import reader
from sdk.conformance.harness import Harness
from sdk.conformance.languages import language_named
from tests.federation.gateway_service import GatewayService
from tests.services.base import wait_until
from tests.services.elasticsearch import Elasticsearch
from tests.services.postgres import Postgres15
from tests.services.versitygw import VersityGw
from tests.services.zabbix import Zabbix
from tests.sidecar.harness import RunningSidecar

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT / "sdk" / "python" / "tests" / "published-config.yaml"
TEMPLATE = ROOT / "deploy" / "zabbix" / "trackmate_template.yaml"
EVENTS = 50


def in_bucket(bucket: Path) -> list[dict[str, Any]]:
    plain = zstandard.ZstdDecompressor()
    files = [path for path in bucket.rglob("*.jsonl.zst") if path.is_file()]
    return [json.loads(line) for path in files for line in plain.decompressobj().decompress(path.read_bytes()).splitlines()]


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Harness]:
    """A program with the Python SDK."""
    folder = tmp_path / "program"
    folder.mkdir()
    harness = Harness([language_named("python").program], cwd=folder, env={"PATH": "/usr/bin:/bin", "HOSTNAME": "host-1"})
    yield harness
    harness.close()


def emit(program: Harness, url: str, spool: Path) -> set[str]:
    """Emit metrics through the SDK, and their ids."""
    sidecar = {"url": url, "spool_dir": str(spool)}
    app = {"name": "wafer-processing", "version": "1.0.0", "site_id": "fab1"}
    assert program.ask({"do": "initialize", "config": {"sdk": {"sidecar": sidecar, "app": app}}})["ok"]
    return emit_batch(program)


def emit_batch(program: Harness) -> set[str]:
    """Emit metrics, wait until they are delivered, and their ids."""
    event = {"kind": "metric", "name": "chuck", "metrics": {"t": 21.5}, "entities": {"lot": "L42"}}
    ids: list[str] = program.ask({"do": "emit_batch", "events": [event] * EVENTS})["event_ids"]
    assert program.ask({"do": "flush", "timeout": 30})["flushed"]
    return set(ids)


def sidecar_with(backends: list[dict[str, Any]], environment: dict[str, str]) -> RunningSidecar:
    """One that is not started yet."""
    sidecar = RunningSidecar(backends=backends)
    sidecar.environment = environment
    return sidecar


def all_have(sidecar: RunningSidecar) -> None:
    def delivered() -> bool:
        return all(state["lag_events"] == 0 and state["state"] == "ok" for state in sidecar.health()["backends"])

    wait_until(delivered, seconds=60, what=f"every backend to have everything: {sidecar.health()['backends']}")


class Published:
    """The published file with addresses of real systems in it and all four backends on, and what arrived at each of them."""

    def __init__(self, folder: Path, versitygw: VersityGw, elasticsearch: Elasticsearch, zabbix: Zabbix) -> None:
        self._out = folder / "out"
        self._elasticsearch, self._zabbix = elasticsearch, zabbix
        self._host, self._index = zabbix.fresh_name(), elasticsearch.fresh_index()
        bucket = versitygw.fresh_bucket()
        self._bucket = versitygw.buckets / bucket
        zabbix.make_host(self._host, templates=[{"templateid": zabbix.import_template(TEMPLATE)}])
        text = PUBLISHED.read_text()
        text = text.replace("/data/monitoring", str(self._out)).replace("monitoring-events", bucket)
        text = text.replace("endpoint_url: null", f"endpoint_url: {versitygw.endpoint}")
        text = text.replace("http://elasticsearch:9200", elasticsearch.url).replace("index: monitoring", f"index: {self._index}")
        text = text.replace("http://zabbix:10051", f"http://127.0.0.1:{zabbix.port}")
        text = text.replace("wafer-monitor", json.dumps(self._host)).replace("enabled: false", "enabled: true")
        self.text = text
        keys = {"AWS_ACCESS_KEY_ID": versitygw.access_key_id, "AWS_SECRET_ACCESS_KEY": versitygw.secret_access_key}
        users = {"ELK_USER": elasticsearch.username, "ELK_PASSWORD": elasticsearch.password, "ZABBIX_API_KEY": zabbix.token}
        self.environment = {**keys, **users}
        """What the file's ${…} stand for."""

    @property
    def backends(self) -> list[dict[str, Any]]:
        """The block of backends, with its ${…} as they are."""
        tree = yaml.safe_load(re.sub(r"\$\{[^}]+\}", r'"\g<0>"', self.text))
        found: list[dict[str, Any]] = tree["sdk"]["direct_backends"]
        return found

    def assert_everything_is_in_each(self, ids: set[str]) -> None:
        files = [path for path in self._out.rglob("*.jsonl*") if ".state" not in path.name]
        lines = [json.loads(line) for path in files for line in path.read_bytes().splitlines()]
        assert sorted(event["event_id"] for event in lines) == sorted(ids)
        assert sorted(event["event_id"] for event in in_bucket(self._bucket)) == sorted(ids)
        assert sorted(document["_id"] for document in self._elasticsearch.documents(self._index)) == sorted(ids)
        self._zabbix.flush(EVENTS)
        values = [value for key, value in self._zabbix.history(self._host) if key.startswith("trackmate.metric[")]
        assert len(values) == EVENTS


@pytest.fixture
def published(tmp_path: Path, versitygw: VersityGw, elasticsearch: Elasticsearch, zabbix: Zabbix) -> Published:
    return Published(tmp_path, versitygw, elasticsearch, zabbix)


def test_published_backend_needs_more_than_addresses_and_credentials_behind_a_sidecar(
    program: Harness, published: Published, tmp_path: Path
) -> None:
    assert [backend["type"] for backend in published.backends] == ["filesystem", "s3", "elk", "zabbix"]
    with sidecar_with(published.backends, published.environment) as sidecar:
        ids = emit(program, sidecar.url, tmp_path / "sdk-spool")
        all_have(sidecar)
        published.assert_everything_is_in_each(ids)
        sidecar.client.close()


def test_published_file_needs_more_than_addresses_and_credentials_in_direct_mode(published: Published, tmp_path: Path) -> None:
    """As a new user tries it: the file lies in the program's folder, and nothing is said to `initialize`."""
    folder = tmp_path / "program"
    folder.mkdir()
    text = published.text.replace("mode: sidecar", "mode: direct").replace("/tmp/sdk-spool", str(tmp_path / "sdk-spool"))
    (folder / "monitoring-config.yaml").write_text(text)
    environment = {"PATH": "/usr/bin:/bin", "HOSTNAME": "host-1", **published.environment}
    program = Harness([language_named("python").program], cwd=folder, env=environment)
    try:
        assert program.ask({"do": "initialize", "config": None})["ok"]
        ids = emit_batch(program)
        published.assert_everything_is_in_each(ids)
    finally:
        program.close()


def test_event_can_not_be_read_back_from_each_of_three_backends(
    program: Harness, postgres15: Postgres15, versitygw: VersityGw, tmp_path: Path
) -> None:
    bucket = versitygw.fresh_bucket()
    credentials = {"access_key_id": versitygw.access_key_id, "secret_access_key": versitygw.secret_access_key}
    dsn = postgres15.fresh_store()
    gateway = GatewayService(dsn, {"agent": (["ingest"], ["fab1"])})
    with gateway:
        managed = {"url": gateway.url, "token": gateway.plain["agent"]}
        backup = {"path": str(tmp_path / "backup"), "format": "jsonl", "rotate_size_mb": 100}
        archive = {"bucket": bucket, "endpoint_url": versitygw.endpoint, "credentials": credentials}
        backends = [
            {"name": "managed", "type": "managed", "priority": 1, "config": managed},
            {"name": "backup", "type": "filesystem", "priority": 2, "config": backup},
            {"name": "archive", "type": "s3", "priority": 3, "config": archive},
        ]
        with sidecar_with(backends, {}) as sidecar:
            ids = emit(program, sidecar.url, tmp_path / "sdk-spool")
            all_have(sidecar)
            assert [state["name"] for state in sidecar.health()["backends"]] == ["managed", "backup", "archive"]
            sidecar.client.close()
        in_hot = [columns.unflatten(row) for row in reader.read_since(dsn, 0, 1000).table.to_pylist()]
        files = list((tmp_path / "backup").glob("date=*/hour=*/*.jsonl"))
        in_files = [json.loads(line) for path in files for line in path.read_bytes().splitlines()]
        in_objects = in_bucket(versitygw.buckets / bucket)
        for name, found in {"managed": in_hot, "backup": in_files, "archive": in_objects}.items():
            assert {event["event_id"] for event in found} == ids, name
            assert len(found) == EVENTS
            assert {event["entities"]["lot"] for event in found} == {"L42"}
