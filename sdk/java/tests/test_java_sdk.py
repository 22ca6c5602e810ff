"""The Java SDK from outside: its own tests, the artefact that is built, a program on the module path, the examples."""

from __future__ import annotations

import json
import os
import re
import subprocess
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from sinks.elk_index import IndexName, index_template
from tests.services.base import CACHE, cache_lock, wait_until
from tests.sidecar.harness import RunningSidecar, files_backend

ROOT = Path(__file__).parents[3]
SDK = ROOT / "sdk" / "java"
EXAMPLES = ROOT / "examples" / "java"
VERSION = "0.1.0"

THREE_LINES = """
module fab.etcher {
    requires com.wafermonitor.sdk;
}
"""
PROGRAM = """
package fab.etcher;

import com.wafermonitor.sdk.Config;
import com.wafermonitor.sdk.Context;
import com.wafermonitor.sdk.Monitoring;
import java.util.Map;

public final class Main {
    public static void main(String[] arguments) {
        Monitoring.initialize(Config.app("etcher", "fab1"));
        try (Context run = Monitoring.monitoredContext("etch", Map.of("lot", "L1", "tool", "E7"))) {
            run.metric("temperature", 21.5);
        }
    }
}
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


def maven(*arguments: str, cwd: Path) -> str:
    """Maven without the network where everything is here already, else with it."""
    command = ["mvn", "--batch-mode", "--quiet", *arguments]
    offline = subprocess.run([*command, "--offline"], cwd=cwd, capture_output=True, text=True, check=False, timeout=280)
    return offline.stdout if offline.returncode == 0 else run(command, cwd=cwd)


@pytest.fixture(scope="module", autouse=True)
def toolchain() -> None:
    """A JDK and Maven."""
    run([ROOT / "scripts" / "sdk-java.sh", "--need"], cwd=ROOT)


@pytest.fixture(scope="module")
def artefact(toolchain: None) -> Path:
    """What `make sdk-java` builds."""
    with cache_lock("sdk-java-artefact"):
        said = run([ROOT / "scripts" / "sdk-java.sh"], cwd=ROOT)
    assert said.splitlines()[-1] == "sdk-java: the harness is started by sdk/java/harness/run"
    return ROOT / "build" / "sdk" / "java"


@pytest.fixture
def sidecar() -> Iterator[RunningSidecar]:
    """A real sidecar that writes to files."""
    # What a busy machine leaves a program no time to send at its end, the sidecar takes from where the SDK has put it.
    with RunningSidecar(backends=[files_backend()], adopt=["./adopted"], adopt_grace="100ms") as running:
        yield running


def environment(sidecar: RunningSidecar, folder: Path) -> dict[str, str]:
    """What a program is told of the sidecar."""
    return {"MONITORING_SDK__SIDECAR__URL": sidecar.url, "MONITORING_SDK__SIDECAR__SPOOL_DIR": str(sidecar.folder / "adopted")}


def class_path(artefact: Path) -> str:
    """Where the SDK and its libraries are."""
    return f"{artefact / f'monitoring-sdk-{VERSION}.jar'}:{artefact / 'lib'}/*"


def test_sdk_fails_its_own_tests(tmp_path: Path) -> None:
    with cache_lock("sdk-java-tests"):  # one at a time: Maven's folder of libraries is shared
        maven("-f", str(SDK / "pom.xml"), f"-Dbuild.dir={tmp_path}", "-Dmaven.javadoc.skip", "test", cwd=SDK)
    reports = list((tmp_path / "surefire-reports").glob("TEST-*.xml"))
    assert reports
    for report in reports:
        assert 'skipped="0"' in report.read_text(encoding="utf-8"), report.name


def test_artefact_lacks_something(artefact: Path) -> None:
    names = {path.name for path in artefact.iterdir()}
    jars = {f"monitoring-sdk-{VERSION}{kind}.jar" for kind in ("", "-sources", "-javadoc", "-tck")}
    assert jars | {"pom.xml", "lib"} <= names
    assert {path.name.rsplit("-", 1)[0] for path in (artefact / "lib").iterdir()} == {"jackson-core", "snakeyaml"}
    with zipfile.ZipFile(artefact / f"monitoring-sdk-{VERSION}.jar") as jar:
        inside = set(jar.namelist())
    sdk = "com/wafermonitor/sdk"
    assert {"module-info.class", f"{sdk}/Monitoring.class", f"{sdk}/internal/config.schema.json"} <= inside
    assert not [name for name in inside if "jackson" in name or "yaml" in name]
    with zipfile.ZipFile(artefact / f"monitoring-sdk-{VERSION}-javadoc.jar") as jar:
        assert "com.wafermonitor.sdk/com/wafermonitor/sdk/Monitoring.html" in jar.namelist()
        assert not [name for name in jar.namelist() if "/internal/" in name]
    with zipfile.ZipFile(artefact / f"monitoring-sdk-{VERSION}-tck.jar") as jar:
        assert "com/wafermonitor/sdk/tck/BackendTck.class" in jar.namelist()


def test_three_lines_on_the_module_path_report_nothing(artefact: Path, sidecar: RunningSidecar, tmp_path: Path) -> None:
    source = tmp_path / "src" / "fab" / "etcher"
    source.mkdir(parents=True)
    (tmp_path / "src" / "module-info.java").write_text(THREE_LINES)
    (source / "Main.java").write_text(PROGRAM)
    modules = f"{artefact / f'monitoring-sdk-{VERSION}.jar'}:{artefact / 'lib'}"
    files = [tmp_path / "src" / "module-info.java", source / "Main.java"]
    run(["javac", "-Xlint:all,-try", "-Werror", "-p", modules, "-d", tmp_path / "classes", *files], cwd=tmp_path)
    command = ["java", "-p", f"{modules}:{tmp_path / 'classes'}", "-m", "fab.etcher/fab.etcher.Main"]
    run(command, cwd=tmp_path, env=environment(sidecar, tmp_path))
    events = wait_until(lambda: _of(sidecar, 3), seconds=60, what="three events")
    assert [event["kind"] for event in events] == ["start", "metric", "finish"]
    assert events[1]["entities"] == {"lot": "L1", "tool": "E7"}
    assert len({event["run_id"] for event in events}) == 1


def _of(sidecar: RunningSidecar, count: int) -> list[dict[str, object]] | None:
    delivered = sidecar.delivered()
    return delivered if len(delivered) >= count else None


def test_recipe_service_reports_another_story(artefact: Path, sidecar: RunningSidecar, tmp_path: Path) -> None:
    command = ["java", "-cp", class_path(artefact), EXAMPLES / "RecipeService.java", "4"]
    said = run(command, cwd=tmp_path, env=environment(sidecar, tmp_path))
    emitted, sent, on_disk = map(int, re.findall(r"\d+", said))
    assert (emitted, sent + on_disk) == (48, 48), said
    events = wait_until(lambda: _of(sidecar, 48), seconds=60, what="48 events")
    kinds = [(event["name"], event["kind"]) for event in events]
    assert kinds.count(("step", "start")) == 11
    assert kinds.count(("step", "error")) == kinds.count(("wafer", "error")) == 1
    (failed,) = [event for event in events if event["name"] == "wafer" and event["kind"] == "error"]
    assert failed["error"]["type"] == "RecipeService$ArcException"
    assert failed["entities"] == {"lot": "L2301", "tool": "ETCH-07", "recipe": "OX-12", "wafer": "3"}
    (end,) = [event for event in events if event["name"] == "lot" and event["kind"] == "finish"]
    assert end["attributes"] == {"priority": "hot", "scrapped": 1}


def test_tool_states_are_not_in_the_files(artefact: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    said = run(["java", "-cp", class_path(artefact), EXAMPLES / "ToolStates.java", out], cwd=tmp_path)
    assert said.strip() == "flushed true, written 34"
    events = [json.loads(line) for path in out.glob("date=*/hour=*/*.jsonl") for line in path.read_text().splitlines()]
    assert len(events) == 34
    shift = {event["run_id"] for event in events if event["name"] == "shift"}
    assert {event.get("run_id") for event in events} == shift
    assert sum(event["kind"] == "state" for event in events) == 16


def test_harness_says_nothing(tmp_path: Path) -> None:
    done = subprocess.run([SDK / "harness" / "run"], input=b"", capture_output=True, check=True, timeout=280, cwd=tmp_path)
    hello = json.loads(done.stdout)
    assert (hello["harness"], hello["language"]) == (1, "java")
    assert CACHE.is_dir()


def test_index_template_is_not_the_sinks() -> None:
    ours = SDK / "src" / "main" / "resources" / "com" / "wafermonitor" / "sdk" / "backends" / "elk-template.json"
    expected = index_template(IndexName("monitoring"))
    del expected["index_patterns"]
    assert json.loads(ours.read_text()) == json.loads(json.dumps(expected))
