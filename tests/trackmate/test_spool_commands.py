"""`trackmate spool` on spools that a log wrote, whole and damaged, beside the running log and after it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from contract.framing import BodyFormat
from sidecar.spool.admission import SpoolConfig
from sidecar.spool.checkpoint import store_checkpoint
from sidecar.spool.format import Flags
from sidecar.spool.log import SpoolLog
from trackmate.spool_commands import spool_app


def run(*arguments: object) -> Result:
    return CliRunner().invoke(spool_app, [str(argument) for argument in arguments])


def event(number: int) -> bytes:
    return b'{"name": "event %d"}' % number


@pytest.fixture
async def running(tmp_path: Path):
    """A log of 12 records of 2 events each, in several segments, that still runs."""
    log = SpoolLog.open(SpoolConfig(dir=tmp_path / "spool", segment_bytes=300, readers=("lake", "elk"), tick_interval=3600.0))
    for index in range(12):
        body = b"[%s,\n%s]" % (event(2 * index + 1), event(2 * index + 2))
        await log.append(body, 2, Flags.of(None, BodyFormat.ARRAY))
    yield log
    await log.close()


@pytest.fixture
async def folder(running: SpoolLog) -> Path:
    await running.close()
    return running.config.dir


def damage(folder: Path) -> None:
    oldest = min((folder / "segments").iterdir())
    content = bytearray(oldest.read_bytes())
    content[120] ^= 1
    oldest.write_bytes(content)


async def test_ls_shows_segments_readers_and_lag(running: SpoolLog):
    await running.checkpoint("lake", 6)
    result = run("ls", "--spool", running.config.dir)
    assert result.exit_code == 0, result.output
    assert "lake" in result.output
    assert "24 events" in result.output
    found = json.loads(run("ls", "--spool", running.config.dir, "--json").output)
    assert found["spool_id"] == running.spool_id
    assert found["last_seq"] == 24
    assert sum(segment["events"] for segment in found["segments"]) == 24 == found["events"]
    assert [segment["closed"] for segment in found["segments"]][-1] is False
    (lake,) = found["readers"]
    assert (lake["name"], lake["seq"], lake["lag"]) == ("lake", 6, 18)
    assert lake["waiting_since"].startswith("20")


def test_ls_names_a_checkpoint_that_cant_be_used(folder: Path):
    store_checkpoint(folder, "lake", 6)
    (folder / "checkpoints" / "lake.json").write_bytes(b"{}")
    assert "fails its checksum" in run("ls", "--spool", folder).output


async def test_cat_prints_the_events_asked_for_while_the_log_runs(running: SpoolLog):
    result = run("cat", "--spool", running.config.dir, "--after", 5, "--limit", 4)
    assert result.exit_code == 0
    assert result.stdout_bytes == b"".join(event(number) + b"\n" for number in (6, 7, 8, 9))
    assert run("cat", "--spool", running.config.dir).stdout_bytes.count(b"\n") == 24
    assert run("cat", "--spool", running.config.dir, "--after", 24).stdout_bytes == b""


def test_cat_into_a_pipe_that_closes_ends_without_noise(folder: Path):
    command = [sys.executable, "-m", "trackmate", "spool", "cat", "--spool", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(30) == 0


def test_verify_says_that_all_is_whole(folder: Path):
    result = run("verify", "--spool", folder)
    assert result.exit_code == 0, result.output
    assert "24 events in 12 records" in result.output
    assert "all whole" in result.output


@pytest.mark.parametrize("option", ["--bodies", "--checksums-only"])
def test_verify_names_what_is_damaged_and_copies_nothing(folder: Path, option: str):
    damage(folder)
    result = run("verify", "--spool", folder, option)
    assert result.exit_code == 1
    assert "00000000000000000001.seg at byte 64: record body fails its checksum" in result.output
    assert "events 1 to 2" in result.output
    assert not (folder / "corrupt").exists()


async def test_verify_names_a_body_that_doesnt_hold_what_its_record_claims(running: SpoolLog):
    await running.append(b"not gzip", 3, Flags.of("gzip", BodyFormat.NDJSON))
    await running.append(event(1), 2)
    result = run("verify", "--spool", running.config.dir)
    assert result.exit_code == 1
    assert "record 25 (3 events): its body can't be opened" in result.output
    assert "record 28 (2 events): its body holds 1 events" in result.output
    assert run("verify", "--spool", running.config.dir, "--checksums-only").exit_code == 0


def test_export_writes_one_file_or_many_and_replaces_none(folder: Path, tmp_path: Path):
    one = tmp_path / "out" / "events.ndjson"
    assert run("export", "--spool", folder, "--to", one, "--after", 2).exit_code == 0
    assert one.read_bytes() == b"".join(event(number) + b"\n" for number in range(3, 25))
    again = run("export", "--spool", folder, "--to", one)
    assert "is there already" in str(again.exception)
    assert run("export", "--spool", folder, "--to", one, "--limit", 1, "--force").exit_code == 0
    assert one.read_bytes() == event(1) + b"\n"
    many = tmp_path / "many"
    assert run("export", "--spool", folder, "--to", many, "--events-per-file", 10).exit_code == 0
    files = sorted(many.iterdir())
    assert [(file.name, file.read_bytes().count(b"\n")) for file in files] == [
        ("00000000000000000001.ndjson", 10),
        ("00000000000000000011.ndjson", 10),
        ("00000000000000000021.ndjson", 4),
    ]


@pytest.mark.parametrize("command", [["ls"], ["cat"], ["verify"], ["export", "--to", "x"]])
def test_a_folder_without_a_spool_is_an_error_that_says_what_to_do(tmp_path: Path, command: list[str]):
    missing = run(*command, "--spool", tmp_path / "nowhere")
    assert "name its folder with --spool" in str(missing.exception)
    empty = run(*command, "--spool", tmp_path)
    assert "has the sidecar ever started" in str(empty.exception)


def test_the_spool_of_the_data_folder_is_the_default(folder: Path):
    assert "24 events" in run("ls", "--data", folder.parent).output


@pytest.mark.parametrize("command", ["ls", "cat", "verify", "export"])
def test_each_command_has_help_with_an_example(command: str):
    assert f"trackmate spool {command}" in run(command, "--help").output
