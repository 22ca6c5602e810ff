"""Every Delta table of the lake, declared once: engines, Dagster metadata and the data dictionary are made from this."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from typing import Final

import pyarrow as pa

from contract.columns import COLUMNS

STRING: Final[pa.DataType] = pa.string()
INT: Final[pa.DataType] = pa.int64()
FLOAT: Final[pa.DataType] = pa.float64()
DATE: Final[pa.DataType] = pa.date32()
TIMESTAMP: Final[pa.DataType] = pa.timestamp("us")
"""UTC without zone: Delta's TIMESTAMP_NTZ, which both engines read in microseconds (Trino reads zoned ones in milliseconds)."""

_LOGICAL: Final[dict[str, pa.DataType]] = {
    "string": STRING,
    "json": STRING,
    "int64": INT,
    "float64": FLOAT,
    "timestamp": TIMESTAMP,
}


@dataclass(frozen=True)
class Column:
    """One column: `required` columns are never NULL in a healthy table (an asset check looks)."""

    name: str
    type: pa.DataType
    description: str
    required: bool = False


@dataclass(frozen=True)
class Table:
    """One Delta table.

    `partition_by` names the date column it is partitioned by, `key` the columns that identify a row, `z_order` those that
    maintenance clusters files by, `stats` those whose smallest and largest values the log keeps for each file, `bloom` those that
    get a Bloom filter in each file, `retention` how long rows are kept (None: for ever).
    """

    name: str
    description: str
    columns: tuple[Column, ...]
    partition_by: str
    key: tuple[str, ...]
    z_order: tuple[str, ...]
    stats: tuple[str, ...]
    retention: timedelta | None = None
    bloom: tuple[str, ...] = field(default=())

    @cached_property
    def schema(self) -> pa.Schema:
        """The Arrow schema; each field carries its description as `comment`."""
        return pa.schema(
            [pa.field(column.name, column.type, metadata={"comment": column.description}) for column in self.columns]
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The column names, in order."""
        return tuple(column.name for column in self.columns)

    @property
    def configuration(self) -> dict[str, str]:
        """Delta table properties."""
        return {
            "delta.dataSkippingStatsColumns": ",".join(self.stats),
            "delta.checkpointInterval": "25",
            "delta.logRetentionDuration": "interval 30 days",
            "delta.deletedFileRetentionDuration": "interval 7 days",
        }


FLAT: Final = tuple(Column(c.name, _LOGICAL[c.type], c.description, required=not c.nullable) for c in COLUMNS)
"""The flat layout of an event (`contract.columns`) in Arrow types."""

FLAT_SCHEMA: Final = pa.schema([pa.field(column.name, column.type) for column in FLAT])

_BY_NAME: Final = {column.name: column for column in FLAT}
_CONTEXT: Final = ("lot", "wafer", "tool", "chamber", "recipe", "step")
_EVENT_STATS: Final = (
    "event_id",
    "timestamp",
    "kind",
    "name",
    "site_id",
    "app_name",
    "run_id",
    "emitter_id",
    "emitter_seq",
    "lot",
    "tool",
    "severity",
    "trace_id",
)


def _flat(*names: str) -> tuple[Column, ...]:
    return tuple(_BY_NAME[name] for name in names)


def _date(name: str, description: str) -> Column:
    return Column(name, DATE, f"{description} (UTC); the partition", required=True)


_INGESTED_AT: Final = Column("ingested_at", TIMESTAMP, "When it reached the lake, UTC", required=True)

BRONZE_EVENTS: Final = Table(
    name="bronze.events",
    description="Every event as received, append only; the same event may be here once for each way it came.",
    columns=(
        *FLAT,
        Column("source", STRING, "How it came: spool, hot, archive, or the pulled system's type", required=True),
        Column(
            "source_id", STRING, "Which one: the spool's id, the database's system identifier, a source's name", required=True
        ),
        Column("source_seq", INT, "Its number there: sequence number in the spool, transaction id in the hot store"),
        _INGESTED_AT,
        _date("ingest_date", "Date of ingested_at"),
    ),
    partition_by="ingest_date",
    key=("source", "source_id", "source_seq", "event_id"),
    z_order=("event_id",),
    stats=(*_EVENT_STATS, "source", "source_id", "source_seq", "ingested_at"),
)

BRONZE_QUARANTINE: Final = Table(
    name="bronze.quarantine",
    description="What was refused, with the reason and its own text, so that a fixed schema can replay it.",
    columns=(
        Column("quarantined_at", TIMESTAMP, "When it was refused, UTC", required=True),
        Column("source", STRING, "Who refused it: sidecar, gateway, lake", required=True),
        Column("source_id", STRING, "Where it was found: the spool's id or the source's name", required=True),
        Column("index", INT, "Its place in the request"),
        Column("event_id", STRING, "The event's id, where it could be read"),
        Column("path", STRING, "Which field is wrong, dotted; empty for the whole event"),
        Column("error", STRING, "What is wrong with it", required=True),
        Column("event", STRING, "The event's own text", required=True),
        _INGESTED_AT,
        _date("ingest_date", "Date of ingested_at"),
    ),
    partition_by="ingest_date",
    key=("source_id", "quarantined_at", "index", "event"),
    z_order=("quarantined_at",),
    stats=("quarantined_at", "source", "source_id", "event_id", "ingested_at"),
)

_BRONZE_VERSION: Final = Column(
    "bronze_version",
    INT,
    "Version of bronze.events that the step which brought this row had read up to",
    required=True,
)

SILVER_EVENTS: Final = Table(
    name="silver.events",
    description="Every event once.",
    columns=(
        *FLAT,
        Column("first_source", STRING, "The source by which it reached the lake first", required=True),
        Column("ingested_at", TIMESTAMP, "When it reached the lake first, UTC", required=True),
        _BRONZE_VERSION,
        _date("event_date", "Date of timestamp"),
    ),
    partition_by="event_date",
    key=("event_id",),
    z_order=("event_id",),
    stats=(*_EVENT_STATS, "error_type", "ingested_at", "bronze_version"),
    bloom=("event_id", "run_id"),
)

SILVER_METRICS: Final = Table(
    name="silver.metrics",
    description="Every measured value: one row a metric of an event.",
    columns=(
        *_flat("event_id", "timestamp", "site_id", "app_name", "run_id", *_CONTEXT),
        Column("name", STRING, "The event's name", required=True),
        Column("metric", STRING, "The metric's name", required=True),
        Column("value", FLOAT, "The measured value", required=True),
        _BRONZE_VERSION,
        _date("event_date", "Date of timestamp"),
    ),
    partition_by="event_date",
    key=("event_id", "metric"),
    z_order=("metric", "tool", "timestamp"),
    stats=(
        "event_id",
        "timestamp",
        "site_id",
        "app_name",
        "run_id",
        "lot",
        "tool",
        "chamber",
        "name",
        "metric",
        "value",
        "bronze_version",
    ),
)

SILVER_RUNS: Final = Table(
    name="silver.runs",
    description="One row a run: what it did, where, how long, and how it ended. Late and out-of-order events are merged in.",
    columns=(
        Column("run_id", STRING, "UUID of the run", required=True),
        _BY_NAME["parent_run_id"],
        Column("name", STRING, "What ran: the name of its start, else of its end or progress; NULL while none of them is known"),
        *_flat("site_id", "app_name", *_CONTEXT, "product", "operator"),
        Column("started_at", TIMESTAMP, "When it started, UTC; NULL while its start is not known"),
        Column("ended_at", TIMESTAMP, "When it ended, UTC; NULL while its end is not known"),
        Column("status", STRING, "running, ok, failed, aborted, or lost (silent for too long without an end)", required=True),
        Column("duration_ms", FLOAT, "Milliseconds: the end's own figure, else ended_at less started_at"),
        Column("last_progress", FLOAT, "The latest progress reported, 0 to 1"),
        Column("error_type", STRING, "Type of the last error reported in the run"),
        Column("error_message", STRING, "What that error said"),
        Column("events", INT, "How many events of this run are in silver.events", required=True),
        Column("first_seen", TIMESTAMP, "Timestamp of its earliest event, UTC", required=True),
        Column("last_seen", TIMESTAMP, "Timestamp of its latest event, UTC", required=True),
        Column("identity_rank", INT, "The event that name, place and entities are from: 0 start, 1 end, 2 progress, 3 other"),
        Column("identity_at", TIMESTAMP, "Timestamp of that event, UTC"),
        Column("identity_event_id", STRING, "Id of that event"),
        Column("end_event_id", STRING, "Id of the event that ended the run"),
        Column("end_duration_ms", FLOAT, "Milliseconds as that event gave them"),
        Column("progress_at", TIMESTAMP, "When last_progress was reported, UTC"),
        Column("progress_event_id", STRING, "Id of the event that reported it"),
        Column("error_at", TIMESTAMP, "When the last error was reported, UTC"),
        Column("error_event_id", STRING, "Id of the event that reported it"),
        _date("run_date", "Date of started_at, else of first_seen"),
    ),
    partition_by="run_date",
    key=("run_id",),
    z_order=("run_id",),
    stats=(
        "run_id",
        "parent_run_id",
        "name",
        "site_id",
        "app_name",
        "lot",
        "tool",
        "recipe",
        "step",
        "status",
        "started_at",
        "ended_at",
        "last_seen",
        "error_type",
    ),
)

SILVER_TOOL_STATES: Final = Table(
    name="silver.tool_states",
    description="Intervals of the six SEMI E10 states: one row a state change of a tool or of one of its chambers.",
    columns=(
        *_flat("site_id"),
        Column("tool", STRING, "The tool", required=True),
        Column("chamber", STRING, "The chamber, if the state is one chamber's; NULL: the whole tool's"),
        Column("state", STRING, "The state in this interval", required=True),
        Column("from_state", STRING, "The state before, as the event told it"),
        Column("started_at", TIMESTAMP, "When the state was entered, UTC", required=True),
        Column("ended_at", TIMESTAMP, "When the next state was entered, UTC; NULL: it still is"),
        Column("event_id", STRING, "Id of the event that entered the state", required=True),
        _date("state_date", "Date of started_at"),
    ),
    partition_by="state_date",
    key=("event_id",),
    z_order=("tool", "started_at"),
    stats=("site_id", "tool", "chamber", "state", "started_at", "ended_at", "event_id"),
)

_HOUR: Final = Column("hour", TIMESTAMP, "Start of the hour, UTC", required=True)

GOLD_RUN_HOURLY: Final = Table(
    name="gold.run_hourly",
    description="Runs by the hour they started in: how many, how they ended, and how long they took.",
    columns=(
        _HOUR,
        *_flat("site_id", "app_name"),
        Column("name", STRING, "What ran"),
        *_flat("tool", "recipe", "step"),
        Column("runs", INT, "Runs that started in the hour", required=True),
        Column("ok", INT, "of which ended well", required=True),
        Column("failed", INT, "of which failed", required=True),
        Column("aborted", INT, "of which were aborted", required=True),
        Column("lost", INT, "of which never told their end", required=True),
        Column("running", INT, "of which have not ended yet", required=True),
        Column("duration_p50_ms", FLOAT, "Median duration of those that ended, milliseconds"),
        Column("duration_p95_ms", FLOAT, "95th percentile of the duration, milliseconds (linear interpolation)"),
        Column("duration_max_ms", FLOAT, "Longest duration, milliseconds"),
        Column("duration_sum_ms", FLOAT, "Sum of the durations, milliseconds"),
        _date("run_date", "Date of hour"),
    ),
    partition_by="run_date",
    key=("hour", "site_id", "app_name", "name", "tool", "recipe", "step"),
    z_order=("hour",),
    stats=("hour", "site_id", "app_name", "name", "tool", "recipe", "step"),
)

GOLD_ERROR_PARETO: Final = Table(
    name="gold.error_pareto",
    description="Errors of a day at a site, the most frequent first, with their share and the share accumulated.",
    columns=(
        _date("day", "Date of the events"),
        *_flat("site_id", "app_name", "name"),
        Column("error_type", STRING, "Type of the error; '(none)' for events of kind error without one", required=True),
        *_flat("tool", "recipe"),
        Column("events", INT, "How many", required=True),
        Column("runs", INT, "In how many runs", required=True),
        Column("rank", INT, "1 for the most frequent of the site and day", required=True),
        Column("share", FLOAT, "Of all errors of the site and day, 0 to 1", required=True),
        Column("cumulative_share", FLOAT, "Of this and all more frequent ones, 0 to 1", required=True),
    ),
    partition_by="day",
    key=("day", "site_id", "app_name", "name", "error_type", "tool", "recipe"),
    z_order=("site_id", "rank"),
    stats=("site_id", "app_name", "name", "error_type", "tool", "recipe", "rank"),
)

GOLD_TOOL_STATE: Final = Table(
    name="gold.tool_state",
    description="How long each tool was in each SEMI E10 state on a day; the states of a tool partition its known time exactly.",
    columns=(
        *_flat("site_id"),
        Column("tool", STRING, "The tool", required=True),
        Column("chamber", STRING, "The chamber; NULL: the whole tool"),
        _date("day", "The day"),
        Column("state", STRING, "The state", required=True),
        Column("seconds", FLOAT, "Time in the state on that day, seconds", required=True),
        Column("share", FLOAT, "Of the time that is known for the tool on that day, 0 to 1"),
        Column("changes", INT, "How often the state was entered on that day", required=True),
    ),
    partition_by="day",
    key=("site_id", "tool", "chamber", "day", "state"),
    z_order=("tool",),
    stats=("site_id", "tool", "chamber", "state"),
)

GOLD_CUSTODY: Final = Table(
    name="gold.custody",
    description="For every emitter and hour: how many events it numbered, and how many of them are in each place.",
    columns=(
        Column("emitter_id", STRING, "UUID of the process start; '' for events that carry no emitter", required=True),
        Column("hour", TIMESTAMP, "Start of the hour of the events' timestamps, UTC", required=True),
        *_flat("app_name", "site_id"),
        Column("numbered", INT, "Largest number in the hour less the smallest, plus one; NULL without an emitter"),
        Column("in_spool", INT, "Events in the spools that were looked at; NULL: none was"),
        Column("in_hot", INT, "Events in the hot store that the lake has been told of; NULL: it was not asked"),
        Column("in_bronze", INT, "Events in bronze.events, each counted once", required=True),
        Column("in_silver", INT, "Events in silver.events", required=True),
        Column("gaps", STRING, "Numbers that no place has, as ranges such as '17-20, 33'", required=True),
        Column("missing", INT, "How many numbers that is", required=True),
        Column("dropped", INT, "How many losses the emitter reported itself (sdk.dropped), which explain gaps", required=True),
        Column(
            "acknowledged_missing",
            INT,
            "Events in spool or hot store that silver.events has not: must be 0",
            required=True,
        ),
        _date("day", "Date of hour"),
    ),
    partition_by="day",
    key=("emitter_id", "hour"),
    z_order=("emitter_id",),
    stats=("emitter_id", "hour", "app_name", "site_id", "missing", "acknowledged_missing"),
)

TABLES: Final[dict[str, Table]] = {
    table.name: table
    for table in (
        BRONZE_EVENTS,
        BRONZE_QUARANTINE,
        SILVER_EVENTS,
        SILVER_METRICS,
        SILVER_RUNS,
        SILVER_TOOL_STATES,
        GOLD_RUN_HOURLY,
        GOLD_ERROR_PARETO,
        GOLD_TOOL_STATE,
        GOLD_CUSTODY,
    )
}
"""Every table by its name (`layer.table`)."""

_TYPE_NAMES: Final = {STRING: "string", INT: "bigint", FLOAT: "double", DATE: "date", TIMESTAMP: "timestamp"}


def type_name(column: Column) -> str:
    """The column's type as SQL writes it."""
    return _TYPE_NAMES[column.type]


def data_dictionary() -> str:
    """Every table and column as Markdown, for the documentation."""
    parts = ["# Data dictionary", "", "Made from `lakehouse/tables.py`. Timestamps are UTC, in microseconds, without zone."]
    for table in TABLES.values():
        kept = "for ever" if table.retention is None else f"{table.retention.days} days"
        parts += ["", f"## {table.name}", "", table.description, ""]
        parts += [f"One row for each `{', '.join(table.key)}`; partitioned by `{table.partition_by}`; kept {kept}.", ""]
        parts += ["| column | type | required | meaning |", "| --- | --- | --- | --- |"]
        for column in table.columns:
            text = column.description.replace("|", "\\|")
            parts.append(f"| `{column.name}` | {type_name(column)} | {'yes' if column.required else ''} | {text} |")
    return "\n".join(parts) + "\n"
