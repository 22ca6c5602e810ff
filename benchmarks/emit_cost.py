"""What one emit costs the calling thread: monitoring_sdk.emit_event against OpenTelemetry's logger.emit, in the same run.

Both hand the same content (a name, a message, two measurements, two entities, a counter) to a background worker that posts to a
counting HTTP server on the loopback: this SDK with the sidecar up and down and in direct mode (to files and to the same server),
OpenTelemetry with its BatchLogRecordProcessor and the OTLP exporter. The servers run in processes of their own. Prints JSON;
every figure is in nanoseconds.

Figures are of two kinds. `paced`: calls in bursts with pauses in which the worker catches up, as a program that works does; each
call is timed. `flat_out`: calls without any pause, mean over all, which counts what the worker takes from the caller.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection

import monitoring_sdk

BURST = 500
PAUSE = 0.03

Emit = Callable[[int], object]


def count_forever(port_to: Connection, kind: str) -> None:
    """A server that reads every request and acknowledges it; the size of the queue is not what is measured."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            answer = b"" if kind == "otlp" else b'{"accepted":%d,"rejected":[]}' % body.count(b"\n")
            self.send_response(200 if kind == "otlp" else 202)
            self.send_header("Content-Type", "application/x-protobuf" if kind == "otlp" else "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *args: object) -> None:  # noqa: ARG002 - silence
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    port_to.send(server.server_address[1])
    server.serve_forever()


def serve(kind: str) -> tuple[multiprocessing.process.BaseProcess, int]:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=count_forever, args=(there, kind), daemon=True)
    process.start()
    return process, here.recv()


def paced(emit: Emit, calls: int) -> dict[str, float]:
    """Median and 99th percentile of single calls."""
    clock = time.perf_counter_ns
    took = []
    for number in range(calls):
        if number % BURST == 0:
            time.sleep(PAUSE)
        began = clock()
        emit(number)
        took.append(clock() - began)
    took.sort()
    return {"median": statistics.median(took), "p99": took[int(len(took) * 0.99)]}


def flat_out(emit: Emit, calls: int) -> float:
    """Mean of calls without a pause."""
    began = time.perf_counter_ns()
    for number in range(calls):
        emit(number)
    return (time.perf_counter_ns() - began) / calls


def measure(emit: Emit, calls: int) -> dict[str, float]:
    paced(emit, calls // 10)  # warm up
    gc.collect()
    return {**paced(emit, calls), "flat_out_mean": flat_out(emit, calls)}


def of_this_sdk(url: str, calls: int, spool_dir: str, *, direct: bool = False) -> dict[str, float]:
    backends = [{"type": "filesystem", "config": {"path": f"{spool_dir}/files"}}, {"type": "sidecar"}]
    monitoring_sdk.initialize(
        app={"name": "benchmark", "site_id": "fab1"},
        mode="direct" if direct else "sidecar",
        direct_backends=backends,
        sidecar={"url": url, "spool_dir": spool_dir, "retries": 0},
        queue={"max_events": 100_000},
    )

    def emit(number: int) -> object:
        return monitoring_sdk.emit_event(
            {
                "kind": "metric",
                "name": "chuck",
                "message": "step done",
                "entities": {"lot": "L1", "tool": "E1"},
                "metrics": {"temperature": 21.5, "pressure": 0.3},
                "attributes": {"n": number},
            }
        )

    result = measure(emit, calls)
    monitoring_sdk.close()
    stats = monitoring_sdk.stats()
    result["lost"] = stats.emitted - stats.sent - stats.spooled
    return result


def of_opentelemetry(url: str, calls: int) -> dict[str, float]:
    from opentelemetry._logs import SeverityNumber
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
    from opentelemetry.sdk.resources import Resource

    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL + 1)
    provider = LoggerProvider(resource=Resource.create({"service.name": "benchmark", "site_id": "fab1"}))
    processor = BatchLogRecordProcessor(
        OTLPLogExporter(endpoint=f"{url}/v1/logs", timeout=5),
        schedule_delay_millis=1000,
        max_export_batch_size=500,
        max_queue_size=100_000,
    )
    provider.add_log_record_processor(processor)
    logger = provider.get_logger("benchmark")

    def emit(number: int) -> object:
        return logger.emit(
            timestamp=time.time_ns(),
            severity_number=SeverityNumber.INFO,
            severity_text="INFO",
            event_name="chuck",
            body="step done",
            attributes={"lot": "L1", "tool": "E1", "temperature": 21.5, "pressure": 0.3, "n": number},
        )

    result = measure(emit, calls)
    provider.shutdown()
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=20_000, help="timed calls a case (default 20,000)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds; the best of each figure counts (default 3)")
    arguments = parser.parse_args()
    try:
        import opentelemetry.exporter.otlp.proto.http as otlp
        from opentelemetry.sdk.version import __version__ as peer_version
    except ImportError:
        print(
            "emit_cost compares with OpenTelemetry, which is not installed: "
            "install opentelemetry-sdk and opentelemetry-exporter-otlp-proto-http",
            file=sys.stderr,
        )
        return 2
    del otlp
    os.environ.pop("MONITORING_CONFIG", None)
    sidecar, sidecar_port = serve("sidecar")
    collector, collector_port = serve("otlp")
    dead = "http://127.0.0.1:1"
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        rounds = [
            {
                "sdk_up": of_this_sdk(f"http://127.0.0.1:{sidecar_port}", arguments.calls, f"{folder}/up{number}"),
                "otel_up": of_opentelemetry(f"http://127.0.0.1:{collector_port}", arguments.calls),
                "sdk_down": of_this_sdk(dead, arguments.calls, f"{folder}/down{number}"),
                "sdk_direct": of_this_sdk(
                    f"http://127.0.0.1:{sidecar_port}", arguments.calls, f"{folder}/direct{number}", direct=True
                ),
            }
            for number in range(arguments.rounds)
        ]
    for server in (sidecar, collector):
        server.terminate()
        server.join()
    best = {case: {figure: min(one[case][figure] for one in rounds) for figure in rounds[0][case]} for case in rounds[0]}
    ratios = {
        f"{case}_{figure}": round(best[case][figure] / best["otel_up"][figure], 3)
        for case in ("sdk_up", "sdk_down", "sdk_direct")
        for figure in ("median", "p99", "flat_out_mean")
    }
    print(
        json.dumps(
            {
                "benchmark": "emit_cost",
                "unit": "ns",
                "calls": arguments.calls,
                "rounds": arguments.rounds,
                "python": platform.python_version(),
                "opentelemetry_sdk": peer_version,
                "best": best,
                "ratio_to_opentelemetry": ratios,
                "all_rounds": rounds,
            },
            indent=2,
        )
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
