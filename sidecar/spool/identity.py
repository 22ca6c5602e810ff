"""Who a spool is: the UUID in `spool.json` under which the lake knows its sequence numbers."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Final
from uuid import UUID

from sidecar.spool.errors import SpoolError
from sidecar.spool.filesystem import Filesystem, read_file, replace_file
from sidecar.spool.format import FORMAT_VERSION

if TYPE_CHECKING:
    from pathlib import Path

IDENTITY: Final = "spool.json"

logger = logging.getLogger(__name__)


def read_spool_id(folder: Path, filesystem: Filesystem) -> str | None:
    """The spool's id; None when `folder` holds no spool or a `spool.json` that makes no sense.

    Raises SpoolError when a newer program has made the spool, OSError when the disk can't tell.
    """
    try:
        content = read_file(filesystem, folder / IDENTITY)
    except FileNotFoundError:
        return None
    try:
        fields = json.loads(content)
        version = int(fields["format"])
        spool_id = str(UUID(fields["spool_id"]))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    if version != FORMAT_VERSION:
        message = (
            f"spool {folder} has format {version}, this program reads {FORMAT_VERSION}: use the version of TrackMate that made it"
        )
        raise SpoolError(message)
    return spool_id


def write_spool_id(folder: Path, spool_id: str, filesystem: Filesystem) -> None:
    """Store the spool's identity durably. Raises OSError."""
    content = json.dumps({"spool_id": spool_id, "format": FORMAT_VERSION}).encode() + b"\n"
    replace_file(filesystem, folder / IDENTITY, content)
