"""The real servers that direct mode delivers to, each with a configuration block and a way to read back what it holds."""

from __future__ import annotations

import contextlib
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import zstandard

from sdk.conformance.misbehaving import MisbehavingSidecar
from tests.services.elasticsearch import Elasticsearch
from tests.services.proxy import Proxy
from tests.services.versitygw import VersityGw
from tests.services.zabbix import Zabbix


class Target(Protocol):
    """One place that a backend writes to."""

    config: dict[str, Any]

    def read_back(self) -> list[dict[str, Any]]:
        """Every event that it holds, as often as it does."""

    def as_stored(self, event: dict[str, Any]) -> dict[str, Any]:
        """What `read_back` gives of (a part of) an event."""

    def stop(self) -> None:
        """Be down."""

    def start(self) -> None:
        """Be up again."""

    def close(self) -> None:
        """End."""


class FilesystemTarget:
    """A folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.config: dict[str, Any] = {"path": str(folder), "format": "jsonl", "rotate_size_mb": 100}

    def read_back(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for file in sorted(self._folder.glob("date=*/hour=*/*.jsonl*")):
            with contextlib.suppress(FileNotFoundError):  # renamed meanwhile: the next look finds it
                found += [json.loads(line) for line in file.read_bytes().splitlines() if line.endswith(b"}")]
        return found

    def as_stored(self, event: dict[str, Any]) -> dict[str, Any]:
        return event

    def stop(self) -> None:
        """A file stands where the folder should be."""
        if self._folder.exists():
            self._folder.rename(self._folder.with_name(self._folder.name + ".aside"))
        self._folder.write_text("")

    def start(self) -> None:
        self._folder.unlink()
        aside = self._folder.with_name(self._folder.name + ".aside")
        if aside.exists():
            aside.rename(self._folder)

    def close(self) -> None:
        return


class WebhookTarget:
    """An HTTP endpoint that takes batches of events."""

    def __init__(self, folder: Path) -> None:
        self._server = MisbehavingSidecar()
        self.config: dict[str, Any] = {"url": f"{self._server.url}/hook", "allow_private": True}

    def read_back(self) -> list[dict[str, Any]]:
        return list(self._server.accepted)

    def as_stored(self, event: dict[str, Any]) -> dict[str, Any]:
        return event

    def stop(self) -> None:
        self._server.stop()

    def start(self) -> None:
        self._server.start()

    def close(self) -> None:
        self._server.close()


class S3Target:
    """A bucket on a real S3 server; it is down when it is renamed away."""

    def __init__(self, server: VersityGw) -> None:
        self._bucket = server.buckets / server.fresh_bucket()
        self.config: dict[str, Any] = {
            "bucket": self._bucket.name,
            "region": "us-east-1",
            "prefix": "events/",
            "endpoint_url": server.endpoint,
            "credentials": {"access_key_id": server.access_key_id, "secret_access_key": server.secret_access_key},
        }

    def read_back(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for file in sorted(path for path in self._bucket.rglob("*") if path.is_file() and ".jsonl" in path.name):
            found += [json.loads(line) for line in _plain(file).splitlines() if line.strip()]
        return found

    def as_stored(self, event: dict[str, Any]) -> dict[str, Any]:
        return event

    def stop(self) -> None:
        self._bucket.rename(self._bucket.with_name(self._bucket.name + "-away"))

    def start(self) -> None:
        self._bucket.with_name(self._bucket.name + "-away").rename(self._bucket)

    def close(self) -> None:
        return


def _plain(file: Path) -> bytes:
    data = file.read_bytes()
    if data[:2] == b"\x1f\x8b":
        return gzip.decompress(data)
    if data[:4] == b"\x28\xb5\x2f\xfd":
        return zstandard.ZstdDecompressor().decompressobj().decompress(data)
    return data


class Proxied:
    """What lies behind a proxy of its own: it is down when the proxy passes nothing on."""

    def __init__(self, port: int) -> None:
        self._proxy = Proxy(port)
        self._proxy.__enter__()
        self._url = f"http://127.0.0.1:{self._proxy.port}"

    def stop(self) -> None:
        self._proxy.deaf()

    def start(self) -> None:
        self._proxy.hear()

    def close(self) -> None:
        self._proxy.__exit__()


class ElkTarget(Proxied):
    """An index of a real Elasticsearch."""

    def __init__(self, server: Elasticsearch) -> None:
        super().__init__(server.port)
        self._server = server
        self._index = server.fresh_index()
        self.config: dict[str, Any] = {
            "url": self._url,
            "index": self._index,
            "username": server.username,
            "password": server.password,
        }

    def read_back(self) -> list[dict[str, Any]]:
        return [document["_source"] for document in self._server.documents(self._index)]

    def as_stored(self, event: dict[str, Any]) -> dict[str, Any]:
        return event


class ZabbixTarget(Proxied):
    """A host on a real Zabbix server with the one item that the case sends values to; read back are the item's values."""

    KEY = "trackmate.metric[fab1,etcher,chuck,t,]"
    FLOAT = 0

    def __init__(self, server: Zabbix) -> None:
        super().__init__(server.port)
        self._server = server
        self._host = server.fresh_name()
        server.make_host(self._host)
        server.make_item(self._host, self.KEY, self.FLOAT)
        self.config: dict[str, Any] = {"url": self._url, "host": self._host}

    def read_back(self) -> list[dict[str, Any]]:
        self._server.flush()
        return [
            {"event_id": f"{value['clock']}.{value['ns']}", "value": float(value["value"])}
            for key, value in self._server.history(self._host)
            if key == self.KEY
        ]

    def as_stored(self, event: dict[str, Any]) -> dict[str, Any]:
        return {"value": event["metrics"]["t"]} if "metrics" in event else {}


class Services:
    """The servers behind the targets; `versitygw` and the like give the session's server when it is first needed."""

    def __init__(self, server: Callable[[str], Any]) -> None:
        self._server = server

    def target(self, kind: str, folder: Path) -> Target:
        """A fresh place of this type."""
        match kind:
            case "filesystem":
                return FilesystemTarget(folder)
            case "webhook":
                return WebhookTarget(folder)
            case "s3":
                return S3Target(self._server("versitygw"))
            case "zabbix":
                return ZabbixTarget(self._server("zabbix"))
            case "elk":
                return ElkTarget(self._server("elasticsearch"))
        message = f"the suite has no server for '{kind}'"
        raise AssertionError(message)
