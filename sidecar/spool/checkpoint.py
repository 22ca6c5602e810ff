"""How far each reader has come: one small file a reader, moved only forwards and only after delivery.

A checkpoint that can't be trusted counts as its predecessor (`<reader>.json.prev`), else as 0, the oldest event there is:
events are then repeated, which their `event_id` makes harmless, rather than lost.
"""

from __future__ import annotations

import json
import logging
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import google_crc32c

from contract.errors import TrackMateError
from sidecar.spool.filesystem import DISK, Filesystem, read_file, replace_file
from sidecar.spool.format import MAX_SEQUENCE
from sidecar.spool.identity import read_spool_id

CHECKPOINTS: Final = "checkpoints"
_SUFFIX: Final = ".json"
_READER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

logger = logging.getLogger(__name__)


class InvalidReaderName(TrackMateError):
    """A reader's name that can't be a file's name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"reader name {name!r}: expected 1 to 64 letters, digits, '.', '_' or '-', a letter or digit first")


def checkpoint_path(folder: Path, reader: str) -> Path:
    """Where a reader's checkpoint lies in the spool `folder`. Raises InvalidReaderName."""
    if not _READER.fullmatch(reader):
        raise InvalidReaderName(reader)
    return folder / CHECKPOINTS / f"{reader}{_SUFFIX}"


def load_checkpoint(folder: Path | str, reader: str, *, filesystem: Filesystem = DISK) -> int:
    """Sequence number of the last event that `reader` has delivered; 0 when it has none. Raises InvalidReaderName."""
    seq, problem = inspect_checkpoint(Path(folder), reader, filesystem)
    if problem is not None:
        logger.error("%s: reader '%s' goes on after event %d and will deliver some events twice", problem, reader, seq)
    return seq


def inspect_checkpoint(folder: Path, reader: str, filesystem: Filesystem) -> tuple[int, str | None]:
    """A reader's checkpoint and what is wrong with its file, if anything. Raises InvalidReaderName."""
    path = checkpoint_path(folder, reader)
    try:
        spool_id = read_spool_id(folder, filesystem)
    except OSError:
        spool_id = None  # whose it is can't be told now: the checkpoint's own checksum has to do
    current = _load(path, reader, spool_id, filesystem)
    if isinstance(current, int):
        return current, None
    previous = _load(_previous(path), reader, spool_id, filesystem)
    if isinstance(previous, int):
        return previous, current and f"checkpoint {path} can't be used: {current}"
    return 0, (current or previous) and f"checkpoint {path} can't be used: {current or previous}"


def store_checkpoint(folder: Path | str, reader: str, seq: int, *, filesystem: Filesystem = DISK) -> int:
    """Make `seq` the last event that `reader` has delivered, durably; returns what stands there now.

    A checkpoint never moves back: a lower `seq` than the stored one changes nothing. Raises InvalidReaderName, OSError.
    """
    folder = Path(folder)
    path = checkpoint_path(folder, reader)
    if not 0 <= seq <= MAX_SEQUENCE:
        message = f"checkpoint of reader '{reader}': {seq} is no sequence number"
        raise ValueError(message)
    spool_id = read_spool_id(folder, filesystem)
    stored = _load(path, reader, spool_id, filesystem)
    if isinstance(stored, int) and stored >= seq:
        return stored
    fields: dict[str, Any] = {
        "reader": reader,
        "seq": seq,
        "spool_id": spool_id,
        "updated_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
    }
    content = json.dumps(fields | {"crc32c": _checksum(fields)}).encode() + b"\n"
    filesystem.make_folder(path.parent)
    # Only a checkpoint that can be trusted is worth keeping as the fallback.
    replace_file(filesystem, path, content, previous=_previous(path) if isinstance(stored, int) else None)
    return seq


def list_checkpoints(folder: Path | str, *, filesystem: Filesystem = DISK) -> dict[str, int]:
    """Every reader that ever stored a checkpoint in this spool, and its checkpoint. Raises OSError."""
    names = {name for name, _ in filesystem.list_folder(Path(folder) / CHECKPOINTS)}
    readers = {name.removesuffix(".prev").removesuffix(_SUFFIX) for name in names if name.removesuffix(".prev").endswith(_SUFFIX)}
    return {
        reader: load_checkpoint(folder, reader, filesystem=filesystem) for reader in sorted(readers) if _READER.fullmatch(reader)
    }


def _previous(path: Path) -> Path:
    return path.with_name(path.name + ".prev")


def _load(path: Path, reader: str, spool_id: str | None, filesystem: Filesystem) -> int | str | None:
    """The stored sequence number, what is wrong with the file, or None when there is none."""
    try:
        fields = json.loads(read_file(filesystem, path))
    except FileNotFoundError:
        return None
    except OSError as error:
        return str(error)
    except ValueError:
        return "not JSON"
    if not isinstance(fields, dict):
        return "not a JSON object"
    crc = fields.pop("crc32c", None)
    if crc != _checksum(fields):
        return "it fails its checksum"
    if fields.get("reader") != reader:
        return f"it belongs to reader '{fields.get('reader')}'"
    if spool_id is not None and fields.get("spool_id") not in (None, spool_id):
        return f"it belongs to spool {fields.get('spool_id')}"
    return int(fields["seq"])


def _checksum(fields: dict[str, Any]) -> str:
    return f"{google_crc32c.value(json.dumps(fields, sort_keys=True).encode()):08x}"
