"""Reading the hot store ahead of whoever writes its rows elsewhere: a page is kept while it comes in, and until it is let go."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future

import pyarrow as pa

from contract.settings import Secret
from lakehouse.hot.arrow import Sessions
from lakehouse.hot.reader import Planned, Stream, follow


class ReadAhead:
    """One page, read by a thread of `threads` at the database's own speed; `planned` gives what it is to hold.

    The thread never waits for the writer: a statement that a slow lake held up would run into its timeout.
    """

    def __init__(self, threads: Executor, dsn: str | Secret, planned: Callable[[], Planned], sessions: Sessions) -> None:
        self._opened: Future[Stream] = Future()
        self._changed = threading.Condition()
        self._batches: list[pa.RecordBatch] = []
        self._read = threads.submit(self._fill, dsn, planned, sessions)
        self._read.add_done_callback(self._wake)

    def _fill(self, dsn: str | Secret, planned: Callable[[], Planned], sessions: Sessions) -> None:
        try:
            stream = follow(dsn, planned(), sessions)
        except BaseException as error:
            self._opened.set_exception(error)
            raise
        self._opened.set_result(stream)
        for batch in stream.batches:
            with self._changed:
                self._batches.append(batch)
                self._changed.notify_all()

    def _wake(self, _: Future[None]) -> None:
        with self._changed:
            self._changed.notify_all()

    def opened(self) -> Stream:
        """What the page will hold, once the database has said so; its rows come from `batches` alone. Raises HotStoreError."""
        return self._opened.result()

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The page's rows from its first on, as they come in; each call begins again. Raises HotStoreError."""
        position = 0
        while True:
            with self._changed:
                while len(self._batches) == position and not self._read.done():
                    self._changed.wait()
                fresh = self._batches[position:]
            if not fresh:
                self._read.result()
                return
            yield from fresh
            position += len(fresh)

    def check(self) -> None:
        """Raise what ended the reading early, if anything has."""
        if self._read.done():
            self._read.result()
