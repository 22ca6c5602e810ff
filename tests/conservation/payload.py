"""What event number `n` of sender `sender` says: a function of the seed, so that nobody needs to remember what was sent."""

from __future__ import annotations

import random
from typing import Any

KINDS = ("log", "metric", "state", "progress", "finish", "error")
STATES = ("productive", "standby", "engineering", "scheduled_down", "unscheduled_down", "non_scheduled")
TEXTS = ("plain", 'quotes " and \\ backslashes', "line\nend\ttab", "エッチング ⚙ é", "line\u2028separator", "😀", "")


def payload(seed: int, sender: int, n: int) -> dict[str, Any]:
    """The event without what an SDK adds (id, time, site, app, emitter); `attributes.n` and `attributes.sender` find it again."""
    rng = random.Random(f"{seed}/{sender}/{n}")
    kind = KINDS[n % len(KINDS)]
    event: dict[str, Any] = {
        "kind": kind,
        "name": f"step-{rng.randrange(20)}",
        "entities": {
            "tool": f"tool-{rng.randrange(8)}",
            "lot": f"L{n // 500}",
            "wafer": str(n % 25),
            "slot": str(rng.randrange(25)),
        },
        "attributes": {
            "n": n,
            "sender": sender,
            "float": rng.uniform(-1e6, 1e6),
            "big": rng.getrandbits(60),
            "list": [1, None, True],
        },
        "message": rng.choice(TEXTS) + " " + "x" * rng.randrange(120),
    }
    match kind:
        case "metric":
            event["metrics"] = {"pressure": rng.gauss(10, 2), "power": rng.randrange(1000), "tiny": 5e-324}
        case "state":
            event["state"] = {"from": rng.choice(STATES), "to": rng.choice(STATES)}
        case "progress":
            event["progress"] = rng.random()
        case "finish":
            event |= {"status": "ok", "duration_ms": rng.uniform(0, 1e5)}
        case "error":
            event |= {"status": "failed", "error": {"type": "PumpError", "message": rng.choice(TEXTS), "stack": "a\n  b"}}
    return event
