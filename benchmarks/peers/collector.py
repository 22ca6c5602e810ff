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

CONFIG = """\
extensions:
  file_storage:
    directory: {folder}/queue
    create_directory: true
    fsync: true
receivers:
  otlp:
    protocols:
      http:
        endpoint: 127.0.0.1:{port}
exporters:
  otlphttp:
    endpoint: {endpoint}
    compression: none
    sending_queue:
      enabled: true
      storage: file_storage
      sizer: {sizer}
      queue_size: 1000000000
      num_consumers: {consumers}
{batch}    retry_on_failure:
      enabled: true
      initial_interval: 5s
      max_interval: 30s
      max_elapsed_time: 0
service:
  extensions: [file_storage]
  telemetry:
    metrics:
      level: none
    logs:
      level: error
  pipelines:
    logs:
      receivers: [otlp]
      exporters: [otlphttp]
"""
BATCH = """\
      batch:
        flush_timeout: 200ms
        min_size: {joined}
        max_size: {joined}
"""


def command(binary: Path, folder: Path, *, port: int, endpoint: str, consumers: int = 1, joined: int | None = None) -> list[str]:
    """What runs it: it listens on `port`, keeps its queue in `folder` with every write synced, and sends to `endpoint`.

    It sends `consumers` requests at once, each as it came, or of `joined` events.
    """
    batch = "" if joined is None else BATCH.format(joined=joined)
    sizer = "requests" if joined is None else "items"
    config = folder / "collector.yaml"
    config.write_text(CONFIG.format(folder=folder, port=port, endpoint=endpoint, consumers=consumers, batch=batch, sizer=sizer))
    return [str(binary), "--config", str(config)]


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
