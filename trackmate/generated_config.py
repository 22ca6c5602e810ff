"""The configuration files that a fresh data folder gets, with a comment on everything that one may want to change."""

from __future__ import annotations

import json
import os
from pathlib import Path

from contract.errors import TrackMateError
from trackmate.data_folder import DataFolder
from trackmate.ports import Ports


def generate(folder: DataFolder, port_offset: int | None = None) -> list[Path]:
    """Write the configuration files that are not there yet and return them; what exists is never touched.

    `port_offset` moves every port of a fresh folder; for a folder that has its files it must not be given.
    """
    if port_offset and folder.trackmate_yaml.exists():
        raise TrackMateError(
            f"{folder.root} has its configuration already, and --port-offset only counts when that is first written. "
            f"Change the ports in {folder.trackmate_yaml.name}, {folder.sidecar_yaml.name} and {folder.sdk_yaml.name} there, "
            "or give another --data"
        )
    folder.make()
    ports = Ports().shifted(port_offset or 0)
    made: list[Path] = []
    contents = {
        folder.sidecar_yaml: _sidecar(ports),
        folder.sdk_yaml: _sdk(folder, ports),
        folder.trackmate_yaml: _trackmate(folder, ports),
    }
    for path, text in contents.items():
        if not path.exists():
            _write_private(path, text)
            made.append(path)
    return made


def _write_private(path: Path, text: str) -> None:
    """Only the owner may read it: the database's password is in one of them."""
    aside = path.with_name(path.name + ".tmp")
    with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    aside.replace(path)


def _quoted(value: object) -> str:
    """Text as YAML takes it whatever is in it."""
    return json.dumps(str(value), ensure_ascii=False)


def _trackmate(folder: DataFolder, ports: Ports) -> str:
    from trackmate.embedded_postgres import EmbeddedPostgres

    dsn = EmbeddedPostgres(folder.postgres, ports.postgres).dsn().reveal()
    return f"""\
# trackmate.yaml: read by the gateway, by Dagster and by the command line. Relative paths are relative to this file.
# Any value may be ${{VARIABLE}} or ${{VARIABLE:-default}}; 'trackmate doctor' names every mistake at once.

# What 'trackmate up' starts on this machine.
stack:
  embedded_postgres: true             # run the PostgreSQL that hot.dsn names, in ./postgres
  dagster_listen: 127.0.0.1:{ports.dagster}

gateway:
  listen: 127.0.0.1:{ports.gateway}           # to be reached from other hosts: make tokens first ('trackmate token --help')

# The hot store. For a PostgreSQL of your own, with TimescaleDB or without, put its URL here and set embedded_postgres to false.
hot:
  dsn: {_quoted(dsn)}
  retention: 90d                      # never drops what the lake has not confirmed

# The lakehouse: Delta tables in a folder, or s3://bucket/prefix with storage_options.
lake:
  root: ./lake
  storage_options: {{}}
  spools: [./spool]                   # spools of sidecars on this machine, read straight into the lake

engines:
  duckdb: {{memory_limit: 2GiB, temp_limit: 10GiB, timeout: 30s, max_rows: 100000, max_bytes: 64MiB}}

# Without tokens every service answers this machine only.
auth:
  tokens: []                          # - {{id: ci, sha256: ..., scopes: [ingest], sites: [fab1], expires: 2030-01-01T00:00:00Z}}
"""


def _sidecar(ports: Ports) -> str:
    return f"""\
# sidecar.yaml: the agent that applications send to. Relative paths are relative to this file.
sidecar:
  listen: 127.0.0.1:{ports.sidecar}
  tokens: []                          # SHA-256 of accepted tokens; empty: this machine only

  # Events are acknowledged once they are on disk here.
  spool:
    dir: ./spool
    max_bytes: 10GiB
    segment_bytes: 64MiB
    segment_age: 10s                  # closed segments go to the lake: the shorter, the fresher
    high_water: 0.8                   # above this share of max_bytes senders are told to wait

  readers: [lake]                     # the lake reads the spool itself; segments stay until it has
  adopt: [./sdk-spool]                # where the SDKs of this machine leave events while no sidecar runs
  shutdown_grace: 10s

  backends:
    - name: managed                   # the hot store, through the gateway
      type: managed
      priority: 1
      config: {{url: "http://127.0.0.1:{ports.gateway}", token: "${{TRACKMATE_TOKEN:-}}"}}
    # A copy of every event in files, one line each:
    # - {{name: archive, type: filesystem, priority: 2, config: {{path: ./archive, format: jsonl, rotate_size_mb: 100}}}}
"""


def _sdk(folder: DataFolder, ports: Ports) -> str:
    return f"""\
# monitoring-config.yaml: for your programs. Point MONITORING_CONFIG at it, or copy it to where they start.
sdk:
  mode: sidecar
  sidecar:
    url: http://127.0.0.1:{ports.sidecar}
    timeout: 5.0
    retries: 3
    enable_spooling: true             # events wait in spool_dir while no sidecar runs
    spool_dir: {_quoted(folder.sdk_spool)}
  queue:
    max_events: 10000
    batch_size: 500
    flush_interval: 1.0
    on_full: spool
  app:
    name: my-application
    version: 0.1.0
    site_id: fab1
"""
