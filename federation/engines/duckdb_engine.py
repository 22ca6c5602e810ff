"""SQL on one machine: DuckDB in this process, over the files that our own reading of the Delta log leaves."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache
from secrets import token_hex
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypeVar

import duckdb
import pyarrow as pa
from sqlglot import exp

from federation.config import DuckDBConfig, TrackMateConfig
from federation.engines import gate, predicates
from federation.engines.base import Explanation, Limits, Result, Stats
from federation.engines.cache import Entry, ResultCache
from federation.engines.catalog import Catalog, Reading, Scan
from federation.engines.demands import Demands
from federation.engines.duckdb_run import Prepared, Run, timed_out
from federation.engines.duckdb_session import DuckDBSession, translating
from federation.engines.grammar import CHANGING
from federation.engines.hot_tables import HotStore
from federation.engines.macros import compile_query
from lakehouse.lake import Lake

if TYPE_CHECKING:
    from federation.auth import Principal

T = TypeVar("T")

EXPLAIN_SCHEMA: Final = pa.schema([pa.field("explain", pa.string())])


class DuckDBEngine:
    """The engine of one process. One event loop at a time; `close()` when done."""

    def __init__(
        self,
        catalog: Catalog,
        config: DuckDBConfig | None = None,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.catalog = catalog
        self.config = config or DuckDBConfig()
        self.cache = ResultCache(self.config.cache_bytes)
        self.defaults = Limits(self.config.timeout, self.config.max_rows, self.config.max_bytes)
        self._now = now
        self._session = DuckDBSession(catalog.lake, self.config)
        self._delta_session: DuckDBSession | None = None
        self._opening = threading.Lock()
        self._pool = ThreadPoolExecutor(self.config.concurrency, thread_name_prefix="duckdb")
        self._endings: set[asyncio.Task[None]] = set()
        self._check = lru_cache(maxsize=256)(gate.check)

    @classmethod
    def open(cls, config: TrackMateConfig) -> Self:
        """The engine that trackmate.yaml describes."""
        return cls(Catalog(Lake(config.lake), HotStore(config.hot.dsn)), config.engines.duckdb)

    async def query(
        self, sql: str, *, principal: Principal, limits: Limits | None = None, as_of: datetime | None = None
    ) -> Result:
        """Run one statement; `EXPLAIN SELECT …` gives its explanation as text.

        `limits` can only lower the configured ones. Raises EngineError.
        """
        started = time.monotonic()
        bounds = self._bounded(limits)
        deadline = started + bounds.timeout
        prepared = await self._in_time(self.submit(self._prepare, sql, principal, bounds, as_of), deadline, bounds)
        if prepared.explain:
            return await self._explained(prepared, started)
        if prepared.key is None or not self.cache.worth_waiting(prepared.key):
            run = Run(self, prepared, bounds, started)
            await run.start()
            return run.result("off" if prepared.key is None else "miss")
        return await self._cached(prepared, prepared.key, bounds, started)

    async def explain(self, sql: str, *, principal: Principal, as_of: datetime | None = None) -> Explanation:
        """Say how `sql` would be run, without running it."""
        bounds = self.defaults
        deadline = time.monotonic() + bounds.timeout
        prepared = await self._in_time(self.submit(self._prepare, sql, principal, bounds, as_of), deadline, bounds)
        return await asyncio.wrap_future(self.submit(self._plan, prepared))

    async def close(self) -> None:
        """Stop what runs, and free everything."""
        while self._endings:
            await asyncio.wait(set(self._endings))
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._session.close()
        if self._delta_session is not None:
            self._delta_session.close()

    def cursor(self, prepared: Prepared) -> duckdb.DuckDBPyConnection:
        """A connection that can run the statement; the Delta extension is loaded when the first one needs it."""
        if not prepared.needs_extension:
            return self._session.cursor()
        with self._opening:
            if self._delta_session is None:
                self._delta_session = DuckDBSession(self.catalog.lake, self.config, delta=True)
        return self._delta_session.cursor()

    # ------------------------------------------------------------------------------------------------------ preparing

    def _bounded(self, limits: Limits | None) -> Limits:
        most = self.defaults
        if limits is None:
            return most
        return Limits(
            min(limits.timeout, most.timeout), min(limits.max_rows, most.max_rows), min(limits.max_bytes, most.max_bytes)
        )

    def _prepare(self, sql: str, principal: Principal, limits: Limits, as_of: datetime | None) -> Prepared:
        statement = self._check(sql, self.catalog.names(principal))
        tree = statement.tree.copy()
        tables = [node for node in tree.find_all(exp.Table) if isinstance(node.this, exp.Identifier) and node.db]
        _free_columns_of_schemas(tree)
        _name_answers(tree)
        reading = self.catalog.reading(principal, as_of)
        versions = {gate.table_name(node): reading.version(gate.table_name(node)) for node in tables}
        timely = predicates.freeze_now(tree, self._now())
        keepable = not timely and None not in versions.values() and tree.find(*CHANGING) is None
        if isinstance(tree, exp.Select | exp.SetOperation) and tree.args.get("limit") is None and tree.args.get("fetch") is None:
            tree = tree.limit(limits.max_rows + 1, copy=False)
        scans = self._scans(tree, tables, reading)
        text = compile_query(tree, "duckdb")
        key = None
        if keepable:
            key = (statement.text, tuple(sorted(versions.items())), principal.cache_key(), limits.max_rows, limits.max_bytes)
        for placeholder, scan in scans.items():
            text = text.replace(f'"{placeholder}"', f"({scan.sql})")
        return Prepared(
            sql=text,
            arrow={name: table for scan in scans.values() for name, table in scan.arrow.items()},
            scans=tuple(stats for scan in scans.values() for stats in scan.stats),
            key=key,
            explain=statement.explain,
            hide_values=principal.sites is not None,
        )

    def _scans(self, tree: exp.Query, tables: list[exp.Table], reading: Reading) -> dict[str, Scan]:
        """Put an unguessable name in the place of each table, and give the SQL that each stands for."""
        token = token_hex(8)
        demands = Demands(tree, lambda table: reading.schema(gate.table_name(table)))
        found = []
        for node in tables:
            name = gate.table_name(node)
            wanted = predicates.of_table(node, reading.schema(name), self._session.evaluate, demands)
            limit = predicates.row_limit(node) if wanted.complete else None
            found.append((node, name, wanted, limit))
        scans = {}
        for place, (node, name, wanted, limit) in enumerate(found):
            placeholder = f"tm_{token}_{place}"
            scans[placeholder] = reading.scan(name, wanted.predicates, limit=limit, alias=f"{placeholder}_hot")
            if not node.alias:
                node.set("alias", exp.TableAlias(this=exp.to_identifier(node.name, quoted=True)))
            node.set("this", exp.to_identifier(placeholder, quoted=True))
            node.set("db", None)
        return scans

    def _plan(self, prepared: Prepared) -> Explanation:
        root = self.catalog.lake.root
        with self.cursor(prepared) as cursor, translating(hide_values=prepared.hide_values, root=root):
            for name, table in prepared.arrow.items():
                cursor.register(name, table)
            rows = cursor.execute(f"EXPLAIN {prepared.sql}").fetchall()
        cached = prepared.key is not None and self.cache.get(prepared.key) is not None
        state: Literal["hit", "miss", "off"] = "off" if prepared.key is None else "hit" if cached else "miss"
        return Explanation(prepared.scans, state, prepared.sql, rows[0][1].replace(root, ""))

    async def _explained(self, prepared: Prepared, started: float) -> Result:
        explanation = await asyncio.wrap_future(self.submit(self._plan, prepared))
        batch = pa.RecordBatch.from_pydict({"explain": explanation.lines()}, schema=EXPLAIN_SCHEMA)
        entry = Entry(EXPLAIN_SCHEMA, (batch,), prepared.scans, None, batch.nbytes)
        return _kept(entry, "off", started)

    # -------------------------------------------------------------------------------------------------------- running

    async def _cached(self, prepared: Prepared, key: Hashable, limits: Limits, started: float) -> Result:
        state: Literal["hit", "shared"] = "hit"
        while True:
            entry = self.cache.get(key)
            if entry is not None:
                return _kept(entry, state, started)
            flight = self.cache.flight(key)
            if flight is None:
                break
            state = "shared"
            await self._in_time(asyncio.shield(flight), started + limits.timeout, limits)
        self.cache.take_off(key)
        try:
            return await self._computed(prepared, key, limits, started)
        finally:
            self.cache.land(key)

    async def _computed(self, prepared: Prepared, key: Hashable, limits: Limits, started: float) -> Result:
        """Run it as far as an answer that is worth keeping goes; a larger one goes on as a stream."""
        run = Run(self, prepared, limits, started)
        await run.start()
        taken: list[pa.RecordBatch] = []
        size = 0
        try:
            while (found := await run.next_batch()) is not None:
                taken.append(found)
                size += found.nbytes
                if size > self.cache.max_entry:
                    self.cache.too_large(key)
                    return run.result("miss", taken)
        except BaseException:
            await run.aclose()
            raise
        await run.aclose()
        entry = Entry(run.schema, tuple(taken), prepared.scans, run.stats.truncated, size)
        self.cache.put(key, entry)
        return _kept(entry, "miss", started)

    @property
    def root(self) -> str:
        """Where the lake is."""
        return self.catalog.lake.root

    def submit(self, job: Callable[..., T], *arguments: Any) -> Future[T]:
        """Run something in one of the engine's threads."""
        return self._pool.submit(job, *arguments)

    async def _in_time(self, job: Future[T] | asyncio.Future[T], deadline: float, limits: Limits) -> T:
        future = asyncio.wrap_future(job) if isinstance(job, Future) else job
        try:
            return await asyncio.wait_for(future, max(0.0, deadline - time.monotonic()))
        except TimeoutError:
            raise timed_out(limits) from None

    def end(self, run: Run) -> asyncio.Task[None]:
        """Stop a run in a task of its own, which goes on when its caller is cancelled."""
        task = asyncio.get_running_loop().create_task(run.stop())
        self._endings.add(task)
        task.add_done_callback(self._endings.discard)
        return task


def _kept(entry: Entry, state: Literal["hit", "shared", "miss", "off"], started: float) -> Result:
    async def batches() -> AsyncIterator[pa.RecordBatch]:
        for batch in entry.batches:
            yield batch

    stats = Stats(
        scans=entry.scans,
        rows=sum(batch.num_rows for batch in entry.batches),
        bytes_returned=sum(batch.nbytes for batch in entry.batches),
        seconds=time.monotonic() - started,
        cache=state,
        truncated=entry.truncated,
    )
    if state in {"hit", "shared"}:
        stats.scans = tuple(replace(scan, files=0, bytes=0) for scan in entry.scans)
    return Result(entry.schema, stats, batches(), renditions=entry.renditions)


def _free_columns_of_schemas(tree: exp.Query) -> None:
    """`silver.events.kind` as `events.kind`: the table goes by its own name once it is SQL of ours."""
    for column in tree.find_all(exp.Column):
        column.set("db", None)
        column.set("catalog", None)


def _name_answers(tree: exp.Query) -> None:
    """Give columns of the answer that have no name the caller's own words, lest they show what a macro became."""
    outer = tree
    while isinstance(outer, exp.SetOperation):
        outer = outer.this
    if isinstance(outer, exp.Select):
        for entry in list(outer.expressions):
            if not isinstance(entry, exp.Alias | exp.Aliases | exp.Column | exp.Star | exp.Dot | exp.Explode):
                name = entry.sql(dialect="duckdb", comments=False, normalize_functions="lower")
                entry.replace(exp.alias_(entry.copy(), name, quoted=True))
