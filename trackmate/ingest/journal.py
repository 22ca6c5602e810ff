"""What a load leaves beside its file: the quarantine of bad rows, and how far it came, so that it can go on after a crash."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import IO

import msgspec

from contract.errors import TrackMateError


class Progress(msgspec.Struct):
    """How far a load came: every row up to `rows` is acknowledged or in quarantine."""

    fingerprint: str
    rows: int = 0
    events: int = 0
    accepted: int = 0
    quarantined: int = 0
    quarantine_bytes: int = 0


def fingerprint(path: Path, mapping_digest: str) -> str:
    """Tells whether a file and its mapping are still those that a load began with: size, first and last 64 KiB, mapping."""
    size = path.stat().st_size
    digest = hashlib.sha256(f"{size}\0{mapping_digest}\0".encode())
    with path.open("rb") as handle:
        digest.update(handle.read(1 << 16))
        handle.seek(max(0, size - (1 << 16)))
        digest.update(handle.read(1 << 16))
    return digest.hexdigest()


class Journal:
    """The two files beside a data file: `<file>.quarantine.ndjson` and, while the load runs, `<file>.ingest.json`."""

    def __init__(self, path: Path, folder: Path | None = None) -> None:
        folder = folder or path.parent
        self.quarantine_path = folder / f"{path.name}.quarantine.ndjson"
        self.progress_path = folder / f"{path.name}.ingest.json"
        self._quarantine: IO[bytes] | None = None
        self.progress = Progress("")

    def begin(self, mark: str, *, resume: bool) -> Progress:
        """Start a load, or take one up where it stopped; raises TrackMateError when that one was of another file."""
        self.progress = Progress(mark)
        if resume and self.progress_path.exists():
            try:
                found = msgspec.json.decode(self.progress_path.read_bytes(), type=Progress)
            except msgspec.DecodeError as error:
                raise TrackMateError(f"{self.progress_path} is damaged: {error}. Delete it and load without --resume") from error
            if found.fingerprint != mark:
                raise TrackMateError(
                    f"the file or its mapping has changed since {self.progress_path} was written. Load without --resume: "
                    "rows that are there already add nothing"
                )
            self.progress = found
        try:
            if self.progress.quarantine_bytes and self.quarantine_path.exists():
                os.truncate(self.quarantine_path, self.progress.quarantine_bytes)
            else:
                self.quarantine_path.unlink(missing_ok=True)
            self.save()
        except OSError as error:
            raise TrackMateError(
                f"can't write beside the file ({error.filename}: {error.strerror}). Give another folder with --work-dir"
            ) from error
        return self.progress

    def quarantine(self, row: int, path: str, reason: str, data: object) -> None:
        """Keep a bad row with its number and the reason."""
        if self._quarantine is None:
            self._quarantine = self.quarantine_path.open("ab")
        entry = {"row": row, "path": path, "error": reason, "data": data}
        self._quarantine.write(msgspec.json.encode(entry) + b"\n")
        self.progress.quarantined += 1

    def save(self) -> None:
        """Put on disk how far we are: written aside, synced, renamed; the quarantine first."""
        if self._quarantine is not None:
            self._quarantine.flush()
            os.fsync(self._quarantine.fileno())
            self.progress.quarantine_bytes = self._quarantine.tell()
        aside = self.progress_path.with_name(self.progress_path.name + ".tmp")
        with aside.open("wb") as handle:
            handle.write(msgspec.json.encode(self.progress))
            handle.flush()
            os.fsync(handle.fileno())
        aside.replace(self.progress_path)

    def close(self, *, finished: bool) -> None:
        """End the load; one that came to its end leaves nothing to resume."""
        self.save()
        if self._quarantine is not None:
            self._quarantine.close()
            self._quarantine = None
        if finished:
            self.progress_path.unlink(missing_ok=True)
