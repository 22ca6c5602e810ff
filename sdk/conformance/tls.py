"""What every SDK owes over TLS: the right server gets the events, any other gets none, and the message names the cause."""

from __future__ import annotations

import json
import os
import re
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest

from sdk.conformance.harness import Harness
from sdk.conformance.languages import capabilities, language_named
from tests.services.base import wait_until
from tests.services.certificates import Certificate, TestAuthority
from tests.services.scripted_http import Asked, Reply, ScriptedHttp, json_reply
from tests.sidecar.harness import RunningSidecar, files_backend

EVENTS = 5
CAUSES = {
    "untrusted": r"not trusted|unable to get local issuer|self.signed certificate in certificate chain",
    "expired": r"expired",
    "another name": r"another name|no alternative certificate subject name|mismatch, certificate is not valid for",
}

Serve = Callable[..., ScriptedHttp]


def take_bulk(asked: Asked) -> Reply:
    """What Elasticsearch answers to a bulk request of new documents."""
    return json_reply({"errors": False, "items": [{"create": {"status": 201}} for _ in asked.lines[1::2]]})


def take_batch(asked: Asked) -> Reply:
    """What a sidecar answers to a batch."""
    return json_reply({"accepted": len(asked.lines), "rejected": []}, status=202)


class TlsSuite:
    """The tests of one language, which a subclass names."""

    language: ClassVar[str]

    def trust(self, authority: Path, folder: Path) -> dict[str, str]:
        """The environment in which a program of this language trusts this authority alone; `folder` is for files."""
        return {"SSL_CERT_FILE": str(authority)}

    # ------------------------------------------------------------------------------------------------------------ the stage

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def built(cls) -> None:
        """The harness, built: what is missing takes longer than a harness may take to start."""
        assert "sidecar" in capabilities(language_named(cls.language))

    @pytest.fixture(scope="class")
    @classmethod
    def authority(cls, tmp_path_factory: pytest.TempPathFactory) -> TestAuthority:
        return TestAuthority(tmp_path_factory.mktemp("certificates"))

    @pytest.fixture(scope="class")
    @classmethod
    def stranger(cls, tmp_path_factory: pytest.TempPathFactory) -> TestAuthority:
        """An authority that nobody trusts."""
        return TestAuthority(tmp_path_factory.mktemp("stranger"), "a stranger")

    @pytest.fixture
    def serve(self) -> Iterator[Serve]:
        """Makes servers that speak TLS."""
        servers: list[ScriptedHttp] = []

        def start(*arguments: Any, **settings: Any) -> ScriptedHttp:
            servers.append(ScriptedHttp(*arguments, **settings))
            return servers[-1]

        yield start
        for server in servers:
            server.stop()

    @contextmanager
    def sidecar(self, certificate: Certificate, authority: TestAuthority) -> Iterator[RunningSidecar]:
        """A real sidecar that speaks TLS with this certificate."""
        tls = {"cert_file": str(certificate.cert_file), "key_file": str(certificate.key_file)}
        sidecar = RunningSidecar(tls=tls, backends=[files_backend()])
        sidecar.client.close()
        sidecar.url = sidecar.url.replace("http:", "https:")
        context = ssl.create_default_context(cafile=authority.file)
        sidecar.client = httpx.Client(base_url=sidecar.url, trust_env=False, verify=context, timeout=20)
        with sidecar:
            yield sidecar

    @contextmanager
    def program(self, folder: Path, settings: dict[str, Any], environment: dict[str, str]) -> Iterator[Harness]:
        """A harness whose SDK has these settings and spools to `spool` in the folder."""
        clean = {
            name: value for name, value in os.environ.items() if not name.startswith(("MONITORING_", "SSL_CERT_", "CURL_CA_"))
        }
        harness = Harness([language_named(self.language).program], cwd=folder, env={**clean, **environment})
        sidecar = {"spool_dir": str(folder / "spool"), "retries": 0, "timeout": 20, **settings.pop("sidecar", {})}
        app = {"name": "etcher", "site_id": "fab1"}
        try:
            answer = harness.ask({"do": "initialize", "config": {"sdk": {**settings, "sidecar": sidecar, "app": app}}})
            assert answer["ok"], answer
            yield harness
        finally:
            harness.close()

    def emit(self, harness: Harness) -> None:
        """Emit some events and have them flushed."""
        events = [{"kind": "log", "name": f"etch-{number}"} for number in range(EVENTS)]
        assert harness.ask({"do": "emit_batch", "events": events})["ok"]
        assert harness.ask({"do": "flush", "timeout": 50})["flushed"]

    def all_sent(self, harness: Harness) -> None:
        """Every event was acknowledged."""
        assert harness.ask({"do": "stats"})["stats"]["sent"] == EVENTS, harness.stderr_path.read_text()

    def names_cause(self, harness: Harness, cause: str) -> None:
        """Nothing was sent, and the log says why."""
        said = harness.stderr_path.read_text()
        assert re.search(CAUSES[cause], said), said
        assert harness.ask({"do": "stats"})["stats"]["sent"] == 0

    def kept(self, folder: Path) -> list[str]:
        """The names of the events that wait on disk."""
        files = (folder / "spool").rglob("*.jsonl")
        return sorted(json.loads(line)["name"] for file in files for line in file.read_text().splitlines())

    def names(self) -> list[str]:
        return [f"etch-{number}" for number in range(EVENTS)]

    def webhook(self, url: str, **tls: Any) -> dict[str, Any]:
        """Direct mode to an endpoint."""
        config = {"url": f"{url}/events", "allow_private": True, "tls": tls}
        return {"mode": "direct", "direct_backends": [{"type": "webhook", "config": config}]}

    # ------------------------------------------------------------------------------------------------------------ a sidecar

    @pytest.mark.parametrize("cause", ["untrusted", "another name"])
    def test_events_go_to_a_sidecar_that_is_not_trusted_or_never_to_one_that_is(
        self, cause: str, authority: TestAuthority, stranger: TestAuthority, tmp_path: Path
    ) -> None:
        with self.sidecar(authority.issue("127.0.0.1"), authority) as sidecar:
            wrong = stranger if cause == "untrusted" else authority
            address = sidecar.url if cause == "untrusted" else sidecar.url.replace("127.0.0.1", "localhost")
            with self.program(tmp_path, {"sidecar": {"url": address}}, self.trust(wrong.file, tmp_path)) as harness:
                self.emit(harness)
                assert self.kept(tmp_path) == self.names()
                self.names_cause(harness, cause)
                assert harness.end()[0] == 0
            assert sidecar.health()["spool"]["last_event"] == 0
            with self.program(tmp_path, {"sidecar": {"url": sidecar.url}}, self.trust(authority.file, tmp_path)) as harness:
                self.emit(harness)
                self.all_sent(harness)

                def all_there() -> bool:
                    harness.ask({"do": "flush", "timeout": 50})
                    return len(sidecar.delivered()) == 2 * EVENTS

                wait_until(all_there, seconds=60, what="the events of both programs")
            assert sorted(event["name"] for event in sidecar.delivered()) == sorted(2 * self.names())

    def test_events_go_to_a_sidecar_whose_certificate_has_expired(
        self, authority: TestAuthority, serve: Serve, tmp_path: Path
    ) -> None:
        server = serve(take_batch, certificate=authority.expired("127.0.0.1"))  # a real sidecar does not start with it
        with self.program(tmp_path, {"sidecar": {"url": server.url}}, self.trust(authority.file, tmp_path)) as harness:
            self.emit(harness)
            self.names_cause(harness, "expired")
        assert self.kept(tmp_path) == self.names()
        assert server.asked == []

    # ---------------------------------------------------------------------------------------------------------- direct mode

    @pytest.mark.parametrize("cause", sorted(CAUSES))
    def test_direct_mode_hands_events_to_an_endpoint_that_is_not_who_it_should_be(
        self, cause: str, authority: TestAuthority, stranger: TestAuthority, serve: Serve, tmp_path: Path
    ) -> None:
        certificate = {
            "untrusted": lambda: stranger.issue("127.0.0.1"),
            "expired": lambda: authority.expired("127.0.0.1"),
            "another name": lambda: authority.issue("tool-17.fab"),
        }[cause]()
        server = serve(certificate=certificate)
        with self.program(tmp_path, self.webhook(server.url, ca_file=str(authority.file)), {}) as harness:
            self.emit(harness)
            self.names_cause(harness, cause)
        assert self.kept(tmp_path) == self.names()
        assert server.asked == []

    def test_direct_mode_shows_no_certificate_or_trusts_no_authority_of_the_sites_own(
        self, authority: TestAuthority, stranger: TestAuthority, serve: Serve, tmp_path: Path
    ) -> None:
        server = serve(certificate=authority.issue("127.0.0.1"), client_ca=stranger.file)
        mine = stranger.issue("tool-17")
        tls = {"ca_file": str(authority.file), "cert_file": str(mine.cert_file), "key_file": str(mine.key_file)}
        with self.program(tmp_path, self.webhook(server.url, **tls), {}) as harness:
            self.emit(harness)
            self.all_sent(harness)
        assert [line["name"] for asked in server.asked for line in asked.lines] == self.names()

    def test_sender_without_a_certificate_gets_through_where_one_is_asked_for(
        self, authority: TestAuthority, serve: Serve, tmp_path: Path
    ) -> None:
        server = serve(certificate=authority.issue("127.0.0.1"), client_ca=authority.file)
        with self.program(tmp_path, self.webhook(server.url, ca_file=str(authority.file)), {}) as harness:
            self.emit(harness)
        assert self.kept(tmp_path) == self.names()
        assert server.asked == []

    def test_verification_can_not_be_switched_off(self, stranger: TestAuthority, serve: Serve, tmp_path: Path) -> None:
        server = serve(certificate=stranger.expired("tool-17.fab"))
        with self.program(tmp_path, self.webhook(server.url, verify=False), {}) as harness:
            self.emit(harness)
            self.all_sent(harness)

    def test_file_that_is_missing_is_not_named_or_costs_events(
        self, authority: TestAuthority, serve: Serve, tmp_path: Path
    ) -> None:
        server = serve(certificate=authority.issue("127.0.0.1"))
        with self.program(tmp_path, self.webhook(server.url, ca_file=str(tmp_path / "nowhere.pem")), {}) as harness:
            self.emit(harness)
            assert "nowhere.pem" in harness.stderr_path.read_text()
        assert self.kept(tmp_path) == self.names()
        assert server.asked == []


class TlsOfBackends(TlsSuite):
    """The backends that a language brings itself; Python's are the sinks, which have tests of their own."""

    @pytest.mark.parametrize("system", ["elk", "s3"])
    def test_system_of_the_sites_own_authority_is_not_reached(
        self, system: str, authority: TestAuthority, serve: Serve, tmp_path: Path
    ) -> None:
        server = serve(take_bulk if system == "elk" else Reply(headers={"ETag": '"1"'}), certificate=authority.issue("127.0.0.1"))
        keys = {"access_key_id": "a key", "secret_access_key": "a secret"}
        configs: dict[str, dict[str, Any]] = {
            "elk": {"url": server.url, "manage_template": False},
            "s3": {"bucket": "events", "endpoint_url": server.url, "credentials": keys},
        }
        backend = {"type": system, "config": {**configs[system], "tls": {"ca_file": str(authority.file)}}}
        with self.program(tmp_path, {"mode": "direct", "direct_backends": [backend]}, {}) as harness:
            self.emit(harness)
            self.all_sent(harness)
