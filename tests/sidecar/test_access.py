"""Who may send, with tokens and without."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest

from contract.tokens import new_token
from sidecar.access import Access
from sidecar.answers import Refusal
from tests.sidecar.harness import PATH, RunningSidecar, event, read_answers

TOKENS = [new_token(), new_token()]


@pytest.fixture(scope="module")
def guarded() -> Iterator[RunningSidecar]:
    with RunningSidecar(tokens=[digest for _, digest in TOKENS]) as sidecar:
        yield sidecar


def test_missing_or_wrong_token_may_send(guarded: RunningSidecar) -> None:
    for headers in ({}, {"Authorization": "Bearer x"}, {"Authorization": "Bearer tm_wrong"}, {"Authorization": TOKENS[0][0]}):
        answer = guarded.post([event()], headers=headers)
        assert answer.status_code == 401
        assert answer.json()["error"]["code"] in {"token_required", "token_unknown"}


def test_digest_passes_for_the_token(guarded: RunningSidecar) -> None:
    assert guarded.post([event()], headers={"Authorization": f"Bearer {TOKENS[0][1]}"}).status_code == 401


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_any_of_the_tokens_is_refused(guarded: RunningSidecar, scheme: str) -> None:
    for token, _ in TOKENS:
        assert guarded.post([event()], headers={"Authorization": f"{scheme} {token}"}).status_code == 202


def test_foreign_host_is_refused_though_there_is_a_token(guarded: RunningSidecar) -> None:
    headers = {"Authorization": f"Bearer {TOKENS[0][0]}", "Host": "agent.fab.example"}
    assert guarded.post([event()], headers=headers).status_code == 202


def test_token_is_judged_after_the_body(guarded: RunningSidecar) -> None:
    head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", guarded.port), timeout=10) as connection:
        connection.sendall(head)
        assert read_answers(connection, 1).startswith(b"HTTP/1.1 401")


def test_token_gets_into_the_log_or_a_page(guarded: RunningSidecar) -> None:
    guarded.post([event()], headers={"Authorization": "Bearer tm_secret_of_someone"})
    guarded.post([event()], headers={"Authorization": f"Bearer {TOKENS[0][0]}"})
    shown = (guarded.folder / "log.txt").read_text() + guarded.get("/health").text + guarded.get("/metrics").text
    assert "tm_secret_of_someone" not in shown
    assert TOKENS[0][0] not in shown
    assert TOKENS[0][1] not in shown


def test_start_without_tokens_is_silent_about_it(new_sidecar: Callable[..., RunningSidecar]) -> None:
    sidecar = new_sidecar().start()
    assert any("no token is configured" in line["message"] for line in sidecar.log_lines())


@pytest.mark.parametrize("peer", ["10.0.0.7", "192.168.1.1", "2001:db8::1", None, "localhost.example"])
def test_other_hosts_may_send_when_there_is_no_token(peer: str | None) -> None:
    with pytest.raises(Refusal) as refusal:
        Access((), "0.0.0.0").check(None, peer, "localhost")
    assert refusal.value.status == 401


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.8.9.1", "::1"])
def test_this_host_is_locked_out_when_there_is_no_token(peer: str) -> None:
    Access((), "127.0.0.1").check(None, peer, "localhost:17000")
