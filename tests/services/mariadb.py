"""MariaDB: Debian's server on a folder of its own, run by an ordinary user, with the server's own old defaults."""

from __future__ import annotations

import os
import pwd
import subprocess
import uuid
from pathlib import Path
from typing import Any, Final, Self

import pymysql

from tests.services.apt import ensure_packages
from tests.services.base import Service, free_port
from tests.services.certificates import TestAuthority

PASSWORD: Final = "tests-secret"
_ORDINARY_USER: Final = "mysql"
# Killing a server loses nothing that the kernel has; only a power cut would.
_QUICK: Final = {
    "innodb-flush-log-at-trx-commit": "2", "innodb-flush-method": "nosync", "innodb-buffer-pool-size": "64M",
    "innodb-log-file-size": "32M", "performance-schema": "OFF", "skip-log-bin": "1",
}  # fmt: skip


class MariaDb(Service):
    """`tests` may do everything, from everywhere; without its configuration files the server's character set is latin1."""

    name = "mariadb"

    def __init__(self) -> None:
        super().__init__()
        self.port = free_port()
        self.authority_file = Path()
        """Who signed the server's certificate."""

    def url(self, database: str, *, user: str = "tests", password: str = PASSWORD) -> str:
        """The URL of one of its databases."""
        return f"mysql://{user}:{password}@127.0.0.1:{self.port}/{database}"

    def start(self) -> Self:
        """Make its system tables and start it."""
        ensure_packages("mariadb-server")
        self.data = self.folder / "data"
        self._identity: dict[str, Any] = {}
        if os.geteuid() == 0:
            entry = pwd.getpwnam(_ORDINARY_USER)
            self._identity = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
        authority = TestAuthority(self.folder)
        certificate, self.authority_file = authority.issue("127.0.0.1"), authority.file
        self._tls = {"ssl-cert": certificate.cert_file, "ssl-key": certificate.key_file, "ssl-ca": self.authority_file}
        (self.folder / "init.sql").write_text(
            f"CREATE OR REPLACE USER tests@'%' IDENTIFIED BY '{PASSWORD}';\n"
            "GRANT ALL PRIVILEGES ON *.* TO tests@'%' WITH GRANT OPTION;\n"
        )
        if self._identity:
            for file in (self.folder, *self.folder.iterdir()):
                os.chown(file, self._identity["user"], self._identity["group"])
        subprocess.run(
            ["mariadb-install-db", "--no-defaults", f"--datadir={self.data}", "--skip-test-db", "--skip-name-resolve"],
            cwd=self.folder, check=True, capture_output=True, **self._identity,
        )  # fmt: skip
        self.restart()
        return self

    def restart(self) -> None:
        """Start it, after `kill` or for the first time, with what it has on disk."""
        settings = {
            **_QUICK, **self._tls, "datadir": self.data, "socket": self.folder / "socket", "pid-file": self.folder / "pid",
            "port": self.port, "bind-address": "127.0.0.1", "init-file": self.folder / "init.sql", "skip-name-resolve": "1",
            "tmpdir": self.folder, "plugin-maturity": "stable",
        }  # fmt: skip
        options = [f"--{name}={value}" for name, value in settings.items()]
        self.spawn(["/usr/sbin/mariadbd", "--no-defaults", *options], ready=self.answers, **self._identity)

    def connect(self, database: str | None = None) -> pymysql.Connection[pymysql.cursors.Cursor]:
        """A connection that commits each statement."""
        return pymysql.connect(
            host="127.0.0.1", port=self.port, user="tests", password=PASSWORD, database=database, autocommit=True,
            charset="utf8mb4", connect_timeout=5,
        )  # fmt: skip

    def execute(self, statement: str, database: str | None = None) -> list[tuple[Any, ...]]:
        """Run one statement; its rows, if it gives any."""
        connection = self.connect(database)
        with connection, connection.cursor() as cursor:
            cursor.execute(statement)
            return list(cursor.fetchall())

    def fresh_database(self) -> str:
        """The name of a new and empty database."""
        name = f"test_{uuid.uuid4().hex[:12]}"
        self.execute(f"CREATE DATABASE {name}")
        return name

    def answers(self) -> bool:
        """Whether the server takes connections."""
        try:
            self.connect().close()
        except pymysql.err.OperationalError:
            return False
        return True
