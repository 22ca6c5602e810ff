"""Writes events to Grafana Loki (`POST /loki/api/v1/push`): few labels, the event's own JSON as the line.

Loki shows one of two entries of a stream with the same nanosecond and the same line. Labels, nanosecond and line come from the
event alone, so a batch delivered twice leaves one copy. What Loki refuses it names in words only, so the culprits of a request
are found by cutting it; what was fine stays where it is.
"""

from __future__ import annotations

import gzip
import re
import time
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from itertools import chain
from typing import Annotated, ClassVar, Final, Literal

import msgspec
from msgspec import Meta

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
    describe,
    event_id_of,
)
from sinks.http_answers import Answer
from sinks.http_client import CONNECT_TIMEOUT_SECONDS, READ_TIMEOUT_SECONDS, HttpClient, Seconds, basic_auth
from sinks.loki_entries import LABEL_FIELDS, METADATA_FIELDS, Entry, Layout, by_stream, push_body
from sinks.tls import Tls
from sinks.urls import HttpUrl

PUSH_PATH: Final = "/loki/api/v1/push"

MAX_LINE_BYTES: Final = 256 * 1024
"""Loki reference, "Limits", limits_config.max_line_size: 256KB; just what an event may have."""

MAX_BATCH_BYTES: Final = 1024 * 1024
"""Loki reference, "Limits", ingestion_burst_size_mb: 6, and "Server", grpc_server_max_recv_msg_size: 4 MiB, beyond which Loki
answers 500; 1 MiB is what Loki's own agent sends at once."""

MAX_BATCH_ENTRIES: Final = 1000
"""Our own choice: cutting what Loki refuses in part must end well within one delivery's time."""

MAX_LABELS: Final = 14
"""Loki reference, "Limits", max_label_names_per_series: 15, of which Loki adds service_name itself."""

WINDOW_NANOSECONDS: Final = 3600 * 10**9
"""Loki reference, "Accept out-of-order writes": half of ingester.max_chunk_age, which is 2h. A request spans no more, so that its
newest entry does not shut its oldest out."""

_LABEL_NAME: Final = re.compile("[a-zA-Z_][a-zA-Z0-9_]*")
_COUNTED: Final = re.compile(r"(?:^|; )(\d+) errors like: ")
_IGNORED: Final = re.compile(r"total ignored: (\d+) out of (\d+) for stream")
_REASON: Final = re.compile(r"ignored, reason: '(.*?)',?$", re.MULTILINE)
_OURS: Final = ("label", "structured metadata, but", "at least one", "couldn't parse")
"""Words of complaints that are about the configuration here or there, not about an event."""

_LATE: Final = ("too far behind", "out of order")
_REASON_SHOWN: Final = 500

DEFAULT_LABELS: Final = {"app": "app_name", "site": "site_id", "kind": "kind", "severity": "severity"}


class LokiConfig(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The `config` block of a `loki` backend."""

    url: HttpUrl
    """Loki's address, such as http://loki:3100; the path of the push API is added."""
    tenant: str = ""
    """The header X-Scope-OrgID, for a Loki with several tenants."""
    username: str = ""
    """For basic authentication, with `password`."""
    password: Secret = Secret("")
    """Of `username`."""
    token: Secret = Secret("")
    """A bearer token, in place of `username` and `password`."""
    labels: dict[str, str] = msgspec.field(default_factory=lambda: dict(DEFAULT_LABELS))
    """Labels of the streams and the columns of the event that they are taken from; few values each, or Loki gets slow."""
    static_labels: dict[str, str] = {}
    """Labels with the same value on every event."""
    hour_label: str = ""
    """A label with the event's hour (UTC), such as `hour`: makes more streams, and lets late events in that Loki refuses else."""
    structured_metadata: list[str] = msgspec.field(default_factory=lambda: ["event_id", "run_id", "trace_id"])
    """Columns that are kept beside the line, where a query finds them without reading it; empty for a Loki before 3.0."""
    max_line_bytes: Annotated[int, Meta(ge=1024)] = MAX_LINE_BYTES
    """An event with more is refused here, as Loki would; only where the site has set max_line_size to less."""
    compression: Literal["gzip", "none"] = "gzip"
    """How requests are compressed."""
    connect_timeout: Seconds = CONNECT_TIMEOUT_SECONDS
    """Seconds."""
    read_timeout: Seconds = READ_TIMEOUT_SECONDS
    """Seconds of silence while Loki works."""
    tls: Tls = msgspec.field(default_factory=Tls)
    """For an https address: which certificates are trusted, and which one is shown."""

    def __post_init__(self) -> None:
        """Refuse what no single setting shows to be wrong. Raises ValueError."""
        names = [*self.labels, *self.static_labels, *([self.hour_label] if self.hour_label else [])]
        problem = None
        if wrong := [name for name in names if not _LABEL_NAME.fullmatch(name)]:
            problem = f"label names are letters, digits and _, not '{wrong[0]}'"
        elif len(set(names)) != len(names):
            problem = "`labels`, `static_labels` and `hour_label` have a name in common"
        elif not 1 <= len(names) <= MAX_LABELS:
            problem = f"Loki takes 1 to {MAX_LABELS} labels, not {len(names)}"
        elif empty := [name for name, value in self.static_labels.items() if not value]:
            problem = f"`static_labels` has no value for '{empty[0]}'"
        elif unfit := [column for column in self.labels.values() if column not in LABEL_FIELDS]:
            problem = f"`labels` can't be taken from '{unfit[0]}': fit for it are {', '.join(LABEL_FIELDS)}"
        elif unfit := [column for column in self.structured_metadata if column not in METADATA_FIELDS]:
            problem = f"`structured_metadata` can't hold '{unfit[0]}': fit for it are {', '.join(METADATA_FIELDS)}"
        elif self.token and self.username:
            problem = "set either `token` or `username` and `password`, not both"
        if problem:
            raise ValueError(problem)

    @property
    def headers(self) -> dict[str, str]:
        """What every request carries."""
        headers = {"X-Scope-OrgID": self.tenant} if self.tenant else {}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token.reveal()}"
        elif self.username:
            headers["Authorization"] = basic_auth(self.username, self.password)
        return headers


class LokiSink:
    """One tenant of one Loki; one delivery at a time, since a newer entry may shut older ones of its stream out."""

    Config: ClassVar[type[msgspec.Struct]] = LokiConfig
    limits: ClassVar[SinkLimits] = SinkLimits(MAX_BATCH_ENTRIES, MAX_BATCH_BYTES)

    def __init__(self, name: str, config: LokiConfig) -> None:
        self.name = name
        self._config = config
        self._url = config.url.rstrip("/").removesuffix(PUSH_PATH) + PUSH_PATH
        self._layout = Layout(config.labels, config.static_labels, config.structured_metadata, config.hour_label or None)
        self._client: HttpClient | None = None

    async def open(self) -> None:
        """Make the HTTP client; nothing is sent. Raises Unavailable when a file of the `tls` block can't be used."""
        if self._client is None:
            config = self._config
            self._client = HttpClient(
                url=self._url,
                tls=config.tls,
                headers=config.headers,
                secrets=[config.password, config.token],
                connect_timeout=config.connect_timeout,
                read_timeout=config.read_timeout,
            )

    async def deliver(self, batch: SinkBatch) -> DeliveryReport:
        """Push the events, oldest first; what Loki refuses in part is cut until the culprits stand alone."""
        refused: list[Refused] = []
        entries = sorted(self._entries(batch, refused))
        delivered = 0
        while entries:
            request = [entry for entry in entries if entry.nanoseconds < entries[0].nanoseconds + WINDOW_NANOSECONDS]
            try:
                found = await self._push(request)
            except SinkError as error:
                if not delivered and not refused:
                    raise
                left = sorted(entry.place for entry in entries)
                return DeliveryReport(delivered, refused, left, error.retry_after, str(error))
            refused += found
            delivered += len(request) - len(found)
            entries = entries[len(request) :]
        refused.sort(key=lambda item: item.index)
        return DeliveryReport(delivered, refused)

    async def check(self) -> Health:
        """Push nothing: Loki answers that there is nothing in it, once address, route, tenant and credential are right."""
        started = time.perf_counter()
        try:
            answer = await self._post(b'{"streams":[]}')
            if answer.status not in {HTTPStatus.NO_CONTENT, HTTPStatus.UNPROCESSABLE_ENTITY}:
                raise self._failure(answer)
        except SinkError as error:
            return Health(False, str(error))
        return Health(True, f"{self._url} answers", (time.perf_counter() - started) * 1000)

    async def close(self) -> None:
        """Close the connection."""
        if self._client is not None:
            client, self._client = self._client, None
            await client.close()

    def _entries(self, batch: SinkBatch, refused: list[Refused]) -> Iterator[Entry]:
        limit = self._config.max_line_bytes
        for place, line in enumerate(batch.lines):
            if len(line) > limit:
                reason = f"the event has {len(line)} bytes, and a line of Loki at most {limit} (max_line_size there)"
                refused.append(Refused(place, event_id_of(line), reason))
                continue
            try:
                yield self._layout.entry(place, line)
            except (msgspec.MsgspecError, ValueError) as error:
                refused.append(Refused(place, event_id_of(line), f"not an event: {describe(error)}"))

    async def _push(self, entries: Sequence[Entry]) -> list[Refused]:
        """Push until each entry is in or refused; gives the refused ones. Raises SinkError.

        An entry that is sent again with one half of a request meets itself there, and stays one.
        """
        answer = await self._post(push_body(entries))
        if answer.status == HTTPStatus.NO_CONTENT:
            return []
        told = answer.shown(1_000_000)
        too_large = answer.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE or (
            answer.status == HTTPStatus.INTERNAL_SERVER_ERROR and "larger than max" in told
        )
        if not too_large and not _about_entries(answer.status, told):
            raise self._failure(answer)
        if len(entries) == 1 or (not too_large and _all_refused(entries, answer.content.decode("utf-8", "replace"))):
            reason = f"{answer.phrase}: {_reason(told)}"
            return [Refused(entry.place, entry.event_id, reason) for entry in entries]
        first, second = _halves(entries)
        return [*await self._push(first), *await self._push(second)]

    async def _post(self, body: bytes) -> Answer:
        if self._client is None:
            raise Unavailable(f"backend '{self.name}' is not open")
        headers = {"Content-Type": "application/json"}
        if self._config.compression == "gzip":
            headers["Content-Encoding"] = "gzip"
            body = gzip.compress(body, 1)
        return await self._client.request("POST", self._url, content=body, headers=headers)

    def _failure(self, answer: Answer) -> SinkError:
        told = answer.shown()
        match answer.status:
            case 400:
                advice = f"{told}: change `labels`, `static_labels` or `structured_metadata` here, or the limit there"
            case 401:
                advice = f"{told}: the credential is missing, wrong or revoked, or `tenant` is not set"
            case 403:
                advice = f"{told}: this credential may not write for this tenant"
            case 404 | 405:
                advice = "there is no push API: does `url` name Loki?"
            case 429:
                advice = f"{told}{_limit_advice(told)}"
                return Throttled(f"{self._url} asks to wait ({answer.phrase}): {advice}", answer.retry_after)
            case status if 200 <= status < 300:
                advice = "Loki answers a push with 204: does `url` name Loki?"
            case _:
                advice = told or "see Loki's log"
        return Unavailable(f"{self._url} answered {answer.phrase}: {advice}", answer.retry_after)


def _about_entries(status: int, told: str) -> bool:
    """Whether the complaint is about some entries, rather than about every request that we could make."""
    if status != HTTPStatus.BAD_REQUEST or told.lstrip().startswith("<"):
        return False
    return any(word in told for word in _LATE) or not any(word in _without_streams(told) for word in _OURS)


def _without_streams(told: str) -> str:
    """A complaint without the labels that it quotes, which may hold any word."""
    return re.sub(r"'\{.*?\}'|for stream:? \{.*?\}", "", told)


def _all_refused(entries: Sequence[Entry], told: str) -> bool:
    """Whether Loki says that it refused each of them."""
    if sum(int(found) for found in _COUNTED.findall(told)) == len(entries):
        return True
    one_stream = entries[0].stream == entries[-1].stream and len({entry.stream for entry in entries}) == 1
    ignored = _IGNORED.findall(told)
    return one_stream and len(ignored) == 1 and int(ignored[0][0]) == len(entries)


def _halves(entries: Sequence[Entry]) -> tuple[list[Entry], list[Entry]]:
    """Two parts, of different streams where there are several; older entries first."""
    streams = by_stream(entries)
    if len(streams) > 1:
        middle = len(streams) // 2
        return list(chain(*streams[:middle])), list(chain(*streams[middle:]))
    middle = len(entries) // 2
    return streams[0][:middle], streams[0][middle:]


def _reason(told: str) -> str:
    found = _REASON.search(told)
    reason = (found[1] if found else _COUNTED.sub("", told))[:_REASON_SHOWN]
    if any(word in reason for word in _LATE):
        reason += ": set `hour_label` here, or limits_config.shard_streams.time_sharding_enabled in Loki, and replay it"
    return reason


def _limit_advice(told: str) -> str:
    if "active stream limit" in told:
        return ": take labels away here, or raise max_global_streams_per_user there"
    if "er stream rate limit" in told:
        return ": raise per_stream_rate_limit there, or add a label with few values here"
    return ""
