"""How long an hour of one site takes in SQL over silver.events: this engine, cold and kept, against plainer ways.

Builds a silver.events of `--rows` rows once (kept in the cache folder): days of events of several sites, a few files a day,
as the writer leaves them. Then asks for random hours of random sites, each question another one, alternating between

- `engine`: the DuckDB engine as /v1/sql uses it: gate, log, pruning, DuckDB, Arrow (`kept`: the same question once more);
- `delta_scan`: DuckDB's Delta extension, the same condition;
- `read_parquet`: DuckDB over all files of the table, the same condition;
- `pyarrow`: a fresh pyarrow dataset of the table from delta-rs, the same condition.

Each answer's rows are compared. Prints JSON: milliseconds (p50, p99), and how many times the engine's p50 each takes.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import json
import random
import shutil
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.compute as pc
from deltalake import DeltaTable

from federation.auth import LOOPBACK
from federation.config import DuckDBConfig
from federation.engines.catalog import Catalog
from federation.engines.duckdb_engine import DuckDBEngine
from lakehouse.config import LakeConfig
from lakehouse.lake import Lake, bundled_extension, quote
from lakehouse.tables import TABLES, type_name
from lakehouse.writer import append_once
from tests.services.base import CACHE

TABLE = "silver.events"
FIRST = dt.datetime(2026, 1, 1)  # noqa: DTZ001 - the lake keeps UTC without zone
SITES = 8
FILES_A_DAY = 4
ROWS_A_DAY = 500_000
COLUMNS = "timestamp, kind, name, tool, lot, severity, duration_ms, message"
GOALS = {"engine_p99_ms": 200, "kept_p99_ms": 50}

Question = tuple[str, dt.datetime]
Answerer = Callable[[Question], Awaitable[int]]

VALUES = {
    "event_id": "format('{:08x}-{:04x}-7{:03x}-8000-{:012x}', (ms >> 16)::BIGINT, (ms & 65535)::BIGINT, (i % 4096)::BIGINT, i)",
    "timestamp": "moment",
    "kind": "['start', 'progress', 'metric', 'metric', 'log', 'finish'][1 + (hash(i) % 6)::INT]",
    "name": "['etch', 'deposit', 'clean', 'inspect', 'implant'][1 + (hash(i + 1) % 5)::INT]",
    "site_id": f"'fab' || (hash(i + 2) % {SITES})",
    "app_name": "'app-' || (hash(i + 3) % 20)",
    "run_id": "format('{:08x}-0000-7000-8000-{:012x}', (ms >> 20)::BIGINT, (i // 40)::BIGINT)",
    "emitter_id": "format('00000000-0000-7000-8000-{:012x}', (hash(i + 4) % 200)::BIGINT)",
    "emitter_seq": "i",
    "lot": "'LOT' || lpad((i // 5000)::VARCHAR, 6, '0')",
    "wafer": "'W' || (i % 25)",
    "tool": "'tool-' || (hash(i + 5) % 60)",
    "chamber": "'ch-' || (i % 4)",
    "recipe": "'recipe-' || (hash(i // 5000) % 30)",
    "step": "'step-' || (i % 12)",
    "severity": "CASE WHEN hash(i + 6) % 100 < 3 THEN 'error' ELSE 'info' END",
    "message": "'step ' || (i % 12) || ' of lot ' || (i // 5000)",
    "duration_ms": "(hash(i + 7) % 100000) / 10.0",
    "entities": "'{\"lot\":\"LOT' || (i // 5000) || '\"}'",
    "metrics": "'{\"pressure\":' || (hash(i) % 1000) / 10.0 || '}'",
    "attributes": "'{\"batch\":' || (i // 100) || '}'",
    "first_source": "'spool'",
    "ingested_at": "moment + INTERVAL 30 SECOND",
    "bronze_version": "i // 100000",
    "event_date": "CAST(moment AS DATE)",
}


def build(rows: int) -> Lake:
    """The lake with its table, made unless it is there already."""
    root = CACHE / f"bench-sql-latency-{rows}"
    done = root / "done"
    lake = Lake(LakeConfig(str(root / "lake")))
    if done.exists():
        return lake
    shutil.rmtree(root, ignore_errors=True)
    columns = ", ".join(
        f"CAST({VALUES.get(column.name, 'NULL')} AS {type_name(column)}) AS {column.name}" for column in TABLES[TABLE].columns
    )
    per_file = ROWS_A_DAY // FILES_A_DAY
    with lake.connect(ordered=True) as connection:
        for number, start in enumerate(range(0, rows, per_file)):
            day, part = divmod(number, FILES_A_DAY)
            begin = FIRST + dt.timedelta(days=day, hours=24 / FILES_A_DAY * part)
            step = 24 * 3600 * 1_000_000 // ROWS_A_DAY
            query = f"""
                SELECT {columns} FROM (
                    SELECT i, epoch_ms(moment) AS ms, moment FROM (
                        SELECT range + {start} AS i, TIMESTAMP '{begin}' + to_microseconds(range * {step}) AS moment
                        FROM range({min(per_file, rows - start)})))"""
            append_once(lake, TABLE, lambda query=query: connection.execute(query).to_arrow_reader(65_536), "bench", start + 1)
            print(f"\r{start + per_file:,} of {rows:,} rows", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    done.touch()
    return lake


def condition(question: Question) -> str:
    site, hour = question
    end = hour + dt.timedelta(hours=1)
    return f"site_id = '{site}' AND timestamp >= TIMESTAMP '{hour}' AND timestamp < TIMESTAMP '{end}'"


def answerers(lake: Lake, engine: DuckDBEngine) -> dict[str, Answerer]:
    """Every way to ask, by name; each gives the number of rows it got."""
    plain = duckdb.connect()
    plain.execute("SET TimeZone = 'UTC'")
    plain.load_extension(bundled_extension("delta"))
    files = ", ".join(quote(uri) for uri in DeltaTable(lake.uri(TABLE)).file_uris())

    async def ours(question: Question) -> int:
        async with await engine.query(f"SELECT {COLUMNS} FROM {TABLE} WHERE {condition(question)}", principal=LOOPBACK) as result:
            return (await result.read_all()).num_rows

    async def by_extension(question: Question) -> int:
        sql = f"SELECT {COLUMNS} FROM delta_scan({quote(lake.uri(TABLE))}) WHERE {condition(question)}"
        return plain.execute(sql).to_arrow_table().num_rows

    async def by_parquet(question: Question) -> int:
        sql = f"SELECT {COLUMNS} FROM read_parquet([{files}], hive_partitioning = true) WHERE {condition(question)}"
        return plain.execute(sql).to_arrow_table().num_rows

    async def by_pyarrow(question: Question) -> int:
        site, hour = question
        wanted = (pc.field("site_id") == site) & (pc.field("timestamp") >= hour)
        wanted &= pc.field("timestamp") < hour + dt.timedelta(hours=1)
        dataset = DeltaTable(lake.uri(TABLE)).to_pyarrow_dataset()
        return dataset.to_table(columns=COLUMNS.split(", "), filter=wanted).num_rows

    return {"engine": ours, "kept": ours, "delta_scan": by_extension, "read_parquet": by_parquet, "pyarrow": by_pyarrow}


async def measure(lake: Lake, count: int, peers: int) -> dict[str, list[float]]:
    """Milliseconds of each way; the peers, which are slower, answer every question up to `peers`."""
    engine = DuckDBEngine(Catalog(lake), DuckDBConfig())
    dice = random.Random(7)
    days = max(1, (DeltaTable(lake.uri(TABLE)).count() or 1) // ROWS_A_DAY)
    asked = [(f"fab{dice.randrange(SITES)}", FIRST + dt.timedelta(hours=dice.randrange(24 * days))) for _ in range(count)]
    asked = list(dict.fromkeys(asked))
    taken: dict[str, list[float]] = {}
    try:
        ways = answerers(lake, engine)
        for name, answer in ways.items():
            if name != "kept":
                await answer(("fab0", FIRST - dt.timedelta(days=1)))  # opens, imports and loads what is done once a process
        for place, question in enumerate(asked):
            rows = set()
            for name, answer in ways.items():
                if name in {"engine", "kept"} or place < peers:
                    started = time.perf_counter()
                    rows.add(await answer(question))
                    taken.setdefault(name, []).append((time.perf_counter() - started) * 1000)
            if len(rows) != 1:
                message = f"{question}: the answers differ: {rows}"
                raise RuntimeError(message)
    finally:
        await engine.close()
    return taken


def quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def main() -> None:
    """Build, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--questions", type=int, default=300)
    parser.add_argument("--peer-questions", type=int, default=40)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    lake = build(arguments.rows)
    taken = asyncio.run(measure(lake, arguments.questions, arguments.peer_questions))
    figures = {
        name: {"p50_ms": round(quantile(values, 0.5), 2), "p99_ms": round(quantile(values, 0.99), 2), "questions": len(values)}
        for name, values in taken.items()
    }
    base = figures["engine"]["p50_ms"]
    actions: Any = DeltaTable(lake.uri(TABLE)).get_add_actions()
    report = {
        "rows": arguments.rows,
        "files": len(actions["path"]),
        "milliseconds": figures,
        "times_the_engine": {name: round(figure["p50_ms"] / base, 2) for name, figure in figures.items() if name != "engine"},
        "goals": GOALS,
        "met": {
            "engine_p99_ms": figures["engine"]["p99_ms"] < GOALS["engine_p99_ms"],
            "kept_p99_ms": figures["kept"]["p99_ms"] < GOALS["kept_p99_ms"],
        },
    }
    text = json.dumps(report, indent=2)
    print(text)
    if arguments.output is not None:
        arguments.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
