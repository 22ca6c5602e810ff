"""What an answer holds that Python, CSV, JSON or Parquet have no value for: shown all the same, never a traceback."""

from __future__ import annotations

import io
import json
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.csv as arrow_csv
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from contract.errors import TrackMateError
from trackmate import sql_values
from trackmate.sql_client import Answer
from trackmate.sql_output import Format, write

ODD = [
    "timestamp '10000-01-01'",
    "timestamp '0044-03-15 (BC)'",
    "timestamp 'infinity'",
    "date 'infinity'",
    "timestamp_ns '2026-01-01 00:00:00.123456789'",
    "[timestamp '10000-01-01']",
    "{'at': timestamp '10000-01-01', 'n': [1]}",
    "map{'at': timestamp '10000-01-01'}",
    "interval '1 month 2 hours'",
    "{'took': interval 90 second}",
    "'\\xff'::blob",
    "'nan'::double",
    "170141183460469231731687303715884105727::hugeint",
    "time '10:00'",
    "null",
]


def selected(expression: str) -> pa.Table:
    with duckdb.connect() as connection:
        return connection.execute(f"SELECT {expression} AS value").to_arrow_table()


def written(table: pa.Table, form: Format, folder: Path) -> bytes:
    file = folder / "answer"
    write(Answer(table, {}), form, file, Console(file=io.StringIO()))
    return file.read_bytes()


@pytest.mark.parametrize("form", sorted(Format))
@pytest.mark.parametrize("place", range(len(ODD)))
def test_value_that_a_form_has_no_place_for_ends_the_command(place, form, tmp_path):
    assert written(selected(ODD[place]), form, tmp_path)


@pytest.mark.parametrize(
    "text", ["1 year 2 months 3 days 04:05:06.5", "-1 month", "0 days", "-3 hours", "25 hours", "-1 day -00:00:00.000001"]
)
def test_interval_reads_other_than_in_the_engine(text, tmp_path):
    table = selected(f"interval '{text}'")
    wanted = selected(f"CAST(interval '{text}' AS VARCHAR)")["value"][0].as_py()
    assert [sql_values.shown(value) for (value,) in sql_values.rows(table)] == [wanted]
    assert json.loads(written(table, Format.JSON, tmp_path)) == [{"value": wanted}]
    assert written(table, Format.CSV, tmp_path).decode().splitlines() == ["value", wanted]
    (tmp_path / "a.parquet").write_bytes(written(table, Format.PARQUET, tmp_path))
    assert pq.read_table(tmp_path / "a.parquet").to_pylist() == [{"value": wanted}]


def test_moment_beyond_the_calendar_is_told_by_its_digits(tmp_path):
    assert b"10000-01-01 00:00:00" in written(selected("timestamp '10000-01-01'"), Format.TABLE, tmp_path)
    assert "123456789" in json.loads(written(selected(ODD[4]), Format.JSON, tmp_path))[0]["value"]


def test_text_without_a_comma_can_be_piped_into_the_next_command(tmp_path):
    assert written(pa.table({"event_id": ["a-1", None], "n": [1, 2]}), Format.CSV, tmp_path) == b"event_id,n\na-1,1\n,2\n"


@pytest.mark.parametrize("text", ["a,b", 'a "b"', "a\nb", "a\rb", ""])
def test_text_that_needs_quotes_is_read_back_as_it_was(text, tmp_path):
    body = written(pa.table({"x": [text, None], "y": ["a", "b"]}), Format.CSV, tmp_path)
    options = arrow_csv.ConvertOptions(strings_can_be_null=True, quoted_strings_can_be_null=False)
    parse = arrow_csv.ParseOptions(newlines_in_values=True)
    assert arrow_csv.read_csv(io.BytesIO(body), parse_options=parse, convert_options=options)["x"].to_pylist() == [text, None]


def test_column_s_name_with_a_comma_makes_no_two_columns(tmp_path):
    assert written(pa.table({"a,b": [1]}), Format.CSV, tmp_path) == b'"a,b"\n1\n'


def test_type_that_parquet_lacks_is_told_with_what_to_do(tmp_path):
    with pytest.raises(TrackMateError, match=r"parquet has no place for a column of this answer .* CAST it to VARCHAR"):
        written(selected("union_value(n := 1)"), Format.PARQUET, tmp_path)
