"""Sends events to any HTTP endpoint: a batch as JSON Lines or a JSON array, or each event alone, as it is or as a template says.

Every request has an `Idempotency-Key` that is the same when the same events are sent again, and each event its `event_id`: with
either the receiver can tell a repetition, which this sink can't. With a `secret`, every request is signed: the header
`X-TrackMate-Signature` is `v1=` and the HMAC-SHA256, in hex, of the header `X-TrackMate-Timestamp` (seconds since 1970), a dot
and the body as it was sent.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, ClassVar, Final, Literal, NamedTuple
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta
from yarl import URL

from contract.settings import Secret
from sinks.base import DeliveryReport, Health, Refused, SinkBatch, SinkError, SinkLimits, Throttled, Unavailable, event_id_of
from sinks.http_answers import Answer
from sinks.http_client import CONNECT_TIMEOUT_SECONDS, READ_TIMEOUT_SECONDS, HttpClient, NotConnected, Seconds
from sinks.tls import Tls
from sinks.webhook_address import is_address, resolve
from sinks.webhook_template import SAMPLE, Template

MAX_BATCH_EVENTS: Final = 1000
MAX_BATCH_BYTES: Final = 1024 * 1024
"""Our own choices; 1 MiB is what nginx takes unless told otherwise ("ngx_http_core_module", client_max_body_size)."""

SIGNATURE_HEADER: Final = "X-TrackMate-Signature"
TIMESTAMP_HEADER: Final = "X-TrackMate-Timestamp"
KEY_HEADER: Final = "Idempotency-Key"

_RESERVED: Final = frozenset(
    {"host", "content-length", "content-encoding", "transfer-encoding", "connection", KEY_HEADER.lower(),
     SIGNATURE_HEADER.lower(), TIMESTAMP_HEADER.lower()}
)  # fmt: skip
_TOKEN_CHARACTERS: Final = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_CONTENT_TYPES: Final = {"ndjson": "application/x-ndjson", "array": "application/json", "event": "application/json"}
_SCHEMES: Final = ("http", "https")

_TRY_AGAIN: Final = frozenset({401, 402, 403, 404, 405, 406, 407, 408, 409, 410, 411, 415, 421, 423, 424, 425, 426, 429, 451})
"""Statuses 4xx that are about the endpoint, the credential or the moment; all others are about what was sent (RFC 9110)."""

_SECRET_WORDS: Final = ("auth", "token", "key", "secret", "cookie", "password")
_SHORTEST_SECRET: Final = 6


class WebhookConfig(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The `config` block of a `webhook` backend."""

    url: Secret
    """The endpoint's address; its path and query are shown nowhere, since many a service has its key in them."""
    method: Literal["POST", "PUT", "PATCH"] = "POST"
    """The request's method."""
    body: Literal["ndjson", "array", "event", "template"] = "ndjson"
    """What a request holds: events as JSON Lines, as a JSON array, one event, or one event as `template` says."""
    template: str = ""
    """For `body: template`: the body with `${event.…}` in it."""
    template_format: Literal["json", "text"] = "json"
    """How values are escaped in `template`, and whether it must give JSON."""
    headers: dict[str, Secret] = {}
    """Further headers; `${event.…}` in them where a request holds one event, `${batch.…}` everywhere."""
    secret: Secret = Secret("")
    """The key that requests are signed with."""
    max_events: Annotated[int, Meta(ge=1, le=MAX_BATCH_EVENTS)] = 100
    """Events of one request, for `ndjson` and `array`."""
    parallel: Annotated[int, Meta(ge=1, le=32)] = 1
    """Requests that run at once; with more than one, events may come out of order."""
    success: list[Annotated[int, Meta(ge=200, le=299)]] = []
    """Statuses that mean success; empty: all of 200 to 299."""
    compression: Literal["gzip", "none"] = "none"
    """How bodies are compressed."""
    allow_private: bool = False
    """Whether the address may be one of this host or of a private network."""
    connect_timeout: Seconds = CONNECT_TIMEOUT_SECONDS
    """Seconds."""
    read_timeout: Seconds = READ_TIMEOUT_SECONDS
    """Seconds of silence while the endpoint works."""
    tls: Tls = msgspec.field(default_factory=Tls)
    """For an https address: which certificates are trusted, and which one is shown."""

    def __post_init__(self) -> None:
        """Refuse what no single setting shows to be wrong. Raises ValueError, which shows no secret."""
        parts = urlsplit(self.url.reveal())
        if parts.scheme not in _SCHEMES or not parts.hostname or parts.port == 0 or parts.username is not None or parts.fragment:
            message = "`url` must be an http:// or https:// address without a name, a password or a # in it"
            raise ValueError(message)
        if bool(self.template) != (self.body == "template"):
            message = "`template` goes with `body: template`, and that with a `template`"
            raise ValueError(message)
        templates = compiled(self)
        if templates.body is not None and self.template_format == "json":
            try:
                json.loads(templates.body.render(SAMPLE))
            except ValueError as error:
                message = f"`template` does not give JSON ({error}): write ${{json:…}} for what is not in quotes"
                raise ValueError(message) from error

    @property
    def single(self) -> bool:
        """Whether a request holds one event."""
        return self.body in {"event", "template"}


class Templates(NamedTuple):
    """The templates of a webhook, checked."""

    body: Template | None
    headers: dict[str, Template]


def compiled(config: WebhookConfig) -> Templates:
    """The templates of this configuration. Raises ValueError for a wrong placeholder or header."""
    scopes = frozenset({"batch", "event"} if config.single else {"batch"})
    headers: dict[str, Template] = {}
    for name, value in config.headers.items():
        if not name or not set(name) <= _TOKEN_CHARACTERS or name.lower() in _RESERVED:
            message = f"`headers` can't set '{name}': it is no header's name, or one that is set here"
            raise ValueError(message)
        try:
            headers[name] = Template(value.reveal(), scopes=scopes, escape="header")
        except ValueError as error:
            message = f"`headers`, '{name}': {error}"
            raise ValueError(message) from error
        if not all(" " <= character <= "~" for character in value.reveal()):
            message = f"`headers`, '{name}': a header's value is one line of ASCII"
            raise ValueError(message)
    body = Template(config.template, scopes=scopes, escape=config.template_format) if config.template else None
    return Templates(body, headers)


class _Request(NamedTuple):
    places: Sequence[int]
    """The places in the batch of the events that it holds."""
    body: bytes
    headers: dict[str, str]


class WebhookSink:
    """One endpoint; a request that it refuses for good is halved until the culprits stand alone."""

    Config: ClassVar[type[msgspec.Struct]] = WebhookConfig
    limits: ClassVar[SinkLimits] = SinkLimits(MAX_BATCH_EVENTS, MAX_BATCH_BYTES)

    def __init__(self, name: str, config: WebhookConfig, *, clock: Callable[[], float] = time.time) -> None:
        self.name = name
        self._config = config
        self._clock = clock
        parts = urlsplit(config.url.reveal())
        origin = URL(f"{parts.scheme}://{parts.netloc}")
        self._host, self._port, self._netloc = origin.raw_host or "", origin.port or 0, origin.host_port_subcomponent or ""
        self._shown = f"{parts.scheme}://{self._netloc}"
        self._scheme = parts.scheme
        self._rest = Secret(config.url.reveal().partition("://")[2].removeprefix(parts.netloc))
        self._templates = compiled(config)
        self._client: HttpClient | None = None

    async def open(self) -> None:
        """Make the HTTP client; nothing is sent. Raises Unavailable when a file of the `tls` block can't be used."""
        if self._client is None:
            config = self._config
            self._client = HttpClient(
                url=self._shown,
                tls=config.tls,
                secrets=list(_secrets(config)),
                connect_timeout=config.connect_timeout,
                read_timeout=config.read_timeout,
                connections=config.parallel,
            )

    async def deliver(self, batch: SinkBatch) -> DeliveryReport:
        """Send the events in as many requests as that takes, in order, `parallel` at once."""
        if batch.count == 0:
            return DeliveryReport(0)
        addresses = await self._addresses()
        size = 1 if self._config.single else self._config.max_events
        parts = [range(first, min(first + size, batch.count)) for first in range(0, batch.count, size)]
        refused: list[Refused] = []
        settled = 0
        for first in range(0, len(parts), self._config.parallel):
            group = parts[first : first + self._config.parallel]
            results = await asyncio.gather(*(self._send(batch, part, addresses) for part in group), return_exceptions=True)
            retry: list[int] = []
            trouble: SinkError | None = None
            for part, result in zip(group, results, strict=True):
                if isinstance(result, SinkError):
                    trouble = trouble or result
                    retry += part
                elif isinstance(result, BaseException):
                    raise result
                else:
                    refused += result
                    settled += len(part)
            if trouble is not None:
                if not settled:
                    raise trouble
                retry += (place for part in parts[first + len(group) :] for place in part)
                return DeliveryReport(settled - len(refused), refused, retry, trouble.retry_after, str(trouble))
        return DeliveryReport(batch.count - len(refused), refused)

    async def check(self) -> Health:
        """Ask for the endpoint's head: its name, its certificate and, where it looks at that, our credential are proved."""
        started = time.perf_counter()
        try:
            headers = {name: template.text for name, template in self._templates.headers.items() if template.fixed}
            answer = await self._request("HEAD", b"", headers, await self._addresses())
            if answer.status in {401, 403, 407} or answer.status >= 500:
                raise self._failure(answer)
        except SinkError as error:
            return Health(False, str(error))
        return Health(True, f"{self._shown} answers", (time.perf_counter() - started) * 1000)

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            client, self._client = self._client, None
            await client.close()

    async def _send(self, batch: SinkBatch, places: Sequence[int], addresses: Sequence[str]) -> list[Refused]:
        """Send these events until each is taken or refused; gives the refused ones. Raises SinkError."""
        try:
            request = self._build(batch, places)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            return [Refused(place, event_id_of(batch.lines[place]), f"not an event: {error}") for place in places]
        answer = await self._request(self._config.method, request.body, request.headers, addresses)
        if answer.status in self._config.success or (answer.ok and not self._config.success):
            return []
        if not 400 <= answer.status < 500 or answer.status in _TRY_AGAIN:
            raise self._failure(answer)
        if len(places) == 1:
            reason = f"{answer.phrase}: {answer.shown()}".removesuffix(": ")
            return [Refused(places[0], event_id_of(batch.lines[places[0]]), reason)]
        middle = len(places) // 2
        first = await self._send(batch, places[:middle], addresses)
        return [*first, *await self._send(batch, places[middle:], addresses)]

    def _build(self, batch: SinkBatch, places: Sequence[int]) -> _Request:
        lines = [batch.lines[place] for place in places]
        ends = (event_id_of(lines[0]), event_id_of(lines[-1]))
        window = f"{batch.spool_id} {batch.seqs[places[0]]} {batch.seqs[places[-1]]} "
        key = ends[0] if self._config.single and ends[0] else _digest(window, lines)
        values: dict[str, Any] = {"batch": {"count": len(lines), "id": key, "first_event_id": ends[0], "last_event_id": ends[1]}}
        if self._config.single and (self._templates.body or not all(t.fixed for t in self._templates.headers.values())):
            values["event"] = msgspec.json.decode(lines[0])
        headers = {KEY_HEADER: key, "Content-Type": self._content_type()}
        for name, template in self._templates.headers.items():
            if name.lower() == "content-type":
                del headers["Content-Type"]
            headers[name] = template.render(values)
        return _Request(places, self._body(lines, values), headers)

    def _content_type(self) -> str:
        if self._config.body == "template":
            return "application/json" if self._config.template_format == "json" else "text/plain; charset=utf-8"
        return _CONTENT_TYPES[self._config.body]

    def _body(self, lines: Sequence[bytes], values: dict[str, Any]) -> bytes:
        match self._config.body:
            case "ndjson":
                return b"\n".join(lines) + b"\n"
            case "array":
                return b"[%b]" % b",".join(lines)
            case "event":
                return lines[0]
            case _:
                assert self._templates.body is not None  # noqa: S101 - `__post_init__` sees to it
                return self._templates.body.render(values).encode()

    async def _addresses(self) -> list[str]:
        return await resolve(
            self._host,
            self._port,
            allow_private=self._config.allow_private,
            timeout=self._config.connect_timeout,
            shown=self._shown,
        )

    async def _request(self, method: str, body: bytes, headers: dict[str, str], addresses: Sequence[str]) -> Answer:
        """One request, to the first address that a connection can be made to."""
        if self._client is None:
            raise Unavailable(f"backend '{self.name}' is not open")
        headers = {**headers, "Host": self._netloc}
        if body and self._config.compression == "gzip":
            body = gzip.compress(body, 1, mtime=0)
            headers["Content-Encoding"] = "gzip"
        if self._config.secret:
            moment = str(int(self._clock()))
            headers[TIMESTAMP_HEADER] = moment
            headers[SIGNATURE_HEADER] = signature(self._config.secret, moment, body)
        name = None if is_address(self._host) else self._host
        for number, address in enumerate(addresses):
            host = f"[{address}]" if ":" in address else address
            url = f"{self._scheme}://{host}:{self._port}{self._rest.reveal()}"
            try:
                return await self._client.request(
                    method, url, content=body or None, headers=headers, server_name=name, shown_url=self._shown
                )
            except NotConnected:
                if number == len(addresses) - 1:
                    raise
        raise Unavailable(f"{self._shown} has no address")

    def _failure(self, answer: Answer) -> SinkError:
        status = answer.status
        match status:
            case 401 | 407:
                advice = "the credential is missing, wrong or revoked: set `headers` or `secret` anew"
            case 403:
                advice = "it does not let us in: check `headers` and `secret`, and what they may do there"
            case 404 | 410:
                advice = "there is no such endpoint any more: set `url` anew"
            case 405 | 415:
                advice = "it takes another method or another type of body: change `method`, `body` or `headers`"
            case 429:
                return Throttled(f"{self._shown} asks to wait ({answer.phrase})", answer.retry_after)
            case _ if 300 <= status < 400:
                advice = "it sends us elsewhere, which is not followed: set `url` to where it is now"
            case _ if status < 300:
                advice = "that status is not among `success`"
            case _:
                advice = answer.shown() or "see the endpoint's log"
        return Unavailable(f"{self._shown} answered {answer.phrase}: {advice}", answer.retry_after)


def signature(secret: Secret, timestamp: str, body: bytes) -> str:
    """The value of the header X-TrackMate-Signature for a body that is sent at `timestamp` (seconds since 1970, as text)."""
    return "v1=" + hmac.new(secret.reveal().encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


def _digest(window: str, lines: Sequence[bytes]) -> str:
    digest = hashlib.sha256(window.encode())
    digest.update(b"\n".join(lines))
    digest.update(b"\n")
    return digest.hexdigest()[:32]


def _secrets(config: WebhookConfig) -> Iterator[Secret]:
    """What an answer that is shown must not repeat."""
    yield config.secret
    parts = urlsplit(config.url.reveal())
    values = [value.reveal() for name, value in config.headers.items() if any(word in name.lower() for word in _SECRET_WORDS)]
    for text in (parts.path, parts.query, *values, *(value.split()[-1] for value in values if value.split())):
        if len(text) >= _SHORTEST_SECRET:
            yield Secret(text)
