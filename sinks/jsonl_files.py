"""JSON Lines files that grow batch by batch, rotate, and hold every event once however often a batch is delivered.

One `JsonlFolder` writes for one log (`spool_id`) below one folder:

    date=2026-07-01/hour=09/<spool id>-<first seq>.jsonl.open           grows
    date=2026-07-01/hour=09/<spool id>-<first seq>-<last seq>.jsonl     complete, never touched again; or .parquet
    .state/<spool id>.json                                              what the files hold, for certain
    .state/<spool id>.lock                                              locked while somebody is at these files

Sequence numbers in names have 20 digits. A batch is appended to the growing files of its hours, these are synced, and only
then the state (sequence numbers covered, length of each growing file) is replaced. After a crash the state is the truth: a
growing file is cut to the recorded length, so what was half written comes again with the next delivery, and what is covered
is passed over.

A growing file becomes the complete one by its `Completion`: renamed, or made into another format beside it. The complete file
appears in one step, then the state forgets the growing one, then that is removed. A growing file whose complete file is there
after a crash was completed, as nothing is appended in between.

Several processes may write for one log, such as two that replay what a third left, and one may complete what another left
growing: each holds the lock while it is at the files, and takes over a state that is not the one it wrote last.
"""

from __future__ import annotations

import contextlib
import errno
import os
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from sinks.log_lock import turn

STATE_FOLDER: Final = ".state"
STATE_SUFFIX: Final = ".json"
OPEN_SUFFIX: Final = ".jsonl.open"
COMPLETE_SUFFIXES: Final = (".jsonl", ".parquet")
ASIDE_SUFFIX: Final = ".tmp"
TURN_SECONDS: Final = 10.0
"""How long another may be at a log's files before it is said that it does not let go of them."""


class Intervals:
    """A set of whole numbers kept as closed ranges in order, none touching the next."""

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self.ranges: list[tuple[int, int]] = []
        for first, last in ranges:
            self.add(first, last)

    def __contains__(self, number: int) -> bool:
        place = bisect_right(self.ranges, (number, float("inf"))) - 1
        return place >= 0 and self.ranges[place][1] >= number

    def covers(self, first: int, last: int) -> bool:
        """Whether every number from `first` to `last` is in the set."""
        place = bisect_right(self.ranges, (first, float("inf"))) - 1
        return place >= 0 and self.ranges[place][1] >= last

    def overlaps(self, first: int, last: int) -> bool:
        """Whether any number from `first` to `last` is in the set."""
        place = bisect_right(self.ranges, (last, float("inf"))) - 1
        return place >= 0 and self.ranges[place][1] >= first

    def add(self, first: int, last: int) -> None:
        """Put the numbers from `first` to `last` into the set."""
        if last < first:
            return
        apart_before = [r for r in self.ranges if r[1] < first - 1]
        apart_after = [r for r in self.ranges if r[0] > last + 1]
        touching = self.ranges[len(apart_before) : len(self.ranges) - len(apart_after)]
        merged = (min([first, *(r[0] for r in touching)]), max([last, *(r[1] for r in touching)]))
        self.ranges = [*apart_before, merged, *apart_after]


class OpenFile(msgspec.Struct):
    """A growing file as the state records it."""

    first: int
    last: int
    size: int
    since: float
    """Unix time of its first batch, in seconds."""


class State(msgspec.Struct):
    """What the files of one log hold."""

    covered: list[tuple[int, int]] = []
    open: dict[str, OpenFile] = {}
    """By partition folder, relative."""
    rotate_seconds: float = 60.0
    """How long whoever wrote this lets a file grow."""


@dataclass(frozen=True, slots=True)
class Completion:
    """How growing files become complete: inside `begin()`, a call with (growing, final) makes `final` appear, or raises OSError.

    It appears in one step; several files may be completed in one block.
    """

    suffix: str
    begin: Callable[[], AbstractContextManager[Callable[[Path, Path], object]]]
    at_once: bool
    """Whether it is quick enough to be done before a batch is acknowledged."""


RENAMED: Final = Completion(".jsonl", lambda: contextlib.nullcontext(Path.rename), at_once=True)


def write_durably(path: Path, content: bytes) -> None:
    """Replace a file's content so that a crash leaves the old or the new one: written aside, synced, renamed, folder synced."""
    aside = path.with_name(path.name + ".tmp")
    with aside.open("wb") as handle:
        handle.write(content)
        handle.flush()
        os.fsync(handle.fileno())
    aside.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_busy(root: Path, spool_id: str) -> bool:
    """Whether somebody is at the files of this log below `root` right now. Raises OSError when the lock can't be opened."""
    with turn(_lock_path(root, spool_id), seconds=0) as is_ours:
        return not is_ours


def _lock_path(root: Path, spool_id: str) -> Path:
    return root / STATE_FOLDER / f"{spool_id}.lock"


class JsonlFolder:
    """The files of one log below `root`. Every method does blocking I/O and raises OSError when the disk fails."""

    def __init__(
        self,
        root: Path,
        spool_id: str,
        *,
        rotate_bytes: int,
        rotate_seconds: float,
        max_open: int = 48,
        completion: Completion = RENAMED,
    ) -> None:
        self.root = root
        self.spool_id = spool_id
        self._completion = completion
        self._rotate_bytes = rotate_bytes
        self._rotate_seconds = rotate_seconds
        self._max_open = max_open
        self._state_path = root / STATE_FOLDER / f"{spool_id}{STATE_SUFFIX}"
        self._lock_path = _lock_path(root, spool_id)
        self._state_path.parent.mkdir(parents=True, exist_ok=True)
        self._state = State()
        self._stored = b""
        """The state as it was on disk when it was last read or written."""
        self._covered = Intervals()
        is_known = self._lock_path.exists()
        with self._locked():
            if not self._take_over() and is_known:  # else what grows there is of a program that keeps no state
                self._recover()

    def append(self, partitions: dict[str, list[tuple[int, bytes]]], first_seq: int, last_seq: int, now: float) -> int:
        """Append the lines of each partition (with their sequence numbers) that are not there yet; return how many were.

        Afterwards `first_seq`..`last_seq` counts as covered.
        """
        with self._turn():
            return self._append(partitions, first_seq, last_seq, now)

    def rotate(self, now: float, *, everything: bool = False) -> None:
        """Complete the growing files that are full or old enough, or all of them."""
        with self._turn():
            full = set(self._full())
            self._rotate(
                [p for p, f in self._state.open.items() if everything or p in full or now - f.since >= self._rotate_seconds]
            )

    def idle(self) -> bool:
        """Whether no file is growing."""
        return not self._state.open

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """Keep others from this log's files while the block runs; it begins with what they made of them."""
        with self._locked():
            self._take_over()
            yield

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with turn(self._lock_path, seconds=TURN_SECONDS) as is_ours:
            if not is_ours:
                raise BlockingIOError(errno.EAGAIN, "another process does not let go of this log's files", str(self._lock_path))
            yield

    def _take_over(self) -> bool:
        """Go on from the state on disk if another has written it; one that is gone is written anew by the next append."""
        try:
            stored = self._state_path.read_bytes()
        except FileNotFoundError:
            return False
        if stored == self._stored:
            return False
        try:
            self._state = msgspec.json.decode(stored, type=State)
        except msgspec.DecodeError as error:
            message = f"{self._state_path} can't be read ({error}): move it away; batches delivered twice may then stand twice"
            raise OSError(message) from error
        self._stored = stored
        self._covered = Intervals(self._state.covered)
        self._recover()
        return True

    def _append(self, partitions: dict[str, list[tuple[int, bytes]]], first_seq: int, last_seq: int, now: float) -> int:
        if self._covered.covers(first_seq, last_seq):
            return 0
        grown: dict[str, OpenFile] = {}
        written = 0
        repeated = self._covered.overlaps(first_seq, last_seq)
        try:
            for partition, numbered in partitions.items():
                fresh = [(seq, line) for seq, line in numbered if seq not in self._covered] if repeated else numbered
                if fresh:
                    grown[partition] = self._append_to(partition, fresh, now)
                    written += len(fresh)
            covered = Intervals(self._covered.ranges)
            covered.add(first_seq, last_seq)
            self._store(State(covered.ranges, {**self._state.open, **grown}, self._rotate_seconds))
        except OSError:
            with contextlib.suppress(OSError):  # the disk that failed may refuse this too; the next append cuts again
                self._recover()
            raise
        self._covered = covered
        if self._completion.at_once:
            self._rotate(self._full())
        return written

    def _full(self) -> list[str]:
        full = [p for p, f in self._state.open.items() if f.size >= self._rotate_bytes]
        by_age = sorted(self._state.open, key=lambda p: self._state.open[p].since)
        surplus = by_age[: max(0, len(by_age) - self._max_open)]
        return list(dict.fromkeys([*full, *surplus]))

    def _rotate(self, partitions: list[str]) -> None:
        if not partitions:
            return
        done: list[str] = []
        failure: OSError | None = None
        with self._completion.begin() as complete:
            for partition in partitions:
                file = self._state.open[partition]
                growing = self._open_path(partition, file.first)
                try:
                    if growing.exists():
                        complete(growing, self._final_path(partition, file, self._completion.suffix))
                        sync_folder(growing.parent)
                except OSError as error:  # one file that can't be completed must not hold up the others
                    failure = failure or error
                else:
                    done.append(partition)
        self._forget(done)
        if failure is not None:
            raise failure

    def _forget(self, partitions: list[str]) -> None:
        """Take completed files out of the state, then away."""
        if not partitions:
            return
        growing = [self._open_path(partition, self._state.open[partition].first) for partition in partitions]
        left = {partition: file for partition, file in self._state.open.items() if partition not in partitions}
        self._store(State(self._state.covered, left, self._rotate_seconds))
        for path in growing:
            path.unlink(missing_ok=True)

    def _final_path(self, partition: str, file: OpenFile, suffix: str) -> Path:
        return self.root / partition / f"{self.spool_id}-{file.first:020}-{file.last:020}{suffix}"

    def _append_to(self, partition: str, numbered: list[tuple[int, bytes]], now: float) -> OpenFile:
        known = self._state.open.get(partition)
        first = numbered[0][0] if known is None else known.first
        path = self._open_path(partition, first)
        data = b"\n".join(line for _, line in numbered) + b"\n"
        if not path.parent.is_dir():
            self._make_folders(path.parent)
        with path.open("ab") as handle:
            size = min(handle.tell(), 0 if known is None else known.size)
            handle.truncate(size)
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        if known is None:
            sync_folder(path.parent)
            return OpenFile(first, numbered[-1][0], len(data), now)
        return OpenFile(first, max(known.last, numbered[-1][0]), size + len(data), known.since)

    def _make_folders(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        while folder != self.root:
            folder = folder.parent
            sync_folder(folder)

    def _open_path(self, partition: str, first: int) -> Path:
        return self.root / partition / f"{self.spool_id}-{first:020}{OPEN_SUFFIX}"

    def _store(self, state: State) -> None:
        stored = msgspec.json.encode(state)
        write_durably(self._state_path, stored)
        self._state, self._stored = state, stored

    def _recover(self) -> None:
        """Finish what was completed, cut every growing file to what the state records, and remove those it doesn't know."""
        self._forget(
            [
                partition
                for partition, file in self._state.open.items()
                if any(self._final_path(partition, file, suffix).exists() for suffix in COMPLETE_SUFFIXES)
            ]
        )
        known = {self._open_path(partition, file.first): file for partition, file in self._state.open.items()}
        for path, file in known.items():
            if path.exists() and path.stat().st_size > file.size:
                os.truncate(path, file.size)
        for suffix in (OPEN_SUFFIX, ASIDE_SUFFIX):
            for path in self.root.glob(f"date=*/hour=*/{self.spool_id}-*{suffix}"):
                if path not in known:
                    path.unlink()
