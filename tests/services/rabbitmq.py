"""RabbitMQ: a node of its own with a name server of its own, from Debian's package, without the wrapper that changes the user."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import uuid
from pathlib import Path
from typing import Any, Final, Self

from tests.services.apt import ensure_packages
from tests.services.base import Service, free_port, port_open, wait_until
from tests.services.certificates import TestAuthority

USERS: Final = {"tests": "tests-secret", "reader": "reader-secret", "stranger": "stranger-secret"}
"""`tests` may do everything on `/`; `reader` may write nothing there; `stranger` may not even enter."""

MAX_MESSAGE_BYTES: Final = 200_000
"""The broker's own limit (`max_message_size`), less than the contract's for an event, so that one can be too large."""

_PROGRAMS: Final = Path("/usr/lib/rabbitmq/bin")


class RabbitMq(Service):
    """The broker; each test names exchanges and queues of its own (`fresh_name`)."""

    name = "rabbitmq"
    start_seconds = 120

    def __init__(self) -> None:
        super().__init__()
        self.port = free_port()
        self.tls_port = free_port()
        self._node = f"tests-{uuid.uuid4().hex[:12]}@localhost"
        self._epmd_port = free_port()
        self._epmd: subprocess.Popen[bytes] | None = None
        self.authority_file = Path()
        """Who signed the broker's certificate."""

    def url(self, user: str = "tests", *, port: int | None = None, vhost: str = "%2F") -> str:
        """How a user comes in."""
        return f"amqp://{user}:{USERS[user]}@127.0.0.1:{port or self.port}/{vhost}"

    @property
    def _environment(self) -> dict[str, str]:
        folder = self.folder
        return {
            "HOME": str(folder),
            "RABBITMQ_NODENAME": self._node,
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_CONF_ENV_FILE": str(folder / "none.conf"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "none.config"),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-start_epmd false -kernel inet_dist_use_interface {127,0,0,1} +S 2:2",
            "LC_ALL": "C.UTF-8",
        }

    def start(self) -> Self:
        """Write its configuration with users and rights, and start it."""
        ensure_packages("rabbitmq-server")
        self._dist_port = free_port()
        (self.folder / "plugins").write_text("[].\n")
        (self.folder / "definitions.json").write_text(json.dumps(_definitions()))
        authority = TestAuthority(self.folder)
        certificate, self.authority_file = authority.issue("127.0.0.1", "localhost"), authority.file
        (self.folder / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{self.port}\n"
            f"listeners.ssl.1 = 127.0.0.1:{self.tls_port}\n"
            f"ssl_options.cacertfile = {self.authority_file}\n"
            f"ssl_options.certfile = {certificate.cert_file}\n"
            f"ssl_options.keyfile = {certificate.key_file}\n"
            f"load_definitions = {self.folder / 'definitions.json'}\n"
            f"max_message_size = {MAX_MESSAGE_BYTES}\n"
            "disk_free_limit.absolute = 1MB\n"
            "vm_memory_high_watermark.absolute = 8GB\n"
            "log.console = true\n"
            "log.console.level = warning\n"
            "log.file = false\n"
        )
        self._epmd = subprocess.Popen(
            ["epmd", "-port", str(self._epmd_port), "-address", "127.0.0.1"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        wait_until(lambda: port_open(self._epmd_port), seconds=30, what="epmd to listen")
        self.restart()
        return self

    def restart(self) -> None:
        """Start it, after `kill` or for the first time, with what it has on disk."""
        self.spawn([_PROGRAMS / "rabbitmq-server"], ready=lambda: port_open(self.tls_port), env=self._environment)

    def control(self, *arguments: str) -> str:
        """What `rabbitmqctl` prints; it takes some seconds."""
        command = [str(_PROGRAMS / "rabbitmqctl"), *arguments]
        environment = {**os.environ, **self._environment}
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=120).stdout

    def fresh_name(self) -> str:
        """A name that no exchange and no queue has yet."""
        return f"test-{uuid.uuid4().hex[:12]}"

    def stop(self) -> None:
        """End the broker, then its name server."""
        super().stop()
        if self._epmd is not None:
            self._epmd.kill()
            self._epmd.wait(10)
            self._epmd = None


def _definitions() -> dict[str, Any]:
    everything = {"configure": ".*", "write": ".*", "read": ".*"}
    nothing_written = {"configure": "^$", "write": "^$", "read": ".*"}
    return {
        "users": [
            {"name": name, "password_hash": _hashed(password), "hashing_algorithm": "rabbit_password_hashing_sha256", "tags": []}
            for name, password in USERS.items()
        ],
        "vhosts": [{"name": "/"}],
        "permissions": [
            {"user": "tests", "vhost": "/", **everything},
            {"user": "reader", "vhost": "/", **nothing_written},
        ],
    }


def _hashed(password: str) -> str:
    """As RabbitMQ stores passwords: four bytes of salt, then SHA-256 of salt and password."""
    salt = os.urandom(4)
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()
