"""The declarations: everything is described, keys and statistics name columns, and the lake is made as declared."""

from __future__ import annotations

import pytest

from contract.columns import NAMES
from lakehouse.tables import TABLES, data_dictionary
from tests.lakehouse.lakes import local_lake


@pytest.mark.parametrize("table", TABLES.values(), ids=lambda table: table.name)
def test_a_declaration_names_a_column_that_is_not_there_or_describes_none(table):
    assert len(set(table.names)) == len(table.names)
    assert {table.partition_by, *table.key, *table.z_order, *table.stats, *table.bloom} <= set(table.names)
    assert table.description
    assert all(column.description for column in table.columns)
    assert table.partition_by not in table.stats


def test_the_layers_of_events_miss_a_column_of_the_flat_layout():
    for name in ("bronze.events", "silver.events"):
        assert TABLES[name].names[: len(NAMES)] == NAMES


def test_the_dictionary_leaves_a_table_or_column_out():
    text = data_dictionary()
    for table in TABLES.values():
        assert f"## {table.name}\n" in text
        assert all(f"| `{column.name}` | " in text for column in table.columns)


def test_a_table_is_made_otherwise_than_declared(tmp_path):
    lake = local_lake(tmp_path)
    lake.create_all()
    for name, declared in TABLES.items():
        table = lake.table(name)
        fields = {field.name: field for field in table.schema().fields}
        assert tuple(fields) == declared.names
        assert table.metadata().partition_columns == [declared.partition_by]
        assert table.metadata().description == declared.description
        for column in declared.columns:
            assert fields[column.name].metadata["comment"] == column.description
        kinds = {str(field.type) for field in fields.values()}
        assert not any('"timestamp"' in kind for kind in kinds), "zoned timestamps lose microseconds in Trino"
