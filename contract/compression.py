"""Content-Encoding undone within bounds: a small body that holds a huge one costs no more than what is allowed."""

from __future__ import annotations

import zlib
from typing import Final

import zstandard

from contract.errors import InvalidBody
from contract.limits import MAX_BODY_BYTES

ENCODINGS: Final = ("identity", "gzip", "zstd")
_ZSTD_MAX_WINDOW = 16 * 1024 * 1024
_READ_SIZE = 256 * 1024


def decompress(body: bytes, encoding: str | None) -> bytes:
    """The body without its Content-Encoding (`gzip`, `zstd`, `identity` or None).

    Never produces more than `MAX_BODY_BYTES`, however small the input.
    Raises InvalidBody: 413 when the result is larger, 415 for another encoding, 400 when the data is corrupt.
    """
    match (encoding or "identity").strip().lower():
        case "identity":
            plain = body
        case "gzip" | "x-gzip":
            plain = _gunzip(body)
        case "zstd":
            plain = _unzstd(body)
        case other:
            raise InvalidBody(
                415, "unsupported_encoding", f"Content-Encoding '{other}' is not supported: use {', '.join(ENCODINGS)}"
            )
    if len(plain) > MAX_BODY_BYTES:
        raise too_large()
    return plain


def too_large() -> InvalidBody:
    """The answer to a body over the limit."""
    return InvalidBody(
        413,
        "body_too_large",
        f"the body is larger than {MAX_BODY_BYTES} bytes after decompression: send smaller batches",
    )


def _gunzip(body: bytes) -> bytes:
    parts: list[bytes] = []
    room = MAX_BODY_BYTES + 1
    try:
        while body and room > 0:
            member = zlib.decompressobj(wbits=31)
            part = member.decompress(body, room)
            parts.append(part)
            room -= len(part)
            if room > 0 and not member.eof:
                raise InvalidBody(400, "corrupt_encoding", "the gzip body ends too early")
            body = member.unused_data
    except zlib.error as error:
        raise InvalidBody(400, "corrupt_encoding", f"the body is not valid gzip: {error}") from error
    return b"".join(parts)


def _unzstd(body: bytes) -> bytes:
    parts: list[bytes] = []
    room = MAX_BODY_BYTES + 1
    try:
        reader = zstandard.ZstdDecompressor(max_window_size=_ZSTD_MAX_WINDOW).stream_reader(body, read_across_frames=True)
        while room > 0 and (part := reader.read(min(room, _READ_SIZE))):
            parts.append(part)
            room -= len(part)
    except zstandard.ZstdError as error:
        raise InvalidBody(400, "corrupt_encoding", f"the body is not valid zstd: {error}") from error
    plain = b"".join(parts)
    if room > 0 and not _zstd_complete(body):
        raise InvalidBody(400, "corrupt_encoding", "the zstd body ends too early")
    return plain


def _zstd_complete(body: bytes) -> bool:
    """Whether the last frame ends where the body ends: the stream reader takes a cut frame for a short one."""
    while body:
        frame = zstandard.ZstdDecompressor(max_window_size=_ZSTD_MAX_WINDOW).decompressobj()
        frame.decompress(body)
        if not frame.eof:
            return False
        body = frame.unused_data
    return True
