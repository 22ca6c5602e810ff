"""Makes growing files of lines into complete Parquet files, in a process of its own or in this one.

The process runs at the lowest priority, so that what it does delays nothing here, and ends with whoever started it. Nothing of
Arrow is loaded here for it, unless the machine is so busy that the process hardly gets its turn: then this one does its work.
"""

from __future__ import annotations

import contextlib
import logging
import selectors
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Final, cast

import msgspec

from sinks.jsonl_files import ASIDE_SUFFIX, Completion

PATIENCE_SECONDS: Final = 15.0
"""What the process gets for all the files of one block: deliveries wait for it, and an agent gives each of them 30 s."""

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
def in_own_process(patience: float = PATIENCE_SECONDS) -> Iterator[Write]:
    """Completes files in one process, which ends with the block; what it hasn't made within `patience` seconds is made here."""
    command = [sys.executable or "python", "-P", "-m", _PROGRAM]
    try:
        # A group of its own: a terminal's Ctrl-C is meant for the program that started it.
        started = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0)  # noqa: S603
    except OSError as error:
        message = (
            f"the process that makes Parquet files can't be started ({command[0]}: {error.strerror or error}): "
            "restart the agent if its Python was moved, or set `own_process: false`"
        )
        raise OSError(message) from error
    with started as process:
        yield partial(_complete, _OwnProcess(process, patience).write)


IN_OWN_PROCESS: Final = Completion(".parquet", in_own_process, at_once=False)
IN_THIS_PROCESS: Final = Completion(".parquet", in_this_process, at_once=False)


class _Late(Exception):
    """The process has no answer in time."""


class _OwnProcess:
    """Gives orders to the process as long as it answers in time, and does them here from then on."""

    def __init__(self, process: subprocess.Popen[bytes], patience: float) -> None:
        self._process = process
        self._deadline = time.monotonic() + patience
        self._late = False

    def write(self, lines: Path, target: Path) -> None:
        """Make the events of `lines` rows of `target`. Raises OSError and Unreadable."""
        if not self._late:
            try:
                self._order(lines, target)
            except _Late:
                self._late = True
                self._process.kill()
                self._process.wait()  # it may be writing the very file
                logger.warning(
                    "the process that makes Parquet files gets no further, so they are made here: is the machine too busy?",
                    extra={"file": str(lines)},
                )
            else:
                return
        from sinks.parquet_files import write_parquet

        write_parquet(lines, target)

    def _order(self, lines: Path, target: Path) -> None:
        orders = cast("IO[bytes]", self._process.stdin)
        answer = b""
        with contextlib.suppress(BrokenPipeError):
            orders.write(msgspec.json.encode(Order(str(lines), str(target))) + b"\n")
            orders.flush()
            answer = self._answer()
        if not answer:
            code = self._process.wait()
            message = f"the process that makes Parquet files ended with code {code}; its last words are in the log"
            raise OSError(message)
        outcome = msgspec.json.decode(answer, type=Outcome)
        if outcome.unreadable is not None:
            raise Unreadable(outcome.unreadable)
        if outcome.error is not None:
            raise OSError(outcome.errno, outcome.error) if outcome.errno is not None else OSError(outcome.error)

    def _answer(self) -> bytes:
        outcomes = cast("IO[bytes]", self._process.stdout)
        with selectors.DefaultSelector() as selector:
            selector.register(outcomes, selectors.EVENT_READ)
            if not selector.select(max(0.0, self._deadline - time.monotonic())):
                raise _Late
        return outcomes.readline()


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
