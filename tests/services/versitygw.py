"""VersityGW: an S3 server on a folder, for everything that must hold on an object store."""

from __future__ import annotations

import secrets
from typing import Self

from tests.services.base import Service, free_port, go_binary, port_open


class VersityGw(Service):
    """One gateway with one pair of keys; each test takes a bucket of its own."""

    name = "versitygw"

    def __init__(self, *, read_only: bool = False) -> None:
        super().__init__()
        self._options = ["--readonly"] if read_only else []
        self.access_key_id = "tests"
        self.secret_access_key = secrets.token_hex(16)
        self.port = free_port()
        self.buckets = self.folder / "buckets"

    @property
    def endpoint(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def storage_options(self) -> dict[str, str]:
        """What delta-rs and DuckDB need to know of it."""
        return {
            "endpoint_url": self.endpoint,
            "access_key_id": self.access_key_id,
            "secret_access_key": self.secret_access_key,
            "region": "us-east-1",
            "allow_http": "true",
        }

    def start(self) -> Self:
        """Start it; after `kill` with what was there."""
        program = go_binary("versitygw", "github.com/versity/versitygw/cmd/versitygw", "v1.8.0")
        self.buckets.mkdir(exist_ok=True)
        sidecars = self.folder / "metadata"
        sidecars.mkdir(exist_ok=True)
        self.spawn(
            [program, "--port", f"127.0.0.1:{self.port}", *self._options, "posix", "--sidecar", sidecars, self.buckets],
            ready=lambda: port_open(self.port),
            env={"ROOT_ACCESS_KEY": self.access_key_id, "ROOT_SECRET_KEY": self.secret_access_key},
        )
        return self

    def fresh_bucket(self) -> str:
        """The name of a new, empty bucket."""
        name = f"test-{secrets.token_hex(6)}"
        (self.buckets / name).mkdir()
        return name
