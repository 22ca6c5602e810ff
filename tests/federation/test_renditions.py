"""An answer's bytes: made once a form, beside the event loop, and counted where the answer is kept."""

from __future__ import annotations

import asyncio
import threading

import pyarrow as pa
import pytest

from federation.cache import AnswerCache
from federation.engines.cache import Entry, ResultCache
from federation.renditions import SMALL_ROWS, Renditions, aside

MANY = SMALL_ROWS + 1


async def test_a_form_is_made_anew_for_each_that_asks():
    made: list[str] = []

    def make() -> bytes:
        made.append(threading.current_thread().name)
        return b"x" * 10

    sizes: list[int] = []
    renditions = Renditions(sizes.append)
    asked = [renditions.get("json", MANY, make) for _ in range(5)] + [renditions.get("csv", 1, make)]
    assert await asyncio.gather(*asked) == [b"x" * 10] * 6
    assert await renditions.get("json", MANY, make) == b"x" * 10
    assert len(made) == 2
    assert sizes == [10, 10]
    assert threading.current_thread().name in made, "a few rows are not worth a thread"
    assert set(made) != {threading.current_thread().name}, "many rows hold up the event loop"


async def test_what_could_not_be_made_is_never_tried_again():
    renditions = Renditions()

    def fail() -> bytes:
        raise ValueError("no")

    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            await renditions.get("json", MANY, fail)
    assert await renditions.get("json", MANY, lambda: b"yes") == b"yes"


async def test_a_caller_that_leaves_takes_the_bytes_from_the_others():
    renditions = Renditions()
    goes_on = threading.Event()

    def make() -> bytes:
        goes_on.wait(30)
        return b"x"

    first = asyncio.create_task(renditions.get("json", MANY, make))
    second = asyncio.create_task(renditions.get("json", MANY, make))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    first.cancel()
    goes_on.set()
    assert await second == b"x"
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_work_on_many_rows_holds_up_the_event_loop():
    turns = threading.Event()
    asyncio.get_running_loop().call_soon(turns.set)
    assert await aside(MANY, turns.wait, 30)


async def test_the_bytes_of_kept_answers_are_not_counted():
    cache: AnswerCache[Renditions] = AnswerCache(100, lambda _: 10, lambda kept: kept)

    async def versions() -> None:
        return None

    async def make() -> Renditions:
        return Renditions()

    async def ask(key: str) -> tuple[Renditions, str]:
        value, result, _ = await cache.get(key, max_age=60, versions=versions, make=make, keep=lambda _: True)
        return value, result

    one, _ = await ask("one")
    two, _ = await ask("two")
    await one.get("json", 1, lambda: b"x" * 50)
    assert [(await ask(key))[1] for key in ("one", "two")] == ["hit", "hit"]
    await two.get("json", 1, lambda: b"x" * 50)
    assert (await ask("two"))[1] == "hit"
    assert (await ask("one"))[1] == "miss", "together they were more than the cache may hold"


async def test_the_bytes_of_kept_sql_answers_are_not_counted():
    cache = ResultCache(1_000)
    entries = {name: Entry(pa.schema([]), (), (), None, 100) for name in ("one", "two")}
    for name, entry in entries.items():
        cache.put(name, entry)
    await entries["one"].renditions.get("json", 1, lambda: b"x" * 500)
    assert cache.size == 700
    await entries["two"].renditions.get("json", 1, lambda: b"x" * 500)
    assert (cache.get("one"), cache.size) == (None, 600)
    await entries["one"].renditions.get("csv", 1, lambda: b"x" * 500)
    assert cache.size == 600, "what is not kept any more counts for nothing"
