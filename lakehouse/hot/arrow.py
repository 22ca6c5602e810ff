"""SQL text in, Arrow out, through ADBC; every wait is bounded, since the driver itself would wait for a deaf server for ever."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from typing import Final, TypeVar

import pyarrow as pa
from psycopg import sql

from contract.settings import Secret
from lakehouse.hot import connect
from lakehouse.hot.errors import HotStoreError, HotStoreTimeout, HotStoreUnavailable, NotMigrated

STREAM_TIMEOUT: Final = timedelta(seconds=60)
_GRACE: Final = 5.0

T = TypeVar("T")


def fetch(dsn: str | Secret, statement: sql.Composable, schema: pa.Schema, timeout: timedelta = STREAM_TIMEOUT) -> pa.Table:
    """A statement's whole answer as a table of this schema."""
    return pa.Table.from_batches(stream(dsn, statement, schema, timeout), schema)


def stream(
    dsn: str | Secret, statement: sql.Composable, schema: pa.Schema, timeout: timedelta = STREAM_TIMEOUT
) -> Iterator[pa.RecordBatch]:
    """A statement's answer in batches of this schema, as the server sends it.

    `timeout` bounds the statement, and the wait for each batch. Raises HotStoreTimeout, HotStoreUnavailable, HotStoreError.
    """
    worker = _Worker(dsn, timeout)
    try:
        reader = worker.call(lambda stack: _open(stack, dsn, statement.as_string(None), timeout))
        while (batch := worker.call(lambda _: next(reader, None))) is not None:
            if batch.num_rows:
                yield _shaped(batch, schema)
    finally:
        worker.close()


def _open(stack: ExitStack, dsn: str | Secret, statement: str, timeout: timedelta) -> Iterator[pa.RecordBatch]:
    from adbc_driver_postgresql import dbapi

    connection = stack.enter_context(dbapi.connect(connect.conninfo(dsn), autocommit=True))
    cursor = stack.enter_context(connection.cursor())
    for setting in connect.settings(timeout).split(";"):
        cursor.execute(setting)
    cursor.execute(statement)
    return iter(cursor.fetch_record_batch())


def _shaped(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """The batch without the driver's own metadata."""
    columns = [batch.column(field.name) for field in schema]
    cast = [
        column if column.type == field.type else column.cast(field.type) for column, field in zip(columns, schema, strict=True)
    ]
    return pa.RecordBatch.from_arrays(cast, schema=schema)


class _Worker:
    """One thread that owns one ADBC connection, so that whoever waits for it can stop waiting.

    A thread that waits for a deaf server is left behind; it ends when the system gives the connection up.
    """

    def __init__(self, dsn: str | Secret, timeout: timedelta) -> None:
        self._dsn = dsn
        self._seconds = timeout.total_seconds() + _GRACE
        self._tasks: queue.SimpleQueue[Callable[[ExitStack], object] | None] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[tuple[object, BaseException | None]] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="hot-reader", daemon=True).start()

    def _run(self) -> None:
        with ExitStack() as stack:
            while (task := self._tasks.get()) is not None:
                try:
                    self._results.put((task(stack), None))
                except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
                    self._results.put((None, error))

    def call(self, task: Callable[[ExitStack], T]) -> T:
        """Run `task` in the thread and give what it gives or raises, or raise HotStoreTimeout."""
        self._tasks.put(task)
        try:
            result, error = self._results.get(timeout=self._seconds)
        except queue.Empty:
            message = f"the hot store ({connect.place(self._dsn)}) did not answer within {self._seconds:.0f} s"
            raise HotStoreTimeout(message) from None
        if error is not None:
            raise _translated(error, self._dsn) from error
        return result  # type: ignore[return-value]

    def close(self) -> None:
        """Let the thread end once it is free."""
        self._tasks.put(None)


def _translated(error: BaseException, dsn: str | Secret) -> BaseException:
    from adbc_driver_manager import Error, OperationalError

    if not isinstance(error, Error):
        return error
    where, reason, state = connect.place(dsn), " ".join(str(error).split()), error.sqlstate or ""
    if state == "57014":
        return HotStoreTimeout(f"the hot store ({where}) did not finish a statement in time: {reason}")
    if state in {"42P01", "3F000", "42703"}:
        return NotMigrated(f"the hot store ({where}) lacks what this version needs: {reason}. Run: trackmate migrate")
    if isinstance(error, OperationalError) or connect.may_pass(state):
        return HotStoreUnavailable(f"the hot store ({where}) can't serve now: {reason}. Check that it runs")
    return HotStoreError(f"the hot store ({where}) failed: {reason}")
