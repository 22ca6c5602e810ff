"""What commands write for people: tables, progress on a terminal, and plain lines where there is none."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

_PLAIN_EVERY = 5.0
_PLAIN_WIDTH = 160


def stdout() -> Console:
    """For results."""
    return _console(error=False)


def stderr() -> Console:
    """For progress and notes, so that results can be piped on."""
    return _console(error=True)


def _console(*, error: bool) -> Console:
    stream = sys.stderr if error else sys.stdout
    width = None if stream.isatty() else _PLAIN_WIDTH
    return Console(file=stream, highlight=False, soft_wrap=not stream.isatty(), width=width)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], *, right: Sequence[str] = ()) -> Table:
    """A table of text; the columns named in `right` are numbers."""
    made = Table(title=title or None, title_justify="left", header_style="bold", pad_edge=False)
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        made.add_row(*("" if value is None else f"{value:,}" if isinstance(value, int) else str(value) for value in row))
    return made


class Bar(Protocol):
    """A progress display."""

    def update(self, done: float, note: str) -> None:
        """Show that `done` of the total is done."""

    def say(self, text: str) -> None:
        """Write a line that stays."""


class _RichBar:
    def __init__(self, progress: Progress, total: float | None, label: str) -> None:
        self._progress = progress
        self._task = progress.add_task(label, total=total, note="")

    def update(self, done: float, note: str) -> None:
        self._progress.update(self._task, completed=done, note=note)

    def say(self, text: str) -> None:
        self._progress.console.print(text, markup=False)


class _PlainBar:
    def __init__(self, console: Console, total: float | None, label: str) -> None:
        self._console = console
        self._total = total
        self._label = label
        self._began = self._shown = time.monotonic()

    def update(self, done: float, note: str) -> None:
        now = time.monotonic()
        if now - self._shown < _PLAIN_EVERY:
            return
        self._shown = now
        if self._total is None:
            self.say(f"{self._label}: {note}, {now - self._began:.0f} s so far")
            return
        share = min(1.0, done / self._total) if self._total else 0.0
        left = f", about {(now - self._began) * (1 - share) / share:.0f} s left" if share > 0 else ""
        self.say(f"{self._label}: {share:.0%} {note}{left}")

    def say(self, text: str) -> None:
        self._console.print(text, markup=False)


@contextmanager
def bar(label: str, total: float | None, *, console: Console | None = None) -> Iterator[Bar]:
    """Show how far something is: a moving bar on a terminal, a line every few seconds elsewhere.

    `total` None: nobody knows how much there is to do.
    """
    console = console or stderr()
    if not console.is_terminal:
        yield _PlainBar(console, total, label)
        return
    columns: tuple[ProgressColumn, ...] = (SpinnerColumn(), TextColumn("{task.description}"))
    if total is None:
        columns += (TextColumn("{task.fields[note]}"), TimeElapsedColumn())
    else:
        columns += (BarColumn(20), TextColumn("{task.percentage:>3.0f}% {task.fields[note]}"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        yield _RichBar(progress, total, label)
