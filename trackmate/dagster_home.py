"""Dagster's own folder: its settings, the workspace that names the code server, and runs that died with the last stack."""

from __future__ import annotations

import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path

from contract.errors import TrackMateError

_INSTANCE = """\
# dagster.yaml: written when the folder was made; yours to change.
telemetry:
  enabled: false
nux:
  enabled: false                      # no sign-up dialog over the first page

# Runs wait in a queue; one run at a time writes a table (each table is a pool of its own).
run_coordinator:
  module: dagster.core.run_coordinator
  class: QueuedRunCoordinator
  config:
    dequeue_interval_seconds: 1

concurrency:
  runs:
    max_concurrent_runs: 2
  pools:
    default_limit: 1
    granularity: run

run_monitoring:
  enabled: true
  poll_interval_seconds: 15
  start_timeout_seconds: 180
  free_slots_after_run_end_seconds: 10

sensors:
  use_threads: true
  num_workers: 4
schedules:
  use_threads: true
  num_workers: 2

retention:
  sensor:
    purge_after_days: {skipped: 1, failure: 7, success: -1}
  schedule:
    purge_after_days: {skipped: 1, failure: 7, success: -1}
"""


def prepare(home: Path, code_server_port: int) -> Path:
    """Write dagster.yaml if there is none, and the workspace for this start; returns the workspace file."""
    home.mkdir(parents=True, exist_ok=True)
    settings = home / "dagster.yaml"
    if not settings.exists():
        settings.write_text(_INSTANCE, encoding="utf-8")
    workspace = home / "workspace.yaml"
    entry = {"host": "127.0.0.1", "port": code_server_port, "location_name": "trackmate"}
    workspace.write_text(
        "# Written by 'trackmate up' at each start: where this start's code server listens.\n"
        f"load_from:\n  - grpc_server: {json.dumps(entry)}\n",
        encoding="utf-8",
    )
    return workspace


def end_dead_runs(home: Path) -> int:
    """Mark the runs that were going on when the last stack ended as failed, so that they hold no place in a queue or pool.

    Only for a folder on which nothing runs, with DAGSTER_HOME set to it. Returns how many there were.
    """
    if not (home / "history" / "runs.db").is_file() and not (home / "history" / "runs").is_dir():
        return 0
    from dagster import DagsterInstance, DagsterRunStatus, RunsFilter

    with DagsterInstance.get() as instance:
        going_on = [DagsterRunStatus.STARTING, DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING]
        runs = instance.get_runs(RunsFilter(statuses=going_on))
        for run in runs:
            instance.report_run_failed(run, "The stack ended while this run was going on. What it had committed stays.")
            if instance.event_log_storage.supports_global_concurrency_limits:
                instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
        return len(runs)


def serve_code(home: Path, port: int) -> None:
    """Become the code server that web server and daemon ask; first settle what the last stack left undone."""
    ended = end_dead_runs(home)
    if ended:
        sys.stderr.write(f"marked {ended} runs as failed that the last stack took with it\n")
    # Dagster drops the first entry of the path, which it takes for the script's own: say where the package is.
    package = find_spec("orchestration")
    if package is None or package.origin is None:
        raise TrackMateError("orchestration is not installed: pip install 'trackmate[orchestration]'")
    command = [sys.executable, "-P", "-m", "dagster", "api", "grpc", "--module-name", "orchestration.definitions"]
    command += ["--attribute", "defs", "--working-directory", str(Path(package.origin).parent.parent)]
    command += [
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--location-name",
        "trackmate",
        "--use-python-environment-entry-point",
    ]
    os.execv(sys.executable, command)  # noqa: S606 - the point of this function


if __name__ == "__main__":
    serve_code(Path(sys.argv[1]), int(sys.argv[2]))
