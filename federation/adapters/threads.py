"""Blocking readers behind an asynchronous face: each source has its own few threads, so that one that hangs starves no other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final, ParamSpec, TypeVar

import pyarrow as pa

Params = ParamSpec("Params")
Result = TypeVar("Result")

WORKERS: Final = 8
"""Queries of one source that run at once; more wait, within their deadline."""

_DONE: Final = object()


class SourceThreads:
    """The threads of one source."""

    def __init__(self, name: str, workers: int = WORKERS) -> None:
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix=f"source-{name}")
        self._closed = False

    async def call(self, function: Callable[Params, Result], *args: Params.args, **kwargs: Params.kwargs) -> Result:
        """Run a blocking function; when the caller is cancelled its result is thrown away."""
        future = self._pool.submit(function, *args, **kwargs)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            future.cancel()
            raise

    async def iterate(self, start: Callable[[], Iterator[pa.RecordBatch]]) -> AsyncGenerator[pa.RecordBatch, None]:
        """The batches of a blocking iterator, which is made, advanced and closed in the source's threads."""
        iterator = await self.call(start)
        try:
            while True:
                batch = await self.call(next, iterator, _DONE)
                if not isinstance(batch, pa.RecordBatch):
                    return
                yield batch
        finally:
            close = getattr(iterator, "close", None)
            if close is not None and not self._closed:
                self._pool.submit(_quietly, close)

    def close(self) -> None:
        """Let the threads end; what is still running is not waited for."""
        self._closed = True
        self._pool.shutdown(wait=False, cancel_futures=True)


def _quietly(close: Callable[[], None]) -> None:
    try:
        close()
    except ValueError:
        # A generator that is still running in another thread of the pool can't be closed; it ends with its own deadline.
        return
