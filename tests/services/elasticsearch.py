"""Elasticsearch 8 with security on, from Maven's distribution for integration tests and a small plugin for what that lacks."""

from __future__ import annotations

import base64
import hashlib
import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
import zipfile
from pathlib import Path
from typing import Any, Self

import httpx

from tests.services.apt import ensure_packages
from tests.services.base import CACHE, Service, cache_lock, free_port
from tests.services.maven import maven_jars

VERSION = "8.19.21"
_ARTIFACT = f"org.elasticsearch.distribution.integ-test-zip:elasticsearch:{VERSION}:zip"
_PLUGIN_SOURCE = Path(__file__).parent / "java" / "RootPlugin.java"
_ORDINARY_USER = "nobody"
_ITERATIONS = 10_000
_DESCRIPTOR = f"""\
description=The answer to GET /
version={VERSION}
name=trackmate-root
classname=trackmate.RootPlugin
java.version=17
elasticsearch.version={VERSION}
"""


def java_home() -> Path:
    """A JDK 17 with its compiler, installed when there is none. Raises RuntimeError when it can't be."""
    found = _compilers()
    if not found:
        ensure_packages("openjdk-17-jdk-headless")
        found = _compilers()
    return found[0].parent.parent


def _compilers() -> list[Path]:
    return sorted(Path("/usr/lib/jvm").glob("*17*/bin/javac"))


def distribution() -> Path:
    """The unpacked distribution with the plugin in it; made once, kept in the cache."""
    with cache_lock(f"elasticsearch-{VERSION}") as target:
        if not target.is_dir():
            draft = Path(tempfile.mkdtemp(prefix="elasticsearch-", dir=CACHE))
            try:
                (archive,) = maven_jars(f"elasticsearch-{VERSION}-zip", _ARTIFACT).glob("*.zip")
                with zipfile.ZipFile(archive) as packed:
                    packed.extractall(draft)
                home = draft / f"elasticsearch-{VERSION}"
                for program in (home / "bin").iterdir():
                    program.chmod(0o755)
                _add_plugin(home)
                home.rename(target)
            finally:
                shutil.rmtree(draft, ignore_errors=True)
    return target


def _add_plugin(home: Path) -> None:
    folder = home / "plugins" / "trackmate-root"
    classes = home / "classes"
    folder.mkdir(parents=True)
    java = java_home() / "bin"
    compile_it = [java / "javac", "-nowarn", "-cp", f"{home / 'lib'}/*", "-d", classes, _PLUGIN_SOURCE]
    subprocess.run(compile_it, check=True, capture_output=True)
    subprocess.run([java / "jar", "cf", folder / "root.jar", "-C", classes, "."], check=True, capture_output=True)
    shutil.rmtree(classes)
    (folder / "plugin-descriptor.properties").write_text(_DESCRIPTOR)


class Elasticsearch(Service):
    """One node with security on; `username` and `password` may do everything, and each test takes an index of its own."""

    name = "elasticsearch"
    start_seconds = 240.0

    def __init__(self) -> None:
        super().__init__()
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.username = "tests"
        self.password = secrets.token_urlsafe(12)
        self.attach()

    def attach(self) -> None:
        """Make the administrator's client."""
        self._client = httpx.Client(base_url=self.url, auth=(self.username, self.password), trust_env=False, timeout=60)

    def detach(self) -> None:
        """Close the client."""
        self._client.close()

    def start(self) -> Self:
        """Start it on an empty folder, as an ordinary user."""
        home = self.folder / "home"
        shutil.copytree(distribution(), home, copy_function=_link)
        self._configure(home / "config")
        temporary = self.folder / "tmp"
        temporary.mkdir()
        options: dict[str, Any] = {}
        if os.geteuid() == 0:
            entry = pwd.getpwnam(_ORDINARY_USER)
            options = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
            for path in (self.folder, *self.folder.rglob("*")):
                if path.is_dir() or path.parent == home / "config":
                    os.chown(path, entry.pw_uid, entry.pw_gid)
        self.spawn(
            [home / "bin" / "elasticsearch"],
            ready=self.answers,
            env={
                "ES_JAVA_HOME": str(java_home()),
                "ES_JAVA_OPTS": "-Xms512m -Xmx512m",
                "CLI_JAVA_OPTS": "-Xms4m -Xmx64m -XX:+UseSerialGC -XX:TieredStopAtLevel=1",
                "HOME": str(self.folder),
                "ES_TMPDIR": str(temporary),
            },
            **options,
        )
        return self

    def _configure(self, folder: Path) -> None:
        settings = {
            "cluster.name": "tests", "node.name": "tests", "discovery.type": "single-node", "network.host": "127.0.0.1",
            "http.port": self.port, "transport.port": free_port(), "path.data": self.folder / "data",
            "path.logs": self.folder / "logs", "cluster.routing.allocation.disk.threshold_enabled": "false",
            "xpack.security.enabled": "true", "xpack.security.autoconfiguration.enabled": "false",
            "xpack.security.enrollment.enabled": "false", "xpack.security.http.ssl.enabled": "false",
            "xpack.security.transport.ssl.enabled": "false", "action.destructive_requires_name": "false",
        }  # fmt: skip
        for name in ("elasticsearch.yml", "users", "users_roles"):
            (folder / name).unlink()  # linked to the cached file, which must stay as it is
        (folder / "elasticsearch.yml").write_text("".join(f"{name}: {value}\n" for name, value in settings.items()))
        salt = os.urandom(32)
        digest = hashlib.pbkdf2_hmac("sha512", self.password.encode(), salt, _ITERATIONS, 32)
        hashed = "$".join([f"{{PBKDF2}}{_ITERATIONS}", base64.b64encode(salt).decode(), base64.b64encode(digest).decode()])
        (folder / "users").write_text(f"{self.username}:{hashed}\n")
        (folder / "users_roles").write_text(f"superuser:{self.username}\n")

    def answers(self) -> bool:
        """Whether it takes requests with the password, also those that look into its own security index."""
        try:
            healthy = self._client.get("/_cluster/health", params={"wait_for_status": "yellow"}).is_success
            return healthy and self._client.get("/_security/privilege").is_success
        except httpx.TransportError:
            return False

    def call(self, method: str, path: str, body: Any = None, *, allow: tuple[int, ...] = ()) -> Any:
        """Ask its API with all rights. Raises httpx.HTTPStatusError for a status that is neither 2xx nor one of `allow`."""
        answer = self._client.request(method, path, json=body)
        if answer.status_code not in allow:
            answer.raise_for_status()
        return answer.json()

    def fresh_index(self) -> str:
        """A name that no index begins with yet."""
        return f"test-{secrets.token_hex(6)}"

    def api_key(self, privileges: dict[str, Any] | None = None) -> tuple[str, str]:
        """The id and the encoded text of a new API key, with all rights or those of one role descriptor."""
        body = {"name": f"tests-{secrets.token_hex(4)}", "role_descriptors": {"role": privileges} if privileges else {}}
        made = self.call("POST", "/_security/api_key", body)
        return made["id"], made["encoded"]

    def revoke(self, key_id: str) -> None:
        """Make an API key invalid."""
        self.call("DELETE", "/_security/api_key", {"ids": [key_id]})

    def documents(self, pattern: str) -> list[dict[str, Any]]:
        """Every document of the indices that the pattern names, as `{"_index", "_id", "_source"}`."""
        self.call("POST", f"/{pattern}/_refresh", allow=(404,))
        found: list[dict[str, Any]] = []
        after: list[Any] | None = None
        while True:
            body: dict[str, Any] = {"size": 5000, "sort": [{"event_id": {"order": "asc", "unmapped_type": "keyword"}}]}
            if after:
                body["search_after"] = after
            hits = self.call("POST", f"/{pattern}/_search?ignore_unavailable=true&allow_no_indices=true", body)["hits"]["hits"]
            if not hits:
                return found
            found += hits
            after = hits[-1]["sort"]

    def stop(self) -> None:
        """End it and remove its folder."""
        self._client.close()
        super().stop()


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)
