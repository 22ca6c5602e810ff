"""How many events a second one loop of `deliver` brings to a sink's real server: `python -m benchmarks.sink_rates NAME`.

A target is a function that gives, as a context, a sink that is not yet open and what is to be done between two batches (not
timed). Add yours to TARGETS; its server is one of tests/services.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import contract
from contract.ids import uuid7
from contract.settings import Secret
from sidecar.batching import JOINED_BYTES
from sinks.base import Sink, SinkBatch, SinkLimits

VECTORS: Final = Path(contract.__file__).parent / "vectors" / "valid.jsonl"
LARGEST_VECTOR_BYTES: Final = 2048
"""Vectors that test the size limits are no everyday events."""


class Prepared(NamedTuple):
    """A sink before a real server."""

    sink: Sink
    between: Callable[[], None] = lambda: None
    takes: Callable[[dict[str, Any]], bool] = lambda _: True


@contextmanager
def s3() -> Iterator[Prepared]:
    """JSON Lines with zstd to VersityGW."""
    with _versitygw("jsonl") as prepared:
        yield prepared


@contextmanager
def s3_parquet() -> Iterator[Prepared]:
    """Parquet to VersityGW."""
    with _versitygw("parquet") as prepared:
        yield prepared


@contextmanager
def _versitygw(form: Any) -> Iterator[Prepared]:
    from sinks.aws import AwsCredentials
    from sinks.s3 import S3Config, S3Sink
    from tests.services.versitygw import VersityGw

    with VersityGw() as server:
        key = AwsCredentials(access_key_id=server.access_key_id, secret_access_key=Secret(server.secret_access_key))
        bucket = server.fresh_bucket()
        config = S3Config(bucket=bucket, endpoint_url=server.endpoint, credentials=key, format=form, linger_seconds=0)
        yield Prepared(S3Sink("bench", config))


@contextmanager
def sqs() -> Iterator[Prepared]:
    """A standard queue of moto, emptied between batches: its time for a message grows with the messages that it holds."""
    from sinks.sqs import SqsConfig, SqsSink
    from tests.services.moto import Moto

    with Moto() as server:
        client = server.client("sqs")
        url = client.create_queue(QueueName="bench")["QueueUrl"]

        def empty() -> None:
            client.delete_queue(QueueUrl=url)
            client.create_queue(QueueName="bench")

        yield Prepared(SqsSink("bench", SqsConfig(queue=url, **_moto(server))), empty)
        client.close()


@contextmanager
def cloudwatch() -> Iterator[Prepared]:
    """A log stream and a namespace of moto."""
    from sinks.cloudwatch import CloudwatchConfig, CloudwatchLogs, CloudwatchMetrics, CloudwatchSink
    from tests.services.moto import Moto

    with Moto() as server:
        client = server.client("logs")
        client.create_log_group(logGroupName="bench")
        client.close()
        config = CloudwatchConfig(
            logs=CloudwatchLogs(log_group="bench"), metrics=CloudwatchMetrics(namespace="bench"), **_moto(server)
        )
        yield Prepared(
            CloudwatchSink("bench", config),
            takes=lambda item: all(abs(value) <= 2.0**360 for value in item.get("metrics", {}).values()),
        )


@contextmanager
def zabbix() -> Iterator[Prepared]:
    """A host of a Zabbix server whose items are made by the first batch."""
    from sinks.zabbix import ZabbixConfig, ZabbixSink
    from tests.services.zabbix import Zabbix

    with Zabbix() as server:
        config = ZabbixConfig(
            url=f"http://127.0.0.1:{server.port}", host="bench", api_url=server.api_url, api_key=Secret(server.token)
        )
        yield Prepared(
            ZabbixSink("bench", config),
            takes=lambda item: all(abs(value) <= 1e308 for value in item.get("metrics", {}).values()),
        )


@contextmanager
def kafka() -> Iterator[Prepared]:
    """A topic of one broker with three partitions."""
    from sinks.kafka import KafkaConfig, KafkaSink
    from tests.services.kafka import KafkaService

    with KafkaService() as server:
        topic = server.fresh_topic(partitions=3)
        yield Prepared(KafkaSink("bench", KafkaConfig(bootstrap_servers=server.bootstrap, topic=topic)))


@contextmanager
def rabbitmq() -> Iterator[Prepared]:
    """A durable classic queue of one broker."""
    from sinks.rabbitmq import RabbitmqConfig, RabbitmqSink
    from tests.services.rabbitmq import RabbitMq

    with RabbitMq() as server:
        config = RabbitmqConfig(url=Secret(server.url()), queue="bench", queue_type="classic", declare=True)
        yield Prepared(RabbitmqSink("bench", config))


@contextmanager
def sql_postgresql() -> Iterator[Prepared]:
    """A table of PostgreSQL 15."""
    from tests.services.postgres import Postgres15

    with Postgres15() as server, _table(server.fresh_database()) as prepared:
        yield prepared


@contextmanager
def sql_mariadb() -> Iterator[Prepared]:
    """A table of MariaDB."""
    from tests.services.mariadb import MariaDb

    with MariaDb() as server, _table(server.url(server.fresh_database())) as prepared:
        yield prepared


@contextmanager
def _table(url: str) -> Iterator[Prepared]:
    from sinks.sql import SqlConfig, SqlSink

    yield Prepared(SqlSink("bench", SqlConfig(url=Secret(url), create_table=True)))


@contextmanager
def mongo() -> Iterator[Prepared]:
    """A collection of mongo-java-server, which keeps it in memory."""
    from sinks.mongo import MongoConfig, MongoSink
    from tests.services.mongo import MongoService

    with MongoService() as server:
        yield Prepared(MongoSink("bench", MongoConfig(url=Secret(server.url))))


@contextmanager
def filesystem() -> Iterator[Prepared]:
    """JSON Lines in a folder of this disk."""
    with _folder("jsonl") as prepared:
        yield prepared


@contextmanager
def filesystem_parquet() -> Iterator[Prepared]:
    """The same as Parquet, made from lines between two batches and at the end, as the agent does in between."""
    with _folder("parquet") as prepared:
        yield prepared


@contextmanager
def _folder(form: Any) -> Iterator[Prepared]:
    from sinks.filesystem import FilesystemConfig, FilesystemSink

    with tempfile.TemporaryDirectory() as folder:
        yield Prepared(FilesystemSink("bench", FilesystemConfig(path=Path(folder), format=form)))


def _moto(server: Any) -> dict[str, Any]:
    from sinks.aws import AwsCredentials

    key = AwsCredentials(access_key_id=server.access_key_id, secret_access_key=Secret(server.secret_access_key))
    return {"endpoint_url": server.endpoint, "credentials": key}


@contextmanager
def elk() -> Iterator[Prepared]:
    """One index of one Elasticsearch node with half a gigabyte of heap."""
    from sinks.elk import ElkConfig, ElkSink
    from tests.services.elasticsearch import Elasticsearch

    with Elasticsearch() as server:
        config = ElkConfig(url=server.url, index=server.fresh_index(), username=server.username, password=Secret(server.password))
        yield Prepared(ElkSink("bench", config))


@contextmanager
def loki() -> Iterator[Prepared]:
    """One tenant of one Loki with its store on disk."""
    from sinks.loki import LokiConfig, LokiSink
    from tests.services.loki import Loki

    with Loki() as server:
        limits = {"per_stream_rate_limit": "1GB", "per_stream_rate_limit_burst": "1GB"}
        yield Prepared(LokiSink("bench", LokiConfig(url=server.url, tenant=server.tenant(**limits))))


@contextmanager
def webhook() -> Iterator[Prepared]:
    """JSON Lines, signed, to a server that answers at once."""
    from sinks.webhook import WebhookConfig, WebhookSink
    from tests.services.scripted_http import Reply, ScriptedHttp

    with ScriptedHttp(Reply(204)) as server:
        config = WebhookConfig(url=Secret(server.url), allow_private=True, secret=Secret("bench"), max_events=1000)
        yield Prepared(WebhookSink("bench", config), server.asked.clear)


TARGETS: Final[dict[str, Callable[[], AbstractContextManager[Prepared]]]] = {
    "s3": s3,
    "s3-parquet": s3_parquet,
    "sqs": sqs,
    "cloudwatch": cloudwatch,
    "elk": elk,
    "loki": loki,
    "webhook": webhook,
    "kafka": kafka,
    "rabbitmq": rabbitmq,
    "sql-postgresql": sql_postgresql,
    "sql-mariadb": sql_mariadb,
    "mongo": mongo,
    "filesystem": filesystem,
    "filesystem-parquet": filesystem_parquet,
    "zabbix": zabbix,
}


def golden_like(count: int, takes: Callable[[dict[str, Any]], bool]) -> list[bytes]:
    """Events of all kinds after the contract's valid vectors, each with an id of its own and a moment of today."""
    vectors = [json.loads(line)["event"] for line in VECTORS.read_bytes().splitlines() if len(line) <= LARGEST_VECTOR_BYTES]
    vectors = [vector for vector in vectors if takes(vector)]
    now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    return [
        json.dumps(
            {**vectors[number % len(vectors)], "event_id": uuid7(), "timestamp": now}, ensure_ascii=False, separators=(",", ":")
        ).encode()
        for number in range(count)
    ]


def batches(lines: list[bytes], limits: SinkLimits) -> Iterator[SinkBatch]:
    """As the router cuts them."""
    most = min(limits.max_bytes, JOINED_BYTES)
    first = size = 0
    for place, line in enumerate(lines):
        if place > first and (place - first == limits.max_events or size + len(line) + 1 > most):
            yield _batch(lines, first, place)
            first, size = place, 0
        size += len(line) + 1
    yield _batch(lines, first, len(lines))


def _batch(lines: list[bytes], first: int, end: int) -> SinkBatch:
    return SinkBatch(lines[first:end], first_seq=first + 1, last_seq=end, spool_id="22222222-3333-4444-8555-666666666666")


async def measure(prepared: Prepared, events: int) -> dict[str, Any]:
    """Deliver so many events in one loop, one batch after the other."""
    sink = prepared.sink
    lines = golden_like(events, prepared.takes)
    await sink.open()
    try:
        health = await sink.check()
        if not health.ok:
            raise RuntimeError(health.detail)
        count, seconds = await _deliver(prepared, lines)
    finally:
        await sink.close()
    size = sum(len(line) + 1 for line in lines)
    return {
        "events": events,
        "batches": count,
        "bytes": size,
        "seconds": round(seconds, 3),
        "events_per_second": round(events / seconds),
        "mib_per_second": round(size / seconds / 2**20, 2),
    }


async def _deliver(prepared: Prepared, lines: list[bytes]) -> tuple[int, float]:
    """Batches, and seconds that were spent in `deliver`."""
    count, seconds = 0, 0.0
    sink = prepared.sink
    for batch in batches(lines, sink.limits):
        started = time.perf_counter()
        report = await sink.deliver(batch)
        seconds += time.perf_counter() - started
        count += 1
        if report.delivered != batch.count:
            message = f"{report.delivered} of {batch.count} delivered: {report.refused[:1]} {report.message}"
            raise RuntimeError(message)
        await asyncio.to_thread(prepared.between)
    return count, seconds


def main() -> int:
    """Print one JSON object a target."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="+", choices=sorted(TARGETS), metavar="NAME", help=", ".join(sorted(TARGETS)))
    parser.add_argument("--events", type=int, default=20_000)
    arguments = parser.parse_args()
    for name in arguments.names:
        with TARGETS[name]() as prepared:
            result = asyncio.run(measure(prepared, arguments.events))
        print(json.dumps({"sink": name, **result}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
