"""`trackmate sql` as a user runs it: forms, files, the prompt, time travel, and what it says when something is wrong."""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
import os
import pty
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake
from typer.testing import CliRunner

from contract.errors import TrackMateError
from lakehouse.config import LakeConfig
from lakehouse.lake import Lake
from tests.federation.engines.conftest import events
from tests.trackmate.conftest import TRACKMATE
from trackmate.cli import app
from trackmate.sql_command import parse_moment
from trackmate.sql_prompt import complete


class Outcome(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


COUNT = "SELECT site_id, count(*) AS n FROM silver.events GROUP BY 1 ORDER BY 1"


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trackmate.yaml beside a lake of two days; its hot store is not there."""
    folder = tmp_path_factory.mktemp("sql")
    lake = Lake(LakeConfig(str(folder / "lake")))
    lake.table("silver.events")
    for day in range(2):
        write_deltalake(lake.uri("silver.events"), events(day), mode="append")
    file = folder / "trackmate.yaml"
    file.write_text("hot: {dsn: 'postgresql://nobody@127.0.0.1:1/none'}\nlake: {root: ./lake}\n")
    return file


def trackmate(*arguments: object, **environment: str) -> Outcome:
    """Run the program in this process."""
    done = CliRunner().invoke(app, list(map(str, arguments)), env=environment)
    return Outcome(done.exit_code, done.stdout, done.stderr)


def test_a_table_for_people_and_what_it_cost_on_standard_error(config: Path):
    done = trackmate("sql", "--config", config, COUNT)
    assert done.returncode == 0, done.stderr
    assert "site_id" in done.stdout
    assert "80" in done.stdout
    assert "3 rows in" in done.stderr
    assert "2 of 2 files" in done.stderr


def test_csv_and_json_are_nothing_but_the_answer(config: Path):
    done = trackmate("sql", COUNT, "--format", "csv", TRACKMATE_CONFIG=str(config))
    assert list(csv.DictReader(io.StringIO(done.stdout))) == [{"site_id": f"fab{i}", "n": "80"} for i in range(3)]
    done = trackmate("sql", "-c", config, "-f", "json", "SELECT timestamp, duration_ms, sum(emitter_seq) AS s, 0.0/0 AS nan "
                     "FROM silver.events GROUP BY ALL ORDER BY 1 LIMIT 2")  # fmt: skip
    assert json.loads(done.stdout) == [
        {"timestamp": "2024-05-01T00:00:00Z", "duration_ms": 0.0, "s": None, "nan": None},
        {"timestamp": "2024-05-01T00:01:00Z", "duration_ms": 1.0, "s": None, "nan": None},
    ]


def test_parquet_and_arrow_go_to_a_file_whole(config: Path, tmp_path: Path):
    everything = "SELECT * FROM silver.events"
    assert trackmate("sql", "-c", config, "-f", "parquet", "-o", tmp_path / "a.parquet", everything).returncode == 0
    assert trackmate("sql", "-c", config, "-f", "arrow", "-o", tmp_path / "a.arrow", everything).returncode == 0
    assert pq.read_table(tmp_path / "a.parquet").num_rows == 240
    with pa.ipc.open_stream((tmp_path / "a.arrow").read_bytes()) as reader:
        assert reader.read_all().num_rows == 240


def test_the_limit_cuts_and_says_so(config: Path):
    done = trackmate("sql", "-c", config, "--limit", "5", "SELECT event_id FROM silver.events")
    assert "5 rows" in done.stderr
    assert "--limit" in done.stderr


def test_explain_shows_files_left_out(config: Path):
    done = trackmate("sql", "-c", config, "--explain", "SELECT kind FROM silver.events WHERE event_date = '2024-05-02'")
    assert "1 of 2 files" in done.stdout
    assert "pushed down: event_date = 2024-05-02" in done.stdout


def test_time_travel_reads_what_was(config: Path):
    done = trackmate("sql", "-c", config, "--as-of", "2001-01-01", COUNT)
    assert done.returncode == 2
    assert "no version as old as 2001-01-01" in done.stderr
    now = dt.datetime.now(dt.UTC).isoformat()
    assert trackmate("sql", "-c", config, "-f", "json", "--as-of", now, COUNT).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["SELECT * FROM silver.event"], "did you mean silver.events"),
        (["DROP TABLE silver.events"], "only queries are answered"),
        (["SELECT count(*) FROM hot.events"], "hot store can't be asked"),
        (["--as-of", "yesterday", "SELECT 1"], "write 2026-05-01"),
        (["--url", "http://127.0.0.1:1", "SELECT 1"], "no gateway answers"),
    ],
)
def test_mistakes_are_explained_and_end_with_2(config: Path, arguments: list[str], words: str):
    done = trackmate("sql", "-c", config, *arguments)
    assert done.returncode == 2
    assert words in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_without_a_configuration_it_says_where_it_looked(tmp_path: Path):
    done = subprocess.run(
        [*TRACKMATE, "sql", "SELECT 1"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={k: v for k, v in os.environ.items() if not k.startswith("TRACKMATE")} | {"PYTHONPATH": str(Path.cwd())},
    )
    assert done.returncode == 2
    assert "trackmate-data/trackmate.yaml" in done.stderr


def test_statements_on_standard_input_run_one_by_one_and_failures_are_counted(config: Path):
    text = "SELECT 1 AS one,\n  ';' AS semicolon; \n.schema silver.runs\nSELECT nope FROM silver.runs;\nSELECT 2 AS two"
    done = subprocess.run([*TRACKMATE, "sql", "-c", config, "-f", "csv"], input=text, capture_output=True, text=True)
    assert done.returncode == 1
    assert "one,semicolon\n1,;\n" in done.stdout
    assert "two\n2\n" in done.stdout
    assert "UUID of the run" in done.stderr
    assert "error:" in done.stderr


def test_a_second_statement_overwrites_the_file_of_the_first(config: Path, tmp_path: Path):
    file = tmp_path / "answer.csv"
    arguments = [*TRACKMATE, "sql", "-c", config, "-f", "csv", "-o", file]
    done = subprocess.run(arguments, input="SELECT 1 AS a;\nSELECT 2 AS b;\n", capture_output=True, text=True)
    assert done.returncode == 1
    assert "--output takes one statement" in " ".join(done.stderr.split())
    assert file.read_text() == "a\n1\n"


def test_an_error_with_brackets_in_it_ends_the_prompt(config: Path):
    text = 'SELECT 1 FROM "[/red]";\nSELECT 2 AS two;\n'
    done = subprocess.run([*TRACKMATE, "sql", "-c", config, "-f", "csv"], input=text, capture_output=True, text=True)
    assert "there is no table [/red]" in " ".join(done.stderr.split())
    assert done.stdout == "two\n2\n"


@pytest.mark.parametrize("form", ["table", "csv"])
def test_a_full_disk_behind_standard_output_gives_a_traceback(config: Path, form: str):
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [*TRACKMATE, "sql", "-c", config, "-f", form, "SELECT 1"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 2
    assert "can't write to standard output: No space left on device" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_table_that_can_not_be_written_gives_a_traceback(config: Path, tmp_path: Path):
    done = trackmate("sql", "-c", config, "-o", tmp_path / "none" / "x.txt", "SELECT 1")
    assert done.returncode == 2
    assert "No such file or directory" in done.stderr


def test_a_wide_table_in_a_pipe_is_folded_into_columns_of_one_letter(config: Path):
    done = trackmate("sql", "-c", config, "-n", "100", "SELECT * FROM silver.events")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 104


def test_a_wide_table_on_a_narrow_terminal_is_folded_into_columns_of_one_letter(config: Path):
    keeper, terminal = pty.openpty()
    process = subprocess.Popen(
        [*TRACKMATE, "sql", "-c", config, "-n", "1", "SELECT * FROM silver.events ORDER BY event_id"],
        stdout=terminal,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "COLUMNS": "80", "TERM": "xterm"},
    )
    os.close(terminal)
    try:
        shown = _read_until(keeper, b"event_date")
        assert b"site_id" in shown
    finally:
        process.kill()
        process.wait()
        os.close(keeper)


def test_the_prompt_on_a_terminal_remembers_and_ends_on_ctrl_d(config: Path, tmp_path: Path):
    leader, follower = pty.openpty()
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path), "TERM": "dumb", "COLUMNS": "200"}
    process = subprocess.Popen(
        [*TRACKMATE, "sql", "-c", config], stdin=follower, stdout=follower, stderr=follower, env=environment
    )
    os.close(follower)
    seen = _read_until(leader, b"trackmate> ")
    os.write(leader, b"SELECT count(*) AS n\n")
    seen += _read_until(leader, b"..> ")
    os.write(leader, b"FROM silver.events;\n")
    seen += _read_until(leader, b"1 row in")
    os.write(leader, b".quit\n")
    assert process.wait(30) == 0
    os.close(leader)
    assert b"240" in seen
    assert "SELECT count(*) AS n" in (tmp_path / "trackmate" / "sql_history").read_text()


def _read_until(descriptor: int, words: bytes) -> bytes:
    seen = b""
    deadline = time.monotonic() + 60
    while words not in seen:
        assert time.monotonic() < deadline, seen
        seen += os.read(descriptor, 4096)
    return seen


@pytest.mark.parametrize(
    ("text", "ended"),
    [
        ("SELECT 1;", True),
        ("SELECT 1", False),
        ("SELECT ';", False),
        ("SELECT ';'", False),
        ("SELECT 1; -- done", True),
        ("-- ;", False),
    ],
)
def test_a_statement_ends_at_its_own_semicolon(text: str, *, ended: bool):
    assert complete(text) is ended


def test_a_moment_without_zone_is_utc():
    assert parse_moment("2026-05-01") == dt.datetime(2026, 5, 1, tzinfo=dt.UTC)
    assert parse_moment("2026-05-01T14:00:00+02:00") == dt.datetime(2026, 5, 1, 12, tzinfo=dt.UTC)
    with pytest.raises(TrackMateError, match="no moment"):
        parse_moment("soon")
