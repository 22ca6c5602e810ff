"""What one emit of the C SDK costs the caller, sidecar up and down, beside a loop that makes JSON and appends it to a file.

Builds the SDK and `emit_cost_c.c`, and runs it against a server that counts and acknowledges. Prints JSON, in nanoseconds.
`--events N` also emits N events without a pause, a quarter of that from 16 threads, and tells the memory before and after.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import subprocess
import sys
import tempfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
NOBODY = "http://127.0.0.1:9"


def count_forever(port_to: Connection) -> None:
    """A server that reads every request and acknowledges its events."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            answer = b'{"accepted":%d,"rejected":[]}' % body.count(b"\n")
            self.wfile.write(b"HTTP/1.1 202 Accepted\r\nContent-Length: %d\r\n\r\n%b" % (len(answer), answer))

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    port_to.send(server.server_address[1])
    server.serve_forever()


def compiled(folder: Path) -> Path:
    """The benchmark's program, linked with a release build of the SDK."""
    build = subprocess.run(
        [ROOT / "scripts" / "sdk-c.sh", "--build", "release"], check=True, stdout=subprocess.PIPE, text=True
    ).stdout.strip()
    program = folder / "emit_cost_c"
    source = str(Path(__file__).with_suffix(".c"))
    command = ["cc", "-O2", "-I", str(ROOT / "sdk/c/include"), source, "-L", build, "-lmonitoring"]
    subprocess.run([*command, "-lcjson", "-lpthread", f"-Wl,-rpath,{build}", "-o", str(program)], check=True)
    return program


def main() -> None:
    """Run both cases and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=50_000)
    parser.add_argument("--events", type=int, default=0)
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    server = context.Process(target=count_forever, args=(there,), daemon=True)
    server.start()
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        program = compiled(folder)
        for case, url in (("up", f"http://127.0.0.1:{here.recv()}"), ("down", NOBODY)):
            events = arguments.events if case == "up" else 0
            command = [str(program), url, str(folder / f"spool-{case}"), str(arguments.calls), str(events)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            results[case] = json.loads(done.stdout)
    server.terminate()
    server.join()
    up, down = results["up"], results["down"]
    ratios = {
        "median_of_json_append": round(up["json_append"]["median"] / up["emit"]["median"], 2),
        "p99_down_of_up": round(down["emit"]["p99"] / up["emit"]["p99"], 2),
    }
    machine = {"cpus": os.cpu_count(), "machine": platform.machine()}
    json.dump({"benchmark": "emit_cost_c", "machine": machine, **results, "ratios": ratios}, sys.stdout)
    print()


if __name__ == "__main__":
    main()
