"""Reading a request's body under every bound: its size before and after decompression, and the time it may take to arrive."""

from __future__ import annotations

import asyncio

from starlette.requests import Request

from contract.compression import decompress, too_large
from contract.limits import MAX_BODY_BYTES
from federation.gateway.errors import ApiError


async def read(request: Request, *, seconds: float, cap: int = MAX_BODY_BYTES) -> bytes:
    """The body without its Content-Encoding.

    Raises `InvalidBody` (400, 413, 415) and `ApiError` (408 when it has not arrived within `seconds`). Holds at most `cap`
    bytes as received and `MAX_BODY_BYTES` decompressed.
    """
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > cap:
        raise too_large()
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(seconds):
            async for part in request.stream():
                size += len(part)
                if size > cap:
                    raise too_large()
                parts.append(part)
    except TimeoutError as error:
        raise ApiError(
            408,
            "body_too_slow",
            f"the body had not arrived after {seconds:g} seconds ({size} bytes had)",
            where="body",
            hint="send smaller batches, or use a faster line",
        ) from error
    body = parts[0] if len(parts) == 1 else b"".join(parts)
    encoding = request.headers.get("content-encoding")
    if encoding is None or encoding.strip().lower() in {"", "identity"}:
        return body
    return await asyncio.to_thread(decompress, body, encoding)
