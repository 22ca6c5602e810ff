"""The lake: where its Delta tables are, how they are opened, and a bounded DuckDB to compute over their files.

LakeError                 what happened, where, what to do next
├── UnknownTable          no such table is declared
├── StaleCursor           somebody else moved a cursor between reading and writing: read again
├── ConcurrentWrite       other writers won too many times: run again
└── LogExpired            commits that a follower needs are no longer in the log
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any, Final

import duckdb
import pyarrow as pa
import pyarrow.fs as pafs
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError
from deltalake.fs import DeltaStorageHandler

from contract.errors import TrackMateError
from lakehouse.config import LakeConfig
from lakehouse.tables import TABLES, Table, type_name

MEMORY_LIMIT: Final = "1GiB"
"""What one DuckDB connection may hold in memory before it spills to disk."""


class LakeError(TrackMateError):
    """Base of the lake's errors."""


class UnknownTable(LakeError):
    """No table of that name is declared."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"the lake has no table {name!r}; it has {', '.join(sorted(TABLES))}")


class StaleCursor(LakeError):
    """Another writer moved the cursor between our reading and our writing; nothing was written: read again from there."""

    def __init__(self, table: str, app_id: str, *, expected: int | None, found: int | None) -> None:
        self.expected, self.found = expected, found
        super().__init__(
            f"{table}: {app_id!r} stands at {found}, the data was read from {expected}; another writer was faster, read again"
        )


class ConcurrentWrite(LakeError):
    """Other writers kept winning; nothing was written."""

    def __init__(self, table: str, cause: object) -> None:
        super().__init__(f"{table}: other writers committed first and nothing was written; run it again ({cause})")


class LogExpired(LakeError):
    """The log no longer holds a commit that a follower has yet to read."""

    def __init__(self, table: str, version: int) -> None:
        self.version = version
        super().__init__(f"{table}: commit {version} is no longer in the log; the follower must read the whole table")


class Lake:
    """All Delta tables under one root, a folder or an `s3://` address."""

    def __init__(self, config: LakeConfig, *, memory_limit: str = MEMORY_LIMIT, threads: int | None = None) -> None:
        self.config = config
        self.root = config.root.rstrip("/")
        self.remote = "://" in self.root
        self.memory_limit = memory_limit
        self.threads = threads or min(4, os.cpu_count() or 1)
        self.storage_options = {key: value.reveal() for key, value in config.storage_options.items()}
        if self.remote and not self._option("conditional_put"):
            self.storage_options["conditional_put"] = "etag"

    def __repr__(self) -> str:
        return f"Lake({self.root!r})"

    def declaration(self, name: str) -> Table:
        """How the table is declared; UnknownTable if it isn't."""
        try:
            return TABLES[name]
        except KeyError:
            raise UnknownTable(name) from None

    def uri(self, name: str) -> str:
        """Folder or address of the table."""
        layer, table = self.declaration(name).name.split(".")
        return f"{self.root}/{layer}/{table}"

    def exists(self, name: str) -> bool:
        """Whether the table has been created."""
        return DeltaTable.is_deltatable(self.uri(name), storage_options=self.storage_options)

    def table(self, name: str, *, version: int | None = None) -> DeltaTable:
        """The table opened at its newest version, or at `version`; created from its declaration if it isn't there yet."""
        uri = self.uri(name)
        try:
            return DeltaTable(uri, version=version, storage_options=self.storage_options)
        except TableNotFoundError:
            self._create(self.declaration(name), uri)
            return DeltaTable(uri, version=version, storage_options=self.storage_options)

    def version(self, name: str) -> int:
        """The table's newest version."""
        return int(self.table(name).version())

    def create_all(self) -> None:
        """Create every declared table that isn't there yet, so that engines find all of them."""
        for name in TABLES:
            self.table(name)

    def _create(self, declared: Table, uri: str) -> None:
        if not self.remote:
            Path(uri).mkdir(parents=True, exist_ok=True)
        try:
            DeltaTable.create(
                uri,
                schema=declared.schema,
                mode="ignore",
                partition_by=[declared.partition_by],
                name=declared.name,
                description=declared.description,
                configuration=declared.configuration,
                storage_options=self.storage_options,
            )
        except DeltaError:
            # Two processes may create it at once: the one that came second finds it made.
            if not self.exists(declared.name):
                raise

    def filesystem(self, table: DeltaTable) -> pafs.FileSystem:
        """The table's folder as a pyarrow filesystem with paths relative to it, read with the same credentials."""
        handler = DeltaStorageHandler(table.table_uri, self.storage_options)
        return pafs.PyFileSystem(handler)

    @contextmanager
    def connect(self, *, ordered: bool = False) -> Iterator[duckdb.DuckDBPyConnection]:
        """A DuckDB of its own that reads the lake's files, bounded in memory, spilling to a folder that goes with it.

        `ordered` keeps rows in the order of their source, at the price of memory.
        """
        spill = tempfile.mkdtemp(prefix="trackmate-duckdb-")
        config: dict[str, Any] = {
            "memory_limit": self.memory_limit,
            "threads": self.threads,
            "temp_directory": spill,
            "preserve_insertion_order": ordered,
            "autoinstall_known_extensions": False,
        }
        try:
            with duckdb.connect(config=config) as connection:
                connection.execute("SET GLOBAL TimeZone = 'UTC'")  # for its cursors too: they have only the global settings
                if self.remote:
                    self.grant_object_store(connection)
                yield connection
        finally:
            shutil.rmtree(spill, ignore_errors=True)

    def _option(self, *names: str) -> str | None:
        """A storage option by any of its spellings (`access_key_id`, `AWS_ACCESS_KEY_ID`), else from the environment."""
        wanted = {spelling for name in names for spelling in (name, f"aws_{name}")}
        for key, value in self.storage_options.items():
            if key.lower() in wanted:
                return value
        return next((os.environ[key.upper()] for key in sorted(wanted) if key.upper() in os.environ), None)

    def grant_object_store(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Let DuckDB read the same bucket with the same keys; the statement, which holds them, is in no error."""
        if not self.root.startswith(("s3://", "s3a://")):
            message = f"{self.root}: silver and gold are computed on a local folder or on s3://; use one of these as lake.root"
            raise LakeError(message)
        connection.load_extension(bundled_extension("httpfs"))
        endpoint = self._option("endpoint_url", "endpoint", "endpoint_url_s3")
        settings = {
            "KEY_ID": self._option("access_key_id"),
            "SECRET": self._option("secret_access_key"),
            "SESSION_TOKEN": self._option("session_token", "token"),
            "REGION": self._option("region", "default_region"),
        }
        if endpoint:
            scheme, _, host = endpoint.rpartition("://")
            settings |= {"ENDPOINT": host.rstrip("/"), "URL_STYLE": "path", "USE_SSL": "false" if scheme == "http" else "true"}
        pairs = ", ".join(f"{key} {quote(value)}" for key, value in settings.items() if value is not None)
        try:
            connection.execute(f"CREATE SECRET lake (TYPE s3, {pairs})")
        except duckdb.Error:
            message = (
                f"{self.root}: DuckDB refused lake.storage_options; check access_key_id, secret_access_key, region and endpoint"
            )
            raise LakeError(message) from None


def bundled_extension(name: str) -> str:
    """Path of a DuckDB extension that came as a Python package: nothing is downloaded at run time."""
    folder = resources.files(f"duckdb_extension_{name}") / "extensions" / f"v{duckdb.__version__}"
    return str(folder / f"{name}.duckdb_extension")


def quote(text: str) -> str:
    """`text` as an SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


def identifiers(names: Sequence[str], prefix: str = "") -> str:
    """Column names as an SQL list, quoted, each after `prefix`."""
    return ", ".join(f'{prefix}"{name}"' for name in names)


def scan(declared: Table, uris: Sequence[str], *, columns: Sequence[str] | None = None, place: bool = False) -> str:
    """SQL of a subquery over data files of the table: its columns in order, NULL where a file is older than a column.

    `place` adds `file_index` (into `uris`) and `file_row_number`, which name a row.
    """
    wanted = {column.name: type_name(column) for column in declared.columns if columns is None or column.name in columns}
    if place:
        wanted |= {"file_index": "UBIGINT", "file_row_number": "BIGINT"}
    typed = ", ".join(f'NULL::{kind} AS "{name}"' for name, kind in wanted.items())
    empty = f"SELECT {typed} WHERE false"
    if not uris:
        return f"({empty})"
    paths = ", ".join(quote(uri) for uri in uris)
    hive = f"hive_partitioning = true, hive_types = {{'{declared.partition_by}': DATE}}"
    source = (
        f"SELECT *{', file_index, file_row_number' if place else ''} FROM read_parquet([{paths}], union_by_name = true, {hive})"
    )
    return f"(SELECT {identifiers(list(wanted))} FROM ({empty} UNION ALL BY NAME {source}))"


def as_arrow(result: Any) -> pa.Table:
    """What delta-rs gives (an arro3 table) as a pyarrow table, without copying."""
    return pa.table(result)
