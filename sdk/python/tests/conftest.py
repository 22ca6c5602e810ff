"""A sidecar that misbehaves on command, and an SDK that talks to it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sdk.conformance.misbehaving import MisbehavingSidecar
from sinks import registry

import monitoring_sdk
from monitoring_sdk import _plugins, _state


@pytest.fixture
def sidecar() -> Iterator[MisbehavingSidecar]:
    server = MisbehavingSidecar()
    yield server
    server.close()


@pytest.fixture
def spool_dir(tmp_path: Path) -> Path:
    return tmp_path / "sdk-spool"


@pytest.fixture
def initialize(sidecar: MisbehavingSidecar, spool_dir: Path) -> Iterator[Callable[..., None]]:
    """`monitoring_sdk.initialize` for the misbehaving sidecar, with quick settings; overrides as there."""

    def start(**overrides: Any) -> None:
        settings = {
            "app": {"name": "etcher", "site_id": "fab1"},
            "sidecar__url": sidecar.url,
            "sidecar__spool_dir": str(spool_dir),
            "sidecar__timeout": 5.0,
            "queue__flush_interval": 0.05,
        }
        monitoring_sdk.initialize(**{**settings, **overrides})

    yield start
    monitoring_sdk.close()
    assert _state.client is None


ODD_SINK = Path(__file__).with_name("odd_sink.py")


@pytest.fixture
def third_party(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package of somebody else is installed, with the sink `odd` (see odd_sink.py); programs of the test find it, too."""
    site = tmp_path / "site"
    info = site / "odd_sink-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: odd-sink\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[trackmate.sinks]\nodd = odd_sink:OddSink\nlacking = odd_sink_that_lacks_a_package:Sink\n"
    )
    shutil.copy(ODD_SINK, site)
    (site / "odd_sink_that_lacks_a_package.py").write_text("import a_package_that_nobody_has\n")
    monkeypatch.setenv("PYTHONPATH", str(site))
    monkeypatch.syspath_prepend(str(site))
    _forget_entry_points()
    yield site
    sys.modules.pop("odd_sink", None)
    monkeypatch.undo()
    _forget_entry_points()


def _forget_entry_points() -> None:
    _plugins.entry_points.cache_clear()
    registry._entry_points.cache_clear()


def written(folder: Path) -> list[dict[str, Any]]:
    """The events in the files of a `filesystem` backend, growing ones too."""
    texts = [file.read_bytes() for file in folder.glob("date=*/hour=*/*.jsonl*")]
    lines = [line for text in texts for line in text.split(b"\n")[:-1]]  # what follows the last line feed is being written
    return sorted((json.loads(line) for line in lines), key=lambda event: (event["emitter"]["id"], event["emitter"]["seq"]))


@pytest.fixture
def gateway() -> Iterator[MisbehavingSidecar]:
    """What a `managed` backend talks to; it misbehaves as the sidecar does."""
    server = MisbehavingSidecar()
    yield server
    server.close()


@pytest.fixture
def direct(sidecar: MisbehavingSidecar, spool_dir: Path, tmp_path: Path) -> Iterator[Callable[..., None]]:
    """`monitoring_sdk.initialize` in direct mode with quick settings and these backends; overrides as there."""

    def start(*backends: dict[str, Any], **overrides: Any) -> None:
        settings = {
            "app": {"name": "etcher", "site_id": "fab1"},
            "mode": "direct",
            "sidecar__url": sidecar.url,
            "sidecar__spool_dir": str(spool_dir),
            "queue__flush_interval": 0.05,
            "direct_backends": list(backends),
        }
        monitoring_sdk.initialize(**{**settings, **overrides})

    yield start
    monitoring_sdk.close()
    assert _state.client is None


@pytest.fixture(autouse=True)
def nothing_configured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No configuration of this machine, and no file of an earlier test."""
    for name in list(os.environ):
        if name.startswith("MONITORING_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def eventually() -> Callable[..., None]:
    """Wait until a condition holds; fail when it does not within the deadline."""

    def wait(condition: Callable[[], Any], seconds: float = 20.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "the condition did not come about in time"
            time.sleep(0.01)

    return wait


@pytest.fixture
def run_program(sidecar: MisbehavingSidecar, spool_dir: Path, tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Start a Python program that begins with the SDK initialized as `m`; its last line of output starts its story."""

    def start(program: str, **overrides: Any) -> subprocess.Popen[str]:
        settings = {
            "app": {"name": "etcher", "site_id": "fab1"},
            "sidecar__url": sidecar.url,
            "sidecar__spool_dir": str(spool_dir),
            "queue__flush_interval": 0.05,
            **overrides,
        }
        file = tmp_path / f"program{len(list(tmp_path.glob('program*.py')))}.py"
        file.write_text(
            "import os, signal, sys, threading, time\n"
            "import monitoring_sdk as m\n"
            "def say(*words):\n    print(*words, flush=True)\n"
            "def log(i=0):\n    return m.emit_event({'kind': 'log', 'name': 'x', 'attributes': {'i': i}})\n"
            # One long sleep could miss a signal that comes just before it.
            "def wait():\n    while True:\n        time.sleep(0.02)\n"
            f"def start():\n    m.initialize(**{settings!r})\n" + program
        )
        return subprocess.Popen(
            [sys.executable, "-W", "ignore::DeprecationWarning", str(file)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
        )

    return start


def spooled(folder: Path) -> list[dict[str, Any]]:
    """The events in the complete files of a spool folder."""
    return [json.loads(line) for file in sorted(folder.glob("*.jsonl")) for line in file.read_bytes().splitlines()]


@pytest.fixture
def spooled_events(spool_dir: Path) -> Callable[[], list[dict[str, Any]]]:
    return lambda: spooled(spool_dir)
