"""What happens to acknowledged events, and to whoever waits, when servers die and networks go deaf."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import psycopg
import pytest

from contract.request import EventRequest
from contract.settings import Secret
from lakehouse.config import HotConfig
from lakehouse.hot import reader
from lakehouse.hot.arrow import Sessions
from lakehouse.hot.errors import HotStoreTimeout, HotStoreUnavailable
from lakehouse.hot.writer import HotWriter, WriteResult
from tests.lakehouse.hot.events import NOW, many, stored, value
from tests.services.postgres import PostgresService
from tests.services.proxy import Proxy


@pytest.fixture
def proxy(server: PostgresService) -> Iterator[Proxy]:
    with Proxy(server.port) as proxy:
        yield proxy


@pytest.fixture
def behind_proxy(server: PostgresService, config: HotConfig, proxy: Proxy) -> HotConfig:
    dsn = config.dsn.reveal().replace(f":{server.port}/", f":{proxy.port}/")
    return replace(config, dsn=Secret(dsn), statement_timeout=timedelta(seconds=1), connect_timeout=timedelta(seconds=2))


async def test_acknowledged_events_are_gone_after_the_server_was_killed(
    server: PostgresService, writer: HotWriter, dsn: str
) -> None:
    batches = [many(300, kind="metric", metrics={"a": 1.0}) for _ in range(12)]
    acknowledged: list[str] = []
    first = asyncio.Event()

    async def send() -> None:
        for batch in batches:
            result = await writer.write(batch)
            assert result.inserted + result.duplicates == 300
            acknowledged.extend(each.event_id for each in batch)
            first.set()

    sending = asyncio.create_task(send())
    await first.wait()
    await asyncio.to_thread(server.crash)
    known = sorted(acknowledged)
    await asyncio.to_thread(server.restart)
    assert set(known) <= set(stored(dsn))
    # The writer found its way back by itself: nobody had to send anything again.
    await sending
    assert len(acknowledged) == 3600
    assert sorted(acknowledged) == stored(dsn)
    assert value(dsn, "SELECT count(*) FROM trackmate.metrics") == 3600


async def test_a_restart_between_batches_fails_the_next_one(writer: HotWriter, dsn: str) -> None:
    batch = many(10)
    await writer.write(batch)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    assert await writer.write(batch) == WriteResult(duplicates=10)


async def test_a_connection_that_breaks_in_the_middle_stores_half_a_batch(
    behind_proxy: HotConfig, proxy: Proxy, dsn: str
) -> None:
    async with await HotWriter.open(replace(behind_proxy, statement_timeout=timedelta(seconds=10)), clock=lambda: NOW) as writer:
        await writer.check()
        batch = many(2000)
        writing = asyncio.create_task(writer.write(batch))
        await asyncio.sleep(0.01)
        proxy.hang_up()
        result = await writing
    assert result.inserted + result.duplicates == 2000
    assert stored(dsn) == sorted(each.event_id for each in batch)


async def test_a_server_that_goes_deaf_holds_the_writer_for_ever(behind_proxy: HotConfig, proxy: Proxy, dsn: str) -> None:
    async with await HotWriter.open(replace(behind_proxy, statement_timeout=timedelta(seconds=5)), clock=lambda: NOW) as writer:
        batch = many(100)
        await writer.write(batch[:50])
        proxy.deaf()
        started = time.monotonic()
        with pytest.raises(HotStoreTimeout, match="within 5 s"):
            await writer.write(batch)
        assert time.monotonic() - started < 60
        proxy.hang_up()
        proxy.hear()
        result = await writer.write(batch)
        assert result.inserted + result.duplicates == 100
    assert len(stored(dsn)) == 100


async def test_a_sender_that_gives_up_leaves_a_broken_connection(behind_proxy: HotConfig, proxy: Proxy, dsn: str) -> None:
    config = replace(behind_proxy, statement_timeout=timedelta(seconds=30), pool_size=1)
    async with await HotWriter.open(config, clock=lambda: NOW) as writer:
        await writer.write(many(1))
        proxy.deaf()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await writer.write(many(10))
        proxy.hear()
        assert await writer.write(many(5)) == WriteResult(inserted=5)


def test_a_server_that_goes_deaf_holds_the_reader_for_ever(
    behind_proxy: HotConfig, proxy: Proxy, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lakehouse.hot.arrow._GRACE", 0.5)
    request = EventRequest(start=NOW, end=NOW + timedelta(hours=1))
    assert list(reader.query(behind_proxy.dsn, request)) == []
    proxy.deaf()
    started = time.monotonic()
    with pytest.raises(HotStoreTimeout, match="did not answer within"):
        list(reader.query(behind_proxy.dsn, request, timeout=timedelta(seconds=0.5)))
    assert time.monotonic() - started < 20


def test_a_statement_that_runs_too_long_is_never_stopped(dsn: str) -> None:
    with psycopg.connect(dsn) as blocker:
        blocker.execute("LOCK TABLE trackmate.events IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(HotStoreTimeout, match="did not finish a statement in time"):
            list(reader.query(dsn, EventRequest(start=NOW, end=NOW + timedelta(hours=1)), timeout=timedelta(seconds=0.3)))


async def test_a_lock_held_by_somebody_else_blocks_writing_for_ever(config: HotConfig, dsn: str) -> None:
    with psycopg.connect(dsn) as blocker:
        blocker.execute("LOCK TABLE trackmate.events IN ACCESS EXCLUSIVE MODE")
        async with await HotWriter.open(replace(config, statement_timeout=timedelta(seconds=0.5)), clock=lambda: NOW) as writer:
            with pytest.raises(HotStoreUnavailable):
                await writer.write(many(1))
            blocker.rollback()
            assert await writer.write(many(1)) == WriteResult(inserted=1)


def test_a_kept_connection_that_died_fails_the_next_question(dsn: str) -> None:
    request = EventRequest(start=NOW, end=NOW + timedelta(hours=1))
    sessions = Sessions()
    try:
        assert list(reader.query(dsn, request, sessions=sessions)) == []
        with psycopg.connect(dsn, autocommit=True) as connection:
            ended = connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name = 'trackmate'"
            ).fetchall()
        assert ended == [(True,)]
        assert list(reader.query(dsn, request, sessions=sessions)) == []
    finally:
        sessions.close()


def test_a_statement_that_ran_too_long_runs_again_on_another_connection(dsn: str) -> None:
    request, timeout = EventRequest(start=NOW, end=NOW + timedelta(hours=1)), timedelta(seconds=1)
    sessions = Sessions()
    try:
        assert list(reader.query(dsn, request, timeout, sessions=sessions)) == []
        with psycopg.connect(dsn) as blocker:
            blocker.execute("LOCK TABLE trackmate.events IN ACCESS EXCLUSIVE MODE")
            started = time.monotonic()
            with pytest.raises(HotStoreTimeout):
                list(reader.query(dsn, request, timeout, sessions=sessions))
            waiting = (
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'trackmate'"
            )
            assert (blocker.execute(waiting.encode()).fetchone() or (None,))[0] <= 1
            assert time.monotonic() - started >= 1
    finally:
        sessions.close()
