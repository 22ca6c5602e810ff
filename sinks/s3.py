"""Writes events as objects to Amazon S3 and compatible stores: JSON Lines or Parquet in `date=…/hour=…` folders.

A batch delivered twice stands once, also when a crash has had the log cut anew at other places: what an object holds is in its
name (see `sinks.s3_objects`), so the first time that an hour is met its names are listed, and only what is in none of them is
written. The list is kept current from then on, since nobody else writes the objects of one log and one backend; whenever the
fate of a write is not known (a timeout, a cut, a cancelled delivery), the hour is listed again before the next one.

What can't be excluded: a write that was given up when the agent died, was still on its way, and lands after the restarted agent
has listed. Then an event stands in two objects; its `event_id` tells.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, ClassVar, Final

import msgspec
from msgspec import Meta

from contract import codec
from contract.event import Event
from contract.limits import MAX_BATCH_EVENTS, MAX_BODY_BYTES
from sinks.aws import AwsClient, AwsConfig, Place
from sinks.base import DeliveryReport, Health, Refused, SinkBatch, SinkError, SinkLimits
from sinks.filesystem import partition_of
from sinks.jsonl_files import Intervals
from sinks.s3_objects import Compression, Format, Names, jsonl, missing_runs, parquet, suffix_of

MAX_PREFIX_LENGTH: Final = 600
"""A key has at most 1,024 bytes of UTF-8 (Amazon S3 User Guide, "Naming Amazon S3 objects"); the rest of ours needs under 424."""

OBJECTS_AT_ONCE: Final = 8
"""Objects of one batch that are written side by side: a batch of late events may touch many hours."""

HOURS_REMEMBERED: Final = 2048
FULL_BATCH_EVENTS: Final = MAX_BATCH_EVENTS // 2
FULL_BATCH_BYTES: Final = 1024 * 1024
"""A batch that reaches either waits for no company."""

CHECK_KEY: Final = ".trackmate-check"
_IN_THREAD_BYTES: Final = 32 * 1024


class S3Config(AwsConfig, kw_only=True, forbid_unknown_fields=True):
    """The `config` block of an `s3` backend."""

    bucket: Annotated[
        str,
        Meta(
            pattern="^[A-Za-z0-9][A-Za-z0-9._:/-]{2,254}$",
            description="the name of a bucket (3 to 63 letters, digits, dots and hyphens) or an ARN",
        ),
    ]
    """An existing bucket, or the ARN of an access point."""
    prefix: Annotated[str, Meta(max_length=MAX_PREFIX_LENGTH, pattern="^[ -~]*$", description="ASCII text")] = "events/"
    """What every object's name begins with."""
    format: Format = "jsonl"
    """`jsonl`: every event's own JSON text on a line; `parquet`: the flat layout, one row an event."""
    compression: Compression = "zstd"
    """Of the object, or of the columns inside a Parquet file."""
    path_style: bool | None = None
    """Whether the bucket stands in the path of the address and not in its host name; by default with an `endpoint_url`."""
    storage_class: (
        Annotated[str, Meta(pattern="^[A-Z_]{1,64}$", description="a storage class in capitals, such as STANDARD_IA")] | None
    ) = None
    """Such as STANDARD_IA; by default the bucket's."""
    linger_seconds: Annotated[float, Meta(ge=0, le=20)] = 5
    """How far apart small objects are written, so that more events go into each; batches worth an object don't wait."""


@dataclass(slots=True)
class _Hour:
    """What is known to stand in one hour of one log."""

    present: Intervals = field(default_factory=Intervals)
    listed: bool = False
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


@dataclass(frozen=True, slots=True)
class _Object:
    """An object to write: `places` are its events' places in the batch."""

    hour: _Hour
    key: str
    places: list[int]
    first: int
    last: int


class S3Sink:
    """One bucket; what is reported delivered is stored, and a batch delivered twice stands once."""

    Config: ClassVar[type[msgspec.Struct]] = S3Config
    limits: ClassVar[SinkLimits] = SinkLimits(MAX_BATCH_EVENTS, MAX_BODY_BYTES, max_concurrency=4)

    def __init__(self, name: str, config: S3Config, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.name = name
        self._config = config
        self._clock = clock
        self._prefix = config.prefix + ("/" if config.prefix and not config.prefix.endswith("/") else "")
        self._suffix, self._content_type = suffix_of(config.format, config.compression)
        path_style = config.endpoint_url is not None if config.path_style is None else config.path_style
        place = Place(
            f"bucket '{config.bucket}'",
            "make it, or set `bucket` (and `region` or `endpoint_url`) to one that does",
            f"s3:ListBucket on the bucket and s3:PutObject below '{self._prefix}'",
        )
        self._aws = AwsClient(
            "s3",
            config,
            place,
            connections=OBJECTS_AT_ONCE * self.limits.max_concurrency,
            s3={"addressing_style": "path" if path_style else "auto", "payload_signing_enabled": True},
        )
        self._hours: OrderedDict[tuple[str, str], _Hour] = OrderedDict()
        self._written_at: float | None = None

    async def open(self) -> None:
        """Make the client. Raises Unavailable when a file of the `tls` block or the AWS set-up can't be used."""
        await self._aws.open()

    async def deliver(self, batch: SinkBatch) -> DeliveryReport:
        """Write what no object holds yet, one object for each hour. Raises SinkError when nothing of the batch was taken."""
        if batch.count == 0:
            return DeliveryReport(0)
        events, refused = await self._readable(batch)
        hours: dict[str, list[int]] = {}
        for place in range(batch.count) if events is None else events:
            hours.setdefault(partition_of(batch.lines[place]), []).append(place)
        objects = await self._missing(batch, hours)
        await self._linger(batch, objects)
        failed, error = await self._write(batch, objects, events)
        if error is None:
            return DeliveryReport(batch.count - len(refused), refused)
        delivered = batch.count - len(refused) - len(failed)
        if delivered == 0 and not refused:
            raise error
        return DeliveryReport(delivered, refused, failed, error.retry_after, str(error))

    async def check(self) -> Health:
        """List one name, and begin and abandon an upload: address, key, bucket and both permissions, and no object is left."""
        started = time.perf_counter()
        where = {"Bucket": self._config.bucket, "Key": self._prefix + CHECK_KEY}
        try:
            await self._list_page(self._prefix, None, 1)
            upload = await self._aws.call("create_multipart_upload", **where, **self._storage())
            upload_id = upload.get("UploadId")
            if not upload_id:
                raise self._aws.not_aws("an upload was begun, but the answer holds no upload id")
            await self._aws.call("abort_multipart_upload", **where, UploadId=upload_id)
        except SinkError as error:
            return Health(False, str(error))
        return Health(True, f"{self._aws.where} can be written", (time.perf_counter() - started) * 1000)

    async def close(self) -> None:
        """Close the connections; the next `open` lists anew."""
        self._hours.clear()
        self._written_at = None
        await self._aws.close()

    async def _readable(self, batch: SinkBatch) -> tuple[dict[int, Event] | None, list[Refused]]:
        """For Parquet: the events by place, and those lines that are no event and so fit into no columns."""
        if self._config.format == "jsonl":
            return None, []
        decoded = await asyncio.to_thread(codec.decode_batch, batch.ndjson, "application/x-ndjson")
        refused = [Refused(item.index, item.event_id, f"{item.path}: {item.error}") for item in decoded.rejected]
        unusable = {item.index for item in refused}
        usable = [place for place in range(batch.count) if place not in unusable]
        return dict(zip(usable, decoded.events, strict=True)), refused

    async def _missing(self, batch: SinkBatch, hours: dict[str, list[int]]) -> list[_Object]:
        """The objects that are to be written. Raises SinkError when it can't be found out what is there."""
        names = Names(self._prefix, batch.spool_id, self.name, self._suffix)
        found: list[_Object] = []

        async def look(name: str) -> None:
            hour = self._hour(batch.spool_id, name)
            await self._list(hour, names, name)
            for run in missing_runs([batch.seqs[place] for place in hours[name]], hour.present):
                places = [hours[name][index] for index in run]
                first, last = batch.seqs[places[0]], batch.seqs[places[-1]]
                found.append(_Object(hour, names.key(name, first, last), places, first, last))

        error = await _side_by_side([partial(look, name) for name in hours])
        if error is not None:
            raise error
        return found

    async def _linger(self, batch: SinkBatch, objects: list[_Object]) -> None:
        """Wait before a small batch, so that the events that come meanwhile share the next objects; nothing is held but time."""
        if not objects or self._written_at is None:
            return
        small = batch.count < FULL_BATCH_EVENTS and sum(map(len, batch.lines)) < FULL_BATCH_BYTES
        wait = self._written_at + self._config.linger_seconds - self._clock()
        if small and wait > 0:
            await asyncio.sleep(wait)

    async def _write(
        self, batch: SinkBatch, objects: list[_Object], events: dict[int, Event] | None
    ) -> tuple[list[int], SinkError | None]:
        """The places that were not written, and the first error, after which nothing more was begun."""
        left = {item.key: item.places for item in objects}

        async def put(item: _Object) -> None:
            try:
                await self._put(item, batch, events)
            except BaseException:
                item.hour.listed = False  # it may have been written all the same
                raise
            item.hour.present.add(item.first, item.last)
            self._written_at = self._clock()
            del left[item.key]

        error = await _side_by_side([partial(put, item) for item in objects])
        return sorted(place for places in left.values() for place in places), error

    async def _put(self, item: _Object, batch: SinkBatch, events: dict[int, Event] | None) -> None:
        lines = [batch.lines[place] for place in item.places]
        compression = self._config.compression
        if events is not None:
            body = await asyncio.to_thread(parquet, [events[place] for place in item.places], compression)
        elif sum(map(len, lines)) >= _IN_THREAD_BYTES:
            body = await asyncio.to_thread(jsonl, lines, compression)
        else:
            body = jsonl(lines, compression)
        digest = hashlib.md5(body, usedforsecurity=False).digest()
        answer = await self._aws.call(
            "put_object",
            Bucket=self._config.bucket,
            Key=item.key,
            Body=body,
            ContentType=self._content_type,
            ContentMD5=base64.b64encode(digest).decode(),
            Metadata={"trackmate-events": str(len(lines)), "trackmate-backend": self.name},
            **self._storage(),
        )
        if not answer.get("ETag"):
            raise self._aws.not_aws("an object was sent, but the answer holds no ETag")

    def _storage(self) -> dict[str, str]:
        return {"StorageClass": self._config.storage_class} if self._config.storage_class else {}

    def _hour(self, log_id: str, name: str) -> _Hour:
        hour = self._hours.setdefault((log_id, name), _Hour())
        self._hours.move_to_end((log_id, name))
        while len(self._hours) > HOURS_REMEMBERED:
            self._hours.popitem(last=False)
        return hour

    async def _list(self, hour: _Hour, names: Names, name: str) -> None:
        """Know what stands in an hour. Raises SinkError."""
        async with hour.lock:
            if hour.listed:
                return
            token: str | None = None
            while True:
                page = await self._list_page(names.start(name) + "-", token, None)
                for entry in page.get("Contents", ()):
                    numbers = names.numbers(name, entry["Key"])
                    if numbers is not None:
                        hour.present.add(*numbers)
                token = page.get("NextContinuationToken")
                if not page.get("IsTruncated") or not token:
                    break
            hour.listed = True

    async def _list_page(self, prefix: str, token: str | None, most: int | None) -> dict[str, Any]:
        more: dict[str, Any] = {"ContinuationToken": token} if token else {}
        if most:
            more["MaxKeys"] = most
        page = await self._aws.call("list_objects_v2", Bucket=self._config.bucket, Prefix=prefix, **more)
        if "IsTruncated" not in page:
            raise self._aws.not_aws("the names of objects were asked for, but the answer is no list")
        return page


async def _side_by_side(jobs: Sequence[Callable[[], Awaitable[None]]]) -> SinkError | None:
    """Do the jobs, a few at once, until one fails; its error."""
    waiting = list(reversed(jobs))
    errors: list[SinkError] = []

    async def work() -> None:
        while waiting and not errors:
            try:
                await waiting.pop()()
            except SinkError as error:
                errors.append(error)

    async with asyncio.TaskGroup() as workers:
        for _ in range(min(OBJECTS_AT_ONCE, len(jobs))):
            workers.create_task(work())
    return errors[0] if errors else None
