"""What the sinks on AWS share: keys from the default chain, regions, TLS, unknown names, and their pages' examples."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from contract.settings import Secret
from sidecar import config as sidecar_config
from sinks import registry
from sinks.aws import AwsCredentials
from sinks.base import Unavailable
from sinks.sqs import SqsConfig, SqsSink
from sinks.tls import Tls
from tests.services.base import free_port
from tests.services.certificates import Certificate, TestAuthority
from tests.services.scripted_http import Asked, Reply, ScriptedHttp, json_reply
from tests.sidecar.harness import event
from tests.sinks.suite import batch_of

PAGES = Path(__file__).parents[2] / "docs" / "backends"
KEY = AwsCredentials(access_key_id="AKIAKEY", secret_access_key=Secret("tm_secret"), session_token=Secret("tm_token"))
URL = "https://sqs.eu-west-3.amazonaws.com/123456789012/events"


@pytest.fixture(autouse=True)
def no_aws_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever this machine knows of AWS is none of the tests' business."""
    for name in (
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_PROFILE",
        "AWS_REGION",
        "AWS_DEFAULT_REGION",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))


def stored(asked: Asked) -> Reply:
    return json_reply({"Successful": [{"Id": entry["Id"]} for entry in asked.json["Entries"]]})


async def send(endpoint: str | None, *, queue: str = "http://127.0.0.1/1/events", **settings: Any) -> None:
    sink = SqsSink("queue", SqsConfig(**{"queue": queue, "endpoint_url": endpoint, "credentials": KEY, **settings}))
    try:
        await sink.open()
        assert (await sink.deliver(batch_of([event()]))).delivered == 1
    finally:
        await sink.close()


async def test_temporary_key_is_sent_without_its_token() -> None:
    with ScriptedHttp(stored) as server:
        await send(server.url)
    assert server.asked[0].headers["X-Amz-Security-Token"] == "tm_token"
    assert "Credential=AKIAKEY/" in server.asked[0].headers["Authorization"]
    assert "trackmate" in server.asked[0].headers["User-Agent"]


async def test_key_from_the_environment_is_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAENV")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "tm_env")
    with ScriptedHttp(stored) as server:
        await send(server.url, credentials=AwsCredentials())
    assert "Credential=AKIAENV/" in server.asked[0].headers["Authorization"]


async def test_missing_key_gives_no_advice() -> None:
    with ScriptedHttp(stored) as server, pytest.raises(Unavailable, match="no AWS key was found: set `credentials`"):
        await send(server.url, credentials=AwsCredentials())


async def test_missing_region_gives_no_advice() -> None:
    with pytest.raises(Unavailable, match="no region is known: set `region`"):
        await send(None, queue="events")


async def test_region_of_a_queues_url_is_asked_for_again() -> None:
    with ScriptedHttp(stored) as server:
        await send(server.url, queue=URL)
    assert "/eu-west-3/sqs/aws4_request" in server.asked[0].headers["Authorization"]


async def test_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    with ScriptedHttp(stored) as server:
        await send(server.url)


async def test_name_that_can_not_be_resolved_is_not_told() -> None:
    with pytest.raises(Unavailable, match="can't be resolved"):
        await send("http://no-such-host.invalid")


async def test_failed_request_is_sent_again_before_the_router_knows() -> None:
    with ScriptedHttp(Reply(503)) as server, pytest.raises(Unavailable):
        await send(server.url)
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda authority: authority.expired("127.0.0.1"), "has expired"),
        (lambda authority: authority.not_yet_valid("127.0.0.1"), "not valid yet"),
        (lambda authority: authority.issue("other.example"), "for another name"),
    ],
)
async def test_bad_certificate_is_taken(tmp_path: Path, make: Callable[[TestAuthority], Certificate], words: str) -> None:
    authority = TestAuthority(tmp_path)
    with ScriptedHttp(stored, certificate=make(authority)) as server:
        with pytest.raises(Unavailable, match=words):
            await send(server.url, tls=Tls(ca_file=authority.file))
        assert server.asked == []


async def test_authority_is_trusted_or_not_against_the_configuration(tmp_path: Path) -> None:
    authority = TestAuthority(tmp_path)
    with ScriptedHttp(stored, certificate=authority.issue("127.0.0.1")) as server:
        await send(server.url, tls=Tls(ca_file=authority.file))
        await send(server.url, tls=Tls(verify=False))
        with pytest.raises(Unavailable, match=r"not trusted.*tls.ca_file"):
            await send(server.url)
    assert len(server.asked) == 2


async def test_certificate_of_this_side_is_not_shown(tmp_path: Path) -> None:
    authority = TestAuthority(tmp_path)
    own = authority.issue("agent")
    with ScriptedHttp(stored, certificate=authority.issue("127.0.0.1"), client_ca=authority.file) as server:
        await send(server.url, tls=Tls(ca_file=authority.file, cert_file=own.cert_file, key_file=own.key_file))
        with pytest.raises(Unavailable, match=r"client certificate|cut in the middle"):
            await send(server.url, tls=Tls(ca_file=authority.file))


async def test_missing_file_of_the_tls_block_is_not_named(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"tls.ca_file '.*nowhere.pem' can't be used"):
        await send("https://127.0.0.1:1", tls=Tls(ca_file=tmp_path / "nowhere.pem"))


@pytest.mark.parametrize("name", ["s3", "sqs", "cloudwatch"])
def test_example_of_a_page_is_not_taken(name: str, tmp_path: Path) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", (PAGES / f"{name}.md").read_text(), re.DOTALL)
    assert blocks
    environ = {"AWS_ACCESS_KEY_ID": "AKIAKEY", "AWS_SECRET_ACCESS_KEY": "tm_secret"}
    for number, block in enumerate(blocks):
        file = tmp_path / f"{number}.yaml"
        file.write_text(block)
        (backend,) = sidecar_config.load(file, environ=environ).backends
        assert backend.type == name
        assert registry.sink_class(name)(backend.name, backend.config)


@pytest.mark.parametrize("name", ["s3", "sqs", "cloudwatch"])
def test_setting_is_missing_from_its_page(name: str) -> None:
    page = (PAGES / f"{name}.md").read_text()
    model = registry.sink_class(name).Config
    missing = [key for key in model.__struct_fields__ if f"`{key}`" not in page and f"{key}:" not in page]
    assert missing == [], json.dumps(missing)
