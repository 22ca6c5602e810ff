"""Writes each event as one message of a Kafka topic: its JSON text, keyed by run so that the events of a run keep their order.

Kafka has no memory of what it took from an earlier delivery: a batch that is sent again after a timeout or a crash may stand
in the topic twice. The idempotent producer keeps its own retries from doing that; consumers know a repetition by the header
`event_id`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Annotated, Any, ClassVar, Final, Literal, TypeVar

import msgspec
from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AclOperation, AdminClient, NewTopic  # type: ignore[attr-defined]
from msgspec import Meta

from contract.limits import MAX_BATCH_EVENTS, MAX_BODY_BYTES
from contract.settings import Secret
from sinks.base import (
    RAISED_SHOWN,
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
from sinks.kafka_errors import HOPELESS, JUDGED, THROTTLED, UNREACHED, advice, telling
from sinks.kafka_producer import POLL_SECONDS, Attempt, BatchProducer, Message, logger
from sinks.knock import knock
from sinks.tls import Tls, ssl_context

DEFAULT_MESSAGE_BYTES: Final = 1_000_000
"""librdkafka's default of `message.max.bytes` (its CONFIGURATION.md); a broker's default, 1,048,588, is a little more."""

MESSAGE_BYTES_BOUNDS: Final = (1_000, 1_000_000_000)
"""What librdkafka takes for `message.max.bytes` (its CONFIGURATION.md)."""

TOPIC_NAME: Final = r"^[a-zA-Z0-9._-]{1,249}$"
"""What Kafka takes as the name of a topic (org.apache.kafka.common.internals.Topic)."""

T = TypeVar("T")


class KafkaSasl(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The `sasl` block of a `kafka` backend."""

    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    """How the password is shown; PLAIN shows it to everybody on the way unless there is a `tls` block."""
    username: Annotated[str, Meta(min_length=1)]
    """Who comes."""
    password: Secret
    """Its password."""


class KafkaConfig(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The `config` block of a `kafka` backend."""

    bootstrap_servers: Annotated[str, Meta(min_length=1)]
    """Some of the brokers as `host:port`, with commas between."""
    topic: Annotated[str, Meta(pattern=TOPIC_NAME, description="1 to 249 letters, digits and . _ -")]
    """Where the events go."""
    key: Literal["run_id", "emitter_id", "event_id"] = "run_id"
    """What is a message's key. `run_id` keeps the events of a run in order (an event outside any run has its emitter's id, else
    its own); `emitter_id` keeps those of a process start in order; `event_id` spreads evenly and suits a compacted topic."""
    compression: Literal["none", "gzip", "snappy", "lz4", "zstd"] = "lz4"
    """How batches are compressed on the way and in the topic."""
    max_message_bytes: Annotated[int, Meta(ge=MESSAGE_BYTES_BOUNDS[0], le=MESSAGE_BYTES_BOUNDS[1])] = DEFAULT_MESSAGE_BYTES
    """An event larger than this, with its key and headers, is refused; set it to the topic's `max.message.bytes`."""
    create_topic: bool = False
    """Make the topic when it is missing; otherwise its absence is an error, whatever the brokers would do by themselves."""
    partitions: Annotated[int, Meta(ge=-1)] = -1
    """Partitions of a topic that is made here; -1: as the brokers choose."""
    replication_factor: Annotated[int, Meta(ge=-1)] = -1
    """Replicas of a topic that is made here; -1: as the brokers choose."""
    sasl: KafkaSasl | None = None
    """The credential."""
    tls: Tls | None = None
    """Speak TLS; `{}` trusts what this machine trusts."""
    connect_timeout: Annotated[float, Meta(ge=1)] = 5
    """Seconds."""
    message_timeout: Annotated[float, Meta(ge=1)] = 20
    """Seconds until an event that no broker has confirmed is taken back and given to the sidecar again; less than the
    backend's `timeout`."""


class KafkaSink:
    """One topic; every message is confirmed by all replicas in sync before it counts as delivered."""

    Config: ClassVar[type[msgspec.Struct]] = KafkaConfig
    limits: ClassVar[SinkLimits] = SinkLimits(MAX_BATCH_EVENTS, MAX_BODY_BYTES, max_concurrency=1)
    """One delivery at a time: with two, a later batch could come before an earlier one, and a run's order would be lost."""

    def __init__(self, name: str, config: KafkaConfig) -> None:
        self.name = name
        self._config = config
        self._where = f"Kafka topic '{config.topic}' at {config.bootstrap_servers}"
        self._producer: BatchProducer | None = None
        self._alone: BatchProducer | None = None
        self._threads: ThreadPoolExecutor | None = None

    async def open(self) -> None:
        """Make the topic if that is asked for. Raises Unavailable when a certificate can't be used or the topic can't be made."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(4, thread_name_prefix=f"kafka-{self.name}")
        if self._config.tls is not None:
            ssl_context(self._config.tls)
        if self._config.create_topic:
            await self._create_topic()

    async def deliver(self, batch: SinkBatch) -> DeliveryReport:
        """Send every event and wait until each is confirmed, refused or given up.

        Raises Unavailable or Throttled when none was taken. When it is cancelled, what is not sent yet is taken back.
        """
        messages = [Message(line, self._config.key) for line in batch.lines]
        errors, refused = await self._send(messages, alone=False)
        judged = [index for index, error in errors.items() if error.name() in JUDGED]
        if judged:
            # A broker refuses a whole request for one message in it, so each is sent in a request of its own.
            again, refused_again = await self._send([messages[index] for index in judged], alone=True)
            for place, index in enumerate(judged):
                del errors[index]
                if place in refused_again or (place in again and again[place].name() in JUDGED):
                    refused[index] = refused_again.get(place) or again[place]
                elif place in again:
                    errors[index] = again[place]
        return await self._report(batch, errors, refused)

    async def check(self) -> Health:
        """Ask for the topic: the brokers, the credential, the topic and the right to write to it are proved."""
        started = time.perf_counter()
        try:
            await self._find_topic()
        except SinkError as error:
            return Health(False, str(error))
        return Health(True, f"{self._where} can be written", (time.perf_counter() - started) * 1000)

    async def close(self) -> None:
        """Close the connections; nothing is waiting in them, since `deliver` waits for every message."""
        for producer in (self._producer, self._alone):
            if producer is not None:
                await self._in_thread(producer.close)
        self._producer = self._alone = None
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
            self._threads = None

    async def _send(self, messages: list[Message], *, alone: bool) -> tuple[dict[int, KafkaError], dict[int, KafkaError]]:
        """What was not confirmed, by place, and what was refused on this side already."""
        if not messages:
            return {}, {}
        attempt = Attempt(self._config.topic, messages, self._config.message_timeout)
        work = asyncio.ensure_future(self._in_thread(self._producer_for(alone).send, attempt))
        work.add_done_callback(lambda done: done.cancelled() or done.exception())
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            attempt.abandon()
            raise
        return attempt.errors, attempt.refused

    def _producer_for(self, alone: bool) -> BatchProducer:
        if alone:
            if self._alone is None:
                self._alone = BatchProducer({**self._settings(), "batch.num.messages": 1, "linger.ms": 0})
            return self._alone
        if self._producer is None:
            self._producer = BatchProducer(self._settings())
        return self._producer

    async def _report(self, batch: SinkBatch, errors: dict[int, KafkaError], refused: dict[int, KafkaError]) -> DeliveryReport:
        delivered = batch.count - len(errors) - len(refused)
        message = None
        wait = None
        if errors:
            noticed = [producer.noticed for producer in (self._producer, self._alone) if producer and producer.noticed]
            failure = await self._failure(telling([*errors.values(), *noticed]))
            if not delivered and not refused:
                raise failure
            message, wait = str(failure), failure.retry_after
        reasons = [
            Refused(index, event_id_of(batch.lines[index]), self._advice(error)) for index, error in sorted(refused.items())
        ]
        return DeliveryReport(delivered, reasons, sorted(errors), wait, message)

    async def _failure(self, error: KafkaError) -> SinkError:
        if error.name() == THROTTLED:
            return Throttled(f"{self._where} asks to wait: its quota is used up")
        if error.name() in UNREACHED:
            return Unavailable(f"{self._where} can't be reached: {await self._look(error)}")
        return Unavailable(f"{self._where}: {self._advice(error)}")

    def _advice(self, error: KafkaError) -> str:
        return advice(error, self._config.sasl.username if self._config.sasl else None)

    async def _look(self, error: KafkaError) -> str:
        """What a plain connection to the brokers meets; librdkafka itself only says that it failed."""
        said = f"({error.str()[:RAISED_SHOWN]})"
        context = None if self._config.tls is None else ssl_context(self._config.tls)
        try:
            addresses = list(map(_address, self._config.bootstrap_servers.split(",")))
        except ValueError:
            return f"bootstrap_servers must be host:port, with commas between {said}"
        met = await knock(addresses, context, self._config.connect_timeout)
        return f"{met or 'a broker accepts connections, but gives no answer in time: is it hung or starting?'} {said}"

    def _settings(self) -> dict[str, Any]:
        config = self._config
        milliseconds = int(config.message_timeout * 1000)
        return {
            **self._connection(),
            "acks": "all",
            "enable.idempotence": True,
            "compression.type": config.compression,
            "message.max.bytes": config.max_message_bytes,
            "batch.size": min(config.max_message_bytes, DEFAULT_MESSAGE_BYTES),
            "linger.ms": 2,
            "message.timeout.ms": milliseconds,
            "request.timeout.ms": milliseconds,
            "socket.timeout.ms": max(milliseconds, 1000),
            "topic.metadata.propagation.max.ms": min(milliseconds, 2000),
            # The choice of Java's clients, so that a key has one partition whoever writes it.
            "partitioner": "murmur2_random",
        }

    def _connection(self) -> dict[str, Any]:
        config = self._config
        settings: dict[str, Any] = {
            "bootstrap.servers": config.bootstrap_servers,
            "client.id": f"trackmate-{self.name}",
            # It would log every try to connect; the backend's state says once what is wrong.
            "log_level": 2,
            "allow.auto.create.topics": False,
            "socket.connection.setup.timeout.ms": int(config.connect_timeout * 1000),
            "reconnect.backoff.max.ms": 1000,
            "security.protocol": ("SASL_" if config.sasl else "") + ("SSL" if config.tls else "PLAINTEXT"),
        }
        if config.sasl is not None:
            settings |= {
                "sasl.mechanism": config.sasl.mechanism,
                "sasl.username": config.sasl.username,
                "sasl.password": config.sasl.password.reveal(),
            }
        if config.tls is not None:
            files = {
                "ssl.ca.location": config.tls.ca_file,
                "ssl.certificate.location": config.tls.cert_file,
                "ssl.key.location": config.tls.key_file or config.tls.cert_file,
            }
            settings |= {name: str(file) for name, file in files.items() if file is not None}
            settings |= {
                "enable.ssl.certificate.verification": config.tls.verify,
                "ssl.endpoint.identification.algorithm": "https" if config.tls.verify else "none",
            }
        return settings

    async def _ask(self, question: Callable[[AdminClient, float], Future[Any]]) -> Any:
        """The answer of the brokers to a question. Raises SinkError."""
        noticed: list[KafkaError] = []

        def ask() -> Any:
            settings: dict[str, Any] = {**self._connection(), "error_cb": noticed.append}
            admin = AdminClient(settings, logger=logger)
            answer = question(admin, self._config.connect_timeout)
            while not answer.done() and not any(error.name() in HOPELESS for error in noticed):
                admin.poll(POLL_SECONDS)
            if not answer.done():
                raise KafkaException(noticed[-1])
            admin.poll(0)
            return answer.result()

        try:
            return await self._in_thread(ask)
        except KafkaException as error:
            raise await self._failure(telling([error.args[0], *noticed])) from error

    async def _create_topic(self) -> None:
        topic = NewTopic(self._config.topic, self._config.partitions, self._config.replication_factor)

        def create(admin: AdminClient, seconds: float) -> Future[Any]:
            asked = admin.create_topics([topic], operation_timeout=seconds, request_timeout=seconds)
            return asked[self._config.topic]

        try:
            await self._ask(create)
        except Unavailable as error:
            cause = error.__cause__
            if not isinstance(cause, KafkaException) or cause.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise

    async def _find_topic(self) -> None:
        def describe_topic(admin: AdminClient, seconds: float) -> Future[Any]:
            wanted = TopicCollection([self._config.topic])
            asked = admin.describe_topics(wanted, include_authorized_operations=True, request_timeout=seconds)
            return asked[self._config.topic]

        allowed = (await self._ask(describe_topic)).authorized_operations
        if allowed is not None and AclOperation.WRITE not in allowed:
            raise await self._failure(KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED))

    async def _in_thread(self, work: Callable[..., T], *arguments: object) -> T:
        if self._threads is None:
            raise Unavailable(f"backend '{self.name}' is not open")
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)


def _address(server: str) -> tuple[str, int]:
    host, _, port = server.strip().rpartition(":")
    return host.strip("[]"), int(port)
