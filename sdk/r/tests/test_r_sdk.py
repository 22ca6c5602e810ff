"""The R SDK from outside: R's own check with its tests, the package installed from nothing, the examples, knitr."""

from __future__ import annotations

import gzip
import hashlib
import hmac
import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from sdk.conformance.misbehaving import MisbehavingSidecar
from sinks.elk_index import IndexName, index_template
from tests.services.apt import ensure_packages
from tests.services.base import cache_lock, free_port, wait_until
from tests.sidecar.harness import RunningSidecar, files_backend

ROOT = Path(__file__).parents[3]
SDK = ROOT / "sdk" / "r"
EXAMPLES = ROOT / "examples" / "r"

THREE_LINES = """
library(monitoring)
initialize_monitoring(app = list(name = "etcher", site_id = "fab1"))
with_monitored_context("etch", list(lot = "L1", tool = "E7"), emit_event(kind = "metric", name = "chuck", metrics = c(t = 21.5)))
"""


def run(command: Sequence[str | Path], *, cwd: Path, env: Mapping[str, str] | None = None, seconds: float = 280) -> str:
    """The standard output of a command that must succeed; a failure shows all that it said."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, "LC_ALL": "C.UTF-8", **(env or {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-8000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module", autouse=True)
def toolchain() -> None:
    """R and the packages that ours is built on."""
    run([ROOT / "scripts" / "sdk-r.sh", "--library"], cwd=ROOT)
    ensure_packages("r-cran-testthat", "r-cran-knitr")


@pytest.fixture(scope="module")
def artefact(toolchain: None) -> Path:
    """What `make sdk-r` builds."""
    with cache_lock("sdk-r-artefact"):
        said = run([ROOT / "scripts" / "sdk-r.sh"], cwd=ROOT)
    assert said.splitlines()[-1] == "sdk-r: the harness is started by sdk/r/harness/run"
    (package,) = (ROOT / "build" / "sdk" / "r").glob("monitoring_*.tar.gz")
    return package


@pytest.fixture(scope="module")
def library(artefact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library with nothing but the package in it, installed from what was built."""
    folder = tmp_path_factory.mktemp("library")
    run(["R", "CMD", "INSTALL", f"--library={folder}", artefact], cwd=folder)
    return folder


@pytest.fixture
def sidecar() -> Iterator[RunningSidecar]:
    """A real sidecar that writes to files."""
    # What a busy machine leaves a program no time to send at its end, the sidecar takes from where the SDK has put it.
    with RunningSidecar(backends=[files_backend()], adopt=["./adopted"], adopt_grace="100ms") as running:
        yield running


def environment(library: Path, sidecar: RunningSidecar, folder: Path) -> dict[str, str]:
    """What a program is told of the package and of the sidecar."""
    return {
        "R_LIBS": str(library),
        "MONITORING_SDK__SIDECAR__URL": sidecar.url,
        "MONITORING_SDK__SIDECAR__SPOOL_DIR": str(sidecar.folder / "adopted"),
    }


def delivered(sidecar: RunningSidecar, count: int) -> list[dict[str, Any]]:
    """What the sidecar wrote, once it is that many events."""

    def enough() -> list[dict[str, Any]] | None:
        events = sidecar.delivered()
        return events if len(events) >= count else None

    events: list[dict[str, Any]] = wait_until(enough, seconds=60, what=f"{count} events")
    return events


def test_package_fails_r_s_own_check_or_its_tests(artefact: Path, tmp_path: Path) -> None:
    index = tmp_path / "repository" / "src" / "contrib"
    index.mkdir(parents=True)
    (index / "PACKAGES").write_text("")
    profile = tmp_path / "profile.R"
    profile.write_text(f'options(repos = c(CRAN = "file://{tmp_path}/repository"))\n')
    said = run(["R", "CMD", "check", "--no-manual", artefact], cwd=tmp_path, env={"R_PROFILE_USER": str(profile)})
    assert said.rstrip().endswith("Status: OK"), said[-6000:]
    tests = (tmp_path / "monitoring.Rcheck" / "tests" / "testthat.Rout").read_text()
    assert "[ FAIL 0 | WARN 0 | SKIP 0 |" in tests, tests[-3000:]


def test_three_lines_report_nothing(library: Path, sidecar: RunningSidecar, tmp_path: Path) -> None:
    (tmp_path / "program.R").write_text(THREE_LINES)
    run(["Rscript", "program.R"], cwd=tmp_path, env=environment(library, sidecar, tmp_path))
    events = delivered(sidecar, 3)
    assert [event["kind"] for event in events] == ["start", "metric", "finish"]
    assert events[1]["entities"] == {"lot": "L1", "tool": "E7"}
    assert len({event["run_id"] for event in events}) == 1


def test_error_that_nobody_catches_leaves_its_run_open(library: Path, sidecar: RunningSidecar, tmp_path: Path) -> None:
    program = """
    library(monitoring)
    initialize_monitoring(app = list(name = "etcher", site_id = "fab1"))
    ignite <- function() stop("no plasma")
    with_monitored_context("lot", list(lot = "L1"), with_monitored_context("wafer", expr = ignite()))
    """
    (tmp_path / "program.R").write_text(program)
    done = subprocess.run(
        ["Rscript", "program.R"],
        cwd=tmp_path,
        env={**os.environ, **environment(library, sidecar, tmp_path)},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 1
    assert b"no plasma" in done.stderr
    ends = [(event["name"], event["kind"], event["status"], event["error"]["message"]) for event in delivered(sidecar, 4)[2:]]
    assert ends == [("wafer", "error", "failed", "no plasma"), ("lot", "error", "failed", "no plasma")]


def test_quit_in_the_middle_loses_the_end_of_a_run(library: Path, sidecar: RunningSidecar, tmp_path: Path) -> None:
    program = """
    library(monitoring)
    initialize_monitoring(app = list(name = "etcher", site_id = "fab1"))
    with_monitored_context("lot", list(lot = "L1"), quit("no"))
    """
    (tmp_path / "program.R").write_text(program)
    run(["Rscript", "program.R"], cwd=tmp_path, env=environment(library, sidecar, tmp_path))
    (_, end) = delivered(sidecar, 2)
    assert (end["kind"], end["status"]) == ("finish", "aborted")


@pytest.mark.parametrize("mode", ["sidecar", "direct"])
def test_sigterm_loses_what_is_in_memory(library: Path, tmp_path: Path, mode: str) -> None:
    program = f"""
    library(monitoring)
    initialize_monitoring(mode = "{mode}", app = list(name = "a", site_id = "s"), sidecar__url = "http://127.0.0.1:{free_port()}",
      sidecar__spool_dir = "spool", queue__flush_interval = 3600,
      direct_backends = list(list(type = "filesystem", config = list(path = "out"))))
    for (n in 1:30) emit_event(kind = "log", name = "a")
    cat("ready\\n")
    flush(stdout())
    Sys.sleep(600)
    """
    (tmp_path / "program.R").write_text(program)
    process = subprocess.Popen(
        ["Rscript", "program.R"], cwd=tmp_path, env={**os.environ, "R_LIBS": str(library)}, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.terminate()
        assert process.wait(60) == -signal.SIGTERM
    finally:
        process.kill()
        process.wait(60)
        if process.stdout is not None:
            process.stdout.close()
    (spooled,) = (tmp_path / "spool").rglob("*.jsonl")
    assert len(spooled.read_text().splitlines()) == 30
    assert spooled.name.endswith(".00000000000000000001.jsonl")


def test_document_of_knitr_shows_our_lines_or_loses_events(library: Path, sidecar: RunningSidecar, tmp_path: Path) -> None:
    document = """
```{r}
library(monitoring)
initialize_monitoring(app = list(name = "report", site_id = "fab1"))
with_monitored_context("chart", list(tool = "E7"), { message("a message"); 6 * 7 })
```
```{r, error = TRUE}
with_monitored_context("broken", expr = stop("no data"))
```
    """
    (tmp_path / "report.Rmd").write_text(document)
    command = ["Rscript", "-e", 'knitr::knit("report.Rmd", quiet = TRUE)']
    run(command, cwd=tmp_path, env=environment(library, sidecar, tmp_path))
    said = (tmp_path / "report.md").read_text()
    assert "## [1] 42" in said
    assert "a message" in said
    assert "no data" in said
    assert [(event["name"], event["kind"]) for event in delivered(sidecar, 4)] == [
        ("chart", "start"),
        ("chart", "finish"),
        ("broken", "start"),
        ("broken", "error"),
    ]


def test_statistics_job_reports_another_story(library: Path, sidecar: RunningSidecar, tmp_path: Path) -> None:
    said = run(["Rscript", EXAMPLES / "spc_job.R", "4"], cwd=tmp_path, env=environment(library, sidecar, tmp_path))
    warning, totals = said.splitlines()
    assert warning == "CVD-03 has no chart: a wafer has no thickness "
    emitted, sent, on_disk = map(int, re.findall(r"\d+", totals))
    assert (emitted, sent + on_disk) == (28, 28), totals
    events = delivered(sidecar, 28)
    (failed,) = [event for event in events if event["kind"] == "error"]
    assert failed["entities"] == {"tool": "CVD-03", "recipe": "OX-12"}
    assert failed["error"]["type"] == "simpleError"
    assert "control_limits(thickness)" in failed["error"]["stack"]
    metrics = [event for event in events if event["kind"] == "metric"]
    assert len(metrics) == 11
    assert all(event["metrics"]["lower"] < event["metrics"]["centre"] < event["metrics"]["upper"] for event in metrics)


def test_forked_workers_are_not_in_the_files(library: Path, tmp_path: Path) -> None:
    said = run(["Rscript", EXAMPLES / "parallel_yield.R", tmp_path, "6"], cwd=tmp_path, env={"R_LIBS": str(library)})
    assert said.startswith("6 wafers, mean yield 0.9")
    events = [
        json.loads(line) for path in (tmp_path / "events").glob("date=*/hour=*/*.jsonl") for line in path.read_text().splitlines()
    ]
    assert len(events) == 2 + 1 + 6 * 3
    (lot,) = {event["run_id"] for event in events if event["name"] == "lot"}
    assert {event["parent_run_id"] for event in events if event["name"] == "wafer"} == {lot}
    assert len({event["emitter"]["id"] for event in events}) == 3
    assert not list((tmp_path / "events").rglob("*.open"))


WEBHOOK = """
    library(monitoring)
    hook <- function(...) initialize_monitoring(
      mode = "direct", app = list(name = "a", site_id = "s"), sidecar__spool_dir = "spool",
      direct_backends = list(list(type = "webhook", config = list(secret = "tm_secret", allow_private = TRUE, ...)))
    )
"""


def test_webhook_is_signed_otherwise_than_the_sink_does(library: Path, tmp_path: Path) -> None:
    server = MisbehavingSidecar()
    program = f"""
    {WEBHOOK}
    hook(url = "{server.url}/hook", compression = "gzip", headers = list("X-Site" = "fab1"))
    for (n in 1:150) emit_event(kind = "log", name = "a")
    close_monitoring()
    """
    (tmp_path / "program.R").write_text(program)
    try:
        run(["Rscript", "program.R"], cwd=tmp_path, env={"R_LIBS": str(library)})
    finally:
        server.close()
    assert [len(request.events) for request in server.requests] == [100, 50]
    for request in server.requests:
        headers = request.headers
        assert headers["x-site"] == "fab1"
        assert len(headers["idempotency-key"]) == 32
        assert headers["content-encoding"] == "gzip"
        assert request.size < len(request.body)
        assert headers["x-trackmate-signature"].startswith("v1=")


def test_signature_is_no_hmac_of_time_and_body(library: Path, tmp_path: Path) -> None:
    server = MisbehavingSidecar()
    program = f"""
    {WEBHOOK}
    hook(url = "{server.url}/hook", body = "array")
    emit_batch(list(list(kind = "log", name = "a"), list(kind = "log", name = "b")))
    close_monitoring()
    """
    (tmp_path / "program.R").write_text(program)
    try:
        run(["Rscript", "program.R"], cwd=tmp_path, env={"R_LIBS": str(library)})
    finally:
        server.close()
    (request,) = server.requests
    assert [event["name"] for event in request.events] == ["a", "b"]
    text = request.headers["x-trackmate-timestamp"].encode() + b"." + request.body
    assert request.headers["x-trackmate-signature"] == "v1=" + hmac.new(b"tm_secret", text, hashlib.sha256).hexdigest()


def test_body_for_another_host_can_t_be_unpacked(library: Path, tmp_path: Path) -> None:
    program = """
    data <- charToRaw(strrep("event ", 1000))
    writeBin(monitoring:::gzipped(data), "packed.gz")
    """
    (tmp_path / "program.R").write_text(program)
    run(["Rscript", "program.R"], cwd=tmp_path, env={"R_LIBS": str(library)})
    assert gzip.decompress((tmp_path / "packed.gz").read_bytes()) == b"event " * 1000


def test_harness_says_nothing(tmp_path: Path) -> None:
    done = subprocess.run([SDK / "harness" / "run"], input=b"", capture_output=True, check=True, timeout=280, cwd=tmp_path)
    hello = json.loads(done.stdout)
    assert (hello["harness"], hello["language"]) == (1, "r")


def test_schema_or_index_template_is_a_stale_copy() -> None:
    assert (SDK / "inst" / "config.schema.json").read_bytes() == (ROOT / "contract" / "config.schema.json").read_bytes()
    expected = index_template(IndexName("monitoring"))
    del expected["index_patterns"]
    assert json.loads((SDK / "inst" / "elk-template.json").read_text()) == json.loads(json.dumps(expected))
