"""One locked-down DuckDB for every statement of an engine: what it may open and use, and its errors in our words."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import duckdb
import pyarrow as pa
from sqlglot import exp

from federation.config import DuckDBConfig
from federation.engines.arrow_sql import literal, sql_type
from federation.engines.base import EngineError, QueryError, ResourceLimit, Unavailable
from lakehouse.lake import Lake, bundled_extension

LOG = logging.getLogger(__name__)

_PLACE: Final = re.compile(r"\n\s*\nLINE \d+:.*\Z", re.DOTALL)
_WORD: Final = re.compile(r"^[A-Za-z ]+ Error: ")


class _Faults:
    """How many statements have met a fault of DuckDB's own: only then a session looks whether it still answers."""

    count = 0


_FAULTS: Final = _Faults()


class DuckDBSession:
    """A DuckDB in memory that can read the lake's files and nothing else.

    No other file, no network but the lake's object store, no extension, no setting can be reached from SQL; memory and disk
    are bounded. Python's own variables are no tables.
    """

    def __init__(self, lake: Lake, config: DuckDBConfig, *, delta: bool = False) -> None:
        """`delta` loads the Delta extension too, for tables whose data files alone do not tell their rows."""
        self._delta = delta
        self._reopening = threading.Lock()
        self._faults = _FAULTS.count
        self._temp = Path(tempfile.mkdtemp(prefix="trackmate-sql-", dir=config.temp_dir))
        self._lake = lake
        self._config = config
        try:
            self._connection = self._open()
        except BaseException:
            shutil.rmtree(self._temp, ignore_errors=True)
            raise

    def _open(self) -> duckdb.DuckDBPyConnection:
        connection = duckdb.connect(
            ":memory:",
            config={
                "memory_limit": f"{self._config.memory_limit}B",
                "threads": self._config.threads or os.cpu_count() or 1,
                "temp_directory": str(self._temp),
                "max_temp_directory_size": f"{self._config.temp_limit}B",
                "autoinstall_known_extensions": False,
                "autoload_known_extensions": False,
                "allow_community_extensions": False,
                "allow_persistent_secrets": False,
                "python_enable_replacements": False,
            },
        )
        connection.execute("SET GLOBAL TimeZone = 'UTC'")  # a cursor has only the global settings, else the machine's zone
        if self._lake.remote:
            self._lake.grant_object_store(connection)
        if self._delta:
            connection.load_extension(bundled_extension("delta"))
        connection.execute(f"SET allowed_directories = [{literal(self._lake.root.rstrip('/') + '/')}]")
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        return connection

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """A connection of its own for one statement.

        A statement that trips over a fault of DuckDB's own makes the whole database refuse everything: then it is opened anew.
        """
        with self._reopening:
            if self._faults != _FAULTS.count:
                self._faults = _FAULTS.count
                try:
                    self._connection.execute("SELECT 1")
                except duckdb.FatalException:
                    LOG.exception("DuckDB gave itself up after a fault of its own and is opened anew")
                    self._connection.close()
                    self._connection = self._open()
            return self._connection.cursor()

    def evaluate(self, constants: Sequence[tuple[exp.Expr, pa.DataType]]) -> list[Any]:
        """What constant expressions come to when they are compared with columns of these types; None where there is no value.

        Text is read as the column's type, as DuckDB does with a text literal.
        """
        written = [_constant_sql(constant, kind) for constant, kind in constants]
        if all(not isinstance(entry, _Written) for entry in written):
            return written
        with self.cursor() as cursor:
            found = _values(cursor, [entry for entry in written if isinstance(entry, _Written)])
        values = iter(found)
        return [
            _as_column(next(values), kind) if isinstance(entry, _Written) else entry
            for entry, (_, kind) in zip(written, constants, strict=True)
        ]

    def close(self) -> None:
        """Close DuckDB and remove what it spilled."""
        self._connection.close()
        shutil.rmtree(self._temp, ignore_errors=True)


class _Written(str):
    """An expression as SQL, still to be evaluated."""

    __slots__ = ()


def _constant_sql(constant: exp.Expr, kind: pa.DataType) -> Any:
    """The value itself where it is plain to see, else SQL for it."""
    if isinstance(constant, exp.Literal) and constant.is_string:
        if pa.types.is_string(kind):
            return str(constant.this)
        return _Written(f"TRY_CAST({literal(str(constant.this))} AS {sql_type(kind)})")
    return _Written(constant.sql(dialect="duckdb", comments=False))


def _values(cursor: duckdb.DuckDBPyConnection, expressions: Sequence[str]) -> list[Any]:
    columns = ", ".join(f"{text} AS c{place}" for place, text in enumerate(expressions))
    try:
        row = cursor.execute(f"SELECT {columns}").to_arrow_table()
    except duckdb.Error:
        if len(expressions) == 1:
            return [None]
        return [value for text in expressions for value in _values(cursor, [text])]
    return [_python(row.column(place)[0]) for place in range(len(expressions))]


def _python(value: pa.Scalar[Any]) -> Any:
    try:
        return value.as_py()
    except (ValueError, OverflowError):  # a date that Python's calendar does not have
        return None


def _as_column(value: Any, kind: pa.DataType) -> Any:
    """A moment with zone as the naive UTC that the column holds: the session's zone is UTC."""
    if isinstance(value, datetime) and value.tzinfo is not None and pa.types.is_timestamp(kind) and kind.tz is None:
        return value.astimezone(UTC).replace(tzinfo=None)
    return value


def translated(error: duckdb.Error, *, hide_values: bool, root: str) -> EngineError:
    """DuckDB's error as ours: its first words, without our own SQL, and without the lake's paths."""
    text = _PLACE.sub("", str(error)).strip()
    text = _WORD.sub("", text.split("\n\n")[0].strip()).replace(root, "")
    if isinstance(error, duckdb.OutOfMemoryException):
        return ResourceLimit(
            "the statement needs more memory or disk than it may have: read fewer rows or columns, group before joining, "
            "or raise engines.duckdb.memory_limit and temp_limit"
        )
    if isinstance(error, duckdb.IOException | duckdb.HTTPException):
        return Unavailable(f"a data file of the lake can't be read ({text}): try again; if it stays, run trackmate doctor")
    if isinstance(error, duckdb.PermissionException):
        return Unavailable(f"the engine was denied a file ({text}): check lake.root in trackmate.yaml")
    if isinstance(error, duckdb.InternalException | duckdb.FatalException):
        _FAULTS.count += 1
        return EngineError(f"the engine failed ({text}): the statement is at fault or DuckDB is, please report it")
    if hide_values and isinstance(error, duckdb.ConversionException | duckdb.InvalidInputException | duckdb.OutOfRangeException):
        return QueryError("a value can't be converted as the statement wants: use TRY_CAST, which gives NULL there")
    return QueryError(f"{text}: check the names and types with GET /v1/catalog, or .schema in trackmate sql")


@contextlib.contextmanager
def translating(*, hide_values: bool, root: str) -> Iterator[None]:
    """Raise DuckDB's errors as ours."""
    try:
        yield
    except duckdb.InterruptException:
        raise
    except duckdb.Error as error:
        raise translated(error, hide_values=hide_values, root=root) from error
