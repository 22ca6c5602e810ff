"""What one emit costs in Perl: Monitoring::SDK with the sidecar up and down, beside a bare JSON+append loop. Prints JSON.

The server is a process of its own that reads every request and acknowledges it. Times are of the caller's thread, in
microseconds; the Perl side is `emit_cost_perl.pl`.
"""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path

from benchmarks.emit_cost import serve
from tests.services.base import free_port

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Start the server, and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=200_000, help="calls that are timed one by one")
    parser.add_argument("--events", type=int, default=1_000_000, help="events for the look at memory")
    arguments = parser.parse_args()
    subprocess.run([ROOT / "scripts" / "sdk-perl.sh", "--need"], check=True)
    process, port = serve("sidecar")
    try:
        urls = [f"http://127.0.0.1:{port}", f"http://127.0.0.1:{free_port()}"]
        command = ["perl", f"-I{ROOT / 'sdk/perl/lib'}", str(ROOT / "benchmarks" / "emit_cost_perl.pl"), *urls]
        subprocess.run([*command, str(arguments.calls), str(arguments.events)], check=True)
    finally:
        process.terminate()
        process.join()


if __name__ == "__main__":
    main()
