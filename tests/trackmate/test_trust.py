"""A sidecar that speaks TLS, as the command line meets it: its own one by its certificate, others by their authority."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from contract.errors import TrackMateError
from contract.ids import uuid7
from tests.services.certificates import Certificate, TestAuthority
from tests.services.scripted_http import ScriptedHttp
from tests.trackmate.conftest import SidecarService, trackmate
from tests.trackmate.test_stack import Up, use_free_ports
from trackmate.data_folder import DataFolder
from trackmate.services import read_stack
from trackmate.trust import OwnCertificate, advice


@pytest.fixture
def authority(roomy: Path) -> TestAuthority:
    return TestAuthority(roomy)


def with_tls(folder: DataFolder, certificate: Certificate, client_ca: Path | None = None) -> None:
    """Change the folder's sidecar.yaml so that its sidecar speaks TLS."""
    tree = yaml.safe_load(folder.sidecar_yaml.read_text())
    tree["sidecar"]["tls"] = {"cert_file": str(certificate.cert_file), "key_file": str(certificate.key_file)}
    if client_ca is not None:
        tree["sidecar"]["tls"]["client_ca_file"] = str(client_ca)
    folder.sidecar_yaml.write_text(yaml.safe_dump(tree))


@pytest.fixture
def folder(roomy: Path) -> DataFolder:
    folder = DataFolder(roomy / "data")
    use_free_ports(folder)
    return folder


def state_of_sidecar(folder: DataFolder) -> dict[str, object]:
    told = json.loads(trackmate("status", "--data", folder.root, "--json").stdout)
    state: dict[str, object] = next(service for service in told["services"] if service["service"] == "sidecar")
    return state


def test_a_stack_whose_sidecar_speaks_tls_comes_up_and_its_state_is_told(
    folder: DataFolder, authority: TestAuthority, gateway: str
):
    # The certificate's name is that of the network, not 127.0.0.1; and nobody on this machine knows who signed it.
    with_tls(folder, authority.issue("fab-host.example"))
    up = Up(folder, "--only", "sidecar")
    try:
        up.wait_ready()
        end = read_stack(folder).endpoints["sidecar"]
        assert end.url.startswith("https://")
        event = {"event_id": uuid7(), "timestamp": "2026-07-01T09:00:00Z", "kind": "log", "name": "etch", "site_id": "fab1"}
        body = json.dumps({**event, "app": {"name": "tests"}})
        with httpx.Client(base_url=end.url, verify=end.verify(), trust_env=False) as client:
            headers = {"Content-Type": "application/json"}
            assert client.post("/v1/ingest/events", content=body, headers=headers).status_code == 202
        state = state_of_sidecar(folder)
        assert (state["ok"], state["address"]) == (True, end.url), state
        assert str(state["detail"]).startswith("1 events taken")
        rows = [line for line in trackmate("doctor", "--data", folder.root).stdout.splitlines() if "sidecar" in line]
        assert any(" ok " in line and "1 events taken" in line for line in rows), rows
        traced = trackmate("trace", event["event_id"], "--data", folder.root, "--url", gateway, "--json")
        spool = next(place for place in json.loads(traced.stdout)["places"] if place["place"] == "spool")
        assert spool["sidecar"]["spool"]["seq"] == 1, "it was not asked, only its files were read"
        with_tls(folder, authority.issue("fab-host.example"))
        state = state_of_sidecar(folder)
        assert not state["ok"]
        assert "does not serve with" in str(state["detail"])
    finally:
        up.end()


def test_a_sidecar_that_asks_for_a_certificate_is_shown_its_own_or_the_refusal_is_told(
    folder: DataFolder, authority: TestAuthority, tmp_path: Path
):
    certificate = authority.issue("fab-host.example")
    for client_ca, ok in ((authority.file, True), (TestAuthority(tmp_path, "senders").file, False)):
        with_tls(folder, certificate, client_ca)
        up = Up(folder, "--only", "sidecar")
        try:
            up.wait_ready()
            state = state_of_sidecar(folder)
            assert state["ok"] is ok, state
            assert ok or "asks for a client certificate" in str(state["detail"])
        finally:
            up.end()


@pytest.fixture
def secure_sidecar(authority: TestAuthority) -> Iterator[SidecarService]:
    certificate = authority.issue("127.0.0.1")
    with SidecarService(certificate, authority.file) as service:
        yield service


def test_ingest_goes_to_a_sidecar_of_the_sites_own_authority_and_to_no_other(
    secure_sidecar: SidecarService, authority: TestAuthority, roomy: Path
):
    file = roomy / "events.ndjson"
    file.write_text(
        json.dumps({"timestamp": "2026-07-01T09:00:00Z", "kind": "log", "name": "n", "site_id": "fab1", "app": {"name": "x"}})
    )
    untrusted = trackmate("ingest", file, "--url", secure_sidecar.url)
    assert untrusted.returncode == 2
    assert "SSL_CERT_FILE" in untrusted.stderr
    plain = trackmate("ingest", file, "--url", secure_sidecar.url.replace("https:", "http:"))
    assert plain.returncode == 2
    assert "https://" in plain.stderr
    assert secure_sidecar.events() == []
    done = trackmate("ingest", file, "--url", secure_sidecar.url, SSL_CERT_FILE=str(authority.file))
    assert done.returncode == 0, done.stderr
    assert len(secure_sidecar.events()) == 1


def test_a_plain_sidecar_asked_over_tls_is_told_apart(sidecar: SidecarService, roomy: Path):
    file = roomy / "events.ndjson"
    file.write_text("{}")
    done = trackmate("ingest", file, "--url", sidecar.url.replace("http:", "https:"))
    assert done.returncode == 2
    assert "does not speak TLS" in done.stderr


@pytest.mark.parametrize(("kind", "words"), [("missing", "No such file"), ("garbage", "holds no certificate")])
def test_a_certificate_that_can_not_be_read_is_named(tmp_path: Path, kind: str, words: str):
    file = tmp_path / "agent.crt"
    if kind == "garbage":
        file.write_text("nothing")
    with pytest.raises(TrackMateError, match=rf"agent\.crt.*{words}|{words}.*agent\.crt"):
        OwnCertificate(file, tmp_path / "agent.key").context()


def test_whoever_else_the_same_authority_signed_is_believed(authority: TestAuthority, tmp_path: Path):
    """A file may hold the chain up to the authority: only its first certificate is the service's."""
    mine, chain = authority.issue("mine.example"), tmp_path / "chain.crt"
    chain.write_bytes(mine.cert_file.read_bytes() + authority.file.read_bytes())
    own = OwnCertificate(chain, mine.key_file)
    with ScriptedHttp(certificate=mine) as server:
        assert httpx.get(server.url, verify=own.context(), trust_env=False).status_code == 200
    with ScriptedHttp(certificate=authority.issue("mine.example")) as server:
        with pytest.raises(httpx.ConnectError) as error:
            httpx.get(server.url, verify=own.context(), trust_env=False)
        assert "does not serve with" in advice(error.value, own)
        assert server.asked == []
