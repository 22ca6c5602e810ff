"""SQL text in, Arrow out, through ADBC; every wait is bounded, since the driver itself would wait for a deaf server for ever."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from typing import Any, Final, TypeVar

import pyarrow as pa
from psycopg import sql

from contract.settings import Secret
from lakehouse.hot import connect
from lakehouse.hot.errors import HotStoreError, HotStoreTimeout, HotStoreUnavailable, NotMigrated

STREAM_TIMEOUT: Final = timedelta(seconds=60)
BATCH_BYTES: Final = 4 * 1024 * 1024
"""About what one batch holds: whoever works on batches as they come begins and ends so much after the server."""
_GRACE: Final = 5.0

T = TypeVar("T")


def fetch(dsn: str | Secret, statement: sql.Composable, schema: pa.Schema, timeout: timedelta = STREAM_TIMEOUT) -> pa.Table:
    """A statement's whole answer as a table of this schema."""
    return pa.Table.from_batches(stream(dsn, statement, schema, timeout), schema)


def stream(
    dsn: str | Secret,
    statement: sql.Composable,
    schema: pa.Schema,
    timeout: timedelta = STREAM_TIMEOUT,
    sessions: Sessions | None = None,
) -> Iterator[pa.RecordBatch]:
    """A statement's answer in batches of this schema, as the server sends it.

    `timeout` bounds the statement, and the wait for each batch; `sessions` keeps the connection for the next statement.
    Raises HotStoreTimeout, HotStoreUnavailable, HotStoreError.
    """
    text = statement.as_string(None)
    worker = None if sessions is None else sessions.take(dsn, timeout)
    reader = None
    if worker is not None:
        try:
            reader = worker.execute(text)
        except HotStoreTimeout:
            worker.close()
            raise
        except HotStoreError:
            worker.close()  # the server may have been restarted since: a new connection tells
            worker = None
    if worker is None or reader is None:
        worker = _Worker(dsn, timeout)
    whole = False
    try:
        if reader is None:
            reader = worker.execute(text)
        batches = reader
        while (batch := worker.call(lambda _: next(batches, None))) is not None:
            if batch.num_rows:
                yield _shaped(batch, schema)
        whole = True
    finally:
        if whole and sessions is not None:
            sessions.give_back(worker)
        else:
            worker.close()


class Sessions:
    """Connections that are kept between statements: opening one costs more than a small statement does.

    Only those come back whose answer was read to its end. At most `most` are kept, none longer than `idle` without work.
    """

    def __init__(self, most: int = 8, idle: timedelta = timedelta(seconds=30)) -> None:
        self._most = most
        self._idle = idle.total_seconds()
        self._kept: list[tuple[float, _Worker]] = []
        self._lock = threading.Lock()
        self._closed = False

    def take(self, dsn: str | Secret, timeout: timedelta) -> _Worker | None:
        """A kept connection to this store whose statements have this timeout; None when there is none."""
        with self._lock:
            fresh = time.monotonic() - self._idle
            old = [worker for since, worker in self._kept if since < fresh]
            self._kept = [entry for entry in self._kept if entry[0] >= fresh]
            found = next((entry for entry in reversed(self._kept) if entry[1].serves(dsn, timeout)), None)
            if found is not None:
                self._kept.remove(found)
        for worker in old:
            worker.close()
        return None if found is None else found[1]

    def give_back(self, worker: _Worker) -> None:
        """Keep a connection that has nothing left to read."""
        with self._lock:
            if not self._closed and len(self._kept) < self._most:
                self._kept.append((time.monotonic(), worker))
                return
        worker.close()

    def close(self) -> None:
        """Close what is kept, and what still comes back."""
        with self._lock:
            self._closed = True
            kept, self._kept = self._kept, []
        for _, worker in kept:
            worker.close()


def _connect(stack: ExitStack, dsn: str | Secret, timeout: timedelta) -> Any:
    from adbc_driver_postgresql import dbapi

    connection = stack.enter_context(dbapi.connect(connect.conninfo(dsn), autocommit=True))
    cursor = stack.enter_context(connection.cursor())
    for setting in connect.settings(timeout).split(";"):
        cursor.execute(setting)
    cursor.adbc_statement.set_options(**{"adbc.postgresql.batch_size_hint_bytes": str(BATCH_BYTES)})
    return cursor


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
        self._timeout = timeout
        self._cursor: Any = None
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

    def serves(self, dsn: str | Secret, timeout: timedelta) -> bool:
        """Whether its connection is to this store and has this timeout."""
        return (connect.plain(self._dsn), self._timeout) == (connect.plain(dsn), timeout)

    def execute(self, statement: str) -> Iterator[pa.RecordBatch]:
        """Run a statement, connecting first if need be; its batches are to be taken through `call`."""

        def run(stack: ExitStack) -> Iterator[pa.RecordBatch]:
            if self._cursor is None:
                self._cursor = _connect(stack, self._dsn, self._timeout)
            self._cursor.execute(statement)
            return iter(self._cursor.fetch_record_batch())

        return self.call(run)

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
