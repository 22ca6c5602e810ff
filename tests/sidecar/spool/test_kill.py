"""A writer that is killed again and again: what it acknowledged is there, once, in order."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from sidecar.spool.reader import SpoolReader

WRITER = """
import asyncio, os, sys
from pathlib import Path
from sidecar.spool.log import SpoolConfig, SpoolLog

async def main():
    log = SpoolLog.open(SpoolConfig(dir=Path(sys.argv[1]), readers=("never",), segment_bytes=200_000))
    async def client(number):
        index = 0
        while True:
            name = b"%s-%d-%d" % (sys.argv[2].encode(), number, index)
            seq = await log.append(name + b" " + bytes(index * 37 % 5000), 1 + index % 3)
            os.write(1, b"%d %s\\n" % (seq, name))
            index += 1
    await asyncio.gather(*(client(number) for number in range(8)))

asyncio.run(main())
"""


def kill_once(folder: Path, round_number: int, milliseconds: int) -> dict[int, str]:
    """Let a writer run, kill it some time after its first acknowledgement; returns what it acknowledged."""
    command = [sys.executable, "-c", WRITER, str(folder), str(round_number)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stderr is not None
        lines = [writer.stdout.readline()]
        timer = threading.Timer(milliseconds / 1000, writer.kill)
        timer.start()
        lines += writer.stdout.readlines()
        timer.join()
        errors = writer.stderr.read().decode()
    assert writer.returncode == -9, errors
    whole = [line.decode().split() for line in lines if line.endswith(b"\n")]
    return {int(seq): name for seq, name in whole}


def kill_loop(folder: Path, kills: int) -> None:
    chooser = random.Random(kills)
    acknowledged: dict[int, str] = {}
    for round_number in range(kills):
        new = kill_once(folder, round_number, chooser.randint(0, 120))
        assert not new.keys() & acknowledged.keys(), "a number was given out twice"
        acknowledged |= new
    reader = SpoolReader(folder)
    seen: dict[int, str] = {}
    after = 0
    while records := list(reader.read(after, max_events=5_000, closed_only=False)):
        for record in records:
            assert record.seq > after
            after = record.last_seq
            seen[record.seq] = record.payload.partition(b" ")[0].decode()
    assert acknowledged.items() <= seen.items()
    assert len(set(seen.values())) == len(seen)
    assert len(acknowledged) > kills


def test_a_killed_writer_loses_what_it_acknowledged(tmp_path: Path) -> None:
    kill_loop(tmp_path / "spool", 10)


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_a_writer_killed_200_times_loses_what_it_acknowledged(tmp_path: Path) -> None:
    kill_loop(tmp_path / "spool", 200)
