"""How close the hot store's writer comes to a bare COPY: both on one connection, into the same tables, in the same run.

Prints JSON. The bare COPY sends text that was made beforehand, as psql would from a file; the writer starts from decoded events.
Rounds alternate, so that what else the machine does meets both alike.

    python benchmarks/hot_ingest.py [--dsn postgresql://…] [--events 100000] [--batch 1000]
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import statistics
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import psycopg

from contract.event import Event
from contract.ids import uuid7
from contract.settings import Secret
from lakehouse.config import HotConfig
from lakehouse.hot import connect, migrate, rows
from lakehouse.hot.writer import HotWriter

KINDS = ("start", "progress", "metric", "log", "finish")
ROUNDS = 5


def make(count: int, start: datetime) -> list[Event]:
    """Events of a fab: about 600 bytes of JSON each, a fifth of them with three metrics."""
    emitter = uuid7()
    shaped = []
    for number in range(count):
        kind = KINDS[number % len(KINDS)]
        event = {
            "event_id": uuid7(),
            "timestamp": (start + timedelta(milliseconds=number)).isoformat(),
            "kind": kind,
            "name": "etch.main",
            "site_id": f"fab{number % 3}",
            "app": {"name": "etch-controller", "version": "2.4.1", "instance_id": f"host-{number % 40}"},
            "run_id": uuid7(),
            "emitter": {"id": emitter, "seq": number + 1},
            "entities": {
                "lot": f"L{number // 500:05d}", "wafer": str(number % 25), "tool": f"ETCH-{number % 60:02d}",
                "chamber": "ABC"[number % 3], "recipe": "poly-etch-7", "step": "main-etch",
            },
            "message": "main etch of poly layer in progress",
            "attributes": {"slot": number % 25, "note": 'endpoint "optical"', "pressure_setpoint": 12.5},
        }  # fmt: skip
        if kind == "metric":
            event["metrics"] = {"temperature": 61.5 + number % 7 / 10, "pressure": 12.25, "flow": number % 100 / 3}
        if kind == "finish":
            event |= {"status": "ok", "duration_ms": 1234.5}
        if kind == "progress":
            event["progress"] = 0.5
        shaped.append(event)
    return msgspec.json.decode(msgspec.json.encode(shaped), type=list[Event])


def cut(events: list[Event], size: int) -> list[list[Event]]:
    return [list(batch) for batch in itertools.batched(events, size)] if hasattr(itertools, "batched") else [
        events[start : start + size] for start in range(0, len(events), size)
    ]  # fmt: skip


def bare_copy(dsn: str, batches: list[list[Event]]) -> float:
    """Seconds that a bare COPY of each batch takes, one transaction each, its text made beforehand."""
    texts = [(rows.events_text(batch)[1], rows.metrics_text(batch)[1]) for batch in batches]
    into_events = f"COPY trackmate.events ({', '.join(rows.EVENT_COLUMNS)}) FROM STDIN {rows.COPY_OPTIONS}"
    into_metrics = f"COPY trackmate.metrics ({', '.join(rows.METRIC_COLUMNS)}) FROM STDIN {rows.COPY_OPTIONS}"
    with connect.connect(dsn) as connection:
        started = time.perf_counter()
        for events, metrics in texts:
            with connection.transaction(), connection.cursor() as cursor:
                for statement, text in ((into_events, events), (into_metrics, metrics)):
                    with cursor.copy(statement.encode()) as copy:
                        copy.write(text)
        return time.perf_counter() - started


async def write(dsn: str, batches: list[list[Event]], parallel: int, *, staged: bool = False) -> float:
    """Seconds that the writer takes for the batches, with so many under way at once; `staged` as after a duplicate."""
    writer = await HotWriter.open(HotConfig(dsn=Secret(dsn), pool_size=parallel))
    if staged:
        writer._swarm = len(batches) + 1  # noqa: SLF001 - a benchmark may look inside
    try:
        await writer.check()
        pending = iter(batches)

        async def drain() -> None:
            for batch in pending:
                result = await writer.write(batch)
                assert result.inserted == len(batch), result

        started = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(parallel):
                group.create_task(drain())
        return time.perf_counter() - started
    finally:
        await writer.close()


def truncate(dsn: str) -> None:
    """Every measurement starts with empty tables and no checkpoint under way."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("TRUNCATE trackmate.events, trackmate.metrics")
        connection.execute("CHECKPOINT")


def measure(dsn: str, count: int, size: int) -> dict[str, object]:
    migrate.migrate(dsn)
    start = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    asyncio.run(write(dsn, cut(make(size, start), size), 1))  # partitions, caches
    seconds: dict[str, list[float]] = {"bare_copy": [], "writer": [], "writer_staged": [], "writer_2_connections": []}
    for _ in range(ROUNDS):
        for name, times in seconds.items():
            batches = cut(make(count, start), size)
            truncate(dsn)
            if name == "bare_copy":
                times.append(bare_copy(dsn, batches))
            else:
                parallel = 2 if name.endswith("connections") else 1
                times.append(asyncio.run(write(dsn, batches, parallel, staged=name.endswith("staged"))))
    rates = {name: round(count / statistics.median(times)) for name, times in seconds.items()}
    with psycopg.connect(dsn) as connection:
        version, level = connection.execute("SELECT split_part(version(), ' ', 2), level FROM trackmate.store").fetchone() or (
            "",
            "",
        )
    return {
        "benchmark": "hot_ingest",
        "postgresql": version,
        "level": level,
        "events": count,
        "batch": size,
        "rounds": ROUNDS,
        "rows_per_second": rates,
        "writer_to_bare_copy": round(rates["writer"] / rates["bare_copy"], 3),
        "writer_staged_to_bare_copy": round(rates["writer_staged"] / rates["bare_copy"], 3),
        "writer_2_connections_to_bare_copy": round(rates["writer_2_connections"] / rates["bare_copy"], 3),
        "seconds": {name: [round(value, 3) for value in times] for name, times in seconds.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--dsn", help="a database of its own, which is emptied; default: an embedded PostgreSQL in a temporary folder"
    )
    parser.add_argument("--events", type=int, default=50_000)
    parser.add_argument("--batch", type=int, default=1_000)
    arguments = parser.parse_args()
    if arguments.dsn:
        print(json.dumps(measure(arguments.dsn, arguments.events, arguments.batch), indent=2))
        return
    from tests.services.base import free_port
    from trackmate.embedded_postgres import EmbeddedPostgres

    with tempfile.TemporaryDirectory() as folder:
        server = EmbeddedPostgres(Path(folder) / "postgres", free_port())
        server.start()
        try:
            print(json.dumps(measure(server.dsn().reveal(), arguments.events, arguments.batch), indent=2))
        finally:
            server.stop()


if __name__ == "__main__":
    main()
