"""A small lake and engines over it."""

# ruff: noqa: DTZ001 - the lake keeps UTC without zone

from __future__ import annotations

import datetime as dt
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import write_deltalake

from contract.ids import stable_id
from federation.auth import Principal
from federation.config import DuckDBConfig
from federation.engines.base import Limits
from federation.engines.catalog import Catalog
from federation.engines.duckdb_engine import DuckDBEngine
from federation.engines.duckdb_session import DuckDBSession
from lakehouse.config import LakeConfig
from lakehouse.lake import Lake
from lakehouse.tables import TABLES
from tests.federation.engines.twins import Twin, build

DAY = dt.datetime(2024, 5, 1)
EVERYONE = Principal("all", frozenset({"query"}), None)


def only(*sites: str) -> Principal:
    """A principal that sees these sites."""
    return Principal("some", frozenset({"query"}), frozenset(sites))


def rows_of(name: str, count: int, **columns: Callable[[int], Any]) -> pa.Table:
    """`count` rows of a declared table: the given columns by row number, the required ones filled in, the others NULL."""
    table = TABLES[name]
    made: dict[str, list[Any]] = {}
    for column in table.columns:
        make = columns.get(column.name)
        if make is not None:
            made[column.name] = [make(i) for i in range(count)]
        elif not column.required:
            made[column.name] = [None] * count
        elif pa.types.is_string(column.type):
            made[column.name] = [column.name] * count
        elif pa.types.is_timestamp(column.type):
            made[column.name] = [DAY] * count
        elif pa.types.is_date(column.type):
            made[column.name] = [DAY.date()] * count
        else:
            made[column.name] = [1] * count
    return pa.table(made, schema=table.schema)


def events(day: int, count: int = 120, *, sites: int = 3, tag: str = "") -> pa.Table:
    """One day's silver.events, a minute apart, sites in turn; each message names its site."""
    start = DAY + dt.timedelta(days=day)

    def moment(i: int) -> dt.datetime:
        return start + dt.timedelta(minutes=i)

    return rows_of(
        "silver.events",
        count,
        event_id=lambda i: stable_id(f"{tag}{day}-{i}", moment(i).replace(tzinfo=dt.UTC)),
        timestamp=moment,
        event_date=lambda i: moment(i).date(),
        site_id=lambda i: f"fab{i % sites}",
        kind=lambda i: "error" if i % 10 == 0 else "metric",
        tool=lambda i: None if i % 7 == 0 else f"tool-{i % 5}",
        message=lambda i: f"secret of fab{i % sites}",
        duration_ms=float,
        attributes=lambda i: f'{{"a.b": "x{i}", "n": {i}}}',
    )


@pytest.fixture(scope="session")
def four_days(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `lake` is copied from."""
    root = tmp_path_factory.mktemp("four-days") / "lake"
    lake = Lake(LakeConfig(str(root)))
    for day in range(4):
        append(lake, "silver.events", events(day))
    return root


@pytest.fixture
def lake(tmp_path: Path, four_days: Path) -> Lake:
    """A lake of four days of silver.events, a file a day."""
    shutil.copytree(four_days, tmp_path / "lake")
    return Lake(LakeConfig(str(tmp_path / "lake")))


def append(lake: Lake, name: str, rows: pa.Table) -> None:
    """Append rows to a table in one commit."""
    lake.table(name)
    write_deltalake(lake.uri(name), rows, mode="append", storage_options=lake.storage_options or None)


@asynccontextmanager
async def engine_over(lake: Lake, **config: Any) -> AsyncIterator[DuckDBEngine]:
    """An engine that is closed at the end."""
    settings = {"memory_limit": 400 * 2**20, "temp_limit": 200 * 2**20, "threads": 2, "timeout": 20.0} | config
    engine = DuckDBEngine(Catalog(lake), DuckDBConfig(**settings))
    try:
        yield engine
    finally:
        await engine.close()


@pytest.fixture
async def engine(lake: Lake) -> AsyncIterator[DuckDBEngine]:
    """An engine over `lake`."""
    async with engine_over(lake) as made:
        yield made


async def ask(engine: DuckDBEngine, sql: str, principal: Principal = EVERYONE, **options: Any) -> list[dict[str, Any]]:
    """The answer as a list of rows."""
    async with await engine.query(sql, principal=principal, **options) as result:
        return (await result.read_all()).to_pylist()


def limits(timeout: float = 20.0, max_rows: int = 100_000, max_bytes: int = 64 * 2**20) -> Limits:
    """Limits with the rest as it usually is."""
    return Limits(timeout, max_rows, max_bytes)


@pytest.fixture(scope="session")
def twins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Twin]]:
    """Tables that are asked with pruning and without."""
    root = tmp_path_factory.mktemp("lake")
    session = DuckDBSession(Lake(LakeConfig(str(root))), DuckDBConfig(threads=1, memory_limit=300 * 2**20))
    yield [Twin(build(root / f"t{seed}", seed), session) for seed in range(12)]
    session.close()
