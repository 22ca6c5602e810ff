"""The OpenTelemetry Collector with a file-backed queue: built once with its own builder from the Go module proxy."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.services.base import CACHE, cache_lock, go_binary

VERSION = "v0.159.0"
MANIFEST = f"""\
dist:
  name: collector
  output_path: build
receivers:
  - gomod: go.opentelemetry.io/collector/receiver/otlpreceiver {VERSION}
exporters:
  - gomod: go.opentelemetry.io/collector/exporter/otlphttpexporter {VERSION}
extensions:
  - gomod: github.com/open-telemetry/opentelemetry-collector-contrib/extension/storage/filestorage {VERSION}
"""


def collector() -> Path:
    """The collector's binary; a minute to build the first time."""
    builder = go_binary("collector-builder", "go.opentelemetry.io/collector/cmd/builder", VERSION)
    with cache_lock(f"collector-{VERSION}") as target:
        if not target.is_file():
            folder = Path(tempfile.mkdtemp(prefix="collector-", dir=CACHE))
            try:
                (folder / "manifest.yaml").write_text(MANIFEST)
                environment = {**os.environ, "CGO_ENABLED": "0"}
                subprocess.run([builder, "--config=manifest.yaml"], cwd=folder, env=environment, check=True)
                (folder / "build" / "collector").replace(target)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
    return target


if __name__ == "__main__":
    sys.stdout.write(f"{collector()}\n")
