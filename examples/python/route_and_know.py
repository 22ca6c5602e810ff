"""A program that must know where an event is before it goes on: BackendRouter answers for each backend.

python examples/python/route_and_know.py --folder /tmp/monitoring
"""

from __future__ import annotations

import argparse

import monitoring_sdk as monitoring


def main() -> None:
    """Release a lot only when the record of it is safe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", required=True, help="where the files go")
    parser.add_argument("--spool", help="where events wait for a backend that is down (default: the SDK's)")
    parser.add_argument("--sidecar", default="http://localhost:17000", help="the sidecar's address")
    arguments = parser.parse_args()
    config = {
        "sdk": {
            "app": {"name": "lot-release", "site_id": "fab1"},
            "sidecar": {"retries": 0, **({"spool_dir": arguments.spool} if arguments.spool else {})},
            "direct_backends": [
                {"type": "sidecar", "priority": 1, "config": {"url": arguments.sidecar}},
                {"type": "filesystem", "priority": 2, "delivery": "fallback", "config": {"path": arguments.folder}},
            ],
        }
    }
    with monitoring.BackendRouter(config, timeout=5) as router:
        answer = router.route_event({"kind": "state", "name": "L2301", "state": {"from": "hold", "to": "released"}})
    print(answer)
    if not any(answer.values()):
        raise SystemExit("nobody has the record of the release: lot L2301 stays on hold")
    print("lot L2301 released")


if __name__ == "__main__":
    main()
