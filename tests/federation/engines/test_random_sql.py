"""Random SQL: the engine's answer is the one without pruning, and the one that plain DuckDB gives to the caller's own text.

Whatever fails says its seed; `TRACKMATE_SQL_SEED=<seed>` gives the same tables and the same statements again.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import random
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import duckdb
import pyarrow as pa
import pytest
from deltalake import DeltaTable

from federation.auth import Principal
from federation.config import DuckDBConfig
from federation.engines.base import EngineError, GateError, QueryError
from federation.engines.catalog import Catalog, Reading, Scan
from federation.engines.duckdb_engine import DuckDBEngine
from federation.engines.pruning import Predicate
from federation.gateway.formats import rows_as_arrays
from lakehouse.config import LakeConfig
from lakehouse.lake import Lake
from tests.federation.engines.conftest import EVERYONE, append, only
from tests.federation.engines.random_sql import COLUMNS, NOW, Statements, random_rows

SEED: Final = int(os.environ.get("TRACKMATE_SQL_SEED") or 0)
ONE_SITE: Final = only("fab1")

_BY_ORDER: Final = re.compile(r"\b(ASOF|POSITIONAL)\b")
"""What chooses among equals or by place: DuckDB itself may answer otherwise when it reads a table another way."""

_OF_A_VALUE: Final = ("convert", "cast", "conversion", "out of range", "more than one row")
"""Errors that depend on which rows an expression is evaluated on, and so on the plan."""


class WholeReading(Reading):
    """Reads every file of every table."""

    def scan(
        self,
        name: str,
        predicates: Sequence[Predicate],
        *,
        limit: int | None = None,
        alias: str,
    ) -> Scan:
        return super().scan(name, (), alias=alias)


class WholeCatalog(Catalog):
    """Prunes nothing."""

    def reading(self, principal: Principal, as_of: dt.datetime | None = None) -> Reading:
        return WholeReading(self, principal, as_of)


@dataclass
class Campaign:
    """What was asked, and what came of it."""

    statements: int = 0
    refused: int = 0
    pruned: int = 0
    compared: int = 0
    faults: list[str] = field(default_factory=list)


class Plain:
    """DuckDB alone, with the same rows in tables of its own; everything, or one site's."""

    def __init__(self, lake: Lake, sites: frozenset[str] | None) -> None:
        self._connection = duckdb.connect(config={"threads": 1, "memory_limit": "400MB"})
        self._connection.execute("SET TimeZone = 'UTC'; CREATE SCHEMA silver")
        for name in COLUMNS:
            self._connection.register("given", DeltaTable(lake.uri(name)).to_pyarrow_table())
            condition = "" if sites is None else f"WHERE site_id IN ({', '.join(repr(site) for site in sorted(sites))})"
            self._connection.execute(f"CREATE TABLE {name} AS SELECT * FROM given {condition}")
            self._connection.unregister("given")

    def ask(self, sql: str) -> list[str] | None:
        """The rows in order; None when DuckDB does not run it."""
        moment = f"(TIMESTAMPTZ '{NOW.isoformat(sep=' ')}')"
        text = sql.replace("now()", moment).replace("current_date", f"(DATE '{NOW.date()}')")
        try:
            return rows(self._connection.execute(text).to_arrow_table())
        except duckdb.Error:
            return None

    def close(self) -> None:
        self._connection.close()


def rows(table: pa.Table) -> list[str]:
    """The rows in order; a moment with a zone and one without are the same in UTC."""
    return sorted(repr([shown(value) for value in row]) for row in rows_as_arrays(table))


def shown(value: Any) -> Any:
    if isinstance(value, dt.datetime):
        return str((value if value.tzinfo is None else value.astimezone(dt.UTC)).replace(tzinfo=None))
    return value


async def ask(engine: DuckDBEngine, sql: str, principal: Principal) -> tuple[list[str] | EngineError, int]:
    """The rows in order or the error; and how many files were read."""
    try:
        async with await engine.query(sql, principal=principal) as result:
            table = await result.read_all()
            return rows(table), result.stats.files
    except EngineError as error:
        return error, 0


async def campaign(lake: Lake, seed: int, seconds: float) -> Campaign:
    """Ask for so long."""
    dice = random.Random(f"{seed} tables")
    for name in COLUMNS:
        for day in range(4):
            for _ in range(2):
                append(lake, name, random_rows(name, day, dice.choice([1, 2, 4]), dice))
    config = DuckDBConfig(memory_limit=400 * 2**20, temp_limit=200 * 2**20, threads=1, timeout=60.0, cache_bytes=0)
    pruning, whole = (DuckDBEngine(kind(lake), config, now=lambda: NOW) for kind in (Catalog, WholeCatalog))
    plain = {EVERYONE: Plain(lake, None), ONE_SITE: Plain(lake, ONE_SITE.sites)}
    statements, done = Statements(seed), Campaign()
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and len(done.faults) < 5:
        sql = statements.one()
        done.statements += 1
        for principal, reference in plain.items():
            fault = await one(pruning, whole, reference, sql, principal, done)
            if fault:
                done.faults.append(f"seed {seed}, statement {done.statements}, {principal.token_id}: {fault}\n{sql}")
    await asyncio.gather(pruning.close(), whole.close())
    for reference in plain.values():
        reference.close()
    return done


async def one(
    pruning: DuckDBEngine, whole: DuckDBEngine, reference: Plain, sql: str, principal: Principal, done: Campaign
) -> str | None:
    """What is wrong with the answer to one statement."""
    answer, files = await ask(pruning, sql, principal)
    unpruned, all_files = await ask(whole, sql, principal)
    expected = await asyncio.to_thread(reference.ask, sql)
    if isinstance(unpruned, EngineError):
        done.refused += 1
        if not isinstance(unpruned, QueryError | GateError):
            return f"the engine fails: {unpruned!r}"
        if expected is not None and not any(word in str(unpruned).lower() for word in _OF_A_VALUE):
            return f"valid, and refused: {unpruned}"
        return None  # an error of a row in a file that is not read need not come up
    done.pruned += files < all_files
    if answer != unpruned:
        return f"pruned {answer!r:.500}, not pruned {unpruned!r:.500}"
    if expected is not None and not _BY_ORDER.search(sql):
        done.compared += 1
        if answer != expected:
            return f"through the gate {answer!r:.500}, plain {expected!r:.500}"
    return None


async def test_random_sql_is_answered_otherwise_than_by_plain_duckdb(lake_of_three: Lake) -> None:
    done = await campaign(lake_of_three, SEED or 1, seconds=6)
    assert not done.faults, "\n\n".join(done.faults)
    assert done.statements


@pytest.mark.full
@pytest.mark.timeout(1200)
async def test_random_sql_is_answered_otherwise_than_by_plain_duckdb_at_length(lake_of_three: Lake) -> None:
    seed = SEED or random.SystemRandom().randrange(1, 2**31)
    done = await campaign(lake_of_three, seed, seconds=300)
    print(f"seed {seed}: {done.statements} statements, {done.refused} refused, {done.pruned} pruned, {done.compared} compared")
    assert not done.faults, "\n\n".join(done.faults)
    assert done.pruned > 0 < done.compared, f"seed {seed}: hardly anything was compared: the test proves nothing"


@pytest.fixture
def lake_of_three(tmp_path: Any) -> Lake:
    """An empty lake, for the three tables that a campaign makes."""
    return Lake(LakeConfig(str(tmp_path / "lake")))
