"""What the sidecar answers over HTTP: JSON bodies, and errors as {"error": {"code", "message"}}."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from contract.errors import TrackMateError

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

JSON_HEADER: Final = (b"content-type", b"application/json")


class Refusal(TrackMateError):
    """A request that is answered with an error: `status` of HTTP, `code` a stable word for programs, `retry_after` in seconds."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        retry_after: float | None = None,
        close: bool = False,
        allow: str | None = None,
    ) -> None:
        self.status = status
        self.code = code
        self.retry_after = retry_after
        self.close = close
        self.allow = allow
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Answer:
    """One response."""

    status: int
    body: bytes
    headers: Headers


def json_answer(status: int, content: Any) -> Answer:
    """`content` as JSON."""
    return Answer(status, msgspec.json.encode(content), [JSON_HEADER])


def refusal_answer(refusal: Refusal) -> Answer:
    """The error as the documented JSON, with `Retry-After` (whole seconds, at least 1) where one is due."""
    headers: Headers = [JSON_HEADER]
    if refusal.retry_after is not None:
        headers.append((b"retry-after", str(max(1, math.ceil(refusal.retry_after))).encode()))
    if refusal.allow is not None:
        headers.append((b"allow", refusal.allow.encode()))
    if refusal.close:
        headers.append((b"connection", b"close"))
    body = msgspec.json.encode({"error": {"code": refusal.code, "message": str(refusal)}})
    return Answer(refusal.status, body, headers)


async def send_answer(send: Send, answer: Answer) -> None:
    """Write the response."""
    await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
    await send({"type": "http.response.body", "body": answer.body})
