"""A program that reports through the real SDK: `count` events at `rate` a second; ends when all are flushed or spooled."""

from __future__ import annotations

import argparse
import json
import sys
import time

import monitoring_sdk as monitoring

from tests.conservation.payload import payload


def main() -> None:
    """Emit, close, print the SDK's own counts as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", required=True, help="the SDK's configuration as JSON")
    for name in ("--seed", "--sender", "--count"):
        parser.add_argument(name, type=int, required=True)
    parser.add_argument("--rate", type=float, required=True)
    options = parser.parse_args()
    monitoring.initialize(json.loads(options.config))
    started = time.monotonic()
    for n in range(options.count):
        monitoring.emit_event(payload(options.seed, options.sender, n))
        ahead = n / options.rate - (time.monotonic() - started)
        if ahead > 0.01:
            time.sleep(ahead)
    monitoring.close()
    sys.stdout.write(json.dumps(monitoring.stats(), default=str) + "\n")


if __name__ == "__main__":
    main()
