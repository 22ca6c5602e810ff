"""What one emit costs the calling thread in Java: the SDK against OpenTelemetry's logs SDK, by JMH in the same run, and memory.

Counting HTTP servers on the loopback stand in for the receivers, in processes of their own, up and down. JMH samples single
calls in bursts with pauses (`sdk/java/benchmarks`); besides, `--events` events are emitted without a pause. Prints JSON; times
are in nanoseconds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.emit_cost import serve

ROOT = Path(__file__).parent.parent
SDK = ROOT / "sdk" / "java"


def maven(*arguments: str) -> None:
    """Run Maven, without the network where that is enough."""
    command = ["mvn", "--batch-mode", "--quiet"]
    if subprocess.run([*command, "--offline", *arguments], capture_output=True, check=False).returncode != 0:
        subprocess.run([*command, *arguments], check=True)


def build(folder: Path) -> str:
    """Compile the benchmarks against the SDK as it is; the class path to run them."""
    built = subprocess.run([ROOT / "scripts" / "sdk-java.sh", "--harness"], check=True, capture_output=True, text=True)
    jar = Path(built.stdout.strip()) / "monitoring-sdk.jar"
    libraries = folder / "lib"
    pom = str(SDK / "benchmarks" / "pom.xml")
    maven("-f", pom, f"-Dbuild.dir={folder}", "dependency:copy-dependencies", f"-DoutputDirectory={libraries}")
    classes = folder / "classes"
    classes.mkdir()
    class_path = f"{jar}:{libraries}/*"
    sources = [str(path) for path in sorted((SDK / "benchmarks" / "src").rglob("*.java"))]
    subprocess.run(["javac", "-d", str(classes), "-cp", class_path, *sources], check=True)
    return f"{classes}:{class_path}"


def jmh(class_path: str, folder: Path, urls: dict[str, str], options: list[str]) -> dict[str, dict[str, dict[str, float]]]:
    """Median and 99th percentile of each benchmark, with the receiver up and down."""
    report = folder / "jmh.json"
    properties = [f"-Dbenchmark.{name}={url}" for name, url in urls.items()] + [f"-Dbenchmark.folder={folder}"]
    logging = folder / "logging.properties"
    logging.write_text("handlers=\n.level=OFF\n")  # a receiver that is down would be told of in the middle of a measurement
    properties.append(f"-Djava.util.logging.config.file={logging}")
    command = ["java", *properties, "-cp", class_path, "org.openjdk.jmh.Main", "EmitCost", "-rf", "json", "-rff", str(report)]
    subprocess.run([*command, "-jvmArgs", " ".join(properties), "-o", str(folder / "jmh.txt"), *options], check=True)
    found: dict[str, dict[str, dict[str, float]]] = {}
    for result in json.loads(report.read_text()):
        percentiles = result["primaryMetric"]["scorePercentiles"]
        name = result["benchmark"].rpartition(".")[2]
        found.setdefault(name, {})[result["params"]["receiver"]] = {"median": percentiles["50.0"], "p99": percentiles["99.0"]}
    return found


def many(class_path: str, folder: Path, url: str, events: int, on_full: str) -> dict[str, Any]:
    """Emit without a pause; what became of the events, and the memory."""
    spool = folder / f"many-{on_full}"
    program = ["java", "-Xmx256m", "-cp", class_path, "com.wafermonitor.sdk.benchmarks.ManyEvents"]
    command = [*program, str(events), url, str(spool), on_full]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=10_000_000, help="events for the measurement of memory")
    parser.add_argument("--jmh", default="", help="further options of JMH, such as '-wi 1 -i 1'")
    options = parser.parse_args()
    sidecar, sidecar_port = serve("sidecar")
    otlp, otlp_port = serve("otlp")
    try:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            class_path = build(folder)
            urls = {"sidecar": f"http://127.0.0.1:{sidecar_port}", "otlp": f"http://127.0.0.1:{otlp_port}"}
            calls = jmh(class_path, folder, urls, options.jmh.split())
            # With `block` the receiver sets the pace, and it is written in Python: a fiftieth is enough to see a plateau.
            memory = {
                mode: many(class_path, folder, urls["sidecar"], events, mode)
                for mode, events in (("drop_oldest", options.events), ("block", options.events // 50))
            }
    finally:
        sidecar.terminate()
        otlp.terminate()
    peer = calls["openTelemetry"]["up"]["median"]
    print(
        json.dumps(
            {
                "benchmark": "emit_cost_java",
                "machine": {"cpus": os.cpu_count(), "python": platform.python_version()},
                "calls_ns": calls,
                "ratio_to_opentelemetry_median": {name: round(each["up"]["median"] / peer, 2) for name, each in calls.items()},
                "p99_down_to_up": {name: round(each["down"]["p99"] / each["up"]["p99"], 2) for name, each in calls.items()},
                "memory": memory,
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
