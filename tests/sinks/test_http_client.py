"""The sinks' HTTP client against real servers, plain and with TLS: what went wrong must be told apart, and told."""

from __future__ import annotations

import gzip
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from contract.settings import Secret
from sinks import http_client
from sinks.base import Unavailable
from sinks.http_answers import Answer
from sinks.http_client import HttpClient, NoAnswer, basic_auth
from sinks.tls import Tls, ssl_context
from tests.services.base import free_port
from tests.services.certificates import TestAuthority
from tests.services.scripted_http import Garbage, Hang, Reply, Reset, ScriptedHttp


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> TestAuthority:
    return TestAuthority(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def server() -> Iterator[ScriptedHttp]:
    with ScriptedHttp(Reply(body=b"hello")) as server:
        yield server


async def ask(url: str, tls: Tls | None = None, *, read_timeout: float = 30) -> Answer:
    client = HttpClient(url=url, tls=tls, read_timeout=read_timeout)
    try:
        return await client.request("POST", url, content=b"{}")
    finally:
        await client.close()


async def complaint(url: str, tls: Tls | None = None, *, read_timeout: float = 30) -> str:
    with pytest.raises(Unavailable) as error:
        await ask(url, tls, read_timeout=read_timeout)
    assert url in str(error.value)
    return str(error.value)


async def test_good_certificate_is_refused(authority: TestAuthority) -> None:
    with ScriptedHttp(certificate=authority.issue("127.0.0.1")) as server:
        assert (await ask(server.url, Tls(ca_file=authority.file))).ok


@pytest.mark.parametrize(
    ("kind", "words"), [("expired", "expired"), ("early", "not valid yet"), ("name", "for another name"), ("ca", "not trusted")]
)
async def test_bad_certificate_is_taken_or_its_fault_is_not_named(
    authority: TestAuthority, tmp_path: Path, kind: str, words: str
) -> None:
    certificate = {
        "expired": lambda: authority.expired("127.0.0.1"),
        "early": lambda: authority.not_yet_valid("127.0.0.1"),
        "name": lambda: authority.issue("elsewhere.test", "127.0.0.2"),
        "ca": lambda: TestAuthority(tmp_path, "another authority").issue("127.0.0.1"),
    }[kind]()
    with ScriptedHttp(certificate=certificate) as server:
        assert words in await complaint(server.url, Tls(ca_file=authority.file))
        assert (await ask(server.url, Tls(verify=False))).ok
    assert [asked.method for asked in server.asked] == ["POST"]


async def test_unknown_authority_is_trusted_without_a_ca_file(authority: TestAuthority) -> None:
    with ScriptedHttp(certificate=authority.issue("127.0.0.1")) as server:
        assert "tls.ca_file" in await complaint(server.url)


async def test_client_certificate_is_not_shown_or_its_lack_not_named(authority: TestAuthority) -> None:
    mine = authority.issue("agent")
    with ScriptedHttp(certificate=authority.issue("127.0.0.1"), client_ca=authority.file) as server:
        assert "tls.cert_file" in await complaint(server.url, Tls(ca_file=authority.file))
        tls = Tls(ca_file=authority.file, cert_file=mine.cert_file, key_file=mine.key_file)
        assert (await ask(server.url, tls)).ok


async def test_server_without_tls_looks_broken(server: ScriptedHttp) -> None:
    assert "does not speak TLS" in await complaint(f"https://127.0.0.1:{server.port}")


async def test_name_that_does_not_resolve_looks_like_a_dead_server() -> None:
    assert "DNS" in await complaint("http://no-such-host.invalid:9")


async def test_refused_connection_looks_like_a_slow_server() -> None:
    assert "refused" in await complaint(f"http://127.0.0.1:{free_port()}")


async def test_hung_server_is_waited_for_without_end(server: ScriptedHttp) -> None:
    server.script = Hang()
    assert "did not answer in time" in await complaint(server.url, read_timeout=0.2)


async def test_server_that_takes_no_body_is_waited_for_without_end() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        client = HttpClient(url="http://127.0.0.1", read_timeout=0.2)
        try:
            with pytest.raises(NoAnswer, match="did not answer in time"):
                await client.request("POST", f"http://127.0.0.1:{deaf.getsockname()[1]}/", content=bytes(64 * 1024 * 1024))
        finally:
            await client.close()


async def test_large_body_arrives_changed(server: ScriptedHttp) -> None:
    body = os.urandom(3 * 1024 * 1024 + 1)
    client = HttpClient(url=server.url)
    answer = await client.request("POST", server.url, content=body)
    await client.close()
    assert answer.ok
    assert server.asked[0].body == body


async def test_cookie_of_one_answer_goes_with_the_next_request(server: ScriptedHttp) -> None:
    server.script = Reply(headers={"Set-Cookie": "session=1; Path=/"})
    client = HttpClient(url=server.url)
    for _ in range(2):
        await client.request("POST", server.url, content=b"{}")
    await client.close()
    assert [asked.headers.get("Cookie") for asked in server.asked] == [None, None]
    assert len(server.connections) == 1


async def test_address_is_spelt_anew(server: ScriptedHttp) -> None:
    client = HttpClient(url=server.url)
    for path in ("/a%2fb/%7Ec?x=%20y&z=[1]", "/ä b"):
        await client.request("POST", server.url + path, content=b"{}")
    await client.close()
    assert [asked.path for asked in server.asked] == ["/a%2fb/%7Ec?x=%20y&z=[1]", "/%C3%A4%20b"]


async def test_key_in_the_address_is_shown_with_an_error(server: ScriptedHttp) -> None:
    for step in (Garbage(), Reset(), Reset(500), Hang()):
        server.script = step
        client = HttpClient(url=server.url, read_timeout=0.2)
        with pytest.raises(Unavailable) as error:
            await client.request("POST", f"{server.url}/sesame?key=sesame", content=b"{}", shown_url=server.url)
        await client.close()
        assert "sesame" not in str(error.value)


async def test_header_of_two_lines_is_sent_or_shown(server: ScriptedHttp) -> None:
    client = HttpClient(url=server.url, headers={"Authorization": "Bearer sesame\r\nX-More: 1"})
    with pytest.raises(Unavailable) as error:
        await client.request("POST", server.url, content=b"{}")
    await client.close()
    assert "sesame" not in str(error.value)
    assert not server.asked


@pytest.mark.parametrize("sent", [None, 0, 500])
async def test_reset_in_the_middle_counts_as_an_answer(server: ScriptedHttp, sent: int | None) -> None:
    server.script = Reset(sent)
    assert "cut in the middle" in await complaint(server.url)


async def test_answer_of_another_protocol_counts_as_an_answer(server: ScriptedHttp) -> None:
    server.script = Garbage()
    assert "not HTTP" in await complaint(server.url)


async def test_corrupt_compression_escapes_as_something_else(server: ScriptedHttp) -> None:
    server.script = Reply(body=b"not gzip at all", headers={"Content-Encoding": "gzip"})
    await complaint(server.url)


async def test_endless_answer_fills_the_memory(server: ScriptedHttp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_client, "MAX_ANSWER_BYTES", 1000)
    server.script = Reply(body=gzip.compress(b"x" * 1000), headers={"Content-Encoding": "gzip"})
    assert len((await ask(server.url)).content) == 1000
    server.script = Reply(body=gzip.compress(b"x" * 1001), headers={"Content-Encoding": "gzip"})
    assert "more than 1000 bytes" in await complaint(server.url)


async def test_redirect_is_followed_with_the_credential(server: ScriptedHttp) -> None:
    with ScriptedHttp() as elsewhere:
        server.script = Reply(307, headers={"Location": elsewhere.url})
        assert (await ask(server.url)).status == 307
        assert not elsewhere.asked


async def test_proxy_of_the_environment_gets_the_events(server: ScriptedHttp, monkeypatch: pytest.MonkeyPatch) -> None:
    with ScriptedHttp(Reply(502)) as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        assert (await ask(server.url)).content == b"hello"
        assert not proxy.asked


async def test_secret_that_is_sent_back_is_shown(server: ScriptedHttp) -> None:
    server.script = lambda asked: Reply(401, f"bad: {asked.headers['Authorization']}".encode())
    secret = Secret("quite-secret")
    client = HttpClient(url=server.url, headers={"Authorization": "Bearer quite-secret"}, secrets=[secret, Secret("")])
    answer = await client.request("GET", server.url)
    await client.close()
    assert answer.shown() == "bad: Bearer ***"
    assert "quite-secret" not in repr(answer)


def test_basic_credential_is_spelt_wrong() -> None:
    assert basic_auth("Aladdin", Secret("open sesame")) == "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="  # the example of RFC 7617


@pytest.mark.parametrize("kind", ["missing", "garbage", "folder"])
def test_unusable_ca_file_ends_in_a_stack_trace(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "ca.pem"
    if kind == "garbage":
        file.write_text("no certificate")
    elif kind == "folder":
        file.mkdir()
    with pytest.raises(Unavailable, match=r"tls\.ca_file.*ca\.pem"):
        ssl_context(Tls(ca_file=file))


def test_unusable_key_asks_on_the_terminal_or_ends_in_a_stack_trace(authority: TestAuthority) -> None:
    sealed, other = authority.issue("agent", passphrase=b"sesame"), authority.issue("agent")
    for cert_file, key_file in ((sealed.cert_file, sealed.key_file), (sealed.cert_file, other.key_file)):
        with pytest.raises(Unavailable, match=r"tls\.cert_file"):
            ssl_context(Tls(cert_file=cert_file, key_file=key_file))
    with pytest.raises(Unavailable, match="without tls"):
        ssl_context(Tls(key_file=other.key_file))
