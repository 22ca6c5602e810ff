"""Whether an SDK's memory stays bounded over millions of events: resident memory after a tenth of them and after all.

Drives the harness of each language (sdk/conformance) with nobody listening where the sidecar should be, no spool folder and the
oldest dropped, so that what is measured is the SDK's own bound and not a disk. Prints JSON.

    python -m benchmarks.emit_memory [--events 10000000] [python c java perl r]
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from sdk.conformance.harness import Harness
from sdk.conformance.languages import LANGUAGES, Language
from tests.services.base import free_port

EVENT = {"kind": "metric", "name": "chuck", "entities": {"tool": "E7"}, "metrics": {"temperature": 21.5}}
SECONDS = 3_600.0


def resident(pid: int) -> float:
    """Resident memory, in MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return round(next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1024, 1)


def measure(language: Language, events: int) -> dict[str, Any]:
    """Emit so many events in one process."""
    with tempfile.TemporaryDirectory() as folder:
        harness = Harness([language.program], cwd=Path(folder), env=dict(os.environ))
        try:
            sidecar = {"url": f"http://127.0.0.1:{free_port()}", "enable_spooling": False, "retries": 0, "timeout": 0.5}
            queue = {"on_full": "drop_oldest"}
            config = {"sdk": {"sidecar": sidecar, "queue": queue, "app": {"name": "memory", "site_id": "fab1"}}}
            assert harness.ask({"do": "initialize", "config": config})["ok"]
            began = time.perf_counter()
            assert harness.ask({"do": "repeat", "event": EVENT, "times": events // 10}, SECONDS)["ok"]
            tenth = resident(harness.process.pid)
            assert harness.ask({"do": "repeat", "event": EVENT, "times": events - events // 10}, SECONDS)["ok"]
            seconds = time.perf_counter() - began
            whole = resident(harness.process.pid)
            stats = harness.ask({"do": "stats"})["stats"]
        finally:
            harness.close()
    return {
        "events": events,
        "rss_mib_after_a_tenth": tenth,
        "rss_mib_after_all": whole,
        "growth": round(whole / tenth, 2),
        "mean_us": round(seconds / events * 1e6, 2),
        "dropped": stats["dropped"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("languages", nargs="*", default=[language.name for language in LANGUAGES])
    options = parser.parse_args()
    chosen = [language for language in LANGUAGES if language.name in options.languages]
    print(json.dumps({"benchmark": "emit_memory", **{each.name: measure(each, options.events) for each in chosen}}, indent=2))


if __name__ == "__main__":
    main()
