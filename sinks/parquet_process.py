"""The process that makes files of lines into Parquet files: takes orders on standard input, tells outcomes on standard output.

Each is a line of JSON. It ends when its input does, and so with the process that started it: a SIGTERM to all processes of a
service is left to that one, which may want a file made before it ends.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
from pathlib import Path

import msgspec

from sinks.parquet_completion import Order, Outcome, Unreadable

_LOWEST_PRIORITY = 19


def serve() -> None:
    """Carry out the orders that come in, one after the other."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.nice(_LOWEST_PRIORITY)
    orders: queue.SimpleQueue[Order] = queue.SimpleQueue()
    threading.Thread(target=_take_in, args=(orders,), daemon=True).start()
    from sinks.parquet_files import write_parquet  # it takes a while, and whoever asked may end meanwhile

    while True:
        order = orders.get()
        outcome = Outcome()
        try:
            write_parquet(Path(order.lines), Path(order.target))
        except Unreadable as error:
            outcome.unreadable = str(error)
        except OSError as error:
            outcome.errno, outcome.error = error.errno, error.strerror or str(error)
        sys.stdout.buffer.write(msgspec.json.encode(outcome) + b"\n")
        sys.stdout.buffer.flush()


def _take_in(orders: queue.SimpleQueue[Order]) -> None:
    for line in sys.stdin.buffer:
        orders.put(msgspec.json.decode(line, type=Order))
    os._exit(0)


if __name__ == "__main__":
    serve()
