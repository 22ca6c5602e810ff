"""What CloudWatch takes, and events cut into requests that it takes: log records in time order, and metric data."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec

MAX_LOG_EVENTS: Final = 10_000
"""Records in one PutLogEvents (Amazon CloudWatch Logs API Reference, "PutLogEvents", as the five below)."""

MAX_LOG_BYTES: Final = 1_048_576
"""Of one PutLogEvents: the records' UTF-8 bytes, and for each record LOG_EVENT_OVERHEAD."""

LOG_EVENT_OVERHEAD: Final = 26
MAX_LOG_EVENT_BYTES: Final = 1_000_000
"""Of one record ("1 MB"); an event of the contract has a quarter of that."""

MAX_LOG_SPAN_MS: Final = 24 * 60 * 60 * 1000
"""From the first record of a request to its last."""

MAX_AGE: Final = timedelta(days=14)
MAX_AHEAD: Final = timedelta(hours=2)
"""How old and how far in the future a record and a metric datum may be ("PutLogEvents", "PutMetricData")."""

CLOCK_MARGIN: Final = timedelta(minutes=15)
"""How wrong this clock can be when requests signed by it are taken: closer to a bound than this, CloudWatch itself judges."""

MAX_METRIC_DATA: Final = 1_000
"""Metrics in one PutMetricData (Amazon CloudWatch API Reference, "PutMetricData", as the three below)."""

MAX_METRIC_BYTES: Final = 1_000_000
"""Of one PutMetricData's body ("1 MB")."""

MAX_DIMENSIONS: Final = 30
MAX_METRIC_VALUE: Final = 2.0**360
MAX_METRIC_NAME_LENGTH: Final = 255
"""Characters (Amazon CloudWatch API Reference, "MetricDatum")."""

MAX_DIMENSION_NAME_LENGTH: Final = 255
MAX_DIMENSION_VALUE_LENGTH: Final = 1024
"""Characters, ASCII only (Amazon CloudWatch API Reference, "Dimension")."""

_DATUM_BYTES: Final = 160
_DIMENSION_BYTES: Final = 32
"""At least what stands around the texts of a datum and of a dimension, as JSON."""

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")


class _App(msgspec.Struct):
    name: str
    instance_id: str | None = None


class Seen(msgspec.Struct):
    """What CloudWatch must know of an event."""

    event_id: str
    timestamp: datetime
    kind: str
    name: str
    site_id: str
    app: _App
    entities: dict[str, str] = {}
    metrics: dict[str, float] = {}

    @property
    def milliseconds(self) -> int:
        """Its moment in Unix milliseconds, cut down."""
        return int(self.timestamp.timestamp() * 1000)


read: Final = msgspec.json.Decoder(Seen).decode
"""An event's JSON text. Raises msgspec.DecodeError or UnicodeDecodeError."""


@dataclass(frozen=True, slots=True)
class Record:
    """One log record; `index` is the event's place in the batch."""

    index: int
    milliseconds: int
    text: str
    size: int


@dataclass(slots=True)
class MetricRequest:
    """One PutMetricData: events' places in the batch, and the data of each."""

    parts: list[tuple[int, list[dict[str, Any]]]] = field(default_factory=list)
    count: int = 0
    size: int = 0

    @property
    def data(self) -> list[dict[str, Any]]:
        """All data."""
        return [datum for _, data in self.parts for datum in data]

    def fits(self, count: int, size: int) -> bool:
        """Whether so many more data of so many bytes are taken."""
        return self.count + count <= MAX_METRIC_DATA and self.size + size <= MAX_METRIC_BYTES

    def add(self, index: int, data: list[dict[str, Any]], size: int) -> None:
        """Put an event's data in."""
        self.parts.append((index, data))
        self.count += len(data)
        self.size += size


def out_of_time(moment: datetime, now: datetime) -> str | None:
    """Why CloudWatch takes nothing of this moment; None when it does, or when only CloudWatch's own clock can tell."""
    if now - moment > MAX_AGE + CLOCK_MARGIN:
        return f"{moment.isoformat()} is more than {MAX_AGE.days} days ago, which CloudWatch does not take"
    if moment - now > MAX_AHEAD + CLOCK_MARGIN:
        return f"{moment.isoformat()} is more than 2 hours in the future, which CloudWatch does not take"
    return None


def record_of(index: int, milliseconds: int, line: bytes) -> Record:
    """The record of one event: its own JSON text. Raises UnicodeDecodeError."""
    return Record(index, milliseconds, line.decode(), len(line) + LOG_EVENT_OVERHEAD)


def packed_records(records: Iterable[Record]) -> list[list[Record]]:
    """The records in time order, in requests that CloudWatch Logs takes; none of them may be longer than a record can be."""
    requests: list[list[Record]] = []
    size = first = 0
    for record in sorted(records, key=lambda item: item.milliseconds):
        size += record.size
        full = requests and (
            len(requests[-1]) == MAX_LOG_EVENTS or size > MAX_LOG_BYTES or record.milliseconds - first > MAX_LOG_SPAN_MS
        )
        if not requests or full:
            requests.append([])
            size, first = record.size, record.milliseconds
        requests[-1].append(record)
    return requests


def rejected_records(request: Sequence[Record], info: dict[str, Any]) -> dict[int, str]:
    """Why CloudWatch Logs rejected records of a request, by their events' places; `info` is its rejectedLogEventsInfo.

    The ends of what is too old or expired are the first index that is not; the start of what is too new is the first that is.
    """
    rejected: dict[int, str] = {}
    for name, reason in (("tooOldLogEventEndIndex", "too old"), ("expiredLogEventEndIndex", "older than the log group keeps")):
        for record in request[: info.get(name) or 0]:
            rejected[record.index] = f"logs: rejected as {reason}"
    start = info.get("tooNewLogEventStartIndex")
    if start is not None:
        for record in request[start:]:
            rejected[record.index] = "logs: rejected as too new"
    return rejected


def in_ascii(text: str) -> str:
    """A name or value as CloudWatch takes it: what is not printable ASCII as Python escapes, so that two texts stay two."""
    escaped = _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text).encode("ascii", "backslashreplace").decode()
    return escaped if escaped.strip() else escaped.replace(" ", "\\x20")


def dimension_of(event: Seen, name: str) -> str | None:
    """An event's value for a dimension: a field of the event or of its app, else the entity of that name."""
    match name:
        case "site_id":
            return event.site_id
        case "app":
            return event.app.name
        case "instance_id":
            return event.app.instance_id
        case "name":
            return event.name
        case _:
            return event.entities.get(name)


def metric_data(event: Seen, dimensions: Sequence[str], resolution: int) -> list[dict[str, Any]]:
    """One datum for each of the event's metrics. Raises ValueError with the reason when CloudWatch would not take one of them."""
    found = []
    for name in dimensions:
        value = dimension_of(event, name)
        if value is not None:
            text = in_ascii(value)
            if len(text) > MAX_DIMENSION_VALUE_LENGTH:
                message = f"dimension '{name}' has {len(text)} characters in ASCII; CloudWatch takes {MAX_DIMENSION_VALUE_LENGTH}"
                raise ValueError(message)
            found.append({"Name": name, "Value": text})
    data = []
    for key, number in event.metrics.items():
        name = in_ascii(key)
        if len(name) > MAX_METRIC_NAME_LENGTH:
            message = f"the metric's name has {len(name)} characters in ASCII; CloudWatch takes {MAX_METRIC_NAME_LENGTH}"
            raise ValueError(message)
        if abs(number) > MAX_METRIC_VALUE:
            message = f"metric '{name}' is {number!r}; CloudWatch takes values from -2^360 to 2^360"
            raise ValueError(message)
        data.append(
            {
                "MetricName": name,
                "Dimensions": found,
                "Timestamp": event.timestamp,
                "Value": number,
                "StorageResolution": resolution,
            }
        )
    return data


def datum_size(datum: dict[str, Any]) -> int:
    """Bytes of a datum in a request, at most."""
    dimensions = sum(_DIMENSION_BYTES + len(item["Name"]) + len(item["Value"]) for item in datum["Dimensions"])
    return _DATUM_BYTES + len(datum["MetricName"]) + dimensions


def packed_data(events: Iterable[tuple[int, list[dict[str, Any]]]]) -> list[MetricRequest]:
    """The data of events (place in the batch, data) in requests that CloudWatch takes.

    An event's data stay together wherever they fit into one request, so that a failed request leaves no event in part.
    """
    requests: list[MetricRequest] = []
    for index, data in events:
        for piece in _pieces(data):
            size = sum(map(datum_size, piece))
            if not requests or not requests[-1].fits(len(piece), size):
                requests.append(MetricRequest())
            requests[-1].add(index, piece, size)
    return requests


def _pieces(data: list[dict[str, Any]]) -> Iterable[list[dict[str, Any]]]:
    """All data in one piece, or in as many as are needed for each to fit into a request."""
    alone = MetricRequest()
    if alone.fits(len(data), sum(map(datum_size, data))):
        return [data]
    most = min(MAX_METRIC_DATA, MAX_METRIC_BYTES // max(map(datum_size, data)))
    return [data[start : start + most] for start in range(0, len(data), most)]
