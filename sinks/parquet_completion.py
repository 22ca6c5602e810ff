"""Makes growing files of lines into complete Parquet files, in a process of its own or in this one.

The process runs at the lowest priority, so that what it does delays nothing here, and ends with whoever started it. Nothing of
Arrow is loaded here for it.
"""

from __future__ import annotations

import contextlib
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Final, cast

import msgspec

from sinks.jsonl_files import ASIDE_SUFFIX, Completion

_PROGRAM: Final = "sinks.parquet_process"

logger = logging.getLogger(__name__)


class Unreadable(ValueError):
    """A line that is no valid event."""


class Order(msgspec.Struct):
    """What the process is asked for: the events of the file `lines` as rows of the new file `target`."""

    lines: str
    target: str


class Outcome(msgspec.Struct):
    """What became of an order: done when nothing of this is set."""

    unreadable: str | None = None
    errno: int | None = None
    error: str | None = None


Write = Callable[[Path, Path], object]


@contextlib.contextmanager
def in_this_process() -> Iterator[Write]:
    """Completes files here."""
    from sinks.parquet_files import write_parquet

    yield partial(_complete, write_parquet)


@contextlib.contextmanager
def in_own_process() -> Iterator[Write]:
    """Completes files in one process, which ends with the block."""
    command = [sys.executable, "-P", "-m", _PROGRAM]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:  # noqa: S603 - this very program
        yield partial(_complete, partial(_order, process))


IN_OWN_PROCESS: Final = Completion(".parquet", in_own_process, at_once=False)
IN_THIS_PROCESS: Final = Completion(".parquet", in_this_process, at_once=False)


def _order(process: subprocess.Popen[bytes], lines: Path, target: Path) -> None:
    orders, outcomes = cast("IO[bytes]", process.stdin), cast("IO[bytes]", process.stdout)
    answer = b""
    with contextlib.suppress(BrokenPipeError):
        orders.write(msgspec.json.encode(Order(str(lines), str(target))) + b"\n")
        orders.flush()
        answer = outcomes.readline()
    if not answer:
        message = f"the process that makes Parquet files ended with code {process.wait()}; its last words are in the log"
        raise OSError(message)
    outcome = msgspec.json.decode(answer, type=Outcome)
    if outcome.unreadable is not None:
        raise Unreadable(outcome.unreadable)
    if outcome.error is not None:
        raise OSError(outcome.errno, outcome.error) if outcome.errno is not None else OSError(outcome.error)


def _complete(write: Write, growing: Path, final: Path) -> None:
    """Make the growing file of JSON lines into the complete `final`, which appears whole or not at all; the lines stay.

    Lines that are no events are kept as they are, in a file that ends in `.jsonl`.
    """
    aside = final.with_name(final.name + ASIDE_SUFFIX)
    try:
        write(growing, aside)
    except Unreadable as error:
        logger.warning(
            "a file holds lines that are no events: it stays JSON Lines",
            extra={"file": str(final.with_suffix(".jsonl")), "error": str(error)},
        )
        growing.rename(final.with_suffix(".jsonl"))
        return
    with contextlib.ExitStack() as undo:
        undo.callback(aside.unlink, missing_ok=True)
        aside.replace(final)
        undo.pop_all()
