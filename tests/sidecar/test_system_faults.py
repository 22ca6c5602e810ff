"""Faults of real systems, all the way through a real agent: what is told, what waits, and that all of it arrives in the end."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
import os
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Protocol

import pytest

from lakehouse.hot import reader
from tests.federation.gateway_service import GatewayService
from tests.services.base import wait_until
from tests.services.elasticsearch import Elasticsearch
from tests.services.kafka import KafkaService
from tests.services.moto import REGION, Moto
from tests.services.postgres import EmbeddedPostgresService
from tests.services.rabbitmq import RabbitMq
from tests.services.small_disk import full, small_disk
from tests.services.versitygw import VersityGw
from tests.sidecar.harness import RunningSidecar, events, files_backend, managed_backend
from tests.sidecar.test_parallel_calls import s3_backend, stored
from tests.sidecar.test_running import ids
from tests.sinks.test_elk import LONG_KEY
from tests.sinks.test_kafka import messages as kafka_messages
from tests.sinks.test_rabbitmq import administered
from tests.sinks.test_rabbitmq import messages as rabbitmq_messages
from tests.sinks.test_sqs import Queue

NewSidecar = Callable[..., RunningSidecar]


@contextlib.contextmanager
def no_room_for(file: Path):
    """Whatever is written to this file meets a full disk, as the kernel tells it."""
    file.symlink_to("/dev/full")
    try:
        yield
    finally:
        file.unlink()


def test_full_disk_of_one_backend_stops_another_or_loses_events(
    new_sidecar: NewSidecar, versitygw: VersityGw, tmp_path: Path
) -> None:
    bucket, disk = versitygw.fresh_bucket(), tmp_path / "disk"
    archive = s3_backend(versitygw, bucket, versitygw.port)
    archive["config"]["linger_seconds"] = 0
    with small_disk(disk, "4m") as mounted:
        assert mounted or os.geteuid() != 0, "root can mount a small disk"
        out = disk / "out"
        sidecar = new_sidecar(backends=[files_backend("files", str(out), probe_interval="200ms"), archive]).start()
        sent = events(10)
        sidecar.post(sent)
        sidecar.wait_for_backend("files", seconds=60, position=10)
        state_file = out / ".state" / f"{sidecar.health()['spool']['id']}.json.tmp"
        with full(disk) if mounted else no_room_for(state_file):
            for _ in range(4):
                more = events(10, message="x" * 4000)
                assert sidecar.post(more).status_code == 202
                sent += more
            sidecar.wait_for_backend("archive", seconds=60, position=50, state="ok")
            assert stored(versitygw.buckets / bucket) == Counter(ids(sent))
            told = sidecar.wait_for_backend("files", seconds=60, state="down")
            assert "the disk is full: make room" in told["error"]
            assert told["lag_events"] == 40
            assert sidecar.health()["status"] == "degraded"
        sidecar.wait_for_backend("files", seconds=60, lag_events=0, state="ok")
        assert sidecar.terminate(60) == 0
        assert Counter(item["event_id"] for item in sidecar.delivered(str(out))) == Counter(ids(sent))
        assert stored(versitygw.buckets / bucket) == Counter(ids(sent))


def test_one_bad_document_in_a_thousand_holds_up_or_takes_along_the_others(
    new_sidecar: NewSidecar, elasticsearch: Elasticsearch
) -> None:
    index = elasticsearch.fresh_index()
    config = {"url": elasticsearch.url, "index": index, "username": elasticsearch.username, "password": elasticsearch.password}
    sidecar = new_sidecar(backends=[{"name": "elk", "type": "elk", "config": config}, files_backend()]).start()
    sent = events(1000)
    bad = sent[617]
    bad["attributes"] = {LONG_KEY: 1}
    assert sidecar.post(sent).status_code == 202
    state = sidecar.wait_for_backend("elk", seconds=60, lag_events=0, state="ok")
    assert (state["delivered"], state["refused"]) == (999, 1)
    assert {document["_id"] for document in elasticsearch.documents(index)} == ids(sent) - {bad["event_id"]}
    (letter,) = sidecar.dead("elk")
    assert (letter["seq"], letter["event_id"], json.loads(letter["event"])) == (618, bad["event_id"], bad)
    assert "immense" in letter["reason"]
    fate = {each["name"]: each["state"] for each in sidecar.get(f"/v1/events/{bad['event_id']}").json()["backends"]}
    assert fate["elk"] == "refused"
    sidecar.wait_for_backend("files", seconds=60, position=1000)


def test_broker_that_is_killed_and_comes_back_loses_or_reorders_events(new_sidecar: NewSidecar) -> None:
    """A broker of its own, that dies while events are on their way to it."""
    with KafkaService() as kafka:
        topic = kafka.fresh_topic()
        config = {"bootstrap_servers": kafka.bootstrap, "topic": topic, "message_timeout": 3, "connect_timeout": 2}
        queue = {"name": "queue", "type": "kafka", "probe_interval": "500ms", "config": config}
        sidecar = new_sidecar(backends=[queue, files_backend()]).start()
        sent: list[dict[str, Any]] = []

        def post(batches: int) -> None:
            for _ in range(batches):
                sent.extend(events(500))
                assert sidecar.post(sent[-500:]).status_code == 202

        post(1)
        sidecar.wait_for_backend("queue", seconds=60, position=500)
        post(3)
        kafka.crash()
        post(1)
        sidecar.wait_for_backend("files", seconds=60, position=2500)
        told = wait_until(lambda: sidecar.backend("queue")["error"], seconds=120, what="the broker's end to be told")
        assert topic in told
        kafka.restart()
        sidecar.wait_for_backend("queue", seconds=180, lag_events=0, state="ok")
        found = [json.loads(message.value() or b"") for message in kafka_messages(kafka, topic)]
        assert [item["event_id"] for item in sent] == list(dict.fromkeys(item["event_id"] for item in found))
        assert {item["event_id"]: item for item in found} == {item["event_id"]: item for item in sent}
        assert sidecar.dead("queue") == []


class DeletableQueue(Protocol):
    """A queue of a real broker, as a backend of the agent."""

    backend: dict[str, Any]
    missing: str
    """What the agent says while it is gone."""

    def delete(self) -> None:
        """Delete the queue with all that is in it."""

    def make_again(self) -> None:
        """Make the queue, empty, under the same name."""

    def held(self) -> set[str]:
        """The ids of the events in it."""


class RabbitQueue:
    missing = "no queue"

    def __init__(self, server: RabbitMq) -> None:
        self._server = server
        self._name = server.fresh_name()
        self.backend = {
            "type": "rabbitmq",
            "config": {
                "url": server.url(),
                "exchange": self._name,
                "queue": self._name,
                "queue_type": "classic",
                "declare": True,
                "connect_timeout": 15,
            },
        }

    def delete(self) -> None:
        self._do(lambda admin: admin.queue_delete(self._name))

    def make_again(self) -> None:
        async def make(admin: Any) -> None:
            queue = await admin.declare_queue(self._name, durable=True, arguments={"x-queue-type": "classic"})
            await queue.bind(self._name, "#")

        self._do(make)

    def held(self) -> set[str]:
        return {json.loads(message.body)["event_id"] for message in asyncio.run(rabbitmq_messages(self._server, self._name))}

    def _do(self, work: Callable[[Any], Coroutine[Any, Any, Any]]) -> None:
        async def administer() -> None:
            async with administered(self._server) as admin:
                await work(admin)

        asyncio.run(administer())


class SqsQueue:
    missing = "does not exist"

    def __init__(self, server: Moto) -> None:
        self._queue = Queue(server)
        self.backend = {
            "type": "sqs",
            "config": {
                "queue": self._queue.name,
                "region": REGION,
                "endpoint_url": server.endpoint,
                "credentials": {"access_key_id": server.access_key_id, "secret_access_key": server.secret_access_key},
            },
        }

    def delete(self) -> None:
        self._queue.client.delete_queue(QueueUrl=self._queue.url)

    def make_again(self) -> None:
        self._queue.client.create_queue(QueueName=self._queue.name)

    def held(self) -> set[str]:
        return {json.loads(message["Body"])["event_id"] for message in self._queue.read()}


@pytest.fixture(params=["rabbitmq", "sqs"])
def queue(request: pytest.FixtureRequest) -> DeletableQueue:
    if request.param == "rabbitmq":
        return RabbitQueue(request.getfixturevalue("rabbitmq"))
    return SqsQueue(request.getfixturevalue("moto"))


def test_queue_deleted_midway_swallows_events_or_fills_the_dead_letters(new_sidecar: NewSidecar, queue: DeletableQueue) -> None:
    backend = {"name": "queue", "probe_interval": "300ms", **queue.backend}
    sidecar = new_sidecar(backends=[backend, files_backend()]).start()
    sidecar.post(events(20))
    sidecar.wait_for_backend("queue", seconds=60, position=20)
    queue.delete()
    sent = events(30)
    sidecar.post(sent)
    told = sidecar.wait_for_backend("queue", seconds=60, state="down")
    assert queue.missing in told["error"]
    assert (told["lag_events"], told["refused"]) == (30, 0)
    sidecar.wait_for_backend("files", seconds=60, position=50)
    queue.make_again()
    sidecar.wait_for_backend("queue", seconds=60, lag_events=0, state="ok")
    assert queue.held() == ids(sent)
    assert sidecar.dead("queue") == []


def test_token_revoked_midway_loses_events_or_fills_the_dead_letters(
    new_sidecar: NewSidecar, embedded_postgres: EmbeddedPostgresService
) -> None:
    dsn = embedded_postgres.fresh_store()
    now = dt.datetime.now(dt.UTC)
    with GatewayService(dsn, {"agent": (["ingest"], ["fab1"])}) as gateway:
        backend = managed_backend(gateway.url, probe_interval="300ms")
        backend["config"]["token"] = gateway.plain["agent"]
        sidecar = new_sidecar(backends=[backend, files_backend()]).start()
        sent = events(20)
        sidecar.post(sent)
        sidecar.wait_for_backend("managed", seconds=60, position=20)
        gateway.tokens.revoke("agent", now)

        def refused() -> bool:
            more = events(2)
            assert sidecar.post(more).status_code == 202
            sent.extend(more)
            return bool(sidecar.backend("managed")["state"] == "down")

        wait_until(refused, seconds=60, what="the gateway to refuse the token", interval=0.2)
        told = sidecar.backend("managed")["error"]
        assert "token" in told
        shown = sidecar.get("/health").text + sidecar.get("/metrics").text + (sidecar.folder / "log.txt").read_text()
        assert gateway.plain["agent"] not in shown
        sidecar.wait_for_backend("files", seconds=60, position=len(sent))
        assert sidecar.dead("managed") == []

        backend["config"]["token"] = gateway.tokens.add("agent-2", ["ingest"], ["fab1"], None, now)
        sidecar.write_config()
        sidecar.hang_up()
        sidecar.wait_for_backend("managed", seconds=60, lag_events=0, state="ok")
        assert Counter(reader.read_since(dsn, 0, 10_000).table["event_id"].to_pylist()) == Counter(ids(sent))
        assert sidecar.dead("managed") == []
