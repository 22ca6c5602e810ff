"""Runs Dagster's replication job over and over in one process, until it is killed; prints a line a run."""

from __future__ import annotations

import argparse
import sys
import time

import dagster as dg

from orchestration.definitions import defs


def main() -> None:
    """Run the job with an instance of its own; a failed run is said, and the next one begins."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--once", action="store_true", help="run once and exit 1 if that failed")
    once = parser.parse_args().once
    job = defs.resolve_job_def("replicate")
    with dg.DagsterInstance.ephemeral() as instance:
        while True:
            result = job.execute_in_process(instance=instance, raise_on_error=False)
            sys.stdout.write(f"{'ok' if result.success else 'failed'}\n")
            sys.stdout.flush()
            if once:
                sys.exit(0 if result.success else 1)
            time.sleep(0.5)


if __name__ == "__main__":
    main()
