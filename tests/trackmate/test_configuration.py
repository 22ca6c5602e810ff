"""The files of a fresh data folder: valid as they are, never touched again, fit for a path with spaces and quotes."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
import yaml

from contract import settings
from contract.errors import TrackMateError
from tests.trackmate.conftest import trackmate
from trackmate.data_folder import DataFolder
from trackmate.generated_config import generate
from trackmate.services import read_stack


@pytest.fixture
def folder(tmp_path: Path) -> DataFolder:
    return DataFolder(tmp_path / 'it\'s a "data" folder # with everything')


def test_what_is_generated_is_valid_and_agrees_with_itself(folder: DataFolder):
    made = generate(folder, 100)
    assert {path.name for path in made} == {"trackmate.yaml", "sidecar.yaml", "monitoring-config.yaml"}
    stack = read_stack(folder)
    ends = stack.endpoints
    assert {name: end.port for name, end in ends.items()} == {
        "sidecar": 17100,
        "gateway": 17180,
        "dagster": 3100,
        "postgres": 55532,
    }
    sdk = settings.load("config", folder.sdk_yaml, env_prefix="MONITORING", environ={})["sdk"]
    assert sdk["sidecar"]["url"] == ends["sidecar"].url
    assert Path(sdk["sidecar"]["spool_dir"]) == folder.sdk_spool
    assert stack.sidecar.spool.dir == folder.spool
    assert stack.config.lake.spools == (folder.spool,)
    (managed,) = stack.sidecar.backends
    assert yaml.safe_load(folder.sidecar_yaml.read_text())["sidecar"]["backends"][0]["config"]["url"] == ends["gateway"].url
    assert managed.name == "managed"


def test_files_with_the_databases_password_are_for_the_owner_alone(folder: DataFolder):
    for path in generate(folder):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_what_a_user_changed_is_never_overwritten(folder: DataFolder):
    generate(folder)
    folder.trackmate_yaml.write_text("mine")
    folder.sdk_yaml.unlink()
    assert generate(folder) == [folder.sdk_yaml]
    assert folder.trackmate_yaml.read_text() == "mine"


def test_a_port_offset_that_can_not_count_any_more_is_refused(folder: DataFolder):
    generate(folder)
    with pytest.raises(TrackMateError, match="has its configuration already"):
        generate(folder, 5)


def test_a_port_offset_that_leaves_the_ports_is_refused(folder: DataFolder):
    with pytest.raises(TrackMateError, match="moves postgres to port 75432; ports are 1 to 65535"):
        generate(folder, 20_000)


def test_a_configuration_with_five_mistakes_names_all_five(folder: DataFolder):
    generate(folder)
    folder.trackmate_yaml.write_text("hot: {dsn: mysql://x, retention: soon}\nlake: {rot: x}\nstack: {dagster_listen: 3000}\n")
    folder.sidecar_yaml.write_text("sidecar: {spool: {dir: ./spool, high_water: 2}}\n")
    done = trackmate("doctor", "--data", folder.root)
    assert done.returncode == 1
    for path in ("hot.dsn", "hot.retention", "lake.rot", "lake.root", "stack.dagster_listen", "sidecar.spool.high_water"):
        assert path in done.stdout
    refused = trackmate("up", "--data", folder.root)
    assert refused.returncode == 2
    assert "sidecar.spool.high_water" in refused.stderr


def test_a_data_folder_that_can_not_be_made_is_told_with_the_reason(tmp_path: Path):
    (tmp_path / "file").write_text("")
    done = trackmate("up", "--data", tmp_path / "file" / "data")
    assert done.returncode == 2
    assert "can't write to the data folder" in done.stderr
