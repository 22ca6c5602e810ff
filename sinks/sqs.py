"""Writes events as messages to an Amazon SQS queue, standard or FIFO: one event a message, its JSON text the body.

A standard queue can't know a repetition: after an outage or a crash an event may stand in it twice, and SQS itself may deliver a
message twice. The attribute `event_id` is what consumers deduplicate by. A FIFO queue forgets repetitions within five minutes,
for which the event's id is the MessageDeduplicationId; messages of one run (else of one emitter) are one group and stay in order.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Final

import msgspec
from msgspec import Meta

from contract.limits import MAX_BODY_BYTES
from sinks.aws import AwsClient, AwsConfig, AwsRefusal, Place, concerns_everything
from sinks.base import DeliveryReport, Health, Refused, SinkBatch, SinkError, SinkLimits, Throttled, Unavailable

MAX_ENTRIES: Final = 10
"""Messages in one SendMessageBatch (Amazon SQS Developer Guide, "Amazon SQS message quotas")."""

MAX_REQUEST_BYTES: Final = 1_048_576
"""Of one message and of all messages of one request, attributes included (Amazon SQS API Reference, "SendMessageBatch").

A queue may be set to less by its MaximumMessageSize; what it says then is taken.
"""

MAX_GROUP_LENGTH: Final = 128
"""Characters of a MessageGroupId (Amazon SQS Developer Guide, "Amazon SQS message quotas"); a UUID has 36."""

REQUESTS_AT_ONCE: Final = 8
"""Towards a standard queue; a FIFO queue gets one after the other."""

_FORBIDDEN: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What no message or attribute may hold (Amazon SQS API Reference, "SendMessageBatch")."""

_NONCHARACTERS: Final = ((b"\xef\xbf\xbe", rb"\ufffe"), (b"\xef\xbf\xbf", rb"\uffff"))
"""Of the forbidden characters, those that JSON text may hold as they are; all others it can only escape."""

_FAULTS_OF_A_MESSAGE: Final = frozenset({"BatchRequestTooLong", "InvalidMessageContents", "InvalidAttributeValue"})
_TOO_LONG: Final = "must be shorter than"
_QUEUE_REGION: Final = re.compile(r"https?://(?:sqs\.)?([a-z]{2}(?:-[a-z]+)+-\d)\.(?:queue\.)?amazonaws\.")


class SqsConfig(AwsConfig, kw_only=True, forbid_unknown_fields=True):
    """The `config` block of an `sqs` backend."""

    queue: Annotated[
        str,
        Meta(
            pattern=r"^(https?://[^/]+/.+|[A-Za-z0-9_-]{1,80}|[A-Za-z0-9_-]{1,75}\.fifo)$",
            description="the name of a queue (letters, digits, _ and -; .fifo at its end) or its URL",
        ),
    ]
    """An existing queue: its name, or its URL, which serves for another account too; `.fifo` at its end means FIFO."""


class _EmitterKey(msgspec.Struct):
    id: str


class _Key(msgspec.Struct):
    """What a message says of its event outside the body."""

    event_id: str
    kind: str
    name: str
    site_id: str
    run_id: str | None = None
    emitter: _EmitterKey | None = None


_KEY_DECODER = msgspec.json.Decoder(_Key)


@dataclass(frozen=True, slots=True)
class _Message:
    """One entry of a request, and its size as SQS counts."""

    index: int
    event_id: str
    size: int
    entry: dict[str, Any]


@dataclass(slots=True)
class _Outcome:
    """What has become of the messages so far; those in no list are delivered."""

    refused: list[Refused] = field(default_factory=list)
    retry: list[int] = field(default_factory=list)
    error: SinkError | None = None

    def failed(self, messages: Iterable[_Message], error: SinkError) -> None:
        """Note that these are to be sent again, and why."""
        self.retry += [message.index for message in messages]
        self.error = self.error or error


class SqsSink:
    """One queue; what is reported delivered has been stored by SQS."""

    Config: ClassVar[type[msgspec.Struct]] = SqsConfig
    limits: ClassVar[SinkLimits] = SinkLimits(100 * MAX_ENTRIES, MAX_BODY_BYTES)

    def __init__(self, name: str, config: SqsConfig) -> None:
        self.name = name
        self._fifo = config.queue.endswith(".fifo")
        self._named = config.queue
        self._url = config.queue if "://" in config.queue else None
        found = _QUEUE_REGION.match(config.queue)
        if found and config.region is None:
            config = msgspec.structs.replace(config, region=found[1])
        place = Place(
            f"queue '{config.queue}'",
            "make it, or set `queue` (and `region` or `endpoint_url`) to one that does",
            "sqs:SendMessage" + ("" if self._url else " and sqs:GetQueueUrl"),
        )
        self._aws = AwsClient("sqs", config, place, connections=REQUESTS_AT_ONCE)

    async def open(self) -> None:
        """Make the client. Raises Unavailable when a file of the `tls` block or the AWS set-up can't be used."""
        await self._aws.open()

    async def deliver(self, batch: SinkBatch) -> DeliveryReport:
        """Send the batch, ten messages a request. Raises SinkError when nothing of it was taken."""
        outcome = _Outcome()
        requests = packed(self._messages(batch, outcome))
        if requests:
            url = await self._queue_url()
            waiting = deque(requests)
            async with asyncio.TaskGroup() as workers:
                for _ in range(1 if self._fifo else min(REQUESTS_AT_ONCE, len(requests))):
                    workers.create_task(self._send_all(url, waiting, outcome))
            for left in waiting:
                outcome.retry += [message.index for message in left]
        delivered = batch.count - len(outcome.refused) - len(outcome.retry)
        if outcome.error is None:
            return DeliveryReport(delivered, sorted(outcome.refused, key=lambda item: item.index))
        if delivered == 0 and not outcome.refused:
            raise outcome.error
        return DeliveryReport(
            delivered,
            sorted(outcome.refused, key=lambda item: item.index),
            sorted(outcome.retry),
            outcome.error.retry_after,
            str(outcome.error),
        )

    async def check(self) -> Health:
        """Send a request of no message, which SQS refuses as empty once it knows queue, key and permission."""
        started = time.perf_counter()
        try:
            await self._aws.call("send_message_batch", QueueUrl=await self._queue_url(), Entries=[])
        except AwsRefusal as error:
            if error.code != "EmptyBatchRequest":
                return Health(False, str(error))
        except SinkError as error:
            return Health(False, str(error))
        else:
            return Health(False, str(self._aws.not_aws("it takes a request of no message")))
        return Health(True, f"{self._aws.where} takes messages", (time.perf_counter() - started) * 1000)

    async def close(self) -> None:
        """Close the connections."""
        await self._aws.close()

    async def _queue_url(self) -> str:
        if self._url is None:
            answer = await self._aws.call("get_queue_url", QueueName=self._named)
            if not answer.get("QueueUrl"):
                raise self._aws.not_aws("the queue's URL was asked for, but the answer holds none")
            self._url = str(answer["QueueUrl"])
        return self._url

    def _messages(self, batch: SinkBatch, outcome: _Outcome) -> list[_Message]:
        messages = []
        for index, line in enumerate(batch.lines):
            try:
                message = message_of(index, line, fifo=self._fifo)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                outcome.refused.append(Refused(index, None, f"not an event: {error}"))
                continue
            if message.size > MAX_REQUEST_BYTES:
                reason = f"the message has {message.size} bytes with its attributes; SQS takes {MAX_REQUEST_BYTES}"
                outcome.refused.append(Refused(index, message.event_id, reason))
            else:
                messages.append(message)
        return messages

    async def _send_all(self, url: str, waiting: deque[list[_Message]], outcome: _Outcome) -> None:
        """Send until nothing waits or something fails: what comes after that would overtake it, or fail too."""
        while waiting and outcome.error is None:
            await self._send(url, waiting.popleft(), outcome)

    async def _send(self, url: str, messages: list[_Message], outcome: _Outcome) -> None:
        """One request; one that is refused for a message in it is halved until the culprit stands alone."""
        try:
            answer = await self._aws.call("send_message_batch", QueueUrl=url, Entries=[message.entry for message in messages])
            self._read(messages, answer, outcome)
        except AwsRefusal as error:
            if not _fault_of_a_message(error):
                outcome.failed(messages, error)
            elif len(messages) == 1:
                outcome.refused.append(Refused(messages[0].index, messages[0].event_id, f"{error.code}: {error.text}"))
            else:
                middle = len(messages) // 2
                await self._send(url, messages[:middle], outcome)
                if outcome.error is None:
                    await self._send(url, messages[middle:], outcome)
                else:
                    outcome.failed(messages[middle:], error)
        except SinkError as error:
            outcome.failed(messages, error)

    def _read(self, messages: list[_Message], answer: dict[str, Any], outcome: _Outcome) -> None:
        """What SQS says of each message. Raises Unavailable when it speaks of none."""
        successful = {entry.get("Id") for entry in answer.get("Successful") or ()}
        failures = {entry.get("Id"): entry for entry in answer.get("Failed") or ()}
        if not successful and not failures:
            raise self._aws.not_aws("messages were sent, but the answer speaks of none of them")
        for message in messages:
            number = message.entry["Id"]
            if number in successful:
                continue
            failure = failures.get(number, {"Code": "Unknown", "Message": "the answer does not speak of this message"})
            code = str(failure.get("Code") or "").removeprefix("AWS.SimpleQueueService.")
            told = f"{code}: {failure.get('Message') or 'without a reason'}"
            if failure.get("SenderFault") and not concerns_everything(code):
                outcome.refused.append(Refused(message.index, message.event_id, told))
            elif "hrottl" in code:
                outcome.failed([message], Throttled(f"{self._aws.where} asks to wait ({told})"))
            else:
                outcome.failed([message], Unavailable(f"{self._aws.where} did not store every message ({told})"))


def message_of(index: int, line: bytes, *, fifo: bool) -> _Message:
    """The message of one event. Raises msgspec.DecodeError or UnicodeDecodeError when the line is no event."""
    key = _KEY_DECODER.decode(line)
    for character, escape in _NONCHARACTERS:
        line = line.replace(character, escape)
    texts = {"event_id": key.event_id, "kind": key.kind, "name": key.name, "site_id": key.site_id}
    attributes = {name: _FORBIDDEN.sub("\ufffd", text) for name, text in texts.items()}
    entry: dict[str, Any] = {
        "Id": str(index),
        "MessageBody": line.decode(),
        "MessageAttributes": {name: {"DataType": "String", "StringValue": text} for name, text in attributes.items()},
    }
    if fifo:
        entry["MessageDeduplicationId"] = key.event_id
        entry["MessageGroupId"] = key.run_id or (key.emitter.id if key.emitter else key.event_id)
    size = len(line) + sum(len(name) + len("String") + len(text.encode()) for name, text in attributes.items())
    return _Message(index, key.event_id, size, entry)


def packed(messages: Sequence[_Message]) -> list[list[_Message]]:
    """The messages in requests that SQS takes, in order."""
    requests: list[list[_Message]] = []
    size = 0
    for message in messages:
        size += message.size
        if not requests or len(requests[-1]) == MAX_ENTRIES or size > MAX_REQUEST_BYTES:
            requests.append([])
            size = message.size
        requests[-1].append(message)
    return requests


def _fault_of_a_message(error: AwsRefusal) -> bool:
    """Whether a request was refused for what a message holds, and would be taken without it."""
    return error.code in _FAULTS_OF_A_MESSAGE or (error.code == "InvalidParameterValue" and _TOO_LONG in error.text)
