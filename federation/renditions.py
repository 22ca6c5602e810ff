"""One answer in the forms it is asked for, as bytes ready to be sent: each is made once, and beside the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, ParamSpec, TypeVar

Params = ParamSpec("Params")
Made = TypeVar("Made")

SMALL_ROWS: Final = 200
"""Work on so many rows takes less than a thread takes to come in."""


async def aside(rows: int, work: Callable[Params, Made], *args: Params.args, **kwargs: Params.kwargs) -> Made:
    """What `work` on so many rows gives; in a thread where it would hold up those whose answer is ready."""
    if rows <= SMALL_ROWS:
        return work(*args, **kwargs)
    return await asyncio.to_thread(work, *args, **kwargs)


def _nobody(_size: int) -> None:
    return


@dataclass
class Renditions:
    """The bytes of one answer by form. `grown` is told the size of each new one; one event loop at a time."""

    grown: Callable[[int], None] = _nobody
    _made: dict[str, bytes] = field(default_factory=dict, init=False, repr=False)
    _making: dict[str, asyncio.Task[bytes]] = field(default_factory=dict, init=False, repr=False)

    async def get(self, form: str, rows: int, make: Callable[[], bytes]) -> bytes:
        """The bytes of `form`, made by `make` from so many rows if there are none; all that wait for them share one making."""
        found = self._made.get(form)
        if found is not None:
            return found
        task = self._making.get(form)
        if task is None:
            task = self._making[form] = asyncio.create_task(self._make(form, rows, make))
        return await asyncio.shield(task)

    async def _make(self, form: str, rows: int, make: Callable[[], bytes]) -> bytes:
        try:
            made = await aside(rows, make)
        finally:
            del self._making[form]
        self._made[form] = made
        self.grown(len(made))
        return made
