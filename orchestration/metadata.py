"""What a materialisation shows in Dagster: rows, bytes, seconds, the table's version and schema."""

from __future__ import annotations

from typing import Any

import dagster as dg

from lakehouse.lake import Lake
from lakehouse.tables import TABLES, type_name


def definition_metadata(table: str) -> dict[str, Any]:
    """What is known of a table before it has any row: its columns with their descriptions, its key and partitioning."""
    declared = TABLES[table]
    columns = [
        dg.TableColumn(
            name=column.name,
            type=type_name(column),
            description=column.description,
            constraints=dg.TableColumnConstraints(nullable=not column.required),
        )
        for column in declared.columns
    ]
    return {
        "dagster/column_schema": dg.TableSchema(columns=columns),
        "dagster/table_name": table,
        "key": ", ".join(declared.key),
        "partitioned by": declared.partition_by,
    }


def result_metadata(lake: Lake, table: str, *, rows: int, size: int, seconds: float, **more: Any) -> dict[str, Any]:
    """What one materialisation did to a table."""
    return {
        "dagster/row_count": lake_rows(lake, table),
        "rows written": rows,
        "bytes written": size,
        "seconds": round(seconds, 3),
        "rows a second": round(rows / seconds) if seconds > 0 else 0,
        "table version": lake.version(table),
        **more,
    }


def lake_rows(lake: Lake, table: str) -> int:
    """Rows of a table as its log counts them: no file is opened."""
    return int(lake.table(table).count())
