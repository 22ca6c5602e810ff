"""How long an hour of one site takes over GET /v1/data/unified, with the same events in hot store and lake.

Prints JSON. Ten sites, one day, every event in both stores, so that each page is merged and deduplicated. `first` asks anew each
time (max_staleness=0), `kept` asks what was asked before. The baseline, in the same run, is the same page by plain SQL from the
hot store alone, on a connection that is open already.

    python -m benchmarks.unified_latency [--events 10000000] [--requests 200]
"""

from __future__ import annotations

import argparse
import datetime as dt
import gc
import io
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import httpx
import psycopg
import pyarrow as pa
import pyarrow.csv
from deltalake import write_deltalake

from benchmarks.managed_ingest import gateway
from contract.columns import NAMES
from lakehouse.config import LakeConfig
from lakehouse.hot import connect, partitions
from lakehouse.hot.migrate import migrate
from lakehouse.lake import Lake

DAY = dt.datetime.now(dt.UTC).replace(hour=0, minute=0, second=0, microsecond=0) - dt.timedelta(days=1)
SITES = 10
CHUNK = 250_000
LIMIT = 1_000
KEPT = 25

# One row a number: an id that begins with its time as a UUIDv7 does, and what a metric of an etch chamber carries.
ROWS = """
SELECT
    format('{:08x}-{:04x}-7{:03x}-8{:03x}-{:012x}', ms >> 16, ms & 65535, i & 4095, (i >> 12) & 4095, i) AS event_id,
    make_timestamp(us) AS timestamp,
    CASE WHEN i % 5 = 0 THEN 'metric' ELSE 'log' END AS kind,
    'etch.main' AS name,
    'fab' || (i % 10) AS site_id,
    'etch-controller' AS app_name,
    '2.4.1' AS app_version,
    'host-' || (i % 40) AS app_instance_id,
    NULL::VARCHAR AS run_id, NULL::VARCHAR AS parent_run_id, NULL::VARCHAR AS emitter_id, NULL::BIGINT AS emitter_seq,
    'L' || (i // 5000) AS lot, CAST(i % 25 AS VARCHAR) AS wafer, 'ETCH-' || (i % 60) AS tool, 'A' AS chamber,
    'poly-etch-7' AS recipe, 'main-etch' AS step, NULL::VARCHAR AS product, NULL::VARCHAR AS operator,
    '{"lot":"L' || (i // 5000) || '","tool":"ETCH-' || (i % 60) || '"}' AS entities,
    NULL::VARCHAR AS status, 'info' AS severity, 'main etch of poly layer in progress' AS message,
    NULL::DOUBLE AS progress, NULL::DOUBLE AS duration_ms, NULL::VARCHAR AS state_from, NULL::VARCHAR AS state_to,
    '{"temperature":61.5,"pressure":12.25}' AS metrics,
    NULL::VARCHAR AS error_type, NULL::VARCHAR AS error_message, NULL::VARCHAR AS error_stack,
    NULL::VARCHAR AS trace_id, NULL::VARCHAR AS span_id, '{"slot":' || (i % 25) || '}' AS attributes
FROM (SELECT i, us, us // 1000 AS ms FROM (SELECT range AS i, $first + range * $step AS us FROM range($start, $stop)))
"""


def fill(dsn: str, lake: Lake, count: int) -> None:
    """The same events into the hot store and into silver.events, chunk by chunk in the order of time."""
    migrate(dsn)
    parameters = {"first": int(DAY.timestamp() * 1_000_000), "step": 86_400_000_000 // count}
    silver = lake.table("silver.events")
    columns = ", ".join(f'"{name}"' for name in NAMES)
    with duckdb.connect() as database, connect.connect(dsn) as connection:
        partitions.ensure(connection, {DAY.date()})
        for start in range(0, count, CHUNK):
            values = {**parameters, "start": start, "stop": min(start + CHUNK, count)}
            rows = database.execute(ROWS, values).to_arrow_table().select(list(NAMES))
            text = io.BytesIO()
            pyarrow.csv.write_csv(rows, text, pyarrow.csv.WriteOptions(include_header=False))
            with (
                connection.cursor() as cursor,
                cursor.copy(f"COPY trackmate.events ({columns}) FROM STDIN (FORMAT csv)".encode()) as copy,
            ):
                copy.write(text.getvalue())
            now = pa.scalar(dt.datetime.now(dt.UTC).replace(tzinfo=None), pa.timestamp("us"))
            rows = rows.append_column("first_source", pa.repeat("hot", rows.num_rows))
            rows = rows.append_column("ingested_at", pa.repeat(now, rows.num_rows))
            rows = rows.append_column("bronze_version", pa.repeat(0, rows.num_rows))
            rows = rows.append_column("event_date", pa.repeat(pa.scalar(DAY.date()), rows.num_rows))
            write_deltalake(silver, rows, mode="append")
        connection.execute("ANALYZE trackmate.events")


def timed(work: Callable[[Any], Any], questions: list[Any], check: Callable[[Any], object]) -> dict[str, float]:
    """Percentiles, in milliseconds, of doing `work` for each question in turn, to the last byte of its answer.

    What this process does with an answer, `check` and the collection of its own garbage, is not counted.
    """
    taken = []
    gc.collect()
    gc.disable()
    for question in questions:
        begun = time.perf_counter()
        answer = work(question)
        taken.append((time.perf_counter() - begun) * 1_000)
        check(answer)
        del answer
    gc.enable()
    taken.sort()
    return {
        "p50_ms": round(statistics.median(taken), 1),
        "p90_ms": round(taken[int(len(taken) * 0.9)], 1),
        "p99_ms": round(taken[int(len(taken) * 0.99)], 1),
        "max_ms": round(taken[-1], 1),
    }


def measure(dsn: str, folder: Path, port: int, count: int, requests: int) -> dict[str, object]:
    begun = time.perf_counter()
    fill(dsn, Lake(LakeConfig(root=str(folder / "lake"))), count)
    loaded = time.perf_counter() - begun
    chance = random.Random(7)
    hours = [(chance.randrange(23 * 60), f"fab{chance.randrange(SITES)}") for _ in range(requests)]
    columns = ", ".join(f'"{name}"' for name in NAMES)
    with (
        gateway(folder, dsn, port),
        httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60) as client,
        psycopg.connect(dsn, autocommit=True) as connection,
    ):

        def ask(question: tuple[int, str], staleness: float) -> httpx.Response:
            start = DAY + dt.timedelta(minutes=question[0])
            parameters = {
                "start": start.isoformat(),
                "end": (start + dt.timedelta(hours=1)).isoformat(),
                "site": question[1],
                "limit": LIMIT,
                "max_staleness": staleness,
            }
            return client.get("/v1/data/unified", params=parameters)

        def whole(answer: httpx.Response) -> dict[str, Any]:
            body: dict[str, Any] = answer.json()
            assert not body["partial"], body["sources"]
            assert len(body["events"]) == min(LIMIT, count // 24 // SITES), len(body["events"])
            assert body["events"][0]["sources"] == ["managed", "lake"]
            return body

        def from_the_cache(answer: httpx.Response) -> None:
            cache = whole(answer)["cache"]
            assert cache["result"] != "miss", cache

        def by_sql(question: tuple[int, str]) -> list[Any]:
            start = (DAY + dt.timedelta(minutes=question[0])).replace(tzinfo=None)
            return connection.execute(
                f"SELECT {columns} FROM trackmate.events WHERE site_id = %s AND timestamp >= %s AND timestamp < %s "
                f"ORDER BY timestamp, event_id LIMIT {LIMIT}".encode(),
                [question[1], start, start + dt.timedelta(hours=1)],
            ).fetchall()

        for question in hours[:5]:
            whole(ask(question, 0))
            by_sql(question)
        first = timed(lambda question: ask(question, 0), hours, whole)
        # As many questions as the cache has room for: an answer that had to go is a first one again.
        for question in hours[:KEPT]:
            ask(question, 600)
        figures = {
            "first": first,
            "kept": timed(lambda question: ask(question, 600), hours[:KEPT] * 10, from_the_cache),
            "baseline_sql_hot_only": timed(by_sql, hours, len),
        }
    return {
        "benchmark": "unified_latency",
        "events": count,
        "requests": requests,
        "page": LIMIT,
        "load_seconds": round(loaded, 1),
        **figures,
        "ratio": round(figures["first"]["p99_ms"] / figures["baseline_sql_hot_only"]["p99_ms"], 2),
        "target_p99_ms": {"first": 200, "kept": 50},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--requests", type=int, default=200)
    arguments = parser.parse_args()
    from tests.services.base import free_port
    from trackmate.embedded_postgres import EmbeddedPostgres

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server = EmbeddedPostgres(folder / "postgres", free_port())
        server.start()
        try:
            result = measure(server.dsn().reveal(), folder, free_port(), arguments.events, arguments.requests)
        finally:
            server.stop()
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
