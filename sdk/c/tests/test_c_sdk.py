"""The C SDK: its unit tests, its memory and threads under tools that watch, its interface, packages and examples."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sdk.c.tests.conftest import ROOT, SANITIZERS, Build, Harness, Speaker, Trapper, direct, run, settings
from sinks.elk_index import IndexName, index_template
from tests.services.apt import ensure_packages
from tests.services.base import wait_until
from tests.services.scripted_http import Reply, ScriptedHttp
from tests.services.zabbix import Zabbix
from tests.sidecar.harness import RunningSidecar

SDK = ROOT / "sdk" / "c"
EXAMPLES = ROOT / "examples" / "c"
VALGRIND = (
    "valgrind", "--quiet", "--error-exitcode=99", "--leak-check=full", "--errors-for-leak-kinds=definite",
    "--show-leak-kinds=definite",
)  # fmt: skip


@pytest.fixture
def sidecar(tmp_path: Path) -> Iterator[RunningSidecar]:
    out = {"name": "out", "type": "filesystem", "config": {"path": str(tmp_path / "out")}}
    with RunningSidecar(backends=[out], adopt=[str(tmp_path / "adopted")]) as running:
        yield running


def arrived(tmp_path: Path) -> list[dict[str, Any]]:
    """The events that the sidecar has handed on; a line that is still being written is passed over."""
    found = []
    for file in sorted((tmp_path / "out").glob("date=*/hour=*/*")):
        found += [json.loads(line) for line in file.read_bytes().split(b"\n")[:-1]]
    return found


# ----------------------------------------------------------------------------------------------------------------- unit tests


def test_a_unit_does_the_wrong_thing(build: Build, tmp_path: Path) -> None:
    assert " 0 failures" in run([build("release") / "tests" / "unit"], tmp_path)
    run([build("release") / "tests" / "unit_cpp"], tmp_path)


def test_a_unit_does_what_c_leaves_undefined(build: Build, tmp_path: Path) -> None:
    run([build("sanitize") / "tests" / "unit"], tmp_path, SANITIZERS)
    run([build("sanitize") / "tests" / "unit_cpp"], tmp_path, SANITIZERS)


def test_a_unit_reads_memory_that_nobody_wrote(build: Build, tmp_path: Path) -> None:
    ensure_packages("valgrind")
    run([*VALGRIND, build("release") / "tests" / "unit"], tmp_path)


# ------------------------------------------------------------------------------------------- the whole SDK under watching eyes


def everything(speaker: Speaker, url: str, tmp_path: Path) -> int:
    """What a program may do, at a real sidecar; the number of its events."""
    assert speaker.do("initialize", config=settings(url, tmp_path))["ok"]
    assert speaker.do(
        "context_start", context="lot", name="lot", metadata={"lot": "L1", "note": "hot", "entities": {"robot": "R"}}
    )["ok"]
    assert speaker.do("context_start", context="step", name="step", metadata={"wafer": 7})["ok"]
    event = {"kind": "metric", "name": "chuck", "metrics": {"t": {"$float": "nan"}, "u": 1 / 3}, "message": {"$bytes": "/2Fi"}}
    assert speaker.do("emit_event", event=event)["ok"]
    assert not speaker.do("emit_event", event={"kind": "log", "name": ""})["ok"]
    assert speaker.do("emit_batch", events=[{"kind": "log", "name": "a"}, {"kind": "log", "name": "b"}])["ok"]
    assert not speaker.do("emit_batch", events=[{"kind": "log", "name": "a"}, {"kind": "log"}])["ok"]
    assert speaker.do("progress", context="step", progress=0.5, message="half")["ok"]
    assert speaker.do("error", context="step", type="Fault", message="it broke")["ok"]
    assert speaker.do("finish", context="lot")["ok"]
    assert speaker.do("threads", event={"kind": "log", "name": "t", "attributes": {"x": [1, {}]}}, threads=8, times=50)["ok"]
    child = speaker.do(
        "fork", commands=[{"do": "emit_event", "event": {"kind": "log", "name": "child"}}, {"do": "flush", "timeout": 60}]
    )
    assert child["status"] == 0, speaker.log.read_text()
    assert speaker.do("flush", timeout=60)["flushed"]
    stats = speaker.do("stats")["stats"]
    assert stats["dropped"] == stats["failed"] == stats["rejected"] == 0
    assert stats["sent"] + stats["spooled"] == stats["emitted"] == 408
    assert speaker.do("close")["ok"]
    assert speaker.do("close")["ok"]
    return 409


def check_everything(speaker: Speaker, sidecar: RunningSidecar, tmp_path: Path) -> None:
    count = everything(speaker, sidecar.url, tmp_path)
    assert speaker.end() == 0, speaker.log.read_text()
    left = sum(len(file.read_bytes().splitlines()) for file in (tmp_path / "spool").glob("*.jsonl"))
    wait_until(lambda: len(arrived(tmp_path)) + left >= count, seconds=60, what=f"{count} events, of which {left} wait on disk")
    events = arrived(tmp_path)
    assert len({event["event_id"] for event in events}) == len(events)
    chuck = next(event for event in events if event["name"] == "chuck")
    assert chuck["entities"] == {"lot": "L1", "robot": "R", "wafer": "7"}
    assert chuck["metrics"] == {"u": 1 / 3}
    assert chuck["attributes"] == {"dropped_metrics": ["t"]}
    assert chuck["message"] == "\ufffdab"
    child = next(event for event in events if event["name"] == "child")
    assert child["emitter"]["id"] != chuck["emitter"]["id"]
    assert child["emitter"]["seq"] == 1


def test_the_sdk_loses_an_event_of_a_program(harness: Harness, sidecar: RunningSidecar, tmp_path: Path) -> None:
    check_everything(harness(), sidecar, tmp_path)


def test_the_sdk_does_what_c_leaves_undefined(harness: Harness, sidecar: RunningSidecar, tmp_path: Path) -> None:
    check_everything(harness("sanitize", env=SANITIZERS), sidecar, tmp_path)


def test_the_sdk_leaks_or_reads_what_nobody_wrote(harness: Harness, sidecar: RunningSidecar, tmp_path: Path) -> None:
    ensure_packages("valgrind")
    # A sender that is slower than close, as it may be under valgrind, ends with the process and its batch in hand: that shows now
    # and then. A leak shows every time.
    for attempt in (1, 2, 3):
        try:
            check_everything(harness(under=VALGRIND), sidecar, tmp_path)
        except AssertionError as error:
            if attempt == 3 or "definitely lost" not in str(error):
                raise
        else:
            break


@pytest.mark.parametrize("how", ["abort", "exit", "exception"])
def test_a_process_that_dies_takes_its_events_along(how: str, harness: Harness, tmp_path: Path) -> None:
    speaker = harness()
    config = settings("http://127.0.0.1:9", tmp_path)
    config["sdk"]["queue"]["flush_interval"] = 60
    assert speaker.do("initialize", config=config)["ok"]
    assert speaker.do("repeat", event={"kind": "metric", "name": "x", "metrics": {"third": 1 / 3}}, times=100)["ok"]
    status = speaker.end("crash", how=how)
    assert status == {"abort": -signal.SIGABRT, "exit": 0, "exception": 1}[how]
    lines = [line for file in (tmp_path / "spool").glob("*.jsonl") for line in file.read_bytes().splitlines()]
    events = [json.loads(line) for line in lines]
    assert [event["emitter"]["seq"] for event in events] == list(range(1, 101))
    assert {event["metrics"]["third"] for event in events} == {1 / 3}


def test_what_a_crashed_process_left_is_never_sent(harness: Harness, sidecar: RunningSidecar, tmp_path: Path) -> None:
    config = settings("http://127.0.0.1:9", tmp_path)
    config["sdk"]["queue"]["flush_interval"] = 60
    speaker = harness()
    assert speaker.do("initialize", config=config)["ok"]
    assert speaker.do("repeat", event={"kind": "log", "name": "crashed"}, times=10)["ok"]
    speaker.end("crash", how="abort")
    later = harness()
    assert later.do("initialize", config=settings(sidecar.url, tmp_path))["ok"]
    wait_until(lambda: later.do("stats")["stats"]["replayed"] == 10, seconds=60, what="ten events to be replayed")
    assert later.end() == 0


# ------------------------------------------------------------------------------------------------------------- what is parsed


def fuzz(build: Build, tmp_path: Path, runs: int) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for place, vector in enumerate((ROOT / "contract" / "vectors" / "valid.jsonl").read_bytes().splitlines()):
        (corpus / f"event-{place}").write_text("\x02" + json.dumps(json.loads(vector)["event"]))
    (corpus / "config").write_text(
        '\x01{"sdk":{"mode":"direct","app":{"name":"a","site_id":"b"},"direct_backends":[{"type":"s3"}]}}'
    )
    (corpus / "yaml").write_text("\x06sdk:\n  sidecar: {url: http://h:1, token: ${T:-x}}\n  app: {name: a, version: 1.0}\n")
    (corpus / "answer").write_text('\x03{"accepted":1,"rejected":[{"index":0,"path":"a","error":"b"}]}')
    (corpus / "date").write_text("\x04Sat, 31 Jan 2026 12:00:30 GMT")
    (corpus / "spool").write_text('\x05{"timestamp":"2026-01-31T12:00:00Z","emitter":{"id":"x","seq":1}}\n{"torn')
    program = build("fuzz") / "fuzz" / "fuzz"
    run([program, f"-runs={runs}", "-max_len=4096", "-timeout=30", "-seed=1", "-print_final_stats=1", corpus], tmp_path)


def test_a_parser_falls_over_strange_bytes(build: Build, tmp_path: Path) -> None:
    fuzz(build, tmp_path, 40_000)


@pytest.mark.full
def test_a_parser_falls_over_very_strange_bytes(build: Build, tmp_path: Path) -> None:
    fuzz(build, tmp_path, 3_000_000)


# -------------------------------------------------------------------------------------------------- the library and its package


def test_a_symbol_that_is_no_part_of_the_interface_is_seen(build: Build, tmp_path: Path) -> None:
    shown = run(["nm", "-D", "--defined-only", build("release") / "libmonitoring.so"], tmp_path)
    symbols = {line.split()[-1].partition("@")[0] for line in shown.splitlines()}
    declared = set(re.findall(r"MON_API[^;]*?\b(mon_[a-z_]+)\(", (SDK / "include" / "monitoring.h").read_text()))
    assert symbols == declared


def test_the_schema_is_not_that_of_the_contract() -> None:
    ours = json.loads((SDK / "schema" / "config.schema.json").read_text())
    assert ours == json.loads((ROOT / "contract" / "config.schema.json").read_text())


def test_the_index_template_is_not_that_of_the_sink() -> None:
    source = (SDK / "src" / "backends" / "elk_template.c").read_text()
    head, tail = (
        "".join(json.loads(f'"{part}"') for part in re.findall(r'^    "(.*)";?$', block, re.MULTILINE))
        for block in re.findall(r"static const char (?:HEAD|TAIL)\[\] =\n(.*?;)\n", source, re.DOTALL)
    )
    assert json.loads(f'{head}"monitoring"{tail}') == index_template(IndexName("monitoring"))


def test_the_interface_is_not_documented(tmp_path: Path) -> None:
    ensure_packages("doxygen")
    config = (SDK / "Doxyfile").read_text() + f"OUTPUT_DIRECTORY={tmp_path}\n"
    (tmp_path / "Doxyfile").write_text(config)
    run(["doxygen", tmp_path / "Doxyfile"], SDK)
    assert "mon_context_begin" in "".join(page.read_text() for page in (tmp_path / "html").glob("monitoring_8h*.html"))


@pytest.fixture
def installed(build: Build, tmp_path: Path) -> Path:
    """The package that `make sdk-c` makes, unpacked somewhere else."""
    packed = tmp_path / "packed"
    run(["cpack", "--config", build("release") / "CPackConfig.cmake", "-B", packed], tmp_path)
    prefix = tmp_path / "prefix"
    prefix.mkdir()
    (archive,) = packed.glob("monitoring-*.tar.gz")
    run(["tar", "-xzf", archive, "-C", prefix, "--strip-components=1"], tmp_path)
    return prefix


def program_environment(prefix: Path, sidecar: RunningSidecar, tmp_path: Path) -> dict[str, str]:
    return {
        "LD_LIBRARY_PATH": str(prefix / "lib"),
        "PKG_CONFIG_PATH": str(prefix / "lib" / "pkgconfig"),
        "MONITORING_SDK__APP__NAME": "installed",
        "MONITORING_SDK__APP__SITE_ID": "fab1",
        "MONITORING_SDK__SIDECAR__URL": sidecar.url,
        "MONITORING_SDK__SIDECAR__SPOOL_DIR": str(tmp_path / "adopted"),
    }


def test_the_three_lines_do_not_work_where_it_is_installed(installed: Path, sidecar: RunningSidecar, tmp_path: Path) -> None:
    start = (SDK / "README.md").read_text().partition("## Start")[2]
    (tmp_path / "program.c").write_text(start.partition("```c\n")[2].partition("```")[0])
    env = program_environment(installed, sidecar, tmp_path)
    flags = run(["pkg-config", "--cflags", "--libs", "monitoring"], tmp_path, env).split()
    run(["cc", "-Wall", "-Wextra", "-Werror", tmp_path / "program.c", *flags, "-o", tmp_path / "program"], tmp_path, env)
    run([tmp_path / "program"], tmp_path, env)
    wait_until(lambda: len(arrived(tmp_path)) == 2, seconds=60, what="the start and the end of the run")
    assert [event["kind"] for event in arrived(tmp_path)] == ["start", "finish"]


def test_an_example_does_not_work(installed: Path, sidecar: RunningSidecar, tmp_path: Path) -> None:
    env = program_environment(installed, sidecar, tmp_path)
    run(["cmake", "-S", EXAMPLES, "-B", tmp_path / "examples", f"-DCMAKE_PREFIX_PATH={installed}"], tmp_path)
    run(["cmake", "--build", tmp_path / "examples"], tmp_path)
    assert "8 wafers, 2 for rework" in run([tmp_path / "examples" / "equipment_controller", "8"], tmp_path, env)
    assert "0 dropped" in run([tmp_path / "examples" / "sensor_gateway", "4", "20"], tmp_path, env)

    def complete() -> bool:
        ends = [event for event in arrived(tmp_path) if event["kind"] in {"finish", "error"}]
        return len(ends) == 30  # 1 lot, 8 wafers, 16 steps; 1 shift, 4 sensors

    wait_until(complete, seconds=60, what="the end of every run of both programs")
    events = arrived(tmp_path)
    runs = {event["run_id"]: event for event in events if event["kind"] == "start"}
    failed = [event for event in events if event["kind"] == "error"]
    assert sorted(event["name"] for event in failed) == ["etch-wafer", "etch-wafer", "main-etch", "main-etch", "read-sensor"]
    step = next(event for event in failed if event["name"] == "main-etch")
    assert runs[runs[step["parent_run_id"]]["parent_run_id"]]["name"] == "lot"
    assert step["entities"] == {
        "lot": "L2301",
        "tool": "ETCH-07",
        "recipe": "OX-12",
        "wafer": "04",
        "chamber": "B",
        "step": "main-etch",
    }
    particles = [event for event in events if event["name"] == "particles"]
    assert {runs[event["run_id"]]["name"] for event in particles} == {"read-sensor"}


def test_the_benchmark_does_not_run(tmp_path: Path) -> None:
    python = shutil.which("python", path=str(ROOT / ".venv" / "bin")) or "python3"
    result = json.loads(run([python, "-m", "benchmarks.emit_cost_c", "--calls", "2000", "--events", "4000"], ROOT))
    assert result["up"]["counts"]["dropped"] == result["down"]["counts"]["dropped"] == 0
    assert result["up"]["counts"]["emitted"] == result["up"]["counts"]["sent"] + result["up"]["counts"]["spooled"]


# ---------------------------------------------------------------------------------------------------------- backends of its own


def test_a_webhook_gets_a_signature_that_is_none(harness: Harness, tmp_path: Path) -> None:
    speaker = harness()
    with ScriptedHttp(Reply(204)) as server:
        config = {"url": f"{server.url}/hook", "secret": "s3cret", "headers": {"X-Site": "fab1"}}
        assert speaker.do("initialize", config=direct([{"type": "webhook", "config": config}], tmp_path))["ok"]
        assert speaker.do("repeat", event={"kind": "log", "name": "x"}, times=3)["ok"]
        answer = speaker.do("flush", timeout=60)
        assert answer["flushed"]
        assert answer["backends"]["webhook"]["delivered"] == 3
        asked = server.asked[0]
    signed = asked.headers["X-Trackmate-Timestamp"].encode() + b"." + asked.sent
    assert asked.headers["X-Trackmate-Signature"] == "v1=" + hmac.new(b"s3cret", signed, hashlib.sha256).hexdigest()
    assert asked.headers["X-Site"] == "fab1"
    assert asked.headers["Idempotency-Key"]
    assert "s3cret" not in speaker.log.read_text()


def test_zabbix_gets_no_value(harness: Harness, tmp_path: Path) -> None:
    trapper = Trapper()
    trapper.start()
    speaker = harness()
    assert speaker.do("initialize", config=direct([{"type": "zabbix", "config": trapper.config}], tmp_path))["ok"]
    event = {"kind": "metric", "name": "etch", "entities": {"tool": "T1"}, "metrics": {"depth": 1.5}}
    assert speaker.do("repeat", event=event, times=600)["ok"]
    assert speaker.do("flush", timeout=60)["backends"]["zabbix"]["delivered"] == 600
    trapper.stop()
    assert len(trapper.values) == 600
    assert {value["key"] for value in trapper.values} == {"trackmate.metric[fab1,c,etch,depth,T1]"}
    assert {value["value"] for value in trapper.values} == {"1.5"}


def test_a_real_zabbix_keeps_another_value(harness: Harness, zabbix: Zabbix, tmp_path: Path) -> None:
    host = zabbix.fresh_name()
    zabbix.make_host(host)
    zabbix.make_item(host, "trackmate.metric[fab1,c,etch,depth,T1]", 0)
    zabbix.make_item(host, "trackmate.run.state[fab1,c,etch,T1]", 3)
    speaker = harness()
    config = {"url": f"http://127.0.0.1:{zabbix.port}", "host": host}
    assert speaker.do("initialize", config=direct([{"type": "zabbix", "config": config}], tmp_path))["ok"]
    metric = {"kind": "metric", "name": "etch", "entities": {"tool": "T1"}, "metrics": {"depth": 1.5}}
    assert speaker.do("emit_event", event=metric)["ok"]

    def kept() -> set[str]:
        speaker.do("emit_event", event={"kind": "start", "name": "etch", "entities": {"tool": "T1"}})
        speaker.do("flush", timeout=10)
        zabbix.flush()
        return {value["value"] for _, value in zabbix.history(host)} & {"1", "1.5"}

    wait_until(lambda: len(kept()) == 2, seconds=90, what="both values to be in the history", interval=0.5)
