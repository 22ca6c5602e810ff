"""Writes events to Amazon CloudWatch: every event as a record of a log stream, and the values of metric events as metrics.

Neither can know a repetition. A record is the event's own JSON text, so queries deduplicate by its `event_id`; a metric datum
that comes twice counts twice (its average, minimum and maximum stay as they are). What makes a repetition is a crash or an
answer that got lost: an event whose record stands while its metrics failed is not logged again as long as this agent runs.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Final, Literal, TypeVar

import msgspec
from msgspec import Meta

from contract.limits import MAX_BATCH_EVENTS
from sinks.aws import AwsClient, AwsConfig, AwsRefusal, Place
from sinks.base import DeliveryReport, Health, Refused, SinkBatch, SinkError, SinkLimits, event_id_of
from sinks.cloudwatch_requests import (
    LOG_EVENT_OVERHEAD,
    MAX_DIMENSION_NAME_LENGTH,
    MAX_DIMENSIONS,
    MAX_LOG_BYTES,
    MAX_LOG_EVENT_BYTES,
    Record,
    Seen,
    metric_data,
    out_of_time,
    packed_data,
    packed_records,
    read,
    record_of,
    rejected_records,
)

BATCH_BYTES: Final = MAX_LOG_BYTES - MAX_BATCH_EVENTS * (LOG_EVENT_OVERHEAD - 1)
"""Of a batch's lines with their line ends: whatever its events, its records make one PutLogEvents."""

_DIMENSION_PATTERN: Final = r"^(?!:)[!-~]([ -~]*[!-~])?$"
_FAULTS_OF_AN_EVENT: Final = frozenset(
    {"InvalidParameterCombination", "InvalidParameterCombinationException", "InvalidParameterException", "InvalidParameterValue",
     "InvalidParameterValueException", "MissingParameter", "MissingRequiredParameterException", "ValidationError",
     "ValidationException"}
)  # fmt: skip
_OF_THE_PLACE: Final = ("logStreamName", "logGroupName", "log stream", "log group", "Namespace")
"""Words in a complaint that is about the set-up, though its code is that of a wrong event."""


class CloudwatchMetrics(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The `metrics` block: the values of metric events."""

    namespace: Annotated[
        str,
        Meta(
            pattern=r"^(?!AWS/)[^:\x00-\x20\x7f-\uffff][ -~]*$",
            max_length=255,
            description="ASCII text that begins neither with AWS/ nor with a colon",
        ),
    ]
    """The namespace that the metrics stand in."""
    dimensions: Annotated[
        list[
            Annotated[
                str,
                Meta(
                    pattern=_DIMENSION_PATTERN,
                    max_length=MAX_DIMENSION_NAME_LENGTH,
                    description="ASCII text that does not begin with a colon",
                ),
            ]
        ],
        Meta(max_length=MAX_DIMENSIONS),
    ] = msgspec.field(default_factory=lambda: ["site_id", "app", "name", "tool"])
    """What tells metrics apart: site_id, app, instance_id, name, or an entity; one that an event lacks is left out."""
    resolution: Literal[1, 60] = 60
    """Seconds: 1 keeps a value for each second, at a higher price."""


class CloudwatchLogs(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The `logs` block: every event as a record."""

    log_group: Annotated[str, Meta(pattern=r"^[._/#A-Za-z0-9-]{1,512}$", description="1 to 512 letters, digits and . _ / # -")]
    """An existing log group."""
    log_stream: Annotated[str, Meta(pattern=r"^[^:*]{0,512}$", description="up to 512 characters without : and *")] = ""
    """A stream of it, made when it is missing; by default this host's name."""


class CloudwatchConfig(AwsConfig, kw_only=True, forbid_unknown_fields=True):
    """The `config` block of a `cloudwatch` backend; at least one of `metrics` and `logs` is needed."""

    metrics: CloudwatchMetrics | None = None
    """Where the values of metric events go; without it nowhere."""
    logs: CloudwatchLogs | None = None
    """Where every event goes as a record; without it nowhere."""

    def __post_init__(self) -> None:
        """Something to write to. Raises ValueError."""
        if self.metrics is None and self.logs is None:
            message = "set `metrics`, `logs` or both: without either there is nothing to write to"
            raise ValueError(message)


@dataclass(slots=True)
class _Outcome:
    """What has become of a batch so far, by places; what stands in neither is done."""

    refused: dict[int, str] = field(default_factory=dict)
    retry: set[int] = field(default_factory=set)
    error: SinkError | None = None

    def refuse(self, index: int, reason: str) -> None:
        """Note a reason; an event may have one of each half."""
        self.refused[index] = f"{self.refused[index]}; {reason}" if index in self.refused else reason

    def fail(self, indexes: Iterable[int], error: SinkError) -> None:
        """Note that these are to be sent again, and why."""
        self.retry.update(indexes)
        self.error = self.error or error


class _LogStream:
    """A stream of a log group."""

    def __init__(self, config: CloudwatchConfig, to: CloudwatchLogs) -> None:
        place = Place(
            f"log group '{to.log_group}'",
            "make it, or set logs.log_group (and `region` or `endpoint_url`) to one that does",
            "logs:CreateLogStream and logs:PutLogEvents",
        )
        self.client = AwsClient("logs", config, place)
        self._where = {
            "logGroupName": to.log_group,
            "logStreamName": to.log_stream or socket.gethostname().replace(":", "-") or "trackmate",
        }

    async def put(self, records: list[Record]) -> dict[int, str]:
        """Send records; the reasons of those that were rejected, by their events' places. Makes a missing stream first."""
        events = [{"timestamp": record.milliseconds, "message": record.text} for record in records]
        try:
            answer = await self._call("put_log_events", logEvents=events)
        except AwsRefusal as error:
            if error.code != "ResourceNotFoundException":
                raise
            await self.make()
            answer = await self._call("put_log_events", logEvents=events)
        return rejected_records(records, answer.get("rejectedLogEventsInfo") or {})

    async def make(self) -> None:
        """Make the stream, unless it is there."""
        try:
            await self._call("create_log_stream")
        except AwsRefusal as error:
            if error.code != "ResourceAlreadyExistsException":
                raise

    async def _call(self, operation: str, **parameters: Any) -> dict[str, Any]:
        return _from_aws(self.client, await self.client.call(operation, **self._where, **parameters))


class _Namespace:
    """A namespace of metrics."""

    def __init__(self, config: CloudwatchConfig, to: CloudwatchMetrics) -> None:
        place = Place(f"namespace '{to.namespace}'", "set metrics.namespace", "cloudwatch:PutMetricData")
        self.client = AwsClient("cloudwatch", config, place)
        self._to = to

    def data(self, event: Seen) -> list[dict[str, Any]]:
        """What is sent of an event. Raises ValueError with the reason when CloudWatch would not take it."""
        return metric_data(event, self._to.dimensions, self._to.resolution)

    async def put(self, data: list[dict[str, Any]]) -> None:
        """Send data, all of which are taken or none."""
        _from_aws(self.client, await self.client.call("put_metric_data", Namespace=self._to.namespace, MetricData=data))


class CloudwatchSink:
    """A log stream, a namespace of metrics, or both."""

    Config: ClassVar[type[msgspec.Struct]] = CloudwatchConfig
    limits: ClassVar[SinkLimits] = SinkLimits(MAX_BATCH_EVENTS, BATCH_BYTES, max_concurrency=4)

    def __init__(self, name: str, config: CloudwatchConfig, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.name = name
        self._now = now
        self._logs = _LogStream(config, config.logs) if config.logs else None
        self._metrics = _Namespace(config, config.metrics) if config.metrics else None
        self._clock_proved = False
        self._logged: set[tuple[str, int]] = set()
        """Log and number of events whose record stands and whose metrics are still to be sent."""

    async def open(self) -> None:
        """Make the clients. Raises Unavailable when a file of the `tls` block or the AWS set-up can't be used."""
        for client in self._clients():
            await client.open()

    async def deliver(self, batch: SinkBatch) -> DeliveryReport:
        """Send the records, then the metrics. Raises SinkError when nothing of the batch was taken."""
        outcome = _Outcome()
        events = await self._timely(self._read(batch, outcome), outcome)
        if self._logs is not None:
            await self._send_records(self._logs, batch, events, outcome)
        if self._metrics is not None:
            await self._send_metrics(self._metrics, batch, events, outcome)
        return self._report(batch, outcome)

    async def check(self) -> Health:
        """Make the stream if it is missing, and send requests without records and without data: no event is written."""
        started = time.perf_counter()
        try:
            await self._check_all()
        except SinkError as error:
            return Health(False, str(error))
        where = " and ".join(client.where for client in self._clients())
        return Health(True, f"{where} can be written", (time.perf_counter() - started) * 1000)

    async def close(self) -> None:
        """Close the connections."""
        self._logged.clear()
        self._clock_proved = False
        for client in self._clients():
            await client.close()

    def _clients(self) -> list[AwsClient]:
        return [half.client for half in (self._logs, self._metrics) if half is not None]

    def _read(self, batch: SinkBatch, outcome: _Outcome) -> dict[int, Seen]:
        """The events by place, without those of which nothing is to be sent."""
        events = {}
        for index, line in enumerate(batch.lines):
            try:
                event = read(line)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                outcome.refuse(index, f"not an event: {error}")
                continue
            if self._logs is not None or _measures(event):
                events[index] = event
        return events

    async def _timely(self, events: dict[int, Seen], outcome: _Outcome) -> dict[int, Seen]:
        """The events that are neither too old nor too new.

        Nothing is refused for its age by a clock that may be wrong: a signed request that is taken proves it. Raises SinkError.
        """
        now = self._now()
        late = {index: reason for index, event in events.items() if (reason := out_of_time(event.timestamp, now))}
        if late and not self._clock_proved:
            await self._check_all()
        for index, reason in late.items():
            outcome.refuse(index, reason)
        return {index: event for index, event in events.items() if index not in late}

    def _report(self, batch: SinkBatch, outcome: _Outcome) -> DeliveryReport:
        """An event of which a half is to be sent again is in no other list, whatever the other half came to."""
        final = [index for index in range(batch.count) if index not in outcome.retry]
        refused = [
            Refused(index, event_id_of(batch.lines[index]), outcome.refused[index]) for index in final if index in outcome.refused
        ]
        self._logged.difference_update((batch.spool_id, batch.seqs[index]) for index in final)
        if outcome.error is None:
            return DeliveryReport(len(final) - len(refused), refused)
        if not final:
            raise outcome.error
        return DeliveryReport(
            len(final) - len(refused), refused, sorted(outcome.retry), outcome.error.retry_after, str(outcome.error)
        )

    async def _send_records(self, stream: _LogStream, batch: SinkBatch, events: dict[int, Seen], outcome: _Outcome) -> None:
        records = []
        for index, event in events.items():
            line = batch.lines[index]
            if len(line) > MAX_LOG_EVENT_BYTES:
                outcome.refuse(index, f"logs: the event has {len(line)} bytes; CloudWatch Logs takes {MAX_LOG_EVENT_BYTES}")
            elif (batch.spool_id, batch.seqs[index]) not in self._logged:
                records.append(record_of(index, event.milliseconds, line))

        async def send(some: list[Record]) -> None:
            for index, reason in (await stream.put(some)).items():
                outcome.refuse(index, reason)
            self._clock_proved = True

        for request in packed_records(records):
            await _send("logs", request, lambda record: record.index, send, outcome)

    async def _send_metrics(self, namespace: _Namespace, batch: SinkBatch, events: dict[int, Seen], outcome: _Outcome) -> None:
        prepared: list[tuple[int, list[dict[str, Any]]]] = []
        unlogged = set(outcome.refused)
        for index, event in events.items():
            if _measures(event) and index not in outcome.retry:
                try:
                    prepared.append((index, namespace.data(event)))
                except ValueError as error:
                    outcome.refuse(index, f"metrics: {error}")

        async def send(parts: list[tuple[int, list[dict[str, Any]]]]) -> None:
            await namespace.put([datum for _, data in parts for datum in data])
            self._clock_proved = True

        for request in packed_data(prepared):
            await _send("metrics", request.parts, lambda part: part[0], send, outcome)
        if self._logs is not None:
            self._logged.update(
                (batch.spool_id, batch.seqs[index]) for index, _ in prepared if index in outcome.retry and index not in unlogged
            )

    async def _check_all(self) -> None:
        if self._logs is not None:
            await self._logs.make()
            await _ask_empty(self._logs.put([]))
        if self._metrics is not None:
            await _ask_empty(self._metrics.put([]))
        self._clock_proved = True


def _measures(event: Seen) -> bool:
    return event.kind == "metric" and bool(event.metrics)


T = TypeVar("T")


async def _send(
    half: str, items: list[T], index_of: Callable[[T], int], send: Callable[[list[T]], Awaitable[None]], outcome: _Outcome
) -> None:
    """One request; one that is refused for an item in it is halved until the culprit stands alone.

    Once something has failed nothing more is sent, and all of it is to be sent again.
    """
    indexes = [index_of(item) for item in items]
    if outcome.error is not None:
        outcome.retry.update(indexes)
        return
    try:
        await send(items)
    except AwsRefusal as error:
        if not _fault_of_an_event(error):
            outcome.fail(indexes, error)
        elif len(items) == 1:
            outcome.refuse(indexes[0], f"{half}: {error.code}: {error.text}")
        else:
            middle = len(items) // 2
            await _send(half, items[:middle], index_of, send, outcome)
            await _send(half, items[middle:], index_of, send, outcome)
    except SinkError as error:
        outcome.fail(indexes, error)


async def _ask_empty(request: Awaitable[Any]) -> None:
    """Send a request that holds nothing: taken, or refused for its emptiness, it proves address, key and permission."""
    try:
        await request
    except AwsRefusal as error:
        if not _fault_of_an_event(error):
            raise


def _fault_of_an_event(error: AwsRefusal) -> bool:
    """Whether a request was refused for what is in it, and would be taken without it."""
    return error.code in _FAULTS_OF_AN_EVENT and not any(words in error.text for words in _OF_THE_PLACE)


def _from_aws(client: AwsClient, answer: dict[str, Any]) -> dict[str, Any]:
    """The answer, when it comes from AWS: empty answers look alike whoever gives them. Raises Unavailable."""
    if not answer.get("ResponseMetadata", {}).get("RequestId"):
        raise client.not_aws("it answers without a request id")
    return answer
