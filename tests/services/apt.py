"""Debian packages that test servers come from: installed when missing, by root, once at a time on a machine."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.services.base import cache_lock

_ENVIRONMENT = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}


def installed(name: str) -> bool:
    """Whether dpkg has the package fully installed."""
    query = ["dpkg-query", "-W", "-f", "${db:Status-Status}", name]
    shown = subprocess.run(query, capture_output=True, text=True, check=False)
    return shown.returncode == 0 and shown.stdout == "installed"


def ensure_packages(*names: str) -> None:
    """Install the missing ones of these packages. Raises RuntimeError, which says what to install, when it can't."""
    if all(map(installed, names)):
        return
    with cache_lock("apt"):
        missing = [name for name in names if not installed(name)]
        if not missing:
            return
        if os.geteuid() != 0:
            message = f"these tests need Debian packages: sudo apt-get install {' '.join(missing)}"
            raise RuntimeError(message)
        # Another program of the machine, such as unattended upgrades, may be at it.
        install = ["apt-get", "-o", "DPkg::Lock::Timeout=600", "install", "--yes", "--no-install-recommends", *missing]
        done = subprocess.run(install, env=_ENVIRONMENT, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            # The lists may be missing or stale, as in a fresh container.
            subprocess.run(["apt-get", "update"], env=_ENVIRONMENT, capture_output=True, check=False)
            done = subprocess.run(install, env=_ENVIRONMENT, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            message = f"apt-get install {' '.join(missing)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
            raise RuntimeError(message)


def unpack(root: Path, suite: str, *names: str) -> None:
    """Unpack packages of another Debian release, with all that they depend on, into the folder `root`; install nothing.

    The mirror is the one that this machine's own apt uses.
    """
    state = root.with_name(root.name + ".apt")
    for folder in ("lists/partial", "cache/archives/partial"):
        (state / folder).mkdir(parents=True)
    (state / "status").touch()
    (state / "sources.list").write_text(f"deb {_mirror()} {suite} main\n")
    options = [
        f"Dir::State={state}", f"Dir::State::status={state / 'status'}", f"Dir::State::lists={state / 'lists'}",
        f"Dir::Cache={state / 'cache'}", f"Dir::Etc::sourcelist={state / 'sources.list'}", "Dir::Etc::sourceparts=-",
        "Dir::Etc::preferencesparts=-", "APT::Install-Recommends=false", "Debug::NoLocking=true", "APT::Sandbox::User=root",
        "APT::Get::Assume-Yes=true", "Acquire::Languages=none", "DPkg::Post-Invoke::=", "APT::Update::Post-Invoke::=",
    ]  # fmt: skip
    apt = ["apt-get", *(part for option in options for part in ("-o", option))]
    subprocess.run([*apt, "update"], env=_ENVIRONMENT, check=True, capture_output=True)
    subprocess.run([*apt, "--download-only", "install", *names], env=_ENVIRONMENT, check=True, capture_output=True)
    root.mkdir(parents=True)
    root.chmod(0o755)
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    for deb in sorted((state / "cache" / "archives").glob("*.deb")):
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", deb], stdout=subprocess.PIPE) as reading:
            subprocess.run(
                ["tar", "-x", "--keep-directory-symlink", "--no-same-owner", "-C", root], stdin=reading.stdout, check=True
            )
        if reading.returncode != 0:
            message = f"{deb.name} can't be read"
            raise RuntimeError(message)


def _mirror() -> str:
    shown = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME) $(COMPONENT)", "Created-By: Packages"],
        capture_output=True, text=True, check=True, env=_ENVIRONMENT,
    )  # fmt: skip
    for line in shown.stdout.splitlines():
        address, codename, component = line.split()
        if component == "main" and codename.isalpha():
            return address
    message = "this machine's apt names no Debian mirror: see /etc/apt/sources.list"
    raise RuntimeError(message)
