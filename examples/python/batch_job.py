"""A batch job that etches the wafers of a lot and reports what it does: start, progress, measurements, an error, the end.

    trackmate up                                  # or: trackmate sidecar --config sidecar.yaml
    python examples/python/batch_job.py --wafers 25

Without a sidecar it runs just as well: what it reports waits in the spool folder, and goes out when a sidecar is there.
"""

from __future__ import annotations

import argparse
import logging
import random
import time
from concurrent.futures import ThreadPoolExecutor

import monitoring_sdk as monitoring


class ChuckTooHotError(Exception):
    """The chuck is outside of its limits."""


def measure(wafer: int, rng: random.Random) -> dict[str, float]:
    """Pretend to etch one wafer."""
    time.sleep(0.02)
    return {"temperature": 21.5 + rng.gauss(0, 0.2), "pressure": 0.3 + rng.gauss(0, 0.005), "depth": 80.0 - wafer / 100}


@monitoring.monitored_context("etch-wafer")
def etch(wafer: int, rng: random.Random) -> None:
    """One wafer is one run, inside the run of its lot."""
    run = monitoring.current_run()
    if run is None:
        return
    with run.bind(wafer=str(wafer)) as bound:
        values = measure(wafer, rng)
        bound.metric("chuck", **values)
        if values["temperature"] > 22.2:
            message = f"chuck at {values['temperature']:.1f} degrees, limit 22.2"
            raise ChuckTooHotError(message)


def main() -> None:
    """Run the job."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lot", default="L2301")
    parser.add_argument("--tool", default="ETCH-07")
    parser.add_argument("--wafers", type=int, default=25)
    parser.add_argument("--seed", type=int, default=7, help="the same seed gives the same measurements")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    rng = random.Random(arguments.seed)

    monitoring.initialize(app={"name": "etch-batch", "version": "1.0", "site_id": "fab1"})
    with monitoring.monitored_context("etch-lot", {"lot": arguments.lot, "tool": arguments.tool, "recipe": "OX-80"}) as lot:
        monitoring.emit_event({"kind": "state", "name": arguments.tool, "state": {"from": "standby", "to": "productive"}})
        scrapped = 0
        # Two wafers at a time: `carry` takes the lot's run along into the pool's threads.
        with ThreadPoolExecutor(2) as pool:
            jobs = [pool.submit(monitoring.carry(etch), wafer, rng) for wafer in range(1, arguments.wafers + 1)]
            for done, job in enumerate(jobs, start=1):
                scrapped += job.exception() is not None
                lot.progress(done / arguments.wafers, f"wafer {done} of {arguments.wafers}")
        lot.set(scrapped=scrapped)
        monitoring.emit_event({"kind": "state", "name": arguments.tool, "state": {"from": "productive", "to": "standby"}})
    monitoring.close()
    print(monitoring.stats())


if __name__ == "__main__":
    main()
