"""The embedded PostgreSQL: up anywhere, as anyone, after anything, and reachable by nobody else."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

import trackmate.embedded_postgres
import trackmate.postgres_programs
from tests.services.base import free_port, wait_until
from trackmate.embedded_postgres import SETTINGS, EmbeddedPostgres, EmbeddedPostgresError


@pytest.fixture
def folder() -> Iterator[Path]:
    """A data folder with a space in its name that every user reaches."""
    made = Path(tempfile.mkdtemp(prefix="track mate "))
    made.chmod(0o755)
    yield made / "postgres"
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def server(folder: Path) -> Iterator[EmbeddedPostgres]:
    made = EmbeddedPostgres(folder, free_port(), settings={"fsync": "off"})
    yield made
    home = made.home
    made.stop()
    shutil.rmtree(home, ignore_errors=True)


def ask(server: EmbeddedPostgres, statement: str) -> object:
    with psycopg.connect(server.dsn().reveal(), connect_timeout=5) as connection:
        return (connection.execute(statement.encode()).fetchone() or [None])[0]


def test_it_can_be_reached_without_the_password_or_from_elsewhere(server: EmbeddedPostgres) -> None:
    server.start()
    assert stat.S_IMODE(server.password_file.stat().st_mode) == 0o600
    password = server.password_file.read_text()
    assert password not in repr(server) + str(server.dsn())
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(f"postgresql://trackmate@127.0.0.1:{server.port}/trackmate")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(f"postgresql://trackmate:wrong@127.0.0.1:{server.port}/trackmate")
    assert ask(server, "SHOW password_encryption") == "scram-sha-256"
    assert ask(server, "SHOW listen_addresses") == "127.0.0.1"
    assert ask(server, "SELECT lower('ÄÖ') || pg_encoding_to_char(encoding) FROM pg_database LIMIT 1") == "äöUTF8"


def test_what_was_acknowledged_waits_in_memory() -> None:
    assert (SETTINGS["fsync"], SETTINGS["full_page_writes"], SETTINGS["synchronous_commit"]) == ("on", "on", "on")


def test_a_second_start_or_two_at_once_break_the_first(server: EmbeddedPostgres) -> None:
    failures: list[BaseException] = []

    def run() -> None:
        try:
            server.start()
        except BaseException as error:  # noqa: BLE001 - shown by the assertion below
            failures.append(error)

    runs = [threading.Thread(target=run) for _ in range(3)]
    for each in runs:
        each.start()
    for each in runs:
        each.join(60)
    assert failures == []
    assert ask(server, "SELECT 1") == 1


def test_a_killed_server_stays_down_or_forgets(server: EmbeddedPostgres) -> None:
    server.start()
    with psycopg.connect(server.dsn().reveal()) as connection:
        connection.execute("CREATE TABLE kept AS SELECT generate_series(1, 1000) AS n")
    pid = int((server.data / "postmaster.pid").read_text().split()[0])
    os.killpg(pid, signal.SIGKILL)
    wait_until(lambda: not server.running(), seconds=10, what="the server to be dead")
    # Its number is somebody else's by now: ours.
    lines = (server.data / "postmaster.pid").read_text().splitlines()
    (server.data / "postmaster.pid").write_text("\n".join([str(os.getpid()), *lines[1:]]) + "\n")
    server.start()
    assert ask(server, "SELECT count(*) FROM kept") == 1000


def test_a_killed_server_s_last_process_writes_beside_the_next_server(
    server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL's own guard is postmaster.pid, which goes when a dead server is forgotten."""
    server.start()
    with contextlib.closing(psycopg.connect(server.dsn().reveal())) as connection:
        row = connection.execute("SELECT pg_backend_pid()").fetchone()
        assert row is not None
        backend = psutil.Process(row[0])
        backend.suspend()
        try:
            os.killpg(int((server.data / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)
            wait_until(lambda: not server.running(), seconds=10, what="the server to be dead")
            with monkeypatch.context() as patient:
                patient.setattr(trackmate.embedded_postgres, "_ORPHANS_SECONDS", 0.3)
                with pytest.raises(EmbeddedPostgresError, match=rf"still use the data.*\({backend.pid}\)"):
                    server.start()
        finally:
            backend.resume()
    server.start()
    assert ask(server, "SELECT 1") == 1


def test_a_taken_port_is_an_odd_error(server: EmbeddedPostgres) -> None:
    with (
        socket.create_server(("127.0.0.1", server.port)),
        pytest.raises(EmbeddedPostgresError, match=rf"port {server.port} .*hot\.dsn"),
    ):
        server.start()
    assert not server.running()


def test_an_initdb_that_was_cut_short_leaves_a_broken_database(server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(trackmate.embedded_postgres, "USER", "pg_no_such_name_is_allowed")
        with pytest.raises(EmbeddedPostgresError, match="initdb could not make a database"):
            server.start()
    server.start()
    assert ask(server, "SELECT 1") == 1


def test_stop_is_an_error_when_it_does_not_run(server: EmbeddedPostgres) -> None:
    server.stop()
    server.start()
    server.stop()
    server.stop()
    assert not server.running()
    server.start()
    assert ask(server, "SELECT 1") == 1


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_a_supervisor_that_stops_it_leaves_a_server_behind(server: EmbeddedPostgres, sig: signal.Signals) -> None:
    code = (
        "import sys, pathlib; from trackmate.embedded_postgres import run_foreground;"
        "sys.exit(run_foreground(pathlib.Path(sys.argv[1]), int(sys.argv[2])))"
    )
    with subprocess.Popen([sys.executable, "-c", code, server.folder, str(server.port)], stderr=subprocess.PIPE) as process:
        try:
            wait_until(lambda: server.running() and answers(server), seconds=30, what="the server in the foreground")
            process.send_signal(sig)
            assert process.wait(30) == 0
        finally:
            process.kill()
    assert not server.running()


def answers(server: EmbeddedPostgres) -> bool:
    try:
        return ask(server, "SELECT 1") == 1
    except psycopg.OperationalError:
        return False


def test_a_server_that_somebody_watches_is_taken_over(server: EmbeddedPostgres) -> None:
    server.start()
    with pytest.raises(EmbeddedPostgresError, match="already runs"):
        server.run()
    assert ask(server, "SELECT 1") == 1


class TestAsRoot:
    """As in most containers; the ordinary user of everyone else never comes here."""

    def test_below_a_closed_home_nothing_starts(self, server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch) -> None:
        server.folder.parent.chmod(0o700)
        asked = trackmate.postgres_programs.Runner.can
        # As if the checkout lay below the closed home too.
        monkeypatch.setattr(
            trackmate.postgres_programs.Runner,
            "can",
            lambda self, command: asked(self, command) and not command[-1].endswith("/bin/postgres"),
        )
        server.start()
        assert ask(server, "SELECT 1") == 1
        if os.geteuid() == 0:
            assert server.home != server.folder
            assert server.home.is_relative_to(trackmate.postgres_programs.SHARED_FOLDER)
        # Whoever comes later finds the same place.
        assert EmbeddedPostgres(server.folder, server.port).running()
        # A folder that was removed and made anew is a new database, with a new password.
        server.stop()
        abandoned = server.home
        shutil.rmtree(server.folder)
        server.start()
        assert ask(server, "SELECT 1") == 1
        shutil.rmtree(abandoned, ignore_errors=True)

    def test_the_server_runs_as_root(self, server: EmbeddedPostgres) -> None:
        server.start()
        pid = int((server.data / "postmaster.pid").read_text().split()[0])
        assert Path(f"/proc/{pid}").stat().st_uid != 0
        assert stat.S_IMODE(server.data.stat().st_mode) == 0o700

    def test_a_machine_without_ordinary_users_is_an_odd_error(
        self, server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(trackmate.postgres_programs, "_ORDINARY_USERS", ("no-such-user-here",))
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        with pytest.raises(EmbeddedPostgresError, match="refuses to run as root"):
            server.start()
