"""TimescaleDB's Apache edition: Debian trixie's packages in a root of their own, since their libc is newer than the machine's."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path
from typing import Self

import psycopg

from tests.services.apt import unpack
from tests.services.base import CACHE, cache_lock
from tests.services.postgres import _QUICK, PostgresService

# initdb runs what it starts through a shell.
_PACKAGES = ("postgresql-17", "postgresql-17-timescaledb", "dash")
_PROGRAMS = Path("/usr/lib/postgresql/17/bin")
_USER = "nobody"


def private_root() -> Path:
    """A folder that holds the packages as a system would; made once, kept in the cache."""
    with cache_lock("timescale-trixie") as root:
        if not root.is_dir():
            draft = Path(tempfile.mkdtemp(prefix="timescale-", dir=CACHE)) / "root"
            try:
                unpack(draft, "trixie", *_PACKAGES)
                _devices(draft)
                draft.rename(root)
            finally:
                shutil.rmtree(draft.parent)
    return root


def _devices(root: Path) -> None:
    for name, minor in (("null", 3), ("zero", 5), ("urandom", 9)):
        file = root / "dev" / name
        file.parent.mkdir(exist_ok=True)
        try:
            os.mknod(file, stat.S_IFCHR | 0o666, os.makedev(1, minor))
        except PermissionError:
            file.touch()
        file.chmod(0o666)
    for name in ("tmp", "srv"):
        (root / name).mkdir(exist_ok=True)
    (root / "tmp").chmod(0o1777)
    (root / "etc").mkdir(exist_ok=True)
    (root / "etc" / "passwd").write_text("root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n")


class TimescaleApache(PostgresService):
    """PostgreSQL 17 with TimescaleDB's Apache edition: hypertables, and nothing of the community's features."""

    name = "timescale-apache"

    def start(self) -> Self:
        if os.geteuid() != 0:
            message = "TimescaleDB's test server needs chroot: run its tests as root, as in a container"
            raise RuntimeError(message)
        self.root = private_root()
        shutil.rmtree(self.folder)
        self.folder = Path(tempfile.mkdtemp(prefix="postgres-", dir=self.root / "srv"))
        entry = pwd.getpwnam(_USER)
        self._user = f"{entry.pw_uid}:{entry.pw_gid}"
        os.chown(self.folder, entry.pw_uid, entry.pw_gid)
        self.data = "/" / self.folder.relative_to(self.root) / "data"
        initdb = [
            _PROGRAMS / "initdb",
            "-D",
            self.data,
            "-U",
            self.user,
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            "--no-sync",
        ]
        subprocess.run([*self._chroot(), *initdb], check=True, capture_output=True, env={"LC_ALL": "C"})
        self.restart()
        return self

    def _chroot(self) -> list[str | Path]:
        return ["/usr/sbin/chroot", f"--userspec={self._user}", self.root]

    def restart(self) -> None:
        settings = {
            **_QUICK, "listen_addresses": "127.0.0.1", "port": str(self.port), "shared_preload_libraries": "timescaledb",
            "dynamic_shared_memory_type": "mmap", "timescaledb.telemetry_level": "off", "max_locks_per_transaction": "256",
        }  # fmt: skip
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        self.spawn([*self._chroot(), _PROGRAMS / "postgres", "-D", self.data, *options], ready=self.answers, env={"LC_ALL": "C"})

    def _close_template(self) -> None:
        # The extension's own worker would hold the template open.
        super()._close_template()
        self.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'migrated'")

    def drop(self, dsn: str) -> None:
        with contextlib.suppress(psycopg.errors.ObjectInUse):
            super().drop(dsn)
