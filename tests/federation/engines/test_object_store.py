"""The engine over a lake in S3: the same rows, nothing listed, nothing else reachable, keys shown nowhere."""

from __future__ import annotations

import dataclasses

import duckdb
import pytest

from contract.settings import Secret
from federation.engines.base import EngineError
from lakehouse.config import LakeConfig
from lakehouse.lake import Lake
from tests.federation.engines.conftest import append, ask, engine_over, events, only
from tests.services.versitygw import VersityGw


@pytest.fixture
def s3_lake(versitygw: VersityGw) -> Lake:
    options = {key: Secret(value) for key, value in versitygw.storage_options.items()}
    lake = Lake(LakeConfig(f"s3://{versitygw.fresh_bucket()}/a lake", storage_options=options))
    for day in range(3):
        append(lake, "silver.events", events(day, 30))
    return lake


async def test_a_lake_in_s3_gives_the_same_rows_and_reads_few_files(s3_lake: Lake) -> None:
    async with engine_over(s3_lake) as engine:
        sql = "SELECT event_date, site_id, count(*) AS n FROM silver.events WHERE event_date >= '2024-05-02' GROUP BY ALL"
        rows = await ask(engine, sql)
        assert sorted((row["event_date"].day, row["site_id"], row["n"]) for row in rows) == [
            (day, f"fab{site}", 10) for day in (2, 3) for site in range(3)
        ]
        explanation = await engine.explain(sql, principal=only("fab1"))
        assert [(scan.files, scan.files_total) for scan in explanation.scans] == [(2, 3)]
        append(s3_lake, "silver.events", events(7, 5))
        assert await ask(engine, "SELECT count(*) AS n FROM silver.events") == [{"n": 95}]


async def test_only_the_lake_can_be_read_from_the_store(s3_lake: Lake, versitygw: VersityGw) -> None:
    other = versitygw.fresh_bucket()
    async with engine_over(s3_lake) as engine:
        for address in (
            f"s3://{other}/x.parquet",
            f"s3://{s3_lake.root.split('/')[2]}/beside/x.parquet",
            f"{versitygw.endpoint}/x.parquet",
        ):
            with engine._session.cursor() as cursor, pytest.raises(duckdb.PermissionException):
                cursor.execute(f"SELECT * FROM read_parquet('{address}')").fetchall()


async def test_a_store_that_refuses_is_an_error_without_the_keys(s3_lake: Lake) -> None:
    wrong = {**s3_lake.config.storage_options, "secret_access_key": Secret("not-the-key")}
    lake = Lake(dataclasses.replace(s3_lake.config, storage_options=wrong))
    async with engine_over(lake) as engine:
        with pytest.raises(EngineError) as refused:
            await ask(engine, "SELECT count(*) FROM silver.events")
        assert "not-the-key" not in str(refused.value)
        assert "tests" not in str(refused.value).split("silver")[0]
