"""PostgreSQL for tests: Debian's plain 15, and the embedded one that users get; an ordinary user runs it, never root."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any, Self

import psycopg

from lakehouse.hot.migrate import migrate
from tests.services.apt import ensure_packages
from tests.services.base import Service, free_port, wait_until
from trackmate.embedded_postgres import EmbeddedPostgres

_ORDINARY_USER = "postgres"
# Killing a server loses nothing that the kernel has; only a power cut would.
_QUICK = {"fsync": "off", "shared_buffers": "64MB", "max_connections": "100", "unix_socket_directories": "", "jit": "off"}


class PostgresService(Service):
    """What every PostgreSQL here can do: empty databases, migrated ones, a crash and a restart."""

    user = "tests"
    maintenance = "postgres"

    def __init__(self) -> None:
        super().__init__()
        self.port = free_port()
        self._numbers = itertools.count(1)
        self._template: str | None = None

    def dsn(self, database: str) -> str:
        """The URL of one of the server's databases."""
        return f"postgresql://{self.user}@127.0.0.1:{self.port}/{database}"

    def execute(self, statement: str) -> None:
        """Run one statement in the maintenance database."""
        with psycopg.connect(self.dsn(self.maintenance), autocommit=True) as connection:
            connection.execute(statement.encode())

    def fresh_database(self) -> str:
        """The URL of a new and empty database."""
        name = f"test_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name}")
        return self.dsn(name)

    def fresh_store(self) -> str:
        """The URL of a new database that is migrated: a hot store without events."""
        if self._template is None:
            self.execute("CREATE DATABASE migrated")
            migrate(self.dsn("migrated"))
            self._close_template()
            self._template = "migrated"
        name = f"store_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {self._template}")
        return self.dsn(name)

    def drop(self, dsn: str) -> None:
        """Drop a database, whoever is connected."""
        self.execute(f"DROP DATABASE IF EXISTS {dsn.rpartition('/')[2]} WITH (FORCE)")

    def answers(self) -> bool:
        """Whether the server takes connections."""
        try:
            psycopg.connect(self.dsn(self.maintenance), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def crash(self) -> None:
        """Kill every process of the server at once, as the kernel would."""
        self.kill(signal.SIGKILL)

    def restart(self) -> None:
        """Start the server again on the same data and port."""
        raise NotImplementedError

    def _close_template(self) -> None:
        self.execute("ALTER DATABASE migrated ALLOW_CONNECTIONS false")


class Postgres15(PostgresService):
    """Debian's postgresql-15: no extension, the plainest server that is supported."""

    name = "postgres15"
    programs = Path("/usr/lib/postgresql/15/bin")

    def start(self) -> Self:
        ensure_packages("postgresql-15")
        self.data = self.folder / "data"
        self._identity: dict[str, Any] = {}
        if os.geteuid() == 0:
            entry = pwd.getpwnam(_ORDINARY_USER)
            self._identity = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
            os.chown(self.folder, entry.pw_uid, entry.pw_gid)
        subprocess.run(
            [
                self.programs / "initdb", "-D", self.data, "-U", self.user, "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8",
                "--no-sync",
            ],
            cwd=self.folder, check=True, capture_output=True, **self._identity,
        )  # fmt: skip
        self.restart()
        return self

    def restart(self) -> None:
        settings = {**_QUICK, "listen_addresses": "127.0.0.1", "port": str(self.port)}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        self.spawn([self.programs / "postgres", "-D", self.data, *options], ready=self.answers, **self._identity)


class EmbeddedPostgresService(PostgresService):
    """The PostgreSQL of a newcomer, started as `trackmate up` starts it, with all its settings but that which waits for disks."""

    name = "embedded-postgres"
    maintenance = "postgres"

    def __init__(self) -> None:
        super().__init__()
        # The folder's name has a space, as people's folders have.
        self.server = EmbeddedPostgres(self.folder / "data folder", self.port, settings={"fsync": "off"})

    def dsn(self, database: str) -> str:
        return self.server.dsn(database).reveal()

    def start(self) -> Self:
        self.server.start()
        return self

    def restart(self) -> None:
        wait_until(lambda: not self.answers(), seconds=10, what="the crashed server to be gone")
        self.server.start()

    def crash(self) -> None:
        pid = int((self.server.data / "postmaster.pid").read_text().split()[0])
        os.killpg(pid, signal.SIGKILL)
        wait_until(lambda: not self.server.running(), seconds=10, what="the killed server to be gone")

    def stop(self) -> None:
        home = self.server.home
        self.server.stop()
        shutil.rmtree(home, ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)
