"""The mistakes of a first hour: each is answered with what is wrong, where, and what to do, and nothing is made or sent."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

from tests.trackmate.conftest import trackmate
from trackmate.cli import COMMANDS, app
from trackmate.data_folder import DataFolder
from trackmate.gateway_commands import token
from trackmate.generated_config import generate
from trackmate.sidecar_commands import sidecar
from trackmate.spool_commands import spool_app

GROUPS: dict[str, typer.Typer] = {"sidecar": sidecar, "spool": spool_app, "token": token}


@pytest.mark.parametrize("group", GROUPS)
def test_a_sub_command_has_no_example_in_its_help(group: str):
    assert group in {command.name for command in COMMANDS}
    names = list(get_command(GROUPS[group]).commands)  # type: ignore[attr-defined]
    assert names
    for name in names:
        result = CliRunner().invoke(app, [group, name, "--help"], env={"COLUMNS": "200"})
        assert result.exit_code == 0, result.output
        assert f"trackmate {group} {name}" in result.output.split("Usage:", 1)[1].split("\n", 1)[1], name


def test_a_default_is_eaten_by_the_help():
    for words, default in (
        (["ingest"], "beside the file"),
        (["token", "new"], "until revoked"),
        (["migrate"], "as by the gateway"),
    ):
        assert default in CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": "200"}).output


def test_a_wrong_service_makes_a_data_folder_all_the_same(tmp_path: Path):
    done = trackmate("up", "--data", tmp_path / "data", "--only", "cron")
    assert done.returncode == 2
    assert "--only cron: no such service; there are postgres, sidecar, gateway, dagster" in done.stderr
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("words", [["sidecar"], ["sidecar", "check"], ["replay", "--backend", "x"]], ids=" ".join)
def test_a_missing_configuration_of_the_sidecar_gives_no_advice(words: list[str], tmp_path: Path):
    done = trackmate(*words, "--config", tmp_path / "sidecar.yaml")
    assert done.returncode == 2
    assert str(tmp_path / "sidecar.yaml") in done.stderr
    assert "--config" in done.stderr
    assert "trackmate up" in done.stderr


def test_a_file_that_is_not_there_is_hidden_behind_a_sidecar_that_is_not_there(tmp_path: Path):
    there, table = tmp_path / "events.ndjson", tmp_path / "history.csv"
    there.write_text("{}\n")
    table.write_text("a,b\n1,2\n")
    nobody = ("--url", "http://127.0.0.1:1")
    done = trackmate("ingest", there, tmp_path / "nowhere.ndjson", *nobody)
    assert done.returncode == 2
    assert f"no such file: {tmp_path / 'nowhere.ndjson'}" in done.stderr
    done = trackmate("ingest", table, *nobody)
    assert done.returncode == 2
    assert "--suggest-mapping" in done.stderr


def test_mistakes_of_a_mapping_are_told_in_the_words_of_json_schema(tmp_path: Path):
    table, mapping = tmp_path / "history.csv", tmp_path / "map.yaml"
    table.write_text("a,b\n1,2\n")
    mapping.write_text("event: {kind: metric, nam: etch, timestamp: {column: when}, message: [1]}\nrun: {}\napp: {}\n")
    done = trackmate("ingest", table, "--mapping", mapping, "--dry-run")
    assert done.returncode == 2
    for problem in (
        "site_id: required but missing",
        "app.name: required but missing",
        "event.name: required but missing",
        "event.nam: unknown key; known here: duration_ms,",
        "event.timestamp: expected string, got ",
        "event.message: expected text with {column} in it, or value, map and default",
        "expected either event (a row is one event) or run (a row is an interval), and not both",
    ):
        assert problem in done.stderr, done.stderr


def test_the_first_token_shuts_the_sidecar_out_without_a_word(tmp_path: Path):
    folder = DataFolder(tmp_path / "data")
    generate(folder)
    said = [
        trackmate("token", "new", name, "--scope", "query", "--config", folder.trackmate_yaml) for name in ("first", "second")
    ]
    assert "Give the sidecar one with the scope ingest" in said[0].stderr
    assert said[0].stdout.startswith("tm_")
    assert len(said[0].stdout.split()) == 1
    assert said[1].stderr == ""


def test_an_unknown_right_of_a_token_is_told_as_an_enum(tmp_path: Path):
    folder = DataFolder(tmp_path / "data")
    generate(folder)
    done = trackmate("token", "new", "a", "--scope", "fly", "--config", folder.trackmate_yaml)
    assert done.returncode == 2
    assert "--scope fly: no such right; there are " in done.stderr
    assert "ingest" in done.stderr
