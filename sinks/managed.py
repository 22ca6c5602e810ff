"""Writes events to the gateway (`POST /v1/ingest/managed`), which puts them into the hot store.

The gateway takes the same bodies as the sidecar, so a body that is whole in the log goes on as it was received. It answers
2xx with `{"accepted", "rejected": [{"index", "event_id", "path", "error"}]}`; an event that it has already counts as accepted.
"""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import Annotated, ClassVar, Final, Literal

import msgspec
import zstandard
from msgspec import Meta

from contract.framing import BodyFormat
from contract.limits import MAX_BATCH_EVENTS, MAX_BODY_BYTES
from contract.settings import Secret
from sinks.base import (
    DeliveryReport,
    Health,
    Refused,
    SinkBatch,
    SinkError,
    SinkLimits,
    Throttled,
    Unavailable,
    event_id_of,
)
from sinks.http_answers import Answer
from sinks.http_client import HttpClient
from sinks.tls import Tls
from sinks.urls import HttpAddress

INGEST_PATH: Final = "/v1/ingest/managed"
_NDJSON: Final = "application/x-ndjson"
_COMPRESS_FROM_BYTES: Final = 4096


class ManagedConfig(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The `config` block of a `managed` backend."""

    url: HttpAddress
    """The gateway's address, such as http://127.0.0.1:17080."""
    token: Secret = Secret("")
    """A token with the scope `ingest`; empty when the gateway has none configured."""
    connect_timeout: Annotated[float, Meta(gt=0)] = 5
    """Seconds."""
    read_timeout: Annotated[float, Meta(gt=0)] = 25
    """Seconds of silence while the gateway works."""
    compression: Literal["zstd", "none"] = "none"
    """How batches that are joined here are compressed on the way; bodies passed on as received keep theirs."""
    tls: Tls = msgspec.field(default_factory=Tls)
    """For an https address: which certificates are trusted, and which one is shown."""


class _Rejected(msgspec.Struct):
    index: int
    error: str = "refused without a reason"
    path: str = ""
    event_id: str | None = None


class _Answer(msgspec.Struct):
    accepted: int = -1
    rejected: list[_Rejected] = []


_ANSWER_DECODER = msgspec.json.Decoder(_Answer)


class ManagedSink:
    """The gateway's ingest route; it deduplicates by `event_id`, so a batch delivered twice leaves one."""

    Config: ClassVar[type[msgspec.Struct]] = ManagedConfig
    limits: ClassVar[SinkLimits] = SinkLimits(MAX_BATCH_EVENTS, MAX_BODY_BYTES)

    def __init__(self, name: str, config: ManagedConfig) -> None:
        self.name = name
        self._config = config
        self._url = config.url.rstrip("/") + INGEST_PATH
        self._client: HttpClient | None = None

    async def open(self) -> None:
        """Make the HTTP client; nothing is sent. Raises Unavailable when a file of the `tls` block can't be used."""
        if self._client is None:
            token = self._config.token
            self._client = HttpClient(
                url=self._url,
                tls=self._config.tls,
                headers={"Authorization": f"Bearer {token.reveal()}"} if token else {},
                secrets=[token],
                connect_timeout=self._config.connect_timeout,
                read_timeout=self._config.read_timeout,
            )

    async def deliver(self, batch: SinkBatch) -> DeliveryReport:
        """Send the batch in one request; one that the gateway can't read as a whole is halved until the culprit stands alone."""
        if batch.count == 0:
            return DeliveryReport(0)
        response = await self._post(*self._body(batch))
        if response.ok:
            return self._report(batch, response)
        if response.status in {400, 413, 422}:
            return await self._halve(batch, response)
        if response.status == HTTPStatus.FORBIDDEN and (refused := self._all_refused(batch, response)):
            return DeliveryReport(0, refused)
        raise self._failure(response)

    async def check(self) -> Health:
        """Send an empty batch: the address, the route and the credential are proved, and no event is written."""
        started = time.perf_counter()
        try:
            response = await self._post(b"[]", {"Content-Type": "application/json"})
            if not response.ok and response.status != HTTPStatus.BAD_REQUEST:
                raise self._failure(response)
        except SinkError as error:
            return Health(False, str(error))
        return Health(True, f"{self._url} answers", (time.perf_counter() - started) * 1000)

    async def close(self) -> None:
        """Close the connection."""
        if self._client is not None:
            client, self._client = self._client, None
            await client.close()

    def _body(self, batch: SinkBatch) -> tuple[bytes, dict[str, str]]:
        stored = batch.stored
        if stored is not None:
            headers = {"Content-Type": _NDJSON if stored.format is BodyFormat.NDJSON else "application/json"}
            if stored.encoding:
                headers["Content-Encoding"] = stored.encoding
            return stored.payload, headers
        body = batch.ndjson
        if self._config.compression == "zstd" and len(body) >= _COMPRESS_FROM_BYTES:
            return zstandard.ZstdCompressor(level=1).compress(body), {"Content-Type": _NDJSON, "Content-Encoding": "zstd"}
        return body, {"Content-Type": _NDJSON}

    async def _post(self, body: bytes, headers: dict[str, str]) -> Answer:
        if self._client is None:
            raise Unavailable(f"backend '{self.name}' is not open")
        return await self._client.request("POST", self._url, content=body, headers=headers)

    def _report(self, batch: SinkBatch, response: Answer) -> DeliveryReport:
        try:
            answer = _ANSWER_DECODER.decode(response.content)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Unavailable(f"{self._url} answered {response.phrase} without a count: is it a gateway?") from error
        refused = _refused(batch, answer.rejected)
        if answer.accepted + len(refused) != batch.count:
            message = (
                f"{self._url} took {answer.accepted} and refused {len(answer.rejected)} of {batch.count} events: "
                "the counts don't add up, so the batch is sent again"
            )
            raise Unavailable(message)
        return DeliveryReport(answer.accepted, refused)

    def _all_refused(self, batch: SinkBatch, response: Answer) -> list[Refused]:
        """The refusals when the gateway names every event as one that this token may not send; empty when it names none."""
        try:
            refused = _refused(batch, _ANSWER_DECODER.decode(response.content).rejected)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return []
        return refused if len(refused) == batch.count else []

    async def _halve(self, batch: SinkBatch, response: Answer) -> DeliveryReport:
        if batch.count == 1:
            reason = f"{response.phrase}: {response.shown()}"
            return DeliveryReport(0, [Refused(0, event_id_of(batch.lines[0]), reason)])
        middle = batch.count // 2
        first = await self.deliver(batch.subset(range(middle)))
        try:
            second = await self.deliver(batch.subset(range(middle, batch.count)))
        except SinkError as error:
            return DeliveryReport(
                first.delivered, first.refused, [*first.retry, *range(middle, batch.count)], error.retry_after, str(error)
            )
        shifted = [Refused(item.index + middle, item.event_id, item.reason) for item in second.refused]
        retry = [*first.retry, *(index + middle for index in second.retry)]
        waits = [wait for wait in (first.retry_after, second.retry_after) if wait is not None]
        return DeliveryReport(
            first.delivered + second.delivered,
            [*first.refused, *shifted],
            retry,
            max(waits, default=None),
            first.message or second.message,
        )

    def _failure(self, response: Answer) -> SinkError:
        status = response.status
        wait = response.retry_after
        match status:
            case 401:
                advice = "the token is missing, wrong, expired or revoked: set `token` of this backend to a valid one"
            case 403:
                advice = "the token lacks the scope 'ingest' or this site: make one that has both"
            case 404 | 405:
                advice = "there is no such route: does `url` name the gateway?"
            case 429:
                return Throttled(f"{self._url} asks to wait ({response.phrase})", wait)
            case _:
                advice = response.shown() or "see the gateway's log"
        return Unavailable(f"{self._url} answered {response.phrase}: {advice}", wait)


def _refused(batch: SinkBatch, rejected: list[_Rejected]) -> list[Refused]:
    return [
        Refused(
            item.index, item.event_id or event_id_of(batch.lines[item.index]), f"{item.path}: {item.error}".removeprefix(": ")
        )
        for item in rejected
        if 0 <= item.index < batch.count
    ]
