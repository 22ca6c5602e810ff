"""Who a spool is: the UUID in `spool.json` under which the lake knows its sequence numbers."""

from __future__ import annotations

import json
import logging
import os
from typing import TYPE_CHECKING, Final
from uuid import UUID, uuid4

from sidecar.spool.errors import SpoolError
from sidecar.spool.filesystem import Filesystem, read_file, replace_file
from sidecar.spool.format import FORMAT_VERSION, SegmentHeader
from sidecar.spool.segments import list_segments, read_segment_header

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


def identify(folder: Path, filesystem: Filesystem) -> str:
    """The id of the spool in `folder`, stored there durably: from `spool.json`, else from its segments, else a new one.

    Raises SpoolError when a newer program has made the spool, OSError.
    """
    spool_id = read_spool_id(folder, filesystem)
    if spool_id is not None:
        return spool_id
    spool_id = _id_in_segments(folder, filesystem)
    if spool_id is not None:
        logger.warning("spool %s: spool.json is missing or unreadable; its segments say that it is %s", folder, spool_id)
    else:
        spool_id = str(uuid4())
    write_spool_id(folder, spool_id, filesystem)
    return spool_id


def _id_in_segments(folder: Path, filesystem: Filesystem) -> str | None:
    for file in list_segments(filesystem, folder):
        fd = filesystem.open(file.path, os.O_RDONLY)
        try:
            header = read_segment_header(filesystem, fd)
        finally:
            filesystem.close(fd)
        if isinstance(header, SegmentHeader):
            return str(header.spool_id)
    return None
