"""Delta tables that other engines wrote: deletion vectors and column mapping, which the data files alone do not tell."""

from __future__ import annotations

import json
import struct
import uuid
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from federation.engines.base import EngineError
from lakehouse.lake import Lake
from lakehouse.tables import TABLES
from tests.federation.engines.conftest import EVERYONE, ask, engine_over, only, rows_of

Z85 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"


def z85(data: bytes) -> str:
    data += b"\0" * (-len(data) % 4)
    text = ""
    for (number,) in struct.iter_unpack(">I", data):
        text += "".join(Z85[number // 85**power % 85] for power in (4, 3, 2, 1, 0))
    return text


def deletion_vector(rows: list[int]) -> dict[str, Any]:
    """An inline deletion vector: a 64-bit roaring bitmap of one array container (Delta protocol, "Deletion Vector Format")."""
    container = struct.pack("<IIHHI", 12346, 1, 0, len(rows) - 1, 16) + struct.pack(f"<{len(rows)}H", *rows)
    data = struct.pack("<IQI", 1681511377, 1, 0) + container
    return {"storageType": "i", "pathOrInlineDv": z85(data), "sizeInBytes": len(data), "cardinality": len(rows)}


def write_log(
    folder: Path, *, fields: list[dict[str, Any]], add: dict[str, Any], protocol: dict[str, Any], config: dict[str, str]
) -> None:
    actions = [
        {"protocol": protocol},
        {
            "metaData": {
                "id": str(uuid.uuid4()),
                "format": {"provider": "parquet", "options": {}},
                "schemaString": json.dumps({"type": "struct", "fields": fields}),
                "partitionColumns": [],
                "configuration": config,
                "createdTime": 0,
            }
        },
        {"add": {"partitionValues": {}, "modificationTime": 0, "dataChange": True, **add}},
    ]
    (folder / "_delta_log").mkdir()
    (folder / "_delta_log" / f"{0:020d}.json").write_text("\n".join(map(json.dumps, actions)) + "\n")


def fields_of(schema: pa.Schema, names: dict[str, str] | None = None) -> list[dict[str, Any]]:
    kinds = {
        pa.string(): "string",
        pa.int64(): "long",
        pa.timestamp("us"): "timestamp_ntz",
        pa.date32(): "date",
        pa.float64(): "double",
    }
    return [
        {
            "name": field.name,
            "type": kinds[field.type],
            "nullable": True,
            "metadata": {}
            if names is None
            else {"delta.columnMapping.id": place + 1, "delta.columnMapping.physicalName": names[field.name]},
        }
        for place, field in enumerate(schema)
    ]


@pytest.fixture
def states() -> pa.Table:
    return rows_of("silver.tool_states", 6, tool=lambda i: f"t{i}", site_id=lambda i: f"fab{i % 2}")


def prepare(lake: Lake, table: pa.Table) -> tuple[Path, dict[str, Any]]:
    folder = Path(lake.uri("silver.tool_states"))
    folder.mkdir(parents=True)
    pq.write_table(table, folder / "one.parquet")
    return folder, {
        "path": "one.parquet",
        "size": (folder / "one.parquet").stat().st_size,
        "stats": json.dumps({"numRecords": 6}),
    }


async def test_rows_that_a_deletion_vector_marks_do_not_come_back(lake: Lake, states: pa.Table) -> None:
    folder, add = prepare(lake, states)
    features = ["deletionVectors", "timestampNtz"]
    write_log(
        folder,
        fields=fields_of(TABLES["silver.tool_states"].schema),
        add={**add, "deletionVector": deletion_vector([1, 4])},
        protocol={"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": features, "writerFeatures": features},
        config={"delta.enableDeletionVectors": "true"},
    )
    async with engine_over(lake) as engine:
        sql = "SELECT tool FROM silver.tool_states ORDER BY 1"
        result = await engine.query(sql, principal=EVERYONE)
        assert [row["tool"] for row in (await result.read_all()).to_pylist()] == ["t0", "t2", "t3", "t5"]
        assert [scan.route for scan in result.stats.scans] == ["extension"]
        assert [row["tool"] for row in await ask(engine, sql, only("fab1"))] == ["t3", "t5"]


async def test_renamed_columns_are_read_by_their_names(lake: Lake, states: pa.Table) -> None:
    physical = {name: f"col-{place}" for place, name in enumerate(states.schema.names)}
    folder, add = prepare(lake, states.rename_columns(list(physical.values())))
    features = ["columnMapping", "timestampNtz"]
    write_log(
        folder,
        fields=fields_of(TABLES["silver.tool_states"].schema, physical),
        add=add,
        protocol={"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": features, "writerFeatures": features},
        config={"delta.columnMapping.mode": "name", "delta.columnMapping.maxColumnId": "99"},
    )
    async with engine_over(lake) as engine:
        rows = await ask(engine, "SELECT tool, started_at FROM silver.tool_states WHERE tool = 't3'")
        assert [row["tool"] for row in rows] == ["t3"]


async def test_a_table_that_needs_more_than_we_know_is_refused_not_misread(lake: Lake, states: pa.Table) -> None:
    folder, add = prepare(lake, states)
    write_log(
        folder,
        fields=fields_of(TABLES["silver.tool_states"].schema),
        add=add,
        protocol={
            "minReaderVersion": 3,
            "minWriterVersion": 7,
            "readerFeatures": ["fromTheFuture"],
            "writerFeatures": ["fromTheFuture"],
        },
        config={},
    )
    async with engine_over(lake) as engine:
        with pytest.raises(EngineError) as refused:
            await ask(engine, "SELECT * FROM silver.tool_states")
        assert "silver.tool_states" in str(refused.value) or "fromTheFuture" in str(refused.value)


async def test_a_file_outside_the_tables_folder_is_not_read(lake: Lake, states: pa.Table, tmp_path: Path) -> None:
    folder, add = prepare(lake, states)
    pq.write_table(states, tmp_path / "elsewhere.parquet")
    write_log(
        folder,
        fields=fields_of(TABLES["silver.tool_states"].schema),
        add={**add, "path": f"file://{tmp_path}/elsewhere.parquet"},
        protocol={
            "minReaderVersion": 3,
            "minWriterVersion": 7,
            "readerFeatures": ["timestampNtz"],
            "writerFeatures": ["timestampNtz"],
        },
        config={},
    )
    async with engine_over(lake) as engine:
        with pytest.raises(EngineError, match="outside its folder"):
            await ask(engine, "SELECT * FROM silver.tool_states")
