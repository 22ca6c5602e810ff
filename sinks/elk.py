"""Writes events to Elasticsearch: each is a document whose id is its `event_id`, made with `op_type=create`.

A document that is there already (409) counts as delivered, so a batch delivered twice leaves one copy of each event. With a
date in the index's name the date is the event's own, so the copy would be in the same index.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Annotated, Any, ClassVar, Final, NamedTuple

import msgspec
from elastic_transport import TransportError
from elasticsearch import ApiError, AsyncElasticsearch, UnsupportedProductError
from msgspec import Meta

from contract.limits import MAX_BATCH_EVENTS, MAX_BODY_BYTES
from contract.settings import Secret
from sinks.base import DeliveryReport, Health, SinkBatch, SinkError, SinkLimits, Throttled, Unavailable, describe, event_id_of
from sinks.elk_index import TEMPLATE_VERSION, IndexName, index_template
from sinks.elk_results import Fate, Outcome, judge, reason_of
from sinks.elk_transport import SharedClientNode, node_config
from sinks.http_answers import phrase, retry_after_seconds
from sinks.http_client import CONNECT_TIMEOUT_SECONDS, READ_TIMEOUT_SECONDS, HttpClient, Seconds, basic_auth
from sinks.tls import Tls
from sinks.urls import HTTP_URL_IN_WORDS, HttpUrl

DEFAULT_REQUEST_BYTES: Final = 5 * 1024 * 1024
"""Elasticsearch guide, "Tune for indexing speed": beyond a couple tens of megabytes a request costs memory and gains nothing."""

MAX_REQUEST_BYTES: Final = 100_000_000
"""Elasticsearch guide, "Networking", http.max_content_length: 100mb by default; a node that takes less answers 413."""

CONCURRENT_REQUESTS: Final = 4
SHARD_WAIT: Final = "10s"
"""How long a node waits for a shard that is not there yet, before it says so; shorter than our own patience."""

_READABLE_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|[+-]\d\d:\d\d)")
"""The spellings of RFC 3339 that Elasticsearch reads; it refuses a small t or z, which the contract allows."""

_LIFT: Final = "set that to null (PUT /<index>/_settings)"
_BLOCKS: Final = {
    "index.blocks.write": _LIFT,
    "index.blocks.read_only": _LIFT,
    "index.blocks.read_only_allow_delete": f"make room on its disk, or {_LIFT}",
    "index.verified_before_close": "it is closed: open it (POST /<index>/_open)",
}
_OTHER_SERVER: Final = "does `url` name the cluster, or something in front of it that is in trouble?"
_RESULTS: Final = "errors,items.*.status,items.*.error"


class ElkConfig(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The `config` block of an `elk` backend."""

    # Not HttpUrl for the lone address: msgspec 0.22 frees a union of a constrained text and a list twice, and the process ends.
    url: str | Annotated[list[HttpUrl], Meta(min_length=1)]
    """The address of the cluster, such as https://elasticsearch:9200, or a list with one for each node."""
    index: str = "monitoring"
    """The index, or a pattern such as `monitoring-%Y.%m` (%Y %m %d %H %G %V), which takes the event's date in UTC."""
    username: str = ""
    """With `password`; neither when the cluster asks for no credential."""
    password: Secret = Secret("")
    """Of `username`."""
    api_key: Secret = Secret("")
    """An API key in its encoded form, in place of `username` and `password`."""
    manage_template: bool = True
    """Whether the index template is installed from here; without it, somebody else has to."""
    request_bytes: Annotated[int, Meta(ge=1024, le=MAX_REQUEST_BYTES)] = DEFAULT_REQUEST_BYTES
    """A larger batch goes in several requests."""
    connect_timeout: Seconds = CONNECT_TIMEOUT_SECONDS
    """Seconds."""
    read_timeout: Seconds = READ_TIMEOUT_SECONDS
    """Seconds of silence while the cluster works."""
    tls: Tls = msgspec.field(default_factory=Tls)
    """For an https address: which certificates are trusted, and which one is shown."""

    def __post_init__(self) -> None:
        """Refuse what no single setting shows to be wrong. Raises ValueError."""
        IndexName(self.index)
        if isinstance(self.url, str):
            try:
                msgspec.convert(self.url, HttpUrl)
            except msgspec.ValidationError as error:
                message = f"`url`: expected {HTTP_URL_IN_WORDS}"
                raise ValueError(message) from error
        if self.api_key and self.username:
            message = "set either `api_key` or `username` and `password`, not both"
            raise ValueError(message)

    @property
    def urls(self) -> list[str]:
        """Every address."""
        return [self.url] if isinstance(self.url, str) else self.url

    @property
    def authorization(self) -> str | None:
        """The value of the `Authorization` header."""
        if self.api_key:
            return f"ApiKey {self.api_key.reveal()}"
        return basic_auth(self.username, self.password) if self.username else None


class _Identity(msgspec.Struct):
    event_id: str
    timestamp: str


class _Privileges(msgspec.Struct):
    has_all_requested: bool
    cluster: dict[str, bool] = {}
    index: dict[str, dict[str, bool]] = {}


class _Document(NamedTuple):
    place: int
    """Its place in the batch."""
    event_id: str
    text: bytes
    """The two lines that the bulk API takes."""


_IDENTITY: Final = msgspec.json.Decoder(_Identity)
_FIELDS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_encode: Final = msgspec.json.Encoder().encode


class ElkSink:
    """One index, or one family of indices by date, of an Elasticsearch 8 cluster."""

    Config: ClassVar[type[msgspec.Struct]] = ElkConfig
    limits: ClassVar[SinkLimits] = SinkLimits(MAX_BATCH_EVENTS, MAX_BODY_BYTES, CONCURRENT_REQUESTS)

    def __init__(self, name: str, config: ElkConfig) -> None:
        self.name = name
        self._config = config
        self._index = IndexName(config.index)
        self._shown = f"Elasticsearch at {', '.join(config.urls)}"
        self._http: HttpClient | None = None
        self._client: AsyncElasticsearch | None = None
        self._prepared = False

    async def open(self) -> None:
        """Make the client; nothing is sent. Raises Unavailable when a file of the `tls` block can't be used."""
        if self._client is not None:
            return
        config = self._config
        authorization = config.authorization
        self._http = HttpClient(
            url=next((url for url in config.urls if url.startswith("https")), config.urls[0]),
            tls=config.tls,
            headers={"Authorization": authorization} if authorization else {},
            secrets=[config.password, config.api_key],
            connect_timeout=config.connect_timeout,
            read_timeout=config.read_timeout,
            connections=CONCURRENT_REQUESTS,
        )
        self._client = AsyncElasticsearch(
            [node_config(url, self._http) for url in config.urls],
            node_class=SharedClientNode,
            max_retries=len(config.urls) - 1,
            meta_header=False,
        )

    async def deliver(self, batch: SinkBatch) -> DeliveryReport:
        """Make a document of each event; a request that is too large for the cluster is halved.

        Before the first one the index template is installed, if that is this sink's business.
        """
        if batch.count == 0:
            return DeliveryReport(0)
        await self._prepare()
        outcome = Outcome()
        requests = list(self._requests(batch, outcome))
        for number, documents in enumerate(requests):
            try:
                await self._send(documents, outcome)
            except SinkError as error:
                if number == 0 and not outcome.settled:
                    raise
                outcome.postpone((document.place for left in requests[number:] for document in left), error)
                break
        return outcome.report(self._shown)

    async def check(self) -> Health:
        """Ask who we are, what we may do, and whether the index is blocked; no document and no index is made."""
        started = time.perf_counter()
        try:
            missing = await self._missing_privileges()
            if missing:
                return Health(False, f"{self._shown} refuses this user or API key: it lacks {', '.join(missing)}")
            block = await self._block()
            if block:
                return Health(False, block)
        except SinkError as error:
            return Health(False, str(error))
        return Health(True, f"{self._shown} answers", (time.perf_counter() - started) * 1000)

    async def close(self) -> None:
        """Close the connections."""
        client, http = self._client, self._http
        self._client = self._http = None
        self._prepared = False
        if client is not None:
            await client.close()
        if http is not None:
            await http.close()

    def _requests(self, batch: SinkBatch, outcome: Outcome) -> Iterator[list[_Document]]:
        """The batch's documents, cut so that each request keeps to `request_bytes`; what can't be read is refused at once."""
        documents: list[_Document] = []
        size = 0
        for place, line in enumerate(batch.lines):
            try:
                document = self._document(place, line)
            except (msgspec.MsgspecError, UnicodeDecodeError, ValueError) as error:
                outcome.add(place, event_id_of(line), Fate.REFUSED, f"not an event with an id and a timestamp: {describe(error)}")
                continue
            if documents and size + len(document.text) > self._config.request_bytes:
                yield documents
                documents, size = [], 0
            documents.append(document)
            size += len(document.text)
        if documents:
            yield documents

    def _document(self, place: int, line: bytes) -> _Document:
        identity = _IDENTITY.decode(line)
        action = {"_id": identity.event_id}
        if self._index.dated:
            action["_index"] = self._index.on(_moment(identity.timestamp))
        if not _READABLE_TIME.fullmatch(identity.timestamp):
            fields = _FIELDS.decode(line)
            fields["timestamp"] = msgspec.Raw(_encode(_moment(identity.timestamp)))
            line = _encode(fields)
        return _Document(place, identity.event_id, b"%b\n%b\n" % (_encode({"create": action}), line))

    async def _send(self, documents: Sequence[_Document], outcome: Outcome) -> None:
        """One request, or several when it is too large. Raises SinkError when nothing is known of any document's fate."""
        try:
            answer = await self._bulk(b"".join(document.text for document in documents))
        except _TooLarge as error:
            if len(documents) == 1:
                outcome.add(documents[0].place, documents[0].event_id, Fate.REFUSED, error.reason)
                return
            middle = len(documents) // 2
            await self._send(documents[:middle], outcome)
            try:
                await self._send(documents[middle:], outcome)
            except SinkError as later:
                outcome.postpone((document.place for document in documents[middle:]), later)
            return
        results = answer.get("items")
        if not isinstance(results, list) or len(results) != len(documents):
            raise Unavailable(f"{self._shown} does not answer for each of {len(documents)} documents: is it Elasticsearch?")
        for document, result in zip(documents, results, strict=True):
            fate, why = judge(result.get("create") or {})
            outcome.add(document.place, document.event_id, fate, why)

    async def _bulk(self, body: bytes) -> dict[str, Any]:
        client = self._open_client()
        index = None if self._index.dated else self._index.pattern
        try:
            answer = await client.bulk(operations=body, index=index, filter_path=_RESULTS, timeout=SHARD_WAIT)  # type: ignore[arg-type]
        except ApiError as error:
            told = _told(error)
            if error.status_code == 413 or (error.status_code == 400 and told is not None):
                raise _TooLarge(f"{phrase(error.status_code)}: {told or 'the event alone is too large'}") from error
            raise self._failure(error) from error
        except TransportError as error:
            raise self._lost(error) from error
        return dict(answer) if isinstance(answer.body, dict) else {}

    async def _prepare(self) -> None:
        """Install the index template, unless this version of it or a later one is there."""
        if self._prepared or not self._config.manage_template:
            return
        client = self._open_client()
        name = self._index.template
        try:
            found = await client.options(ignore_status=404).indices.get_index_template(name=name)
            if _version(found.body) < TEMPLATE_VERSION:
                await client.indices.put_index_template(name=name, **_keywords(index_template(self._index)))
        except ApiError as error:
            raise self._failure(error, f"when asked to install the index template '{name}'") from error
        except TransportError as error:
            raise self._lost(error) from error
        self._prepared = True

    async def _missing_privileges(self) -> list[str]:
        """What the credential may not do and must; nothing where security is off. Raises SinkError."""
        client = self._open_client()
        wanted = {"names": [self._index.wildcard], "privileges": ["create_doc", "auto_configure"]}
        cluster = ["manage_index_templates"] if self._config.manage_template else []
        try:
            answer = await client.security.has_privileges(cluster=cluster, index=[wanted])
        except ApiError as error:
            if error.status_code in {400, 405, 500} and _says_security_is_off(error):
                return []
            raise self._failure(error) from error
        except TransportError as error:
            raise self._lost(error) from error
        try:
            held = msgspec.convert(answer.body, _Privileges)
        except msgspec.ValidationError as error:
            raise Unavailable(f"{self._shown} does not say what we may do there: {_OTHER_SERVER}") from error
        may = {**held.cluster, **held.index.get(self._index.wildcard, {})}
        return [privilege for privilege, has in may.items() if not has]

    async def _block(self) -> str | None:
        """What blocks writing to an index that is there, as far as this credential may know it."""
        client = self._open_client()
        try:
            answer = await client.options(ignore_status=(403, 404)).indices.get_settings(
                index=self._index.wildcard, name="index.blocks.*,index.verified_before_close", flat_settings=True
            )
        except ApiError as error:
            raise self._failure(error) from error
        except TransportError as error:
            raise self._lost(error) from error
        if not 200 <= answer.meta.status < 300 or not isinstance(answer.body, dict):
            return None
        for index, held in answer.body.items():
            blocks = [name for name, value in held.get("settings", {}).items() if value == "true" and name in _BLOCKS]
            if blocks:
                advice = "; ".join(_BLOCKS[name] for name in blocks)
                return f"{self._shown} takes no event: index '{index}' has {', '.join(blocks)}: {advice}"
        return None

    def _open_client(self) -> AsyncElasticsearch:
        if self._client is None:
            raise Unavailable(f"backend '{self.name}' is not open")
        return self._client

    def _failure(self, error: ApiError, what: str | None = None) -> SinkError:
        """What an answer that is no success means for everything that was asked."""
        if isinstance(error, UnsupportedProductError):
            return Unavailable(f"{self._shown} is something else than Elasticsearch: {_OTHER_SERVER}")
        status = error.status_code
        told = _told(error)
        wait = retry_after_seconds(error.meta.headers.get("Retry-After"))
        start = f"{self._shown} answered {phrase(status)}{f' {what}' if what else ''}"
        match status:
            case 401:
                advice = "the credential is missing, wrong, expired or revoked: set `username` and `password`, or `api_key`, anew"
            case 403:
                advice = (
                    f"{told or 'forbidden'}: give this user or API key create_doc and auto_configure on "
                    f"'{self._index.wildcard}', and manage_index_templates unless manage_template is false"
                )
            case 429:
                return Throttled(f"{start}, asking to wait: {told or ''}".rstrip(": "), wait)
            case 404 | 405:
                advice = f"{told or 'no such place'}: does `url` name a cluster?"
            case _:
                advice = told or "see the cluster's log"
        return Unavailable(f"{start}: {advice}", wait)

    def _lost(self, error: TransportError) -> Unavailable:
        """What an answer that never came, or that can't be read, means."""
        if isinstance(error.__cause__, Unavailable):
            return error.__cause__
        return Unavailable(f"{self._shown} answers with something that can't be read ({describe(error)}): {_OTHER_SERVER}")


class _TooLarge(Exception):
    """A request that the cluster can't take as a whole."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


def _moment(timestamp: str) -> datetime:
    return msgspec.convert(timestamp, datetime)


def _version(found: Any) -> int:
    """The version of the template in an answer to `GET _index_template`; 0 when there is none, or it has none."""
    templates = found.get("index_templates") if isinstance(found, dict) else None
    return int(templates[0]["index_template"].get("version") or 0) if templates else 0


def _told(error: ApiError) -> str | None:
    """What the cluster itself says; None when the answer is not one of Elasticsearch's."""
    body = error.body
    told = body.get("error") if isinstance(body, dict) else None
    return reason_of(told) if isinstance(told, dict) else None


def _says_security_is_off(error: ApiError) -> bool:
    text = str(error.body).lower()
    return "security" in text or "no handler found" in text or "incorrect http method" in text


def _keywords(body: dict[str, Any]) -> dict[str, Any]:
    """A body as the client's keyword arguments spell it."""
    return {("meta" if name == "_meta" else name): value for name, value in body.items()}
