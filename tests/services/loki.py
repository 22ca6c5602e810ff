"""Grafana Loki: the real one, which takes minutes to build once, and a double with its documented answers for quick runs."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, Self

import httpx

from tests.services.base import CACHE, Service, cache_lock, free_port, wait_until
from tests.services.scripted_http import Asked, Reply, ScriptedHttp

VERSION = "v3.7.8"
_MODULE = "github.com/grafana/loki/v3"
_CONFIG = """\
auth_enabled: true
analytics: {{reporting_enabled: false}}
server:
  {{http_listen_address: 127.0.0.1, http_listen_port: {http}, grpc_listen_address: 127.0.0.1, grpc_listen_port: {grpc},
    log_level: warn}}
common:
  instance_addr: 127.0.0.1
  path_prefix: {folder}
  replication_factor: 1
  ring: {{kvstore: {{store: inmemory}}}}
  storage: {{filesystem: {{chunks_directory: {folder}/chunks, rules_directory: {folder}/rules}}}}
schema_config:
  configs:
    - {{from: 1970-01-01, store: tsdb, object_store: filesystem, schema: v13, index: {{prefix: index_, period: 24h}}}}
ingester: {{lifecycler: {{final_sleep: 0s}}, query_store_max_look_back_period: -1ns}}
querier: {{query_ingesters_within: 0s}}
limits_config: {limits}
runtime_config: {{file: {folder}/tenants.json, period: 200ms}}
"""

OLD_AND_NEW = {"reject_old_samples": False, "creation_grace_period": "900000h"}
"""Limits of a tenant that takes every moment an event may have."""


NOW_ONLY = {"reject_old_samples": True, "creation_grace_period": "10m"}
"""Loki's own defaults: a week back, ten minutes ahead."""

_LINE_BYTES = 256 * 1024
_GRPC_BYTES = 4 * 1024 * 1024
_WINDOW = 3600 * 10**9


class Kept(NamedTuple):
    """One entry as a query gives it; structured metadata are among the labels."""

    labels: dict[str, str]
    nanoseconds: int
    line: str


def loki_binary() -> Path:
    """The program, built once from Go modules and kept in the cache.

    Its go.mod replaces modules, which `go install` refuses: so it is built as a tool of a module that has the same go.mod.
    """
    with cache_lock(f"loki-{VERSION}") as target:
        if not target.is_file():
            build = Path(tempfile.mkdtemp(prefix="loki-", dir=CACHE))
            environment = {**os.environ, "GOFLAGS": "-mod=mod -buildvcs=false", "CGO_ENABLED": "0"}

            def go(*arguments: str) -> str:
                done = subprocess.run(
                    ["go", *arguments], cwd=build, env=environment, check=True, stdout=subprocess.PIPE, text=True
                )
                return done.stdout

            try:
                source = Path(json.loads(go("mod", "download", "-json", f"{_MODULE}@{VERSION}"))["Dir"])
                for name in ("go.mod", "go.sum"):
                    (build / name).write_bytes((source / name).read_bytes())
                go("mod", "edit", "-module=wrapper", "-dropreplace=github.com/grafana/loki/pkg/push",
                   f"-require={_MODULE}@{VERSION}", f"-tool={_MODULE}/cmd/loki")  # fmt: skip
                go("build", "-o", "loki", f"{_MODULE}/cmd/loki")
                (build / "loki").replace(target)
            finally:
                shutil.rmtree(build, ignore_errors=True)
    return target


class Loki(Service):
    """One Loki with tenants: each test takes one of its own, with the limits that it asks for."""

    name = "loki"
    start_seconds = 120.0

    def __init__(self, limits: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._limits = {"query_ready_index_num_days": 0, "split_queries_by_interval": "0s", "max_query_length": "0s",
                        "allow_structured_metadata": True, "ingestion_rate_mb": 1000, "ingestion_burst_size_mb": 1000,
                        "max_entries_limit_per_query": 100_000, **(limits or {})}  # fmt: skip
        self._tenants: dict[str, dict[str, Any]] = {}
        self._client = httpx.Client(base_url=self.url, trust_env=False, timeout=60)

    def start(self) -> Self:
        """Start it on an empty folder."""
        config = self.folder / "loki.yaml"
        (self.folder / "tenants.json").write_text("{}")
        config.write_text(_CONFIG.format(http=self.port, grpc=free_port(), folder=self.folder, limits=json.dumps(self._limits)))
        self.spawn([loki_binary(), f"-config.file={config}"], ready=self.answers)
        return self

    def answers(self) -> bool:
        """Whether it is ready."""
        try:
            return self._client.get("/ready").is_success
        except httpx.TransportError:
            return False

    def tenant(self, **limits: Any) -> str:
        """A new tenant with these limits; returns once they hold."""
        name = f"t{secrets.token_hex(6)}"
        # One limit that it shows, and that no test needs, tells that all have been read.
        self._tenants[name] = {**OLD_AND_NEW, "max_query_series": 100_001 + len(self._tenants), **limits}
        draft = self.folder / "tenants.draft"
        draft.write_text(json.dumps({"overrides": self._tenants}))
        draft.replace(self.folder / "tenants.json")
        shown = f"max_query_series: {self._tenants[name]['max_query_series']}\n"
        asked = {"url": "/config/tenant/v1/limits", "headers": {"X-Scope-OrgID": name}}
        wait_until(lambda: shown in self._client.get(**asked).text, seconds=30, what="the tenant's limits to be loaded")
        return name

    def entries(self, tenant: str, *windows: tuple[int, int]) -> list[Kept]:
        """What the tenant has in these windows of time (nanoseconds since 1970, the end excluded)."""
        found: list[Kept] = []
        for start, end in windows:
            asked = {"query": '{app=~".+"}', "start": start, "end": end, "limit": 20_000, "direction": "forward"}
            answer = self._client.get("/loki/api/v1/query_range", params=asked, headers={"X-Scope-OrgID": tenant})
            answer.raise_for_status()
            for stream in answer.json()["data"]["result"]:
                found += [Kept(stream["stream"], int(moment), line) for moment, line in stream["values"]]
        return found

    def flush(self) -> None:
        """Write all that it holds in memory to its store, and wait for the first of it."""
        self._client.post("/flush").raise_for_status()
        chunks = self.folder / "chunks"
        wait_until(lambda: any(path.is_file() for path in chunks.rglob("*")), seconds=60, what="chunks in the store")

    def count(self, tenant: str) -> int:
        """How many entries of the last day a metric query counts."""
        asked = {"query": 'sum(count_over_time({app=~".+"}[1d]))'}
        answer = self._client.get("/loki/api/v1/query", params=asked, headers={"X-Scope-OrgID": tenant}).raise_for_status()
        return int(answer.json()["data"]["result"][0]["value"][1])

    def stop(self) -> None:
        """End it and remove its folder."""
        self._client.close()
        super().stop()


class LokiDouble:
    """A real HTTP server with the push API's documented answers, and the reasons and words of refusal that the real one has.

    It keeps what the real one would: of two equal entries of a stream one, and none that its tenant's limits refuse.
    """

    def __init__(self) -> None:
        self._tenants: dict[str, dict[str, Any]] = {}
        self._streams: dict[tuple[str, str], list[Kept]] = {}
        self.server = ScriptedHttp(self._answer)
        self.port = self.server.port
        self.url = self.server.url

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.server.stop()

    def tenant(self, **limits: Any) -> str:
        """A new tenant with these limits."""
        name = f"t{secrets.token_hex(6)}"
        self._tenants[name] = {**OLD_AND_NEW, **limits}
        return name

    def entries(self, tenant: str, *windows: tuple[int, int]) -> list[Kept]:
        """What the tenant has in these windows of time."""
        kept = [kept for (owner, _), stream in self._streams.items() if owner == tenant for kept in stream]
        return [each for each in kept if any(start <= each.nanoseconds < end for start, end in windows)]

    def _answer(self, asked: Asked) -> Reply:
        tenant = asked.headers.get("X-Scope-Orgid")
        if tenant is None or tenant not in self._tenants:
            return Reply(401, b"no org id\n")
        if asked.path != "/loki/api/v1/push":
            return Reply(404, b"404 page not found\n")
        if len(asked.body) > _GRPC_BYTES:
            return Reply(500, b"rpc error: code = ResourceExhausted desc = grpc: received message larger than max\n")
        streams = asked.json["streams"]
        if not streams:
            return Reply(422, b"error at least one valid stream is required for ingestion\n")
        limits = self._tenants[tenant]
        if not limits.get("allow_structured_metadata", True) and any(len(v) > 2 for s in streams for v in s["values"]):
            return Reply(400, b"stream '{}' includes structured metadata, but this feature is disallowed.\n")
        size = sum(len(value[1]) for stream in streams for value in stream["values"])
        if size > limits.get("ingestion_burst_size_mb", 1000) * 2**20:
            return Reply(429, b"ingestion rate limit exceeded for user x (limit: 1048 bytes/sec)\n")
        invalid: list[str] = []
        late: list[str] = []
        for stream in streams:
            labels = {name: stream["stream"][name] for name in sorted(stream["stream"])}
            self._append(tenant, labels, stream["values"], invalid, late)
        if late:
            return Reply(400, "".join(late).encode())
        if invalid:
            grouped = Counter(invalid)
            one = len(invalid) == 1
            return Reply(400, "; ".join(t if one else f"{n} errors like: {t}" for t, n in grouped.items()).encode() + b"\n")
        return Reply(204)

    def _append(self, tenant: str, labels: dict[str, str], values: list[list[Any]], invalid: list[str], late: list[str]) -> None:
        shown = "{" + ", ".join(f'{name}="{value}"' for name, value in labels.items()) + "}"
        kept = self._streams.setdefault((tenant, shown), [])
        ignored: list[str] = []
        valid = 0
        for moment, line, *metadata in values:
            entry = Kept({**labels, **(metadata[0] if metadata else {})}, int(moment), line)
            if problem := self._problem(tenant, shown, entry):
                invalid.append(problem)
                continue
            valid += 1
            cutoff = max((each.nanoseconds for each in kept), default=entry.nanoseconds) - _WINDOW
            if entry.nanoseconds < cutoff:
                shown_time, oldest = _rfc3339(entry.nanoseconds), _rfc3339(cutoff)
                reason = f"entry too far behind, entry timestamp is: {shown_time}, oldest acceptable timestamp is: {oldest}"
                ignored.append(f"entry with timestamp {shown_time} ignored, reason: '{reason}',\n")
            elif entry not in kept:
                kept.append(entry)
        if ignored:
            total = f"user '{tenant}', total ignored: {len(ignored)} out of {valid} for stream: {shown}\n"
            late.append("".join([*ignored[:10], total]))

    def _problem(self, tenant: str, shown: str, entry: Kept) -> str | None:
        limits = self._tenants[tenant]
        size = len(entry.line.encode())
        if size > _LINE_BYTES:
            return (
                f"max entry size '{_LINE_BYTES}' bytes exceeded for stream '{shown}' while adding an entry with length '{size}'"
            )
        now = time.time_ns()
        if limits["reject_old_samples"] and entry.nanoseconds < now - 7 * 86_400 * 10**9:
            oldest = _rfc3339(now - 7 * 86_400 * 10**9)
            moment = _rfc3339(entry.nanoseconds)
            return f"entry for stream '{shown}' has timestamp too old: {moment}, oldest acceptable timestamp is: {oldest}"
        if limits["creation_grace_period"] == "10m" and entry.nanoseconds > now + 600 * 10**9:
            return f"entry for stream '{shown}' has timestamp too new: {_rfc3339(entry.nanoseconds)}"
        return None


def _rfc3339(nanoseconds: int) -> str:
    return f"{datetime.fromtimestamp(nanoseconds // 10**9, UTC):%Y-%m-%dT%H:%M:%SZ}"
