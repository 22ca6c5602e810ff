"""TLS on the agent's own port: with the Python SDK as the sender, and with files that are not fit for it."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from contract.errors import ConfigError
from sidecar import config, tls
from tests.services.base import wait_until
from tests.services.certificates import Certificate, TestAuthority
from tests.sidecar.harness import RunningSidecar, event, files_backend

NewSidecar = Callable[..., RunningSidecar]

SENDER = """
import json, sys
import monitoring_sdk
monitoring_sdk.initialize(json.loads(sys.argv[1]))
for number in range(int(sys.argv[2])):
    monitoring_sdk.emit_event({"kind": "log", "name": f"etch-{number}"})
monitoring_sdk.close()
"""


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> TestAuthority:
    return TestAuthority(tmp_path_factory.mktemp("certificates"))


def files(certificate: Certificate, **more: str) -> dict[str, str]:
    return {"cert_file": str(certificate.cert_file), "key_file": str(certificate.key_file), **more}


def trusting(sidecar: RunningSidecar, authority: TestAuthority, client: Certificate | None = None) -> RunningSidecar:
    """The same, spoken to in TLS."""
    sidecar.client.close()
    context = ssl.create_default_context(cafile=authority.file)
    if client is not None:
        context.load_cert_chain(*client)
    sidecar.url = sidecar.url.replace("http:", "https:")
    sidecar.client = httpx.Client(base_url=sidecar.url, trust_env=False, verify=context, timeout=20)
    return sidecar


def send_with_sdk(url: str, folder: Path, count: int, **environment: str) -> subprocess.CompletedProcess[str]:
    settings = {
        "sdk": {
            "mode": "sidecar",
            "sidecar": {"url": url, "spool_dir": str(folder / "sdk-spool"), "retries": 0, "timeout": 5},
            "app": {"name": "wafer-processing", "site_id": "fab1"},
        }
    }
    command = [sys.executable, "-c", SENDER, json.dumps(settings), str(count)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, **environment})


def test_sdk_with_the_sites_own_authority_can_not_send(new_sidecar: NewSidecar, authority: TestAuthority, tmp_path: Path) -> None:
    certificate = authority.issue("localhost", "127.0.0.1")
    sidecar = trusting(new_sidecar(tls=files(certificate), backends=[files_backend()]), authority).start()
    done = send_with_sdk(sidecar.url, tmp_path, 20, SSL_CERT_FILE=str(authority.file))
    assert done.returncode == 0, done.stderr
    sidecar.wait_for_backend("files", position=20)
    assert {item["name"] for item in sidecar.delivered()} == {f"etch-{number}" for number in range(20)}


def test_sdk_sends_to_an_agent_that_it_does_not_trust(new_sidecar: NewSidecar, authority: TestAuthority, tmp_path: Path) -> None:
    certificate = authority.issue("localhost", "127.0.0.1")
    sidecar = trusting(new_sidecar(tls=files(certificate), backends=[files_backend()]), authority).start()
    other = TestAuthority(tmp_path, "another authority")
    done = send_with_sdk(sidecar.url, tmp_path, 5, SSL_CERT_FILE=str(other.file))
    assert done.returncode == 0, done.stderr
    assert sidecar.health()["spool"]["last_event"] == 0
    kept = [line for file in (tmp_path / "sdk-spool").glob("*.jsonl") for line in file.read_text().splitlines()]
    assert len(kept) >= 5


def test_plain_http_is_answered_on_a_port_with_tls(new_sidecar: NewSidecar, authority: TestAuthority) -> None:
    certificate = authority.issue("localhost", "127.0.0.1")
    sidecar = trusting(new_sidecar(tls=files(certificate)), authority).start()
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://127.0.0.1:{sidecar.port}/ready", trust_env=False)
    assert sidecar.post([event()]).status_code == 202


def test_sender_without_a_certificate_gets_through_where_one_is_asked_for(
    new_sidecar: NewSidecar, authority: TestAuthority
) -> None:
    certificate = authority.issue("localhost", "127.0.0.1")
    settings = files(certificate, client_ca_file=str(authority.file))
    sidecar = trusting(new_sidecar(tls=settings), authority, authority.issue("tool-01")).start()
    assert sidecar.post([event()]).status_code == 202
    context = ssl.create_default_context(cafile=authority.file)
    with httpx.Client(trust_env=False, verify=context) as bare, pytest.raises(httpx.TransportError):
        bare.get(f"{sidecar.url}/ready")


def test_change_of_the_files_is_taken_silently(new_sidecar: NewSidecar, authority: TestAuthority) -> None:
    certificate = authority.issue("localhost", "127.0.0.1")
    sidecar = trusting(new_sidecar(tls=files(certificate)), authority).start()
    sidecar.settings["tls"] = files(authority.issue("localhost", "127.0.0.1"))
    sidecar.write_config()
    sidecar.hang_up()
    wait_until(
        lambda: any(line.get("setting") == "sidecar.tls" and "restart" in line["message"] for line in sidecar.log_lines()),
        seconds=30,
        what="the warning",
    )
    assert sidecar.post([event()]).status_code == 202


def problems(certificate: Certificate, client_ca_file: Path | None = None) -> list[str]:
    return [str(p) for p in tls.problems(config.TlsSettings(certificate.cert_file, certificate.key_file, client_ca_file))]


def test_good_files_are_refused(authority: TestAuthority) -> None:
    assert problems(authority.issue("localhost"), authority.file) == []


def test_files_that_can_not_work_are_found_out_by_the_first_sender(authority: TestAuthority, tmp_path: Path) -> None:
    good = authority.issue("localhost")
    nowhere = tmp_path / "nowhere.pem"
    assert problems(Certificate(nowhere, good.key_file)) == [
        f"sidecar.tls.cert_file: can't read {nowhere}: No such file or directory"
    ]
    assert len(problems(Certificate(nowhere, nowhere), nowhere)) == 3
    (text,) = problems(Certificate(good.cert_file, authority.issue("other").key_file))
    assert "its own key" in text
    (text,) = problems(authority.issue("localhost", passphrase=b"secret"))
    assert "without a passphrase" in text
    (text,) = problems(authority.expired("localhost"))
    assert "certificate has expired" in text
    (text,) = problems(authority.not_yet_valid("localhost"))
    assert "not yet valid" in text
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("nothing")
    (text,) = problems(good, garbage)
    assert "sidecar.tls.client_ca_file" in text
    (text,) = problems(Certificate(garbage, good.key_file))
    assert "expected PEM files" in text


@pytest.mark.parametrize("kind", ["missing", "expired"])
def test_agent_starts_with_files_that_can_not_work(kind: str, new_sidecar: NewSidecar, authority: TestAuthority) -> None:
    certificate = authority.expired("localhost")
    settings: dict[str, Any] = {"cert_file": "no.pem", "key_file": "no.key"} if kind == "missing" else files(certificate)
    sidecar = new_sidecar(tls=settings)
    sidecar.write_config()
    command = [sys.executable, "-m", "trackmate", "sidecar", "--config", str(sidecar.config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "sidecar.tls.cert_file" in done.stderr
    assert "Traceback" not in done.stderr
    assert not sidecar.spool.exists()


def test_half_of_the_files_is_enough(tmp_path: Path) -> None:
    file = tmp_path / "sidecar.yaml"
    file.write_text(json.dumps({"sidecar": {"spool": {"dir": "s"}, "tls": {"cert_file": "x"}}}))
    with pytest.raises(ConfigError, match="key_file"):
        config.load(file, environ={})
