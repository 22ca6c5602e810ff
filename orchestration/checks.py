"""Asset checks: what must hold of the data, looked at after each materialisation."""

from collections.abc import Sequence
from typing import Any, Final

import dagster as dg

from lakehouse import custody
from lakehouse.files import active_files, changes
from lakehouse.lake import Lake, LogExpired, scan
from lakehouse.tables import TABLES, Table
from orchestration.resources import Site

RECENT_COMMITS: Final = 20
"""Checks of rows look at all days that so many of the newest commits wrote to."""


@dg.asset_check(
    asset=["silver", "events"], blocking=True, description="Every event is there once: no id twice on the days written last."
)
def each_event_once(site: Site) -> dg.AssetCheckResult:
    """Count ids that are there more than once."""
    declared = TABLES["silver.events"]
    files, days = _recent(site.lake, declared)
    rows = scan(declared, files, columns=["event_id"])
    count, twice = _one(site.lake, f"SELECT count(*), count(*) - count(DISTINCT event_id) FROM {rows}")
    return dg.AssetCheckResult(passed=twice == 0, metadata={"rows": count, "too many": twice, "days": days})


def _required(name: str) -> dg.AssetChecksDefinition:
    declared = TABLES[name]
    columns = [column.name for column in declared.columns if column.required]

    @dg.asset_check(
        asset=name.split("."), name="required_columns", blocking=True, description=f"Never empty: {', '.join(columns)}."
    )
    def required_columns(site: Site) -> dg.AssetCheckResult:
        files, days = _recent(site.lake, declared)
        counts = ", ".join(f'count(*) FILTER ("{column}" IS NULL)' for column in columns)
        values = _one(site.lake, f"SELECT {counts} FROM {scan(declared, files)}")
        empty = {column: value for column, value in zip(columns, values, strict=True) if value}
        return dg.AssetCheckResult(passed=not empty, metadata={"empty": empty, "days": days})

    return required_columns


def _declared_schema(name: str) -> dg.AssetChecksDefinition:
    declared = TABLES[name]

    @dg.asset_check(
        asset=name.split("."), name="declared_schema", description="The table has the columns and types that it declares."
    )
    def declared_schema(site: Site) -> dg.AssetCheckResult:
        found = {field.name: str(field.type) for field in _fields(site.lake, name)}
        wanted = {column.name: str(column.type) for column in declared.columns}
        wrong = {key: f"{found.get(key)} instead of {kind}" for key, kind in wanted.items() if found.get(key) != kind}
        return dg.AssetCheckResult(passed=not wrong, metadata={"wrong": wrong, "columns": len(found)})

    return declared_schema


@dg.asset_check(
    asset=["gold", "custody"], description="Nothing acknowledged is missing: what spools and hot store hold is in silver."
)
def nothing_acknowledged_is_missing(site: Site) -> dg.AssetCheckResult:
    """What gold.custody says; gaps in an emitter's numbers that nobody acknowledged are a warning."""
    report = custody.check(site.lake)
    findings = [
        {
            "emitter": finding.emitter_id,
            "hour": finding.hour.isoformat(),
            "app": finding.app_name,
            "missing": finding.acknowledged_missing or finding.missing,
            "gaps": finding.gaps,
        }
        for finding in report.findings
    ]
    return dg.AssetCheckResult(
        passed=report.ok and report.unexplained == 0,
        severity=dg.AssetCheckSeverity.WARN if report.ok else dg.AssetCheckSeverity.ERROR,
        metadata={
            "emitters": report.emitters,
            "numbered": report.numbered,
            "in silver": report.in_silver,
            "acknowledged and missing": report.acknowledged_missing,
            "numbers missing": report.missing,
            "of which dropped and reported": report.dropped,
            "findings": findings,
        },
    )


def _recent(lake: Lake, declared: Table) -> tuple[list[str], list[str]]:
    """Files of the days that the newest commits wrote to, and those days."""
    table = lake.table(declared.name)
    files = active_files(lake, declared.name, table)
    try:
        newest = changes(lake, declared.name, table, after=max(-1, int(table.version()) - RECENT_COMMITS))
        days = {file.partition for change in newest for file in change.added}
    except LogExpired:
        days = {file.partition for file in files}
    return [file.uri for file in files if file.partition in days], sorted(str(day) for day in days)


def _fields(lake: Lake, name: str) -> Sequence[Any]:
    import pyarrow as pa

    schema: Any = lake.table(name).schema().to_arrow()
    return list(pa.schema(schema))


def _one(lake: Lake, statement: str) -> tuple[Any, ...]:
    with lake.connect() as connection:
        row = connection.execute(statement).fetchone()
    return row or ()


CHECKS: Final = [
    each_event_once,
    *[_required(name) for name in ("bronze.events", "silver.events", "silver.runs", "silver.tool_states")],
    *[_declared_schema(name) for name in TABLES],
    nothing_acknowledged_is_missing,
]
