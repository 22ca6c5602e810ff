"""Tokens: what is known, until when, and what a change of the files does."""

from __future__ import annotations

import datetime as dt
import json
import os
from pathlib import Path

import pytest

from federation.auth import Denied, TokenStore
from federation.token_file import TokenFile, TokenFileError

NOW = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def store(file: TokenFile, clock: Clock) -> TokenStore:
    made = TokenStore([file], clock, lambda: NOW + dt.timedelta(seconds=clock.seconds))
    made.load()
    return made


def test_a_token_is_known_by_its_digest_and_stands_nowhere_itself(tmp_path: Path):
    file = TokenFile(tmp_path / "tokens.json")
    plain = file.add("a", ["query"], ["fab1"], None, NOW)
    principal = store(file, Clock()).authenticate(plain)
    assert (principal.token_id, principal.scopes, principal.sites) == ("a", {"query"}, {"fab1"})
    assert plain not in file.path.read_text()
    assert plain not in repr(principal)


def test_a_token_ends_when_it_expires(tmp_path: Path):
    file, clock = TokenFile(tmp_path / "tokens.json"), Clock()
    plain = file.add("a", ["query"], None, NOW + dt.timedelta(seconds=10), NOW)
    tokens = store(file, clock)
    tokens.authenticate(plain)
    clock.seconds = 10
    with pytest.raises(Denied, match="expired"):
        tokens.authenticate(plain)


def test_a_revoked_token_is_refused_after_the_next_look_at_the_file(tmp_path: Path):
    file, clock = TokenFile(tmp_path / "tokens.json"), Clock()
    plain = file.add("a", ["query"], None, None, NOW)
    tokens = store(file, clock)
    file.revoke("a", NOW)
    clock.seconds = 1.5
    with pytest.raises(Denied, match="revoked"):
        tokens.authenticate(plain)


def test_taking_the_last_token_away_closes_the_door_and_does_not_open_it(tmp_path: Path):
    file, clock = TokenFile(tmp_path / "tokens.json"), Clock()
    plain = file.add("a", ["query"], None, None, NOW)
    tokens = store(file, clock)
    file.path.unlink()
    clock.seconds = 2
    assert tokens.required
    with pytest.raises(Denied):
        tokens.authenticate(plain)


def test_the_first_token_ends_open_access_without_a_restart(tmp_path: Path):
    file, clock = TokenFile(tmp_path / "tokens.json"), Clock()
    tokens = store(file, clock)
    assert not tokens.required
    file.add("a", ["query"], None, None, NOW)
    clock.seconds = 2
    assert tokens.required


def test_a_file_that_breaks_later_leaves_the_last_good_tokens_in_force(tmp_path: Path):
    file, clock = TokenFile(tmp_path / "tokens.json"), Clock()
    plain = file.add("a", ["query"], None, None, NOW)
    tokens = store(file, clock)
    file.path.write_text("{")
    clock.seconds = 2
    assert tokens.authenticate(plain).token_id == "a"


def test_a_broken_file_is_an_error_at_the_start(tmp_path: Path):
    (tmp_path / "tokens.json").write_text('{"tokens": [{"id": "a", "sha256": "short", "scopes": ["query"]}]}')
    with pytest.raises(TokenFileError, match=r"tokens\.json"):
        store(TokenFile(tmp_path / "tokens.json"), Clock())


def test_rotation_lets_the_old_secret_live_for_the_grace_and_revocation_ends_both(tmp_path: Path):
    file, clock = TokenFile(tmp_path / "tokens.json"), Clock()
    old = file.add("a", ["query"], None, None, NOW)
    new = file.rotate("a", NOW, dt.timedelta(seconds=60))
    tokens = store(file, clock)
    assert tokens.authenticate(old).scopes == tokens.authenticate(new).scopes
    clock.seconds = 60
    with pytest.raises(Denied, match="expired"):
        tokens.authenticate(old)
    clock.seconds = 0
    file.revoke("a", NOW)
    tokens.load()
    for secret in (old, new):
        with pytest.raises(Denied, match="revoked"):
            tokens.authenticate(secret)


def test_rotation_without_grace_ends_the_old_secret(tmp_path: Path):
    file = TokenFile(tmp_path / "tokens.json")
    old = file.add("a", ["query"], None, None, NOW)
    file.rotate("a", NOW, dt.timedelta(0))
    with pytest.raises(Denied, match="revoked"):
        store(file, Clock()).authenticate(old)


@pytest.mark.parametrize(("scopes", "name"), [(["root"], "a"), ([], "a"), (["query"], "")])
def test_a_token_that_means_nothing_is_not_made(tmp_path: Path, scopes: list[str], name: str):
    file = TokenFile(tmp_path / "tokens.json")
    with pytest.raises(TokenFileError):
        file.add(name, scopes, None, None, NOW)
    assert not file.path.exists()


def test_a_second_token_of_the_same_name_is_not_made(tmp_path: Path):
    file = TokenFile(tmp_path / "tokens.json")
    file.add("a", ["query"], None, None, NOW)
    before = file.path.read_text()
    with pytest.raises(TokenFileError, match="already"):
        file.add("a", ["ingest"], None, None, NOW)
    assert file.path.read_text() == before


def test_a_change_keeps_the_files_owner_and_mode(tmp_path: Path):
    file = TokenFile(tmp_path / "tokens.json")
    file.add("a", ["query"], None, None, NOW)
    assert file.path.stat().st_mode & 0o777 == 0o600
    file.path.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(file.path, 65534, 65534)
    file.add("b", ["query"], None, None, NOW)
    assert file.path.stat().st_mode & 0o777 == 0o640
    assert file.path.stat().st_uid == (65534 if os.geteuid() == 0 else os.geteuid())
    assert [record["id"] for record in json.loads(file.path.read_text())["tokens"]] == ["a", "b"]
