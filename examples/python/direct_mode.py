"""A program that delivers its events itself, without a sidecar: files always, a webhook beside them, more by configuration.

    python examples/python/direct_mode.py --folder /tmp/monitoring
    python examples/python/direct_mode.py --folder /tmp/monitoring --webhook http://127.0.0.1:8080/events

Then look: every event is a line in /tmp/monitoring/date=…/hour=…/*.jsonl. What the webhook does not take waits for it on disk.
"""

from __future__ import annotations

import argparse
import logging
from typing import Any

import monitoring_sdk as monitoring


def main() -> None:
    """Report one run to every backend, and say what each of them has."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", required=True, help="where the files go")
    parser.add_argument("--spool", help="where events wait for a backend that is down (default: the SDK's)")
    parser.add_argument("--webhook", help="an address that takes JSON Lines by POST")
    parser.add_argument("--wafers", type=int, default=25)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")

    backends: list[dict[str, Any]] = [{"type": "filesystem", "priority": 1, "config": {"path": arguments.folder}}]
    if arguments.webhook:
        backends.append({"type": "webhook", "priority": 2, "config": {"url": arguments.webhook, "allow_private": True}})
    sidecar = {"spool_dir": arguments.spool} if arguments.spool else {}
    monitoring.initialize(
        app={"name": "etch-direct", "version": "1.0", "site_id": "fab1"},
        mode="direct",
        direct_backends=backends,
        sidecar=sidecar,
    )
    with monitoring.monitored_context("etch-lot", {"lot": "L2301", "tool": "ETCH-07"}) as run:
        for wafer in range(1, arguments.wafers + 1):
            run.metric("chuck", temperature=21.5 + wafer / 100)
            run.progress(wafer / arguments.wafers)
    result = monitoring.flush(timeout=10)
    for name, counts in result.backends.items():
        trouble = f" ({counts.error})" if counts.error else ""
        print(f"{name}: {counts.delivered} delivered, {counts.spooled} wait on disk{trouble}")
    monitoring.close()


if __name__ == "__main__":
    main()
