"""Sends messages through librdkafka and waits for each one's fate; made for a thread of its own."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import msgspec
from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka import Message as Sent

from sinks.kafka_errors import HOPELESS

POLL_SECONDS: Final = 0.1
GRACE_SECONDS: Final = 2.0
"""How much longer than its own timeout librdkafka is given to report a message."""

CLOSE_SECONDS: Final = 5.0

logger = logging.getLogger(__name__)


class _Emitter(msgspec.Struct):
    id: str


class _Routing(msgspec.Struct):
    event_id: str
    kind: str
    site_id: str
    run_id: str | None = None
    emitter: _Emitter | None = None


_ROUTING_DECODER = msgspec.json.Decoder(_Routing)


class Message:
    """One event as Kafka carries it; `order_by` names what its key is."""

    __slots__ = ("headers", "key", "value")

    def __init__(self, line: bytes, order_by: str) -> None:
        event = _ROUTING_DECODER.decode(line)
        self.value = line
        self.headers: list[tuple[str, str | bytes | None]] = [
            ("event_id", event.event_id),
            ("kind", event.kind),
            ("site_id", event.site_id),
            ("content-type", "application/json"),
        ]
        self.key = event.event_id
        if order_by != "event_id":
            emitter = event.emitter.id if event.emitter else event.event_id
            self.key = event.run_id or emitter if order_by == "run_id" else emitter


class Attempt:
    """Messages on their way, and what became of them: neither in `errors` nor in `refused` means confirmed, once `left` is 0."""

    def __init__(self, topic: str, messages: Sequence[Message], seconds: float) -> None:
        self.topic = topic
        self.messages = messages
        self.seconds = seconds
        self.left = 0
        self.errors: dict[int, KafkaError] = {}
        self.refused: dict[int, KafkaError] = {}
        """What librdkafka would not even send."""
        self._abandoned = threading.Event()

    @property
    def abandoned(self) -> bool:
        """Whether nobody waits for it any more."""
        return self._abandoned.is_set()

    def abandon(self) -> None:
        """Let the thread take back what it can; may be called from any thread."""
        self._abandoned.set()

    def settled(self, index: int, error: KafkaError | None, _: Sent) -> None:
        """What librdkafka calls with each message's fate."""
        self.left -= 1
        if error is not None:
            self.errors[index] = error


class BatchProducer:
    """A librdkafka producer, made when it is first needed and thrown away when one of its attempts did not end well.

    Thrown away means: what is queued is purged and the connection is closed, so that nothing is sent later, when its events
    have been delivered by another attempt; and a fatal error or a sequence in doubt ends with the producer that had it.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = settings
        self._producer: Producer | None = None
        self._lock = threading.Lock()
        self.noticed: KafkaError | None = None
        """The last trouble that the client told of by itself, such as a refused credential."""

    def send(self, attempt: Attempt) -> None:
        """Send all and wait until the fate of each is known. Raises KafkaException when the settings can't be used."""
        with self._lock:
            self.noticed = None
            producer = self._made()
            try:
                self._produce(producer, attempt)
                self._wait(producer, attempt)
            finally:
                if attempt.left or attempt.errors:
                    self._throw_away()

    def close(self) -> None:
        """Wait for what is on its way, then close the connections."""
        with self._lock:
            if self._producer is not None:
                self._producer.flush(CLOSE_SECONDS)
                self._throw_away()

    def _made(self) -> Producer:
        if self._producer is None:
            self._producer = Producer({**self._settings, "error_cb": self._notice}, logger=logger)
        return self._producer

    def _notice(self, error: KafkaError) -> None:
        # What says why must not be covered by the lament that follows, that no broker is left.
        if self.noticed is None or error.name() != "_ALL_BROKERS_DOWN":
            self.noticed = error

    def _produce(self, producer: Producer, attempt: Attempt) -> None:
        for index, message in enumerate(attempt.messages):
            attempt.left += 1
            try:
                producer.produce(
                    attempt.topic,
                    message.value,
                    message.key,
                    headers=message.headers,
                    on_delivery=partial(attempt.settled, index),
                )
            except KafkaException as error:
                attempt.left -= 1
                found: KafkaError = error.args[0]
                (attempt.refused if found.code() == KafkaError.MSG_SIZE_TOO_LARGE else attempt.errors)[index] = found
            except BufferError:
                attempt.left -= 1
                attempt.errors[index] = KafkaError(KafkaError.THROTTLING_QUOTA_EXCEEDED)

    def _wait(self, producer: Producer, attempt: Attempt) -> None:
        deadline = time.monotonic() + attempt.seconds + GRACE_SECONDS
        while attempt.left and not attempt.abandoned and time.monotonic() < deadline:
            producer.poll(POLL_SECONDS)
            if self.noticed is not None and self.noticed.name() in HOPELESS:
                break
        if attempt.left:
            producer.purge()
            deadline = time.monotonic() + GRACE_SECONDS
            while attempt.left and time.monotonic() < deadline:
                producer.poll(POLL_SECONDS)

    def _throw_away(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.purge()
            producer.poll(0)
            producer.close()
