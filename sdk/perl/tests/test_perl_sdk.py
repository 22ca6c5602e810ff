"""The Perl SDK from outside: its own tests, the archive that is built and installed from scratch, the examples."""

from __future__ import annotations

import filecmp
import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from sinks.elk_index import IndexName, index_template
from tests.services.base import wait_until
from tests.sidecar.harness import RunningSidecar, files_backend

ROOT = Path(__file__).parents[3]
SDK = ROOT / "sdk" / "perl"
EXAMPLES = ROOT / "examples" / "perl"

THREE_LINES = """
use Monitoring::SDK qw(monitored_context);
Monitoring::SDK::initialize({ sdk => { app => { name => 'etcher', site_id => 'fab1' } } });
monitored_context('etch', { lot => 'L1', tool => 'E7' }, sub { $_[0]->metric(temperature => 21.5) });
"""

LOG = """\
2026-01-31T12:00:00Z E7 STATE standby productive
2026-01-31T12:00:01Z E7 DATA lot=L1 temperature=21.5 pressure=3.2
2026-01-31T12:00:02Z E7 ALARM 4711 no plasma in chamber B
what is no line of a tool
"""


def run(command: Sequence[str | Path], *, cwd: Path, env: Mapping[str, str] | None = None) -> str:
    """The standard output of a command that must succeed; a failure shows all that it said."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-6000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module", autouse=True)
def toolchain() -> None:
    """What the SDK needs from Debian."""
    run([ROOT / "scripts" / "sdk-perl.sh", "--need"], cwd=ROOT)


@pytest.fixture(scope="module")
def sidecar() -> Iterator[RunningSidecar]:
    # What a busy machine leaves a program no time to send at its end, the sidecar takes from where the SDK has put it.
    with RunningSidecar(backends=[files_backend()], adopt=["./adopted"], adopt_grace="100ms") as running:
        yield running


def arrived(sidecar: RunningSidecar, app: str, count: int) -> list[dict[str, Any]]:
    """The events of a program, when there are so many."""

    def read() -> list[dict[str, Any]] | None:
        found: list[dict[str, Any]] = []
        for file in sorted(sidecar.folder.glob("**/date=*/hour=*/*.jsonl*")):
            lines = file.read_bytes().splitlines() if file.exists() else []
            found += [json.loads(line) for line in lines if line.endswith(b"}")]
        mine = [event for event in found if event["app"]["name"] == app]
        return mine if len(mine) >= count else None

    events: list[dict[str, Any]] = wait_until(read, seconds=60, what=f"{count} events of {app}")
    return events


def settings(sidecar: RunningSidecar, folder: Path) -> dict[str, str]:
    return {"MONITORING_SDK__SIDECAR__URL": sidecar.url, "MONITORING_SDK__SIDECAR__SPOOL_DIR": str(sidecar.folder / "adopted")}


def test_its_own_tests_fail_without_json_xs() -> None:
    run(["prove", "-l", "t"], cwd=SDK)
    code = "BEGIN { unshift @INC, sub { die if $_[1] =~ m{JSON/XS}; return } } do './t/01-json.t' or die $@;"
    run(["perl", "-Ilib", "-e", code], cwd=SDK)


def test_its_own_tests_fail_under_taint_checks() -> None:
    run(["prove", "-T", "-l", "t/00-load.t", "t/01-json.t", "t/02-event.t"], cwd=SDK)


def test_its_schema_is_not_the_contract() -> None:
    assert filecmp.cmp(SDK / "lib/Monitoring/SDK/config.schema.json", ROOT / "contract/config.schema.json", shallow=False)


def test_its_index_template_is_not_the_sink() -> None:
    code = """
        use Monitoring::SDK::Backends::Elk; use Monitoring::SDK::JSON;
        my $elk = Monitoring::SDK::Backends::Elk->new({ config => { url => 'http://localhost', index => 'fab-%Y.%m' } }, {}, '');
        print Monitoring::SDK::JSON::value('', $elk->_template, 1);
    """
    assert json.loads(run(["perl", "-Ilib", "-e", code], cwd=SDK)) == index_template(IndexName("fab-%Y.%m"))


def test_the_archive_does_not_work_on_a_machine_that_has_nothing_else(tmp_path: Path, sidecar: RunningSidecar) -> None:
    built = run([ROOT / "scripts" / "sdk-perl.sh"], cwd=ROOT)
    archive = next(line for line in built.splitlines() if line.endswith(".tar.gz"))
    assert "harness: sdk/perl/harness/run" in built
    run(["tar", "--strip-components=1", "-xf", archive], cwd=tmp_path)
    base = tmp_path / "installed"
    run(["perl", "Makefile.PL", f"INSTALL_BASE={base}"], cwd=tmp_path)
    run(["make", "install"], cwd=tmp_path)
    program = tmp_path / "etcher.pl"
    program.write_text(THREE_LINES)
    run(["perl", "-T", f"-I{base / 'lib/perl5'}", program], cwd=base, env=settings(sidecar, tmp_path))
    assert [event["kind"] for event in arrived(sidecar, "etcher", 3)] == ["start", "metric", "finish"]


def test_the_log_reformatter_loses_a_line(tmp_path: Path, sidecar: RunningSidecar) -> None:
    (tmp_path / "etcher.log").write_text(LOG)
    said = run(
        ["perl", f"-I{SDK / 'lib'}", EXAMPLES / "equipment-log.pl", "etcher.log"], cwd=tmp_path, env=settings(sidecar, tmp_path)
    )
    assert said == "3 lines reported, 1 skipped\n"
    state, data, alarm = arrived(sidecar, "log-reformatter", 3)
    assert state["state"] == {"from": "standby", "to": "productive"}
    assert data["metrics"] == {"temperature": 21.5, "pressure": 3.2}
    assert data["entities"] == {"tool": "E7", "lot": "L1"}
    assert (alarm["severity"], alarm["message"]) == ("error", "no plasma in chamber B")


def test_the_inspection_loses_what_its_children_report(tmp_path: Path, sidecar: RunningSidecar) -> None:
    command = ["perl", f"-I{SDK / 'lib'}", EXAMPLES / "wafer-inspection.pl", "L7", "4"]
    assert run(command, cwd=tmp_path, env=settings(sidecar, tmp_path)) == "4 wafers, 1 failed\n"
    events = arrived(sidecar, "inspection", 18)
    assert len({event["emitter"]["id"] for event in events}) == 5
    lot = next(event for event in events if event["kind"] == "start" and event["name"] == "lot")
    inner = [event for event in events if event["name"] == "inspect"]
    assert {event["parent_run_id"] for event in inner} == {lot["run_id"]}
    assert sorted(event["kind"] for event in inner).count("error") == 1
