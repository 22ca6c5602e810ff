"""The sections `hot` and `lake` of trackmate.yaml as the lakehouse reads them."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from contract.settings import Secret
from lakehouse.config import HotConfig, LakeConfig


@pytest.mark.parametrize(("given", "days"), [("90d", 90), (86400, 1), (timedelta(days=3), 3), ("36h", 1.5)])
def test_a_duration_is_read_in_another_unit(given: object, days: float) -> None:
    config = HotConfig.from_mapping({"dsn": "postgresql://u:hunter2@h/d", "retention": given})
    assert config.retention == timedelta(days=days)
    assert "hunter2" not in repr(config)
    assert config.dsn.reveal().endswith("@h/d")


def test_a_relative_folder_is_taken_from_where_the_program_was_started(tmp_path: Path) -> None:
    config = LakeConfig.from_mapping({"root": "lake", "spools": ["spool", "/data/spool"]}, tmp_path)
    assert config.root == str(tmp_path / "lake")
    assert config.spools == (tmp_path / "spool", Path("/data/spool"))
    assert LakeConfig.from_mapping({"root": "s3://bucket/lake"}, tmp_path).root == "s3://bucket/lake"


def test_a_storage_option_is_shown() -> None:
    config = LakeConfig.from_mapping({"root": "s3://b", "storage_options": {"AWS_SECRET_ACCESS_KEY": "hunter2"}})
    assert config.storage_options["AWS_SECRET_ACCESS_KEY"] == Secret("hunter2")
    assert "hunter2" not in repr(config)
