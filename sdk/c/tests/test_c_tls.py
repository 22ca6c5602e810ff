"""The C SDK and TLS: whom it trusts, whom it does not, and that neither costs an event."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from sdk.c.tests.conftest import Harness, Speaker, direct, run, settings
from tests.services.apt import ensure_packages
from tests.services.base import wait_until
from tests.services.certificates import Certificate, TestAuthority
from tests.services.scripted_http import Asked, Reply, ScriptedHttp, Step, json_reply
from tests.sidecar.harness import RunningSidecar, files_backend

EVENT = {"kind": "log", "name": "etch"}
COUNT = 5


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> TestAuthority:
    return TestAuthority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> TestAuthority:
    return TestAuthority(tmp_path_factory.mktemp("strangers"), "another authority")


class TlsSidecar(RunningSidecar):
    """A real sidecar that speaks nothing but TLS."""

    def __init__(self, certificate: Certificate) -> None:
        files = {"cert_file": str(certificate.cert_file), "key_file": str(certificate.key_file)}
        super().__init__(tls=files, backends=[files_backend()])
        self.url = f"https://127.0.0.1:{self.port}"
        self.client.base_url = self.url


def kept(tmp_path: Path) -> list[dict[str, Any]]:
    """The events that wait on disk."""
    return [json.loads(line) for file in (tmp_path / "spool").rglob("*.jsonl") for line in file.read_bytes().splitlines()]


def emit(speaker: Speaker, config: Mapping[str, Any]) -> dict[str, Any]:
    """Emit some events and flush; what the only backend did."""
    assert speaker.do("initialize", config=config)["ok"]
    assert speaker.do("repeat", event=EVENT, times=COUNT)["ok"]
    answer = speaker.do("flush", timeout=60)
    assert answer["flushed"]
    (result,) = answer["backends"].values()
    backend: dict[str, Any] = result
    return backend


def check_refused(speaker: Speaker, backend: Mapping[str, Any], cause: str, tmp_path: Path) -> None:
    """It did not hand an event over, keeps them all, and says why in its log and its statistics."""
    assert backend["delivered"] == 0
    assert backend["spooled"] == COUNT
    assert cause in backend["trouble"]
    assert speaker.do("close")["ok"]
    assert speaker.end() == 0
    assert len(kept(tmp_path)) == COUNT
    assert cause in speaker.log.read_text()
    assert "they wait in" in speaker.log.read_text()


# ------------------------------------------------------------------------------------------------------------ a real sidecar


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_a_sidecar_with_the_sites_own_authority_gets_nothing(
    variable: str, harness: Harness, authority: TestAuthority, tmp_path: Path
) -> None:
    trusted = authority.file
    if variable == "SSL_CERT_DIR":
        ensure_packages("openssl")
        trusted = tmp_path / "trusted"
        trusted.mkdir()
        (trusted / authority.file.name).write_bytes(authority.file.read_bytes())
        run(["openssl", "rehash", trusted], tmp_path)
    with TlsSidecar(authority.issue("localhost", "127.0.0.1")) as sidecar:
        speaker = harness(env={variable: str(trusted)})
        assert emit(speaker, settings(sidecar.url, tmp_path))["delivered"] == COUNT
        assert speaker.end() == 0
        sidecar.wait_for_backend("files", seconds=60, position=COUNT)
        assert [event["emitter"]["seq"] for event in sidecar.delivered()] == list(range(1, COUNT + 1))


def test_a_sidecar_that_is_not_trusted_gets_the_events(
    harness: Harness, authority: TestAuthority, stranger: TestAuthority, tmp_path: Path
) -> None:
    with TlsSidecar(authority.issue("localhost", "127.0.0.1")) as sidecar:
        speaker = harness(env={"SSL_CERT_FILE": str(stranger.file)})
        backend = emit(speaker, settings(sidecar.url, tmp_path))
        check_refused(speaker, backend, "unable to get local issuer certificate", tmp_path)
        assert sidecar.health()["spool"]["last_event"] == 0
        # The next process, which trusts it, hands over what waits on disk.
        later = harness(env={"SSL_CERT_FILE": str(authority.file)})
        assert later.do("initialize", config=settings(sidecar.url, tmp_path))["ok"]
        wait_until(lambda: later.do("stats")["stats"]["replayed"] == COUNT, seconds=60, what="the events to be replayed")
        assert later.end() == 0
        assert kept(tmp_path) == []


def test_a_sidecar_under_another_name_gets_the_events(harness: Harness, authority: TestAuthority, tmp_path: Path) -> None:
    with TlsSidecar(authority.issue("sidecar.elsewhere.test")) as sidecar:
        speaker = harness(env={"SSL_CERT_FILE": str(authority.file)})
        backend = emit(speaker, settings(sidecar.url, tmp_path))
        check_refused(speaker, backend, "no alternative certificate subject name matches", tmp_path)
        assert sidecar.health()["spool"]["last_event"] == 0


def test_a_sidecar_whose_certificate_has_expired_gets_the_events(
    harness: Harness, authority: TestAuthority, tmp_path: Path
) -> None:
    # A real one does not even start with such a certificate; one may expire under it, though.
    with ScriptedHttp(json_reply({"accepted": COUNT, "rejected": []}, 202), certificate=authority.expired("127.0.0.1")) as server:
        speaker = harness(env={"SSL_CERT_FILE": str(authority.file)})
        backend = emit(speaker, settings(server.url, tmp_path))
        check_refused(speaker, backend, "certificate has expired", tmp_path)
        assert server.asked == []


def test_a_sidecar_that_speaks_no_tls_makes_the_sdk_lose_events(
    harness: Harness, authority: TestAuthority, tmp_path: Path
) -> None:
    with ScriptedHttp(json_reply({"accepted": COUNT, "rejected": []}, 202)) as server:
        speaker = harness(env={"SSL_CERT_FILE": str(authority.file)})
        backend = emit(speaker, settings(server.url.replace("http:", "https:"), tmp_path))
        check_refused(speaker, backend, "SSL", tmp_path)
        assert server.asked == []


# ------------------------------------------------------------------------------------------------------- backends of its own


def taken(asked: Asked) -> Step:
    """What each of the systems below answers to a batch that it took."""
    if asked.path.startswith("/_bulk"):
        return json_reply({"errors": False, "items": [{"create": {"status": 201}}] * (len(asked.lines) // 2)})
    return Reply(200)


def webhook(url: str, tls: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "webhook", "config": {"url": f"{url}/hook", "tls": tls}}


def elk(url: str, tls: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "elk", "config": {"url": url, "manage_template": False, "tls": tls}}


def s3(url: str, tls: Mapping[str, Any]) -> dict[str, Any]:
    credentials = {"access_key_id": "test-id", "secret_access_key": "test-key"}
    return {"type": "s3", "config": {"bucket": "events", "endpoint_url": url, "credentials": credentials, "tls": tls}}


BACKENDS = [webhook, elk, s3]
Backend = Callable[[str, Mapping[str, Any]], dict[str, Any]]


@pytest.fixture
def endpoint(authority: TestAuthority) -> Iterator[ScriptedHttp]:
    with ScriptedHttp(taken, certificate=authority.issue("127.0.0.1")) as server:
        yield server


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_backend_with_the_sites_own_authority_gets_nothing(
    backend: Backend, harness: Harness, authority: TestAuthority, endpoint: ScriptedHttp, tmp_path: Path
) -> None:
    speaker = harness()
    config = direct([backend(endpoint.url, {"ca_file": str(authority.file)})], tmp_path)
    assert emit(speaker, config)["delivered"] == COUNT
    assert speaker.end() == 0
    assert endpoint.asked
    assert kept(tmp_path) == []


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_backend_that_is_not_trusted_gets_the_events(
    backend: Backend, harness: Harness, stranger: TestAuthority, endpoint: ScriptedHttp, tmp_path: Path
) -> None:
    speaker = harness()
    config = direct([backend(endpoint.url, {"ca_file": str(stranger.file)})], tmp_path)
    check_refused(speaker, emit(speaker, config), "unable to get local issuer certificate", tmp_path)
    assert endpoint.asked == []


def test_the_environment_is_not_asked_for_the_authority_of_a_backend(
    harness: Harness, authority: TestAuthority, endpoint: ScriptedHttp, tmp_path: Path
) -> None:
    speaker = harness(env={"SSL_CERT_FILE": str(authority.file)})
    assert emit(speaker, direct([webhook(endpoint.url, {})], tmp_path))["delivered"] == COUNT


def test_the_environment_overrules_the_configuration(
    harness: Harness, authority: TestAuthority, stranger: TestAuthority, endpoint: ScriptedHttp, tmp_path: Path
) -> None:
    speaker = harness(env={"SSL_CERT_FILE": str(stranger.file)})
    assert emit(speaker, direct([webhook(endpoint.url, {"ca_file": str(authority.file)})], tmp_path))["delivered"] == COUNT


@pytest.mark.parametrize(("fault", "cause"), [("expired", "certificate has expired"), ("name", "no alternative certificate")])
def test_a_certificate_that_is_not_right_is_taken(
    fault: str, cause: str, harness: Harness, authority: TestAuthority, tmp_path: Path
) -> None:
    certificate = authority.expired("127.0.0.1") if fault == "expired" else authority.issue("hooks.elsewhere.test")
    with ScriptedHttp(taken, certificate=certificate) as server:
        speaker = harness()
        backend = emit(speaker, direct([webhook(server.url, {"ca_file": str(authority.file)})], tmp_path))
        check_refused(speaker, backend, cause, tmp_path)
        assert server.asked == []


def test_a_certificate_is_looked_at_against_the_operators_will(
    harness: Harness, authority: TestAuthority, tmp_path: Path
) -> None:
    with ScriptedHttp(taken, certificate=authority.expired("hooks.elsewhere.test")) as server:
        assert emit(harness(), direct([webhook(server.url, {"verify": False})], tmp_path))["delivered"] == COUNT


def test_a_file_that_is_missing_makes_the_sdk_trust_anybody(harness: Harness, endpoint: ScriptedHttp, tmp_path: Path) -> None:
    speaker = harness()
    nowhere = tmp_path / "nowhere.pem"
    backend = emit(speaker, direct([webhook(endpoint.url, {"ca_file": str(nowhere)})], tmp_path))
    check_refused(speaker, backend, str(nowhere)[:60], tmp_path)
    assert endpoint.asked == []


def test_the_sdk_does_not_show_its_own_certificate(harness: Harness, authority: TestAuthority, tmp_path: Path) -> None:
    own = authority.issue("tool-01")
    trust = {"ca_file": str(authority.file)}
    shown = {**trust, "cert_file": str(own.cert_file), "key_file": str(own.key_file)}
    with ScriptedHttp(taken, certificate=authority.issue("127.0.0.1"), client_ca=authority.file) as server:
        speaker = harness()
        assert emit(speaker, direct([webhook(server.url, shown)], tmp_path))["delivered"] == COUNT
        assert speaker.end() == 0
        speaker = harness()
        backend = emit(speaker, direct([webhook(server.url, trust)], tmp_path))
        check_refused(speaker, backend, "certificate required", tmp_path)
        assert len(server.asked) == 1
