"""Events that a backend refused for good, kept with the reason until someone sends them again.

One file for each batch with refusals, `dead/<backend>/<first seq>-<last seq>.ndjson`, complete and synced when it has that name;
a line is `{"dead_at", "backend", "seq", "event_id", "reason", "event": <the event's own JSON text as a string>}`.
Whoever replays a file claims it by renaming it to `….replaying-<pid>` first.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from sinks.base import Refused, SinkBatch

FOLDER: Final = "dead"
_SUFFIX: Final = ".ndjson"
_CLAIMED: Final = ".replaying-"
_SPAN: Final = re.compile(r"(\d{20})-(\d{20})")


class DeadLetter(msgspec.Struct):
    """One refused event."""

    dead_at: str
    backend: str
    seq: int
    event_id: str | None
    reason: str
    event: str


_DECODER = msgspec.json.Decoder(DeadLetter)


@dataclass(frozen=True, slots=True)
class ClaimedFile:
    """A file of dead letters that this process alone works on."""

    path: Path
    letters: list[DeadLetter]
    unreadable: int
    """Lines that are no dead letter; they are kept when the file is given back."""

    @property
    def name(self) -> str:
        """The file's name before it was claimed, without suffix."""
        return self.path.name.partition(_SUFFIX)[0]


class DeadLetters:
    """The dead letters of one backend; every method does blocking I/O and raises OSError."""

    def __init__(self, spool: Path, backend: str) -> None:
        self.folder = spool / FOLDER / backend
        self._backend = backend

    def store(self, batch: SinkBatch, refused: Sequence[Refused]) -> None:
        """Write the refused events of a batch; they are on stable storage on return. The same refusals make the same file."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        letters = [
            DeadLetter(
                now,
                self._backend,
                batch.seqs[item.index],
                item.event_id,
                item.reason,
                batch.lines[item.index].decode("utf-8", "replace"),
            )
            for item in refused
        ]
        self.write(letters)

    def write(self, letters: Sequence[DeadLetter], *, tag: str = "") -> None:
        """Write letters as a file of their own; `tag` keeps it apart from another one with the same sequence numbers."""
        if not letters:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        numbers = [letter.seq for letter in letters]
        target = self.folder / f"{min(numbers):020}-{max(numbers):020}{tag}{_SUFFIX}"
        aside = target.with_name(f".{target.name}.tmp")
        with aside.open("wb") as handle:
            for letter in letters:
                handle.write(msgspec.json.encode(letter) + b"\n")
            handle.flush()
            os.fsync(handle.fileno())
        aside.replace(target)
        for folder in (self.folder, self.folder.parent, self.folder.parent.parent):
            _sync_folder(folder)

    def files(self) -> list[Path]:
        """The files that nobody works on, oldest events first."""
        return sorted(self.folder.glob(f"[0-9]*{_SUFFIX}"))

    def peek(self) -> Iterator[list[DeadLetter]]:
        """The letters of each file that nobody works on, without claiming it."""
        for path in self.files():
            try:
                content = path.read_bytes()
            except FileNotFoundError:
                continue  # claimed since it was listed
            yield _read(path, content).letters

    def find(self, event_id: str, seq: int | None, spend: Callable[[int], bool]) -> DeadLetter | None:
        """The letter of an event, in files that are being replayed too; with `seq`, only files that can hold it are read.

        `spend` is told the bytes of each file first, and ends the search by answering False.
        """
        wanted = event_id.encode()
        for path in sorted(self.folder.glob(f"[0-9]*{_SUFFIX}*")):
            span = _SPAN.match(path.name)
            if span is None or (seq is not None and not int(span[1]) <= seq <= int(span[2])):
                continue
            try:
                content = path.read_bytes()
            except FileNotFoundError:
                continue  # replayed since it was listed
            if not spend(len(content)):
                return None
            if wanted in content:
                for letter in _read(path, content).letters:
                    if letter.event_id == event_id and seq in {None, letter.seq}:
                        return letter
        return None

    def claim(self) -> Iterator[ClaimedFile]:
        """Take each file in turn; those of a process that died while it worked on them are taken too."""
        self._free_abandoned()
        for path in self.files():
            claimed = path.with_name(f"{path.name}{_CLAIMED}{os.getpid()}")
            try:
                path.rename(claimed)
            except FileNotFoundError:
                continue  # another process was quicker
            yield _read(claimed, claimed.read_bytes())

    def finish(self, file: ClaimedFile, left: Sequence[DeadLetter]) -> None:
        """Remove a claimed file, after what is `left` of it stands in a new one."""
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
        self.write(left, tag=f"-{stamp}")
        if file.unreadable:
            file.path.rename(file.path.with_name(f".unreadable-{stamp}-{file.name}{_SUFFIX}"))
        else:
            file.path.unlink()
        _sync_folder(self.folder)

    def give_back(self, file: ClaimedFile) -> None:
        """Let another try have a claimed file as it was."""
        file.path.rename(file.path.with_name(file.name + _SUFFIX))

    def _free_abandoned(self) -> None:
        for path in self.folder.glob(f"*{_SUFFIX}{_CLAIMED}*"):
            pid = path.name.rpartition("-")[2]
            if not (pid.isdecimal() and _alive(int(pid))):
                path.rename(path.with_name(path.name.partition(_CLAIMED)[0]))


def _read(path: Path, content: bytes) -> ClaimedFile:
    letters: list[DeadLetter] = []
    unreadable = 0
    for line in content.splitlines():
        try:
            letters.append(_DECODER.decode(line))
        except (msgspec.DecodeError, UnicodeDecodeError):
            unreadable += 1
    return ClaimedFile(path, letters, unreadable)


def _alive(pid: int) -> bool:
    return pid != os.getpid() and Path(f"/proc/{pid}").exists()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
