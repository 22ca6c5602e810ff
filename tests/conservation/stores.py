"""Five kinds of systems behind one sidecar, each of which can go away and come back, and can be read by its own client."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import psycopg
import pymongo
import zstandard
from psycopg.rows import dict_row

from contract.columns import NAMES, unflatten
from tests.services.elasticsearch import Elasticsearch
from tests.services.mongo import MongoService
from tests.services.postgres import Postgres15
from tests.services.toxiproxy import Link, Toxiproxy
from tests.services.versitygw import VersityGw


class Store(Protocol):
    """One backend of the campaign."""

    name: str
    type: str
    config: dict[str, Any]

    def down(self) -> None:
        """Go away without a word."""

    def up(self) -> None:
        """Come back with what was there."""

    def events(self) -> Iterable[dict[str, Any]]:
        """Everything that is there, as the events' JSON."""

    def close(self) -> None:
        """End."""


class Files:
    """A folder; it is away while a file has its name."""

    name = type = "filesystem"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._aside = folder.with_name(folder.name + ".aside")
        folder.mkdir()
        self.config: dict[str, Any] = {"path": str(folder), "rotate_seconds": 2, "rotate_size_mb": 1}

    def down(self) -> None:
        self._folder.rename(self._aside)
        self._folder.write_text("")

    def up(self) -> None:
        self._folder.unlink()
        self._aside.rename(self._folder)

    def events(self) -> Iterable[dict[str, Any]]:
        for file in sorted(self._folder.glob("date=*/hour=*/*.jsonl*")):
            for line in file.read_bytes().splitlines():
                yield json.loads(line)

    def close(self) -> None:
        shutil.rmtree(self._folder)


class Objects:
    """A bucket of an S3 server, which is killed."""

    name = type = "s3"

    def __init__(self) -> None:
        self._server = VersityGw().start()
        self._bucket = self._server.buckets / self._server.fresh_bucket()
        self.config: dict[str, Any] = {
            "bucket": self._bucket.name,
            "region": "us-east-1",
            "prefix": "events/",
            "endpoint_url": self._server.endpoint,
            "credentials": {"access_key_id": self._server.access_key_id, "secret_access_key": self._server.secret_access_key},
        }

    def down(self) -> None:
        self._server.kill()

    def up(self) -> None:
        self._server.start()

    def events(self) -> Iterable[dict[str, Any]]:
        plain = zstandard.ZstdDecompressor()
        for file in sorted(path for path in self._bucket.rglob("*.jsonl.zst") if path.is_file()):
            for line in plain.decompressobj().decompress(file.read_bytes()).splitlines():
                yield json.loads(line)

    def close(self) -> None:
        self._server.stop()


class Documents:
    """An index of Elasticsearch, cut off from the sidecar."""

    name = type = "elk"

    def __init__(self, server: Elasticsearch, proxy: Toxiproxy, label: str) -> None:
        self._server = server
        self._index = server.fresh_index()
        self._link: Link = proxy.link(f"elk-{label}", server.port)
        self.config: dict[str, Any] = {
            "url": f"http://127.0.0.1:{self._link.port}",
            "index": self._index,
            "username": server.username,
            "password": server.password,
        }

    def down(self) -> None:
        self._link.cut()

    def up(self) -> None:
        self._link.heal()

    def events(self) -> Iterable[dict[str, Any]]:
        return [document["_source"] for document in self._server.documents(self._index)]

    def close(self) -> None:
        self._link.heal()


class Rows:
    """A table of PostgreSQL, which is killed."""

    name = type = "sql"

    def __init__(self) -> None:
        self._server = Postgres15().start()
        self._dsn = self._server.fresh_database()
        self.config: dict[str, Any] = {"url": self._dsn, "create_table": True}

    def down(self) -> None:
        self._server.crash()

    def up(self) -> None:
        self._server.restart()

    def events(self) -> Iterable[dict[str, Any]]:
        with psycopg.connect(self._dsn, row_factory=dict_row) as connection:
            for row in connection.execute("SELECT * FROM events").fetchall():
                yield unflatten({name: row[name] for name in NAMES})

    def close(self) -> None:
        self._server.stop()


class Collection:
    """A collection of MongoDB's protocol, cut off from the sidecar: what the server keeps in a file stands no kill."""

    name = type = "mongo"

    def __init__(self, server: MongoService, proxy: Toxiproxy, label: str) -> None:
        self._server = server
        self._database = server.fresh_database()
        self._link: Link = proxy.link(f"mongo-{label}", server.port)
        self.config: dict[str, Any] = {"url": f"mongodb://127.0.0.1:{self._link.port}", "database": self._database}

    def down(self) -> None:
        self._link.cut()

    def up(self) -> None:
        self._link.heal()

    def events(self) -> Iterable[dict[str, Any]]:
        with pymongo.MongoClient(self._server.url) as client:
            for document in client[self._database]["events"].find():
                yield {key: value for key, value in document.items() if key not in {"_id", "time"}}

    def close(self) -> None:
        self._link.heal()
