"""Apache Kafka: one broker that is its own controller, with a listener for each way in which a client may come."""

from __future__ import annotations

import signal
import subprocess
import uuid
from pathlib import Path
from typing import Final, Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, NewTopic
from cryptography.hazmat.primitives import serialization

from tests.services.base import Service, free_port, wait_until
from tests.services.certificates import Certificate, TestAuthority
from tests.services.maven import maven_jars

VERSION: Final = "4.4.0"
USERS: Final = {"admin": "admin-secret", "limited": "limited-secret"}
"""Who may log in where SASL is asked for; `limited` may do nothing but that."""

PROXIED: Final = ("proxied", "proxied2")
"""Listeners that are advertised at the port of a proxy, which the test starts there (`KafkaService.proxy_ports`)."""

_LISTENERS: Final = {
    "plain": "PLAINTEXT",
    "sasl": "SASL_PLAINTEXT",
    "tls": "SASL_SSL",
    "expired": "SSL",
    "othername": "SSL",
    "mutual": "SSL",
    **dict.fromkeys(PROXIED, "PLAINTEXT"),
}


class KafkaService(Service):
    """The broker would make any topic that is asked for, as many do by default; tests prove that sinks don't ask for it."""

    name = "kafka"
    start_seconds = 120

    def __init__(self) -> None:
        super().__init__()
        self.ports = {listener: free_port() for listener in _LISTENERS}
        self.proxy_ports = {listener: free_port() for listener in PROXIED}
        self._controller_port = free_port()
        self.authority_file = Path()
        """Who signed the brokers' certificates, and the client's."""
        self.admin_certificate: Certificate | None = None
        """Shown to the listener `mutual`, it makes its bearer an administrator."""

    @property
    def bootstrap(self) -> str:
        """Where a client comes in without credential."""
        return self.at("plain")

    def at(self, listener: str) -> str:
        """The address of one of the listeners."""
        return f"127.0.0.1:{self.ports[listener]}"

    def start(self) -> Self:
        """Format its folder, start it, wait until it answers."""
        self._jars = maven_jars(f"kafka-{VERSION}", f"org.apache.kafka:kafka_2.13:{VERSION}", "org.slf4j:slf4j-simple:1.7.36")
        self._properties = self.folder / "server.properties"
        self._properties.write_text("".join(f"{name}={value}\n" for name, value in self._settings().items()))
        cluster = uuid.uuid4().hex[:22]
        form = self._java("kafka.tools.StorageTool", "format", "--cluster-id", cluster, "--config", self._properties)
        done = subprocess.run(form, cwd=self.folder, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            message = f"kafka's folder can't be formatted:\n{done.stdout}{done.stderr}"
            raise RuntimeError(message)
        self.restart()
        return self

    def restart(self) -> None:
        """Start it, after `kill` or for the first time, with what it has on disk."""
        self.spawn(self._java("kafka.Kafka", self._properties), ready=self.answers)

    def crash(self) -> None:
        """Stop it as a power cut would."""
        self.kill(signal.SIGKILL)

    def answers(self) -> bool:
        """Whether the broker serves clients."""
        try:
            return bool(self.admin().list_topics(timeout=2).brokers)
        except KafkaException:
            return False

    def admin(self) -> AdminClient:
        """A client that may do anything."""
        return AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0}, logger=_quiet())

    def fresh_topic(self, *, partitions: int = 1, **config: str) -> str:
        """The name of a new, empty topic; `config` are its settings, with _ for each dot."""
        topic = f"test-{uuid.uuid4().hex[:12]}"
        settings = {name.replace("_", "."): value for name, value in config.items()}
        admin = self.admin()
        admin.create_topics([NewTopic(topic, partitions, 1, config=settings)])[topic].result(30)
        wait_until(lambda: topic in admin.list_topics(timeout=10).topics, seconds=30, what=f"topic {topic} to be known")
        return topic

    def _java(self, program: str, *arguments: str | Path) -> list[str | Path]:
        options = [
            "-Xms128M",
            "-Xmx384M",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
        ]
        return ["java", *options, "-cp", f"{self._jars}/*", program, *arguments]

    def _settings(self) -> dict[str, object]:
        name = "127.0.0.1"
        plain = "org.apache.kafka.common.security.plain.PlainLoginModule required"
        accounts = " ".join(f'user_{user}="{password}"' for user, password in USERS.items())
        settings: dict[str, object] = {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.voters": f"1@{name}:{self._controller_port}",
            "controller.listener.names": "CONTROLLER",
            "listeners": ",".join(
                [f"CONTROLLER://{name}:{self._controller_port}"]
                + [f"{listener.upper()}://{name}:{port}" for listener, port in self.ports.items()]
            ),
            "advertised.listeners": ",".join(
                f"{listener.upper()}://{name}:{self.proxy_ports.get(listener, port)}" for listener, port in self.ports.items()
            ),
            "listener.security.protocol.map": ",".join(
                ["CONTROLLER:PLAINTEXT"] + [f"{listener.upper()}:{protocol}" for listener, protocol in _LISTENERS.items()]
            ),
            "inter.broker.listener.name": "PLAIN",
            "sasl.enabled.mechanisms": "PLAIN",
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS;User:admin;User:CN=admin",
            "log.dirs": self.folder / "data",
            "auto.create.topics.enable": "true",
            "num.partitions": 1,
            "offsets.topic.replication.factor": 1,
            "offsets.topic.num.partitions": 1,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "group.initial.rebalance.delay.ms": 0,
            "controlled.shutdown.enable": "false",
        }
        for listener in ("sasl", "tls"):
            settings[f"listener.name.{listener}.plain.sasl.jaas.config"] = f"{plain} {accounts};"
        authority = TestAuthority(self.folder)
        self.authority_file, self.admin_certificate = authority.file, authority.issue("admin")
        certificates = {
            "tls": authority.issue("127.0.0.1", "localhost"),
            "mutual": authority.issue("127.0.0.1"),
            "expired": authority.expired("127.0.0.1"),
            "othername": authority.issue("kafka.example.org"),
        }
        for listener, certificate in certificates.items():
            settings[f"listener.name.{listener}.ssl.keystore.type"] = "PEM"
            settings[f"listener.name.{listener}.ssl.keystore.location"] = self._key_store(listener, certificate)
        settings["listener.name.mutual.ssl.client.auth"] = "required"
        settings["listener.name.mutual.ssl.truststore.type"] = "PEM"
        settings["listener.name.mutual.ssl.truststore.location"] = self.authority_file
        return settings

    def _key_store(self, listener: str, certificate: Certificate) -> Path:
        """Key and certificate in one file, the key as PKCS #8, which is all that Kafka reads."""
        key = serialization.load_pem_private_key(certificate.key_file.read_bytes(), None)
        pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        file = self.folder / f"{listener}.keystore.pem"
        file.write_bytes(pem + certificate.cert_file.read_bytes())
        return file


def _quiet() -> object:
    import logging

    logger = logging.getLogger("tests.kafka")
    logger.propagate = False
    logger.addHandler(logging.NullHandler())
    return logger
