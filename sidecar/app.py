"""The sidecar over HTTP: a plain ASGI application.

| route | answers |
| --- | --- |
| `POST /v1/ingest/events` | 202 `{"accepted", "rejected"}` once the batch is durable; 400, 401, 408, 413, 415, 429, 503 |
| `GET /v1/events/{event_id}` | where an event is and what each backend has of it; 400, 401, 404, 429, 503 |
| `GET /health` | 200 while events can be accepted, else 503: state of every backend, breaker, lag, size of the spool |
| `GET /ready` | 200 once events are accepted, 503 before that and while stopping |
| `GET /metrics` | Prometheus text |

Errors are `{"error": {"code", "message"}}`. An empty batch is accepted: 202 with 0 events.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from sidecar.access import Access
from sidecar.answers import (
    Answer,
    Receive,
    Refusal,
    Scope,
    Send,
    json_answer,
    refusal_answer,
    send_answer,
)
from sidecar.intake import Disconnected, Intake, RequestHead, read_head
from sidecar.metrics import CONTENT_TYPE, Metrics

INGEST_PATH: Final = "/v1/ingest/events"
EVENTS_PATH: Final = "/v1/events/"
DRAIN_BYTES: Final = 16 * 1024 * 1024
DRAIN_SECONDS: Final = 5.0
STOPPING_RETRY_SECONDS: Final = 5.0

_WORTH_DRAINING: Final = frozenset({413, 415, 429, 503})
_UNEXPECTED: Final = Refusal(503, "internal", "the agent failed to take this request and logged why: send again", retry_after=1.0)

logger = logging.getLogger(__name__)


class SidecarApp:
    """The ASGI callable; `health` gives what /health shows and whether events can be accepted, `tell_event` an event's page."""

    def __init__(
        self,
        intake: Intake,
        access: Access,
        metrics: Metrics,
        health: Callable[[], tuple[bool, Mapping[str, Any]]],
        tell_event: Callable[[str], Awaitable[Answer]],
    ) -> None:
        self.access = access
        self.ready = False
        """Whether ingest requests are taken; False before the start is complete and while stopping."""
        self._intake = intake
        self._metrics = metrics
        self._health = health
        self._tell_event = tell_event
        self._pages: dict[str, Callable[[], Answer]] = {
            "/health": self._answer_health,
            "/ready": self._answer_ready,
            "/metrics": self._answer_metrics,
        }
        self._observers: dict[int, Callable[[float], None]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, as ASGI 3 asks for it."""
        if scope["type"] != "http":
            return
        if scope["path"] == INGEST_PATH:
            await self._ingest(scope, receive, send)
        elif scope["path"].startswith(EVENTS_PATH):
            await send_answer(send, await self._event_page(scope))
        else:
            await send_answer(send, self._page(scope))

    async def _ingest(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        head = RequestHead()
        try:
            head = self._admit(scope)
            answer = await self._intake.take(head, receive)
        except Refusal as error:
            answer = refusal_answer(error)
        except Disconnected:
            return
        except Exception:
            self._metrics.failures.inc()
            logger.exception("an ingest request failed unexpectedly; nothing of it is acknowledged")
            answer = refusal_answer(_UNEXPECTED)
        await send_answer(send, answer)
        self._observer(answer.status)(time.perf_counter() - started)
        if answer.status in _WORTH_DRAINING and not head.body_read:
            await _drain(receive, head)

    def _admit(self, scope: Scope) -> RequestHead:
        """Judge an ingest request on its headers. Raises Refusal."""
        if scope["method"] != "POST":
            raise Refusal(405, "method_not_allowed", "events are sent with POST", allow="POST")
        head = read_head(scope)
        self.access.check(head.authorization, _peer(scope), head.host)
        if not self.ready:
            raise Refusal(
                503, "not_ready", "the agent is starting or stopping: send again soon", retry_after=STOPPING_RETRY_SECONDS
            )
        return head

    async def _event_page(self, scope: Scope) -> Answer:
        """One event's page: for those who may send."""
        try:
            _must_be_read(scope)
            head = read_head(scope)
            self.access.check(head.authorization, _peer(scope), head.host)
            return await self._tell_event(scope["path"].removeprefix(EVENTS_PATH))
        except Refusal as refusal:
            return refusal_answer(refusal)
        except Exception:
            self._metrics.failures.inc()
            logger.exception("an event could not be looked up")
            return refusal_answer(_UNEXPECTED)

    def _page(self, scope: Scope) -> Answer:
        """One of the pages for operators: open to whoever reaches the port, but without tokens to this host only."""
        try:
            return self._find_page(scope)()
        except Refusal as refusal:
            return refusal_answer(refusal)

    def _find_page(self, scope: Scope) -> Callable[[], Answer]:
        page = self._pages.get(scope["path"])
        if page is None:
            raise Refusal(404, "not_found", f"there is {INGEST_PATH}, {EVENTS_PATH}{{event_id}}, /health, /ready and /metrics")
        _must_be_read(scope)
        self.access.check_local(_peer(scope), read_head(scope).host)
        return page

    def _answer_health(self) -> Answer:
        accepting, content = self._health()
        return json_answer(200 if accepting else 503, content)

    def _answer_ready(self) -> Answer:
        accepting, _ = self._health()
        ready = self.ready and accepting
        return json_answer(200 if ready else 503, {"ready": ready})

    def _answer_metrics(self) -> Answer:
        return Answer(200, self._metrics.render(), [(b"content-type", CONTENT_TYPE)])

    def _observer(self, status: int) -> Callable[[float], None]:
        observer = self._observers.get(status)
        if observer is None:
            observer = self._observers[status] = self._metrics.observe_request(status)
        return observer


def _must_be_read(scope: Scope) -> None:
    if scope["method"] not in {"GET", "HEAD"}:
        raise Refusal(405, "method_not_allowed", "this page is read with GET", allow="GET, HEAD")


def _peer(scope: Scope) -> str | None:
    client = scope.get("client")
    return client[0] if client else None


async def _drain(receive: Receive, head: RequestHead) -> None:
    """Throw away a body that was refused unread, within bounds: a sender that is still sending sees the answer, not a reset."""
    if head.length == 0:
        return
    size = 0
    try:
        async with asyncio.timeout(DRAIN_SECONDS):
            while size < DRAIN_BYTES:
                message = await receive()
                size += len(message.get("body") or b"")
                if message["type"] != "http.request" or not message.get("more_body"):
                    return
    except TimeoutError:
        return
