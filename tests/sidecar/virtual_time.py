"""An event loop in which waiting costs nothing: time jumps to whatever is due next, and blocking work is done at once."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, TypeVar

T = TypeVar("T")
TICK = 1e-6
"""The least that time moves by, so that rounding can't make it stand still."""


class NothingWillHappen(RuntimeError):
    """Everybody waits for somebody else."""


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Deterministic: no threads, no real clock."""

    def __init__(self) -> None:
        self.now = 0.0
        super().__init__(_NeverWaits(self))

    def time(self) -> float:
        return self.now

    def run_in_executor(self, executor: Executor | None, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:  # type: ignore[override]
        done: asyncio.Future[T] = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - it is the caller's
            done.set_exception(error)
        return done


class _NeverWaits(selectors.SelectSelector):
    def __init__(self, loop: VirtualTimeLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout is None:
            raise NothingWillHappen
        if not ready and timeout:
            self._loop.now += max(timeout, TICK)
        return ready


def run(scenario: Coroutine[Any, Any, T]) -> T:
    """Run to the end; tasks that are left are cancelled."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(scenario)
