"""A program without an SDK that posts batches and believes nothing but a 202: what it notes as acknowledged must be in silver.

Some batches it gives up after one try whose outcome it never learnt: these may be there or not, but not twice.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import time
from pathlib import Path

from contract.ids import uuid7
from tests.conservation.payload import payload

BATCH = 100


def main() -> None:
    """Send `count` events in batches; append `acknowledged` or `unknown`, first number and size to the ledger."""
    parser = argparse.ArgumentParser()
    for name in ("--port", "--seed", "--sender", "--count"):
        parser.add_argument(name, type=int, required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--ledger", type=Path, required=True)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with options.ledger.open("a") as ledger:
        for first in range(0, options.count, BATCH):
            began = time.monotonic()
            body = encode(options.seed, options.sender, range(first, min(first + BATCH, options.count)))
            outcome = deliver(options.port, body, give_up=rng.random() < 0.05)
            ledger.write(f"{outcome} {first} {min(BATCH, options.count - first)}\n")
            ledger.flush()
            time.sleep(max(0.0, BATCH / options.rate - (time.monotonic() - began)))


def encode(seed: int, sender: int, numbers: range) -> bytes:
    """The events as NDJSON, complete as an SDK would make them."""
    lines = []
    for n in numbers:
        moment = time.time_ns() // 1000
        whole = {
            **payload(seed, sender, n),
            "event_id": uuid7(),
            "timestamp": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(moment // 1_000_000)) + f".{moment % 1_000_000:06d}Z",
            "site_id": "fab1",
            "app": {"name": "http-sender"},
        }
        lines.append(json.dumps(whole, ensure_ascii=n % 2 == 0))
    return "\n".join(lines).encode()


def deliver(port: int, body: bytes, *, give_up: bool) -> str:
    """Post until the answer is 202; with `give_up` only once."""
    while True:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            try:
                connection.request("POST", "/v1/ingest/events", body, {"Content-Type": "application/x-ndjson"})
                answer = connection.getresponse()
                answer.read()
            finally:
                connection.close()
            if answer.status == 202:
                return "acknowledged"
            if answer.status not in (429, 503):
                return f"refused-{answer.status}"
        except (OSError, http.client.HTTPException):
            pass
        if give_up:
            return "unknown"
        time.sleep(0.2)


if __name__ == "__main__":
    main()
