"""How many events a second the spool makes durable, and how soon; beside a bare append and SQLite, in the same run.

    python -m benchmarks.spool_append [--seconds 5] [--folder DIR] [--core 0]

Every subject runs in a process of its own on one core, with the same batches of 100 events of 500 bytes and the same 16 clients
that wait for their acknowledgement; all of them sync before they acknowledge:

- `spool`: `sidecar.spool.log.SpoolLog`;
- `sqlite`: WAL with `synchronous=FULL`, a batch one row, and the same group commit (all that wait share one transaction);
- `bare`: nothing but `write` and `fdatasync` in a loop, one batch or sixteen a sync, with nobody to wake: the disk's own limit.

`saturation` is a closed loop, `open_loop_10k` hands in 10,000 events/s whatever comes back, timed from when a batch was due.
Ratios are the spool's rate by the other's. Prints JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import queue
import resource
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

EVENTS = 100
EVENT_BYTES = 500
CLIENTS = 16
OPEN_LOOP_EVENTS = 10_000
BODY = b"".join((b'{"n":%d,"x":"' % number).ljust(EVENT_BYTES - 3, b"x") + b'"}\n' for number in range(EVENTS))

Append = Callable[[bytes], Awaitable[int]]


def summary(times: list[float], elapsed: float, batches: int | None = None) -> dict[str, float]:
    times.sort()
    return {
        "events_per_second": round((batches or len(times)) * EVENTS / elapsed),
        "p50_ms": round(times[len(times) // 2] * 1000, 3),
        "p99_ms": round(times[int(len(times) * 0.99)] * 1000, 3),
        "max_ms": round(times[-1] * 1000, 3),
    }


async def saturate(append: Append, seconds: float) -> dict[str, float]:
    """Each of 16 clients sends its next batch once the last one is acknowledged."""
    times: list[float] = []
    started = time.perf_counter()

    async def client() -> None:
        while (begun := time.perf_counter()) - started < seconds:
            await append(BODY)
            times.append(time.perf_counter() - begun)

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return summary(times, time.perf_counter() - started)


async def pace(append: Append, seconds: float) -> dict[str, float]:
    """A batch is due every 10 ms; a late acknowledgement delays no later batch."""
    times: list[float] = []
    interval = EVENTS / OPEN_LOOP_EVENTS
    started = time.perf_counter()

    async def send(due: float) -> None:
        await append(BODY)
        times.append(time.perf_counter() - due)

    async with asyncio.TaskGroup() as group:
        for number in range(int(seconds / interval)):
            due = started + number * interval
            await asyncio.sleep(max(due - time.perf_counter(), 0))
            group.create_task(send(due))
    return summary(times, time.perf_counter() - started)


async def measure(append: Append, seconds: float) -> dict[str, Any]:
    for _ in range(20):
        await append(BODY)
    return {"open_loop_10k": await pace(append, seconds), "saturation": await saturate(append, seconds)}


async def measure_spool(folder: Path, seconds: float) -> dict[str, Any]:
    from sidecar.spool.log import SpoolConfig, SpoolLog

    config = SpoolConfig(dir=folder / "spool", readers=("never",), max_bytes=2**40)
    log = SpoolLog.open(config)

    async def append(body: bytes) -> int:
        return await log.append(body, EVENTS)

    result = await measure(append, seconds)
    stats = log.stats()
    result |= {
        "batches_a_sync": round(stats.appended_records / stats.syncs, 1),
        "peak_memory_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }
    await log.close()
    started = time.perf_counter()
    log = SpoolLog.open(config)
    result["start"] = {"backlog_mib": round(stats.bytes / 2**20), "ms": round((time.perf_counter() - started) * 1000, 1)}
    reader = log.reader()
    started = time.perf_counter()
    events = after = 0
    while time.perf_counter() - started < seconds:
        records = list(reader.read(after, closed_only=False))
        if not records:
            break
        events += sum(record.count for record in records)
        after = records[-1].last_seq
    result["read_events_per_second"] = round(events / (time.perf_counter() - started))
    await log.close()
    return result


class GroupCommittedSqlite:
    """SQLite behind one thread in which all batches that wait share a transaction: the spool's own scheme."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._queue: queue.SimpleQueue[tuple[bytes, asyncio.Future[int]] | None] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    async def append(self, body: bytes) -> int:
        future: asyncio.Future[int] = self._loop.create_future()
        self._queue.put((body, future))
        return await future

    async def close(self) -> None:
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        database = sqlite3.connect(self._path, isolation_level=None)
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=FULL")
        database.execute("CREATE TABLE record (seq INTEGER PRIMARY KEY, count INTEGER, body BLOB)")
        going = True
        while going:
            item = self._queue.get()
            futures: list[asyncio.Future[int]] = []
            bodies = []
            while True:
                if item is None:
                    going = False
                    break
                bodies.append((EVENTS, item[0]))
                futures.append(item[1])
                try:
                    item = self._queue.get_nowait()
                except queue.Empty:
                    break
            if bodies:
                database.execute("BEGIN")
                database.executemany("INSERT INTO record (count, body) VALUES (?, ?)", bodies)
                database.execute("COMMIT")
                self._loop.call_soon_threadsafe(self._finish, futures)
        database.close()

    @staticmethod
    def _finish(futures: list[asyncio.Future[int]]) -> None:
        for future in futures:
            future.set_result(0)


async def measure_sqlite(folder: Path, seconds: float) -> dict[str, Any]:
    database = GroupCommittedSqlite(folder / "sqlite.db")
    try:
        return await measure(database.append, seconds)
    finally:
        await database.close()


async def measure_bare(folder: Path, seconds: float) -> dict[str, Any]:
    return {"one_a_sync": bare(folder, seconds, 1), "sixteen_a_sync": bare(folder, seconds, CLIENTS)}


def bare(folder: Path, seconds: float, together: int) -> dict[str, float]:
    fd = os.open(folder / f"bare-{together}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
    times: list[float] = []
    started = time.perf_counter()
    try:
        while (begun := time.perf_counter()) - started < seconds:
            os.writev(fd, [BODY] * together)
            os.fdatasync(fd)
            times.append(time.perf_counter() - begun)
    finally:
        os.close(fd)
    return summary(times, time.perf_counter() - started, len(times) * together)


SUBJECTS = {"spool": measure_spool, "sqlite": measure_sqlite, "bare": measure_bare}


def run_alone(subject: str, folder: Path, seconds: float, core: int) -> dict[str, Any]:
    """Measure one subject in a process of its own, pinned to one core."""
    folder.mkdir()
    command = [sys.executable, "-m", "benchmarks.spool_append", "--subject", subject]
    options = ["--folder", str(folder), "--seconds", str(seconds), "--core", str(core)]
    done = subprocess.run(command + options, stdout=subprocess.PIPE, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def ratios(results: dict[str, dict[str, Any]]) -> dict[str, float]:
    rate = results["spool"]["saturation"]["events_per_second"]
    return {
        "to_bare_one_a_sync": round(rate / results["bare"]["one_a_sync"]["events_per_second"], 2),
        "to_bare_sixteen_a_sync": round(rate / results["bare"]["sixteen_a_sync"]["events_per_second"], 2),
        "to_sqlite": round(rate / results["sqlite"]["saturation"]["events_per_second"], 2),
        "p99_to_sqlite": round(results["spool"]["saturation"]["p99_ms"] / results["sqlite"]["saturation"]["p99_ms"], 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="for each measurement")
    parser.add_argument("--folder", type=Path, help="on the disk to measure; by default a temporary one")
    parser.add_argument("--core", type=int, default=0, help="the core that everything runs on")
    parser.add_argument("--subject", choices=SUBJECTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.subject:
        os.sched_setaffinity(0, {options.core})
        print(json.dumps(asyncio.run(SUBJECTS[options.subject](options.folder, options.seconds))))
        return
    with tempfile.TemporaryDirectory(prefix="spool-append-", dir=options.folder) as scratch:
        results = {subject: run_alone(subject, Path(scratch) / subject, options.seconds, options.core) for subject in SUBJECTS}
    setup = {
        "events_a_batch": EVENTS,
        "bytes_an_event": EVENT_BYTES,
        "clients": CLIENTS,
        "seconds": options.seconds,
        "core": options.core,
    }
    print(json.dumps({"setup": setup, **results, "ratio": ratios(results)}, indent=2))


if __name__ == "__main__":
    main()
