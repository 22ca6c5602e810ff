"""What Kafka's errors mean for a sink, and what to do about each; errors go by the names that librdkafka gives them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from confluent_kafka import KafkaError

JUDGED: Final = frozenset({"MSG_SIZE_TOO_LARGE", "INVALID_MSG_SIZE", "INVALID_RECORD", "POLICY_VIOLATION"})
"""The broker's judgement of what it was sent; it falls on all messages of a request, though one may have caused it."""

UNREACHED: Final = frozenset(
    {"_TRANSPORT", "_ALL_BROKERS_DOWN", "_RESOLVE", "_SSL", "_MSG_TIMED_OUT", "_TIMED_OUT", "_PURGE_QUEUE", "_PURGE_INFLIGHT"}
)
"""No broker answered; librdkafka says little of why."""

THROTTLED: Final = "THROTTLING_QUOTA_EXCEEDED"
UNAUTHENTICATED: Final = "_AUTHENTICATION"
HOPELESS: Final = frozenset({UNAUTHENTICATED, "_SSL"})
"""What the client notices and no waiting mends."""

_MISSING: Final = frozenset({"UNKNOWN_TOPIC_OR_PART", "_UNKNOWN_TOPIC", "_UNKNOWN_PARTITION"})
_ADVICE: Final = {
    "MSG_SIZE_TOO_LARGE": "it is too large: raise max.message.bytes of the topic, and max_message_bytes of this backend",
    "NOT_ENOUGH_REPLICAS": "too few replicas are in sync (min.insync.replicas): bring the missing brokers back",
    "NOT_ENOUGH_REPLICAS_AFTER_APPEND": "too few replicas are in sync: bring the missing brokers back",
    "KAFKA_STORAGE_ERROR": "the broker can't write to its disk: is it full or failing?",
    "INVALID_TIMESTAMP": "the broker finds this machine's time too far off: set the clocks right",
    "CLUSTER_AUTHORIZATION_FAILED": "not permitted: allow WRITE on the topic and, before Kafka 3.0, IDEMPOTENT_WRITE",
    "SASL_AUTHENTICATION_FAILED": "the credential is refused: check sasl.username and sasl.password",
    "UNSUPPORTED_SASL_MECHANISM": "the broker does not know this sasl.mechanism: use one that it has enabled",
    UNAUTHENTICATED: "the credential is refused: check sasl.mechanism, sasl.username and sasl.password",
}


def advice(error: KafkaError, username: str | None) -> str:
    """What the error means and what to do."""
    name = error.name()
    if name in _MISSING:
        return "there is no such topic: create it, or set create_topic: true"
    if name == "TOPIC_AUTHORIZATION_FAILED":
        user = f"user '{username}'" if username else "a client without a user name"
        return f"{user} may not write to it: allow DESCRIBE and WRITE on the topic"
    return f"{_ADVICE.get(name, error.str())} ({name})"


def telling(errors: Iterable[KafkaError]) -> KafkaError:
    """The one that says most of these, at least one: what a broker answered, else the last that the client noticed."""
    found = list(errors)
    return next((error for error in found if error.name() not in UNREACHED), found[-1])
