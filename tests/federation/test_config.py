"""trackmate.yaml as structs: paths, sizes, secrets, where it is found, and every mistake at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from contract.errors import ConfigError
from federation.config import DuckDBConfig, find_config, from_mapping, load_config

MINIMAL = "hot: {dsn: 'postgresql://user:hidden@127.0.0.1/db'}\nlake: {root: ./lake, spools: [./spool]}\n"


def write(folder: Path, text: str) -> Path:
    file = folder / "trackmate.yaml"
    file.write_text(text)
    return file


def test_relative_paths_are_taken_from_the_files_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    config = load_config(write(tmp_path, MINIMAL + "engines: {duckdb: {temp_dir: ./spill}}\n"), environ={})
    assert config.lake.root == str(tmp_path / "lake")
    assert config.lake.spools == (tmp_path / "spool",)
    assert config.engines.duckdb.temp_dir == tmp_path / "spill"
    assert config.file == tmp_path / "trackmate.yaml"


def test_sizes_and_durations_are_numbers_and_the_environment_wins(tmp_path: Path) -> None:
    file = write(tmp_path, MINIMAL + "engines: {duckdb: {memory_limit: 1GiB, timeout: 5s, max_bytes: 2MB, cache_bytes: 1KiB}}\n")
    engine = load_config(file, environ={"TRACKMATE__ENGINES__DUCKDB__TIMEOUT": "90s"}).engines.duckdb
    assert (engine.memory_limit, engine.timeout, engine.max_bytes, engine.cache_bytes) == (2**30, 90.0, 2_000_000, 1024)
    assert load_config(write(tmp_path, MINIMAL), environ={}).engines.duckdb == DuckDBConfig()


def test_secrets_are_in_no_repr(tmp_path: Path) -> None:
    text = MINIMAL.replace("spools", "storage_options: {secret_access_key: hidden}, spools")
    config = load_config(write(tmp_path, text), environ={})
    assert "hidden" not in repr(config)
    assert config.hot.dsn.reveal().endswith("db")


def test_every_mistake_is_named_at_once(tmp_path: Path) -> None:
    file = write(tmp_path, "lake: {root: ./lake}\nengines: {duckdb: {max_rows: 0, memory: 1GiB, timeout: soon}}\n")
    with pytest.raises(ConfigError) as wrong:
        load_config(file, environ={})
    paths = {problem.path for problem in wrong.value.problems}
    assert {"hot", "engines.duckdb.max_rows", "engines.duckdb.memory", "engines.duckdb.timeout"} <= paths


def test_sources_and_tokens_are_read(tmp_path: Path) -> None:
    tree = {
        "hot": {"dsn": "postgresql://h/d"},
        "lake": {"root": "s3://bucket/lake"},
        "sources": {"zbx": {"type": "zabbix", "config": {"url": "http://z"}}},
        "auth": {"tokens": [{"id": "a", "sha256": "0" * 64, "scopes": ["query"], "sites": ["fab1"]}]},
    }
    config = from_mapping(tree, base=tmp_path)
    assert config.lake.root == "s3://bucket/lake"
    assert config.sources["zbx"].type == "zabbix"
    assert config.tokens[0].sites == ("fab1",)


def test_the_file_is_found_by_option_environment_data_folder_and_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"trackmate-data/trackmate\.yaml"):
        find_config(environ={})
    (tmp_path / "trackmate-data").mkdir()
    write(tmp_path / "trackmate-data", MINIMAL)
    assert find_config(environ={}) == Path("trackmate-data/trackmate.yaml")
    write(tmp_path, MINIMAL)
    assert find_config(environ={}) == Path("trackmate.yaml")
    (tmp_path / "other").mkdir()
    write(tmp_path / "other", MINIMAL)
    assert find_config(environ={"TRACKMATE_DATA": "other"}) == Path("other/trackmate.yaml")
    assert find_config(environ={"TRACKMATE_DATA": "other", "TRACKMATE_CONFIG": "x.yaml"}) == Path("x.yaml")
    assert find_config(Path("named.yaml"), {"TRACKMATE_CONFIG": "x.yaml"}) == Path("named.yaml")
