"""What every command promises: help with an example, errors as one clear text, nothing heavy loaded before it is needed."""

from __future__ import annotations

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from contract.errors import TrackMateError
from tests.trackmate.conftest import trackmate
from trackmate.cli import COMMANDS, app
from trackmate.lazy import LazyCommand


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_command_has_help_with_an_example(command: LazyCommand):
    result = CliRunner().invoke(app, [command.name, "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    assert f"trackmate {command.name}" in result.output.split("Usage:", 1)[1].split("\n", 1)[1], "no example in the help"


def test_the_programs_help_loads_nothing_heavy():
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom trackmate.cli import app\n"
        "result = CliRunner().invoke(app, ['--help'])\nassert result.exit_code == 0\nassert 'ingest' in result.output\n"
        "heavy = {'httpx', 'pyarrow', 'duckdb', 'psycopg', 'dagster', 'deltalake', 'granian', 'jsonschema', 'psutil'}\n"
        "print(sorted(heavy & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_the_version_is_told():
    done = trackmate("--version")
    assert done.returncode == 0
    assert done.stdout.startswith("trackmate 0.")


def test_an_expected_problem_is_one_text_and_exit_code_2_and_a_traceback_only_under_debug(tmp_path):
    plain = trackmate("status", "--data", tmp_path / "nothing here")
    assert plain.returncode == 2
    assert plain.stderr.startswith("error: ")
    assert "trackmate up" in plain.stderr
    assert "Traceback" not in plain.stderr
    debug = trackmate("--debug", "status", "--data", tmp_path / "nothing here")
    assert debug.returncode == 2
    assert "Traceback" in debug.stderr
    assert TrackMateError.__name__ in debug.stderr


def test_a_mistyped_command_suggests_the_right_one():
    done = trackmate("stauts")
    assert done.returncode == 2
    assert "status" in done.stderr
