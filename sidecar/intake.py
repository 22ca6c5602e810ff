"""Takes one ingest request from headers to acknowledgement: judge, read, decompress, decode, make durable, answer.

Everything that can be judged on the headers is judged before a byte of the body is read. What is read is bounded for each
request and for all of them together, in bytes and in time. Nothing is acknowledged before it is on stable storage.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Protocol

from contract import codec, compression, framing
from contract.codec import Batch, Rejection
from contract.errors import InvalidBody
from contract.limits import MAX_BODY_BYTES
from sidecar.answers import JSON_HEADER, Answer, Receive, Refusal, Scope, json_answer
from sidecar.metrics import Metrics
from sidecar.spool.errors import SpoolBusy, SpoolUnavailable
from sidecar.spool.format import Flags, ShedClass

DECODE_INLINE_BYTES: Final = 256 * 1024
"""A larger plain body is decoded off the event loop, so that a health check needn't wait for it."""

DECOMPRESS_INLINE_BYTES: Final = 8 * 1024
"""A larger compressed body is opened off the event loop."""

CHUNK_RESERVE: Final = 64 * 1024
BUSY_RETRY_SECONDS: Final = 1.0


class Spool(Protocol):
    """What taking a request needs of the log."""

    def check(self, size: int = 0, shed: ShedClass = ShedClass.NORMAL) -> None:
        """Raises SpoolBusy or SpoolUnavailable when nothing can be taken now."""

    async def append(self, payload: bytes, count: int, flags: Flags = Flags()) -> int:  # noqa: B008 - an immutable tuple
        """Durable when it returns."""


class Quarantine(Protocol):
    """Where events that break the contract are kept."""

    async def keep(self, rejected: list[Rejection], source: str) -> None:
        """Durable when it returns."""


class ByteBudget:
    """Bounds the bytes of all bodies that are held at once."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    def take(self, size: int) -> None:
        """Reserve `size` bytes. Raises Refusal (429) when they are not to be had."""
        if self.used and self.used + size > self.limit:
            raise Refusal(
                429, "busy", "the agent holds as many bytes as it may: send again in a moment", retry_after=BUSY_RETRY_SECONDS
            )
        self.used += size

    def give_back(self, size: int) -> None:
        """Release what was reserved."""
        self.used -= size


class _Reservation:
    """What one request holds of a budget."""

    def __init__(self, budget: ByteBudget) -> None:
        self._budget = budget
        self.size = 0

    def hold(self, size: int) -> None:
        """Have room for `size` bytes and some more. Raises Refusal (429)."""
        if size > self.size:
            wanted = size + CHUNK_RESERVE
            self._budget.take(wanted - self.size)
            self.size = wanted

    def give_back(self) -> None:
        """Release all of it."""
        self._budget.give_back(self.size)


@dataclass(slots=True)
class RequestHead:
    """The headers that matter."""

    length: int | None = None
    content_type: str | None = None
    encoding: str | None = None
    authorization: str | None = None
    host: str | None = None
    body_read: bool = False
    """Whether the whole body has been read."""


def read_head(scope: Scope) -> RequestHead:
    """The headers of a request. Raises Refusal (400) when one of them contradicts itself."""
    head = RequestHead()
    for name, value in scope["headers"]:
        match name:
            case b"content-length":
                head.length = _length(value)
            case b"content-type":
                head.content_type = value.decode("latin-1")
            case b"content-encoding":
                head.encoding = value.decode("latin-1").strip().lower()
            case b"authorization":
                head.authorization = value.decode("latin-1")
            case b"host":
                if head.host is not None:
                    raise Refusal(400, "bad_request", "more than one Host header")
                head.host = value.decode("latin-1")
    return head


def _length(value: bytes) -> int:
    if not value.isdigit():
        raise Refusal(400, "bad_request", "Content-Length is not a number")
    return int(value[:20])


def judge_body(head: RequestHead) -> None:
    """Refuse on the headers what can't be taken: 413 too large, 415 another type or encoding."""
    if head.length is not None and head.length > MAX_BODY_BYTES:
        raise Refusal(
            413, "body_too_large", f"the body has {head.length} bytes; at most {MAX_BODY_BYTES} are taken: send smaller batches"
        )
    problem = _unsupported(head.content_type, head.encoding)
    if problem is not None:
        raise Refusal(415, *problem)


@lru_cache(maxsize=64)
def _unsupported(content_type: str | None, encoding: str | None) -> tuple[str, str] | None:
    media_type = (content_type or "application/json").partition(";")[0].strip().lower()
    if media_type not in framing.JSON_TYPES and media_type not in framing.NDJSON_TYPES:
        return (
            "unsupported_media_type",
            f"Content-Type '{media_type[:100]}' is not supported: use application/json or application/x-ndjson",
        )
    if encoding and encoding not in compression.ENCODINGS and encoding != "x-gzip":
        return (
            "unsupported_encoding",
            f"Content-Encoding '{encoding[:100]}' is not supported: use {', '.join(compression.ENCODINGS)}",
        )
    return None


class Disconnected(Exception):
    """The sender went away before its body had come."""


class Intake:
    """Turns requests into durable records."""

    def __init__(
        self,
        spool: Spool,
        quarantine: Quarantine,
        metrics: Metrics,
        *,
        body_timeout: float,
        max_bytes_in_flight: int,
        shed: bool = False,
    ) -> None:
        self._spool = spool
        self._quarantine = quarantine
        self._metrics = metrics
        self._body_timeout = body_timeout
        self.budget = ByteBudget(max_bytes_in_flight)
        self._shed = shed
        self._least = ShedClass.VITAL if shed else ShedClass.NORMAL  # what is in the body is not known yet
        self._decoding = ThreadPoolExecutor(1, thread_name_prefix="decode")

    def close(self) -> None:
        """Let go of the decoding thread."""
        self._decoding.shutdown(wait=False, cancel_futures=True)

    async def take(self, head: RequestHead, receive: Receive) -> Answer:
        """Answer an ingest request whose sender may send. Raises Refusal, or Disconnected when there is nobody to answer."""
        judge_body(head)
        try:
            self._spool.check(head.length or 0, self._least)
            body, reserved = await self._read(head, receive)
            try:
                return await self._store(head, body)
            finally:
                self.budget.give_back(reserved)
        except InvalidBody as error:
            raise Refusal(error.status, error.code, str(error)) from error
        except SpoolBusy as error:
            raise Refusal(429, "spool_busy", str(error), retry_after=error.retry_after) from error
        except SpoolUnavailable as error:
            raise Refusal(503, "spool_unavailable", str(error), retry_after=error.retry_after) from error

    async def _read(self, head: RequestHead, receive: Receive) -> tuple[bytes, int]:
        """The body, and the bytes now reserved for it."""
        reservation = _Reservation(self.budget)
        try:
            async with asyncio.timeout(self._body_timeout):
                body = await _read_body(head.length, receive, reservation)
        except BaseException as error:
            reservation.give_back()
            if isinstance(error, TimeoutError):
                raise Refusal(
                    408,
                    "body_too_slow",
                    f"the body did not come within {self._body_timeout:g} s: send smaller batches",
                    close=True,
                ) from error
            raise
        head.body_read = True
        return body, reservation.size

    async def _store(self, head: RequestHead, body: bytes) -> Answer:
        self._metrics.body_bytes.inc(len(body))
        limit = DECODE_INLINE_BYTES if head.encoding in {None, "identity"} else DECOMPRESS_INLINE_BYTES
        if len(body) > limit:
            loop = asyncio.get_running_loop()
            batch = await loop.run_in_executor(self._decoding, _decode, body, head)
        else:
            batch = _decode(body, head)
        accepted = len(batch.events)
        if not batch.rejected:
            if accepted:
                flags = Flags.of(head.encoding, batch.format, self._class(batch))
                del batch  # many may wait for the disk; none of them needs its events decoded any more
                await self._spool.append(body, accepted, flags)
                self._metrics.accepted.inc(accepted)
            return Answer(202, b'{"accepted":%d,"rejected":[]}' % accepted, [JSON_HEADER])
        return await self._store_partly(batch)

    async def _store_partly(self, batch: Batch) -> Answer:
        """Some events break the contract: these go to quarantine, the others to the log, both before the answer."""
        accepted = len(batch.events)
        await self._quarantine.keep(batch.rejected, "sidecar")
        if accepted:
            flags = Flags.of(None, framing.BodyFormat.NDJSON, self._class(batch))
            await self._spool.append(batch.accepted_ndjson(), accepted, flags)
        self._metrics.accepted.inc(accepted)
        self._metrics.rejected.inc(len(batch.rejected))
        self._metrics.quarantined.inc(len(batch.rejected))
        return json_answer(202, {"accepted": accepted, "rejected": [item.answer() for item in batch.rejected]})

    def _class(self, batch: Batch) -> ShedClass:
        """What the log may give up first; looked at only where the site chose to shed."""
        if not self._shed:
            return ShedClass.NORMAL
        if all(event.severity == "debug" for event in batch.events):
            return ShedClass.DEBUG
        if all(event.kind in {"finish", "error"} for event in batch.events):
            return ShedClass.VITAL
        return ShedClass.NORMAL


def _bound(size: int) -> None:
    if size > MAX_BODY_BYTES:
        raise compression.too_large()


async def _next_chunk(receive: Receive) -> tuple[bytes, bool]:
    """A piece of the body, and whether more follows. Raises Disconnected."""
    message = await receive()
    if message["type"] != "http.request":
        raise Disconnected
    return message.get("body", b""), message.get("more_body", False)


async def _read_body(length: int | None, receive: Receive, reservation: _Reservation) -> bytes:
    """The whole body; one whose length is known is done without waiting for the server to say so.

    Room is reserved for what has come, not for what was announced: who announces much and sends little keeps nobody out.
    """
    chunks: list[bytes] = []
    size = 0
    while size != length:
        chunk, more = await _next_chunk(receive)
        size += len(chunk)
        _bound(size)
        reservation.hold(size)
        chunks.append(chunk)
        if not more:
            if length is not None and size < length:
                raise Disconnected
            break
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _decode(body: bytes, head: RequestHead) -> Batch:
    return codec.decode_batch(compression.decompress(body, head.encoding), head.content_type)
