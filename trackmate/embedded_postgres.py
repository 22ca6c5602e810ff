"""A PostgreSQL from a Python wheel, for those who have none: made inside the data folder, on loopback, behind a password.

PostgreSQL refuses to run as root. Started by root, the server runs as an ordinary user of the machine (`postgres` or `nobody`);
where that user can't reach the data folder or the wheel's programs, as below a home folder of mode 0700, both are kept under
`/var/lib/trackmate` instead, and the data folder says so in `elsewhere`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Final, Self
from urllib.parse import quote

import psutil
import psycopg

from contract.settings import Secret
from trackmate.postgres_programs import (
    SHARED_FOLDER,
    EmbeddedPostgresError,
    Runner,
    copied_programs,
    environment,
    open_to_all,
    runner_of_the_server,
    wheel_programs,
)

DEFAULT_PORT: Final = 55432
DATABASE: Final = "trackmate"
USER: Final = "trackmate"

_START_SECONDS: Final = 60.0
_STOP_SECONDS: Final = 30.0
_ORPHANS_SECONDS: Final = 30.0

_LEFT_RUNNING: Final[dict[int, subprocess.Popen[bytes]]] = {}
"""Servers that this process started in the background: its children, which it must see off when they end."""

SETTINGS: Final = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "password_encryption": "scram-sha-256",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "max_connections": "60",
    "max_locks_per_transaction": "256",
    "shared_buffers": "128MB",
    "work_mem": "16MB",
    "maintenance_work_mem": "64MB",
    "wal_compression": "on",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "2GB",
    "checkpoint_timeout": "15min",
    "checkpoint_completion_target": "0.9",
    "random_page_cost": "1.1",
    "jit": "off",
    "log_destination": "stderr",
    "logging_collector": "off",
    "log_min_duration_statement": "5s",
}
"""For a small machine that also runs everything else: little memory, few and long checkpoints, never less durable."""


@dataclass(frozen=True)
class EmbeddedPostgres:
    """One server: its data under `folder`, on 127.0.0.1 at `port`. Nothing happens until a method is called."""

    folder: Path
    port: int = DEFAULT_PORT
    settings: dict[str, str] = field(default_factory=dict)

    # ------------------------------------------------------------------------------------------------ where things are

    @property
    def home(self) -> Path:
        """Where the data really is: `folder`, or the place that `folder/elsewhere` names."""
        pointer = self.folder / "elsewhere"
        return Path(pointer.read_text(encoding="utf-8").strip()) if pointer.is_file() else self.folder

    @property
    def data(self) -> Path:
        """PostgreSQL's own data folder."""
        return self.home / "data"

    @property
    def password_file(self) -> Path:
        """Holds the generated password, readable by the owner alone."""
        return self.folder / "password"

    def dsn(self, database: str = DATABASE) -> Secret:
        """The URL that clients connect to; the password is made when it is first asked for."""
        return Secret(f"postgresql://{USER}:{quote(self._password())}@127.0.0.1:{self.port}/{database}")

    def _password(self) -> str:
        self.folder.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            handle = os.open(self.password_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(secrets.token_urlsafe(24))
        return self.password_file.read_text(encoding="utf-8").strip()

    # --------------------------------------------------------------------------------------------------- start and stop

    def start(self) -> Self:
        """Make the database if there is none, start the server in the background, return once it answers.

        Does nothing when it already runs. Recovers from a crash. Raises EmbeddedPostgresError.
        """
        with self._locked():
            if self.running():
                return self
            with (self.home / "log.txt").open("ab") as log:
                process = self._launch(new_session=True, output=log)
            _LEFT_RUNNING[process.pid] = process
            self._await_ready(process)
        return self

    def stop(self) -> None:
        """Stop the server; open transactions are rolled back. Does nothing when it does not run."""
        pid = self._pid()
        if pid is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGINT)
        deadline = time.monotonic() + _STOP_SECONDS
        while self._pid() is not None:
            if time.monotonic() > deadline:
                message = f"the embedded PostgreSQL (process {pid}) did not stop within {_STOP_SECONDS:.0f} s: {self._log_tail()}"
                raise EmbeddedPostgresError(message)
            time.sleep(0.05)
        if pid in _LEFT_RUNNING:
            _LEFT_RUNNING.pop(pid).wait()

    def running(self) -> bool:
        """Whether the server of this folder runs."""
        return self._pid() is not None

    def run(self) -> int:
        """Run the server in the foreground until SIGTERM or SIGINT, and give its exit code; its log goes to stderr.

        This process stays the server's parent and stops it before it ends, so that a supervisor sees one process.
        """
        stopping = False

        def stop(_signal: int, _frame: FrameType | None) -> None:
            nonlocal stopping
            stopping = True
            if process is not None and process.poll() is None:
                process.send_signal(signal.SIGINT)

        process: subprocess.Popen[bytes] | None = None
        previous = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            with self._locked():
                self._take_over()
                # A session of its own: a terminal's Ctrl-C reaches us alone, and we pass it on once.
                process = self._launch(new_session=True, output=None)
                if stopping:
                    process.send_signal(signal.SIGINT)
                self._await_ready(process, unless=lambda: stopping)
            code = process.wait()
            return 0 if stopping else code
        finally:
            if process is not None and process.poll() is None:
                process.send_signal(signal.SIGINT)
                process.wait(_STOP_SECONDS)
            for number, handler in previous.items():
                signal.signal(number, handler)

    # -------------------------------------------------------------------------------------------------------- the parts

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One start at a time for one folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    def _launch(self, *, new_session: bool, output: Any) -> subprocess.Popen[bytes]:
        runner = runner_of_the_server()
        programs = self._settle(runner)
        self._refuse_taken_port()
        if not (self.data / "PG_VERSION").is_file():
            self._initialise(programs, runner)
        self._forget_dead_server()
        options = {**SETTINGS, **self.settings, "port": str(self.port)}
        command: list[str | Path] = [programs / "postgres", "-D", self.data]
        for name, value in options.items():
            command += ["-c", f"{name}={value}"]
        try:
            return subprocess.Popen(  # noqa: S603 - the wheel's program with our own settings
                command,
                cwd=self.data,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT if output else None,
                start_new_session=new_session,
                **runner.identity(),
            )
        finally:
            if output:
                output.close()

    def _settle(self, runner: Runner) -> Path:
        """Choose where data and programs are, so that the server's user reaches both; give the programs' folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        programs = wheel_programs()
        if not runner.ordinary:
            return programs
        if self.home == self.folder and not self._reachable(runner):
            # Never a name made from the folder's: a folder that was removed and made anew has another password.
            home = SHARED_FOLDER / "postgres" / secrets.token_hex(8)
            home.mkdir(parents=True)
            open_to_all(home.parent)
            (self.folder / "elsewhere").write_text(f"{home}\n", encoding="utf-8")
        os.chown(self.home, runner.uid, runner.gid)
        return programs if runner.can(["test", "-x", str(programs / "postgres")]) else copied_programs()

    def _reachable(self, runner: Runner) -> bool:
        return runner.can(["test", "-x", str(self.folder)])

    def _initialise(self, programs: Path, runner: Runner) -> None:
        # Made aside and renamed: an initdb that was cut short leaves nothing that looks like a database.
        draft = self.home / "data.new"
        shutil.rmtree(draft, ignore_errors=True)
        shutil.rmtree(self.data, ignore_errors=True)
        secret = self.home / ".password"
        secret.unlink(missing_ok=True)
        with os.fdopen(os.open(secret, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(self._password())
        try:
            if runner.ordinary:
                os.chown(secret, runner.uid, runner.gid)
            done = subprocess.run(  # noqa: S603 - the wheel's program
                [
                    programs / "initdb", "-D", draft, "-U", USER, "--pwfile", secret, "--auth=scram-sha-256", "--encoding=UTF8",
                    "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--data-checksums",
                ],
                cwd=self.home, env=environment(), stdin=subprocess.DEVNULL, capture_output=True, check=False,
                **runner.identity(),
            )  # fmt: skip
        finally:
            secret.unlink()
        if done.returncode != 0:
            said = (done.stderr or done.stdout).decode(errors="replace").strip()[-2000:]
            message = f"initdb could not make a database in {self.home}: {said}"
            raise EmbeddedPostgresError(message)
        draft.rename(self.data)

    def _take_over(self) -> None:
        """Stop a server that outlived whoever started it; one that somebody still watches is theirs."""
        pid = self._pid()
        if pid is None:
            return
        if psutil.Process(pid).ppid() != 1:
            message = f"the embedded PostgreSQL of {self.folder} already runs (process {pid}): stop that one first"
            raise EmbeddedPostgresError(message)
        self.stop()

    def _refuse_taken_port(self) -> None:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", self.port))
            except OSError as error:
                message = (
                    f"port {self.port} on 127.0.0.1 is taken ({error.strerror}), so the embedded PostgreSQL can't listen there: "
                    "stop what uses it, or put another port into hot.dsn in trackmate.yaml"
                )
                raise EmbeddedPostgresError(message) from error

    def _pid(self) -> int | None:
        """The running server's process id: the one in postmaster.pid, if that process lives and has its folder open."""
        try:
            pid = int((self.data / "postmaster.pid").read_text(encoding="utf-8").splitlines()[0])
        except (FileNotFoundError, NotADirectoryError, IndexError, ValueError):
            return None
        return pid if _serves(pid, self.data) else None

    def _forget_dead_server(self) -> None:
        """Remove the postmaster.pid of a server that was killed: its number may belong to somebody else by now.

        The file is what keeps a second server off the data while processes of the first one still write, so they end first.
        """
        file = self.data / "postmaster.pid"
        if not file.exists() or self._pid() is not None:
            return
        _, left = psutil.wait_procs(_survivors(self.data), timeout=_ORPHANS_SECONDS)
        if left:
            pids = ", ".join(str(process.pid) for process in left)
            message = (
                f"the embedded PostgreSQL of {self.folder} was killed, but some of its processes still use the data: "
                f"end them first ({pids})"
            )
            raise EmbeddedPostgresError(message)
        file.unlink()

    def _await_ready(self, process: subprocess.Popen[bytes], unless: Any = lambda: False) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while not unless():
            if process.poll() is not None:
                message = f"the embedded PostgreSQL ended with code {process.returncode} while it started: {self._log_tail()}"
                raise EmbeddedPostgresError(message)
            try:
                self._ensure_database()
            except psycopg.OperationalError as error:
                if time.monotonic() > deadline:
                    process.send_signal(signal.SIGINT)
                    message = f"the embedded PostgreSQL did not answer on port {self.port} within {_START_SECONDS:.0f} s: {error}"
                    raise EmbeddedPostgresError(message) from error
                time.sleep(0.05)
            else:
                return

    def _ensure_database(self) -> None:
        with psycopg.connect(self.dsn("postgres").reveal(), autocommit=True, connect_timeout=5) as connection:
            if connection.execute("SELECT FROM pg_database WHERE datname = %s", [DATABASE]).fetchone() is None:
                connection.execute(f"CREATE DATABASE {DATABASE}")

    def _log_tail(self) -> str:
        log = self.home / "log.txt"
        return log.read_text(encoding="utf-8", errors="replace")[-2000:].strip() if log.is_file() else "see its log above"


def run_foreground(folder: Path, port: int = DEFAULT_PORT) -> int:
    """Run the embedded server of `folder` until SIGTERM or SIGINT; what `trackmate postgres` calls."""
    return EmbeddedPostgres(folder, port).run()


def _survivors(data: Path) -> list[psutil.Process]:
    """The live PostgreSQL processes that have this data folder open; a server's helpers may outlive it for a moment."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if Path(process.name()).name.startswith("postgres") and Path(process.cwd()) == data.resolve():
                found.append(process)
    return found


def _serves(pid: int, data: Path) -> bool:
    """Whether a live process is the server of this data folder, and not another that was given a dead server's number."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return Path(process.name()).name.startswith("postgres") and str(data) in process.cmdline()
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True
