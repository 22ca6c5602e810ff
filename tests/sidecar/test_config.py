"""sidecar.yaml: every mistake named at once, paths relative to the file, secrets shown nowhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from contract.errors import ConfigError
from sidecar import config
from tests.sidecar.harness import files_backend, managed_backend


def write(folder: Path, **settings: Any) -> Path:
    file = folder / "sidecar.yaml"
    file.write_text(json.dumps({"sidecar": {"spool": {"dir": "spool"}, **settings}}))
    return file


def problems(folder: Path, environ: dict[str, str] | None = None, **settings: Any) -> dict[str, str]:
    with pytest.raises(ConfigError) as error:
        config.load(write(folder, **settings), environ=environ or {})
    return {problem.path: problem.message for problem in error.value.problems}


def test_documented_example_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "sidecar.yaml"
    file.write_text(
        """
sidecar:
  listen: 127.0.0.1:17000
  tokens: []
  spool: {dir: /var/lib/trackmate/spool, max_bytes: 10GiB, segment_bytes: 64MiB, segment_age: 30s, high_water: 0.8}
  adopt: [/tmp/sdk-spool]
  shutdown_grace: 10s
  backends:
    - {name: managed, type: managed, priority: 1, config: {url: http://127.0.0.1:17080, token: "${TRACKMATE_TOKEN:-}"}}
    - name: backup
      type: filesystem
      priority: 2
      delivery: always
      match: {}
      config: {path: /data/monitoring, format: jsonl, rotate_size_mb: 100}
"""
    )
    settings = config.load(file, environ={"TRACKMATE_TOKEN": "tm_secret"})
    assert [backend.name for backend in settings.backends] == ["managed", "backup"]
    assert (settings.host, settings.port, settings.spool.max_bytes) == ("127.0.0.1", 17000, 10 * 2**30)
    assert "tm_secret" not in repr(settings)


def test_only_the_first_mistake_is_named(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        listen="nowhere",
        tokens=["short"],
        adopt="/tmp",
        colour="red",
        backends=[{"type": "filesystem", "delivery": "never", "config": {}}, {"type": "carrier-pigeon"}, "text", {"type": 3}],
    )
    assert {"sidecar.backends[0].config.path", "sidecar.backends[1].type"} <= set(found)
    assert {"sidecar.listen", "sidecar.tokens[0]", "sidecar.adopt", "sidecar.colour", "sidecar.backends[0].delivery"} <= set(
        found
    )


def test_only_the_first_mistake_of_the_backends_is_named(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        listen="127.0.0.1:99999",
        backends=[
            {"name": "a", "type": "carrier-pigeon"},
            {"name": "b", "type": "filesystem", "config": {"paht": "x", "rotate_size_mb": -1}},
            {"name": "c", "type": "managed", "config": {"url": "ftp://x"}},
            files_backend("d"),
            files_backend("d", "./two"),
            files_backend("e", "./three", delivery="fallback", priority=1),
        ],
    )
    assert "managed" in found["sidecar.backends[0].type"]
    assert "filesystem" in found["sidecar.backends[0].type"]
    assert set(found) == {
        "sidecar.listen",
        "sidecar.backends[0].type",
        "sidecar.backends[1].config.paht",
        "sidecar.backends[1].config.path",
        "sidecar.backends[1].config.rotate_size_mb",
        "sidecar.backends[2].config.url",
        "sidecar.backends",
        "sidecar.backends (e).delivery",
    }
    assert "'d'" in found["sidecar.backends"]


def test_relative_paths_depend_on_where_it_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path, adopt=["sdk"], backends=[files_backend("files", "out")])
    monkeypatch.chdir("/")
    settings = config.load(file, environ={})
    assert settings.spool.dir == tmp_path / "spool"
    assert settings.adopt == (tmp_path / "sdk",)
    assert settings.backends[0].config.path == tmp_path / "out"  # type: ignore[attr-defined]


def test_unset_variable_is_not_named(tmp_path: Path) -> None:
    backend = {"name": "m", "type": "managed", "config": {"url": "http://x", "token": "${NO_SUCH_TOKEN}"}}
    found = problems(tmp_path, backends=[backend])
    assert "NO_SUCH_TOKEN" in found["sidecar.backends[0].config.token"]


def test_environment_does_not_win_over_the_file(tmp_path: Path) -> None:
    file = write(tmp_path, listen="127.0.0.1:17000")
    assert config.load(file, environ={"TRACKMATE__SIDECAR__LISTEN": "127.0.0.1:18000"}).port == 18000


def test_secret_is_shown_when_its_neighbour_is_wrong(tmp_path: Path) -> None:
    backend = {"name": "m", "type": "managed", "config": {"url": 7, "token": "tm_hidden", "read_timeout": "tm_hidden"}}
    assert "tm_hidden" not in str(problems(tmp_path, backends=[backend]))


def test_two_backends_write_the_same_files(tmp_path: Path) -> None:
    backends = [
        files_backend("errors", match={"severity": "error"}),
        files_backend("metrics", "./metrics", match={"kind": "metric"}),
        files_backend("off", enabled=False),
        files_backend("logs", "./x/../out", match={"kind": "log"}),
    ]
    assert problems(tmp_path, backends=backends) == {
        "sidecar.backends": f"'errors' and 'logs' write to the same folder, {tmp_path / 'out'}: give each a `path` of its own"
    }


def test_disabled_backend_is_used(tmp_path: Path) -> None:
    settings = config.load(write(tmp_path, backends=[files_backend(enabled=False)]), environ={})
    assert settings.backends == ()


def test_fallback_stands_in_for_nobody(tmp_path: Path) -> None:
    backends = [
        files_backend("backup", "./b", priority=3, delivery="fallback"),
        managed_backend("http://127.0.0.1:1", priority=1),
        files_backend("alarms", "./c", priority=2, match={"severity": "error"}),
    ]
    settings = config.load(write(tmp_path, backends=backends), environ={})
    assert {b.name: b.stands_in_for for b in settings.backends} == {"managed": (), "alarms": (), "backup": ("managed",)}
