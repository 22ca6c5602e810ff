"""Rows a second from the hot store to Delta: our exactly-once way, a bare ADBC read into write_deltalake, and dlt.

    python -m benchmarks.hot_to_delta [--rows 1000000] [--rounds 3] [--dlt-python PYTHON]

All read the same table of the same PostgreSQL in the same run, into an empty folder each. dlt runs in the interpreter given (by
default this one; left out if it can't import dlt). Its pyarrow backend reads the table as a site would name it, and once more
through a view in which the server has already made texts of the JSON and UUID columns, which spares dlt that work
(`dlt_pyarrow_view`). Its connectorx backend reads the view: on the table it ends with "not implemented: xid8". Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import psycopg
from adbc_driver_postgresql import dbapi
from deltalake import DeltaTable, write_deltalake
from psycopg import sql

from lakehouse import bronze
from lakehouse.config import LakeConfig
from lakehouse.hot import partitions, reader
from lakehouse.lake import Lake
from tests.services.postgres import EmbeddedPostgresService

PEERS = {
    "dlt_pyarrow": ("pyarrow", "trackmate", "events"),
    "dlt_pyarrow_view": ("pyarrow", "public", "bench_events"),
    "dlt_connectorx": ("connectorx", "public", "bench_events"),
}
"""What dlt is run with: backend, schema and table."""
GOALS = {"adbc": 0.8, "dlt_pyarrow": 8.0, "dlt_connectorx": 1.2}

FILL = """
    INSERT INTO trackmate.events (event_id, "timestamp", kind, name, site_id, app_name, app_version, run_id, emitter_id,
        emitter_seq, lot, wafer, tool, chamber, recipe, step, entities, severity, message, metrics, attributes)
    SELECT (lpad(to_hex(1772323200000 + n), 12, '0') || '7000800000' || lpad(to_hex(n), 10, '0'))::uuid,
        timestamp '2026-03-01' + n * interval '1 millisecond', 'metric', 'chamber.sensors', 'fab1', 'etch-controller',
        '1.0.0', (lpad(to_hex(1772323200000 + n / 100), 12, '0') || '70008000' || lpad(to_hex(n / 100), 12, '0'))::uuid,
        '01890a5d-ac96-774b-8cce-0000000007d1', n, 'L' || n / 2500, (n %% 25)::text, 'ETCH-' || n %% 20, 'A', 'R-17', 'main-etch',
        jsonb_build_object('lot', 'L' || n / 2500, 'wafer', (n %% 25)::text, 'tool', 'ETCH-' || n %% 20, 'chamber', 'A'),
        'info', 'sample of the chamber''s sensors',
        json_build_object('temperature', 65.25 + n %% 100, 'pressure', 12.5, 'rf_power', 1500.125),
        json_build_object('note', md5(n::text), 'shift', n %% 3)
    FROM generate_series(%s::bigint, %s::bigint) AS n
"""

DLT = """
    import json, sys, time
    import dlt
    from dlt.sources.sql_database import sql_table

    dsn, folder, backend, schema, table = sys.argv[1:]
    options = {"backend_kwargs": {"return_type": "arrow"}} if backend == "connectorx" else {}
    source = sql_table(credentials=dsn, schema=schema, table=table, backend=backend, chunk_size=100_000, **options)
    destination = dlt.destinations.filesystem(folder)
    pipeline = dlt.pipeline("bench_" + backend, destination=destination, dataset_name="d", pipelines_dir=folder + "/p")
    started = time.monotonic()
    pipeline.run(source, table_format="delta", write_disposition="append", loader_file_format="parquet")
    rows = pipeline.last_trace.last_normalize_info.row_counts[table]
    print(json.dumps({"seconds": time.monotonic() - started, "rows": rows}))
"""


def fill(dsn: str, rows: int) -> None:
    """Put that many events into the hot store, 50,000 a transaction."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        partitions.ensure(connection, [date(2026, 3, 1)])
        for first in range(1, rows + 1, 50_000):
            connection.execute(FILL, [first, min(rows, first + 49_999)])
        # The very columns that the lake's own reader asks for, for everyone.
        connection.execute(sql.SQL("CREATE VIEW public.bench_events AS SELECT {} FROM trackmate.events").format(reader._COLUMNS))  # noqa: SLF001
        connection.execute("VACUUM ANALYZE trackmate.events")


def ours(dsn: str, folder: Path) -> int:
    """`append_hot` until it is through."""
    lake = Lake(LakeConfig(root=str(folder / "lake")))
    total = 0
    while True:
        step = bronze.append_hot(lake, dsn)
        total += step.rows
        if not step.more:
            return total


def adbc(dsn: str, folder: Path) -> int:
    """The same columns by the same driver, straight into write_deltalake: no cursor, no source columns, no confirmation."""
    with dbapi.connect(dsn, autocommit=True) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT * FROM bench_events")
        write_deltalake(str(folder / "bare"), cursor.fetch_record_batch())
    return int(DeltaTable(str(folder / "bare")).count())


def with_dlt(python: str, dsn: str, target: Path, peer: tuple[str, str, str], rows: int) -> float:
    """Seconds that dlt takes for it."""
    target.mkdir()
    command = [python, "-c", textwrap.dedent(DLT), dsn, str(target), *peer]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3600, cwd=target)
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    report = json.loads(done.stdout.strip().splitlines()[-1])
    if report["rows"] != rows:
        message = f"dlt brought {report['rows']}"
        raise RuntimeError(message)
    return float(report["seconds"])


def timed(work: Callable[[], int], rows: int) -> float:
    """Seconds that `work` takes; it must give all rows."""
    started = time.monotonic()
    got = work()
    seconds = time.monotonic() - started
    if got != rows:
        message = f"{got} rows arrived of {rows}"
        raise RuntimeError(message)
    return seconds


def main() -> None:
    """Fill, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dlt-python", default=sys.executable)
    arguments = parser.parse_args()
    rows = arguments.rows
    seconds: dict[str, float] = {}
    result: dict[str, Any] = {"rows": rows}
    with EmbeddedPostgresService() as server, tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        dsn = server.fresh_store()
        fill(dsn, rows)
        # Turn and turn about, the best of each counts: what else the machine does meets both alike.
        rounds: dict[str, list[float]] = {"ours": [], "adbc": []}
        for number in range(arguments.rounds):
            for name, work in (("ours", ours), ("adbc", adbc)):
                rounds[name].append(timed(lambda work=work, number=number: work(dsn, folder / f"{number}"), rows))
                if name == "ours":  # the process's peak so far, so only the first is ours alone
                    result.setdefault("peak_megabytes", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
        seconds |= {name: min(times) for name, times in rounds.items()}
        if subprocess.run([arguments.dlt_python, "-c", "import dlt, connectorx"], capture_output=True).returncode == 0:
            for name, peer in PEERS.items():
                seconds[name] = with_dlt(arguments.dlt_python, dsn, folder / name, peer, rows)
        else:
            result["dlt"] = "not importable: left out"
    result["rows_per_second"] = {name: round(rows / value) for name, value in seconds.items()}
    result["ours_to"] = {name: round(value / seconds["ours"], 2) for name, value in seconds.items() if name != "ours"}
    result["goals"] = GOALS
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
