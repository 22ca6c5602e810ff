"""The first tables: events, metrics, their aggregates, and who has read how far.

Indexes cost on every insert, so each names the question it serves:

- events_key (event_id, timestamp): duplicates, and an event by its id. UUIDv7 ids grow, so inserts stay at the right edge.
- events_time (timestamp, site_id): a time range in order; the site is looked at inside the index, for one or many.
- events_run, events_lot, events_tool: all of a run, of a lot, of a tool in time order; partial, since many events name none.
- events_xid (ingest_xid): what readers that follow transactions read next. A batch is one key, which takes almost no room.
- metrics_name (name, timestamp): the points of a metric.
- metrics_time: a BRIN index of a few pages, for scans by time alone.
"""

from alembic import context, op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

EVENTS = """
CREATE TABLE trackmate.events (
    event_id uuid NOT NULL,
    "timestamp" timestamp NOT NULL,
    kind text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL,
    site_id text COLLATE "C" NOT NULL,
    app_name text COLLATE "C" NOT NULL,
    app_version text COLLATE "C",
    app_instance_id text COLLATE "C",
    run_id uuid,
    parent_run_id uuid,
    emitter_id uuid,
    emitter_seq bigint,
    lot text COLLATE "C",
    wafer text COLLATE "C",
    tool text COLLATE "C",
    chamber text COLLATE "C",
    recipe text COLLATE "C",
    step text COLLATE "C",
    product text COLLATE "C",
    operator text COLLATE "C",
    entities jsonb,
    status text COLLATE "C",
    severity text COLLATE "C" NOT NULL,
    message text,
    progress double precision,
    duration_ms double precision,
    state_from text COLLATE "C",
    state_to text COLLATE "C",
    metrics json,
    error_type text COLLATE "C",
    error_message text,
    error_stack text,
    trace_id text COLLATE "C",
    span_id text COLLATE "C",
    attributes json,
    ingest_xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    ingested_at timestamp NOT NULL DEFAULT (now() AT TIME ZONE 'UTC')
){partitioned}
"""

METRICS = """
CREATE TABLE trackmate.metrics (
    event_id uuid NOT NULL,
    "timestamp" timestamp NOT NULL,
    site_id text COLLATE "C" NOT NULL,
    app_name text COLLATE "C" NOT NULL,
    tool text COLLATE "C",
    chamber text COLLATE "C",
    recipe text COLLATE "C",
    name text COLLATE "C" NOT NULL,
    value double precision NOT NULL
){partitioned}
"""

INDEXES = """
CREATE UNIQUE INDEX events_key ON trackmate.events (event_id, "timestamp");
CREATE INDEX events_time ON trackmate.events ("timestamp", site_id);
CREATE INDEX events_run ON trackmate.events (run_id, "timestamp") WHERE run_id IS NOT NULL;
CREATE INDEX events_lot ON trackmate.events (lot, "timestamp") WHERE lot IS NOT NULL;
CREATE INDEX events_tool ON trackmate.events (tool, "timestamp") WHERE tool IS NOT NULL;
CREATE INDEX events_xid ON trackmate.events (ingest_xid);
CREATE INDEX metrics_name ON trackmate.metrics (name, "timestamp");
CREATE INDEX metrics_time ON trackmate.metrics USING brin ("timestamp") WITH (pages_per_range = 32);
"""

# Written as one text for both forms: aggregate tables hold exactly what the continuous aggregates compute.
EVENT_KEYS = "site_id, app_name, tool, kind, severity"
EVENT_VALUES = "events, failed, aborted, duration_count, duration_sum, duration_max"
METRIC_KEYS = "site_id, app_name, tool, chamber, recipe, name"
METRIC_VALUES = "count, min, max, sum_count, sum, sum_squares"

AGGREGATE_TABLES = """
CREATE TABLE trackmate.events_{unit} (
    bucket timestamp NOT NULL,
    site_id text COLLATE "C" NOT NULL,
    app_name text COLLATE "C" NOT NULL,
    tool text COLLATE "C" NOT NULL,
    kind text COLLATE "C" NOT NULL,
    severity text COLLATE "C" NOT NULL,
    events bigint NOT NULL,
    failed bigint NOT NULL,
    aborted bigint NOT NULL,
    duration_count bigint NOT NULL,
    duration_sum double precision NOT NULL,
    duration_max double precision,
    PRIMARY KEY (bucket, site_id, app_name, tool, kind, severity)
);
CREATE TABLE trackmate.metrics_{unit} (
    bucket timestamp NOT NULL,
    site_id text COLLATE "C" NOT NULL,
    app_name text COLLATE "C" NOT NULL,
    tool text COLLATE "C" NOT NULL,
    chamber text COLLATE "C" NOT NULL,
    recipe text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL,
    count bigint NOT NULL,
    min double precision NOT NULL,
    max double precision NOT NULL,
    sum_count bigint NOT NULL,
    sum double precision NOT NULL,
    sum_squares double precision NOT NULL,
    PRIMARY KEY (bucket, name, site_id, app_name, tool, chamber, recipe)
);
"""

CONTINUOUS_MINUTES = """
CREATE MATERIALIZED VIEW trackmate.events_1m WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
SELECT time_bucket('1 minute', "timestamp") AS bucket, site_id, app_name, coalesce(tool, '') AS tool, kind, severity,
    count(*) AS events,
    count(*) FILTER (WHERE status = 'failed') AS failed,
    count(*) FILTER (WHERE status = 'aborted') AS aborted,
    count(duration_ms) FILTER (WHERE duration_ms <= 1e140) AS duration_count,
    coalesce(sum(duration_ms) FILTER (WHERE duration_ms <= 1e140), 0) AS duration_sum,
    max(duration_ms) AS duration_max
FROM trackmate.events GROUP BY 1, 2, 3, 4, 5, 6 WITH NO DATA;
CREATE MATERIALIZED VIEW trackmate.metrics_1m WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
SELECT time_bucket('1 minute', "timestamp") AS bucket, site_id, app_name, coalesce(tool, '') AS tool,
    coalesce(chamber, '') AS chamber, coalesce(recipe, '') AS recipe, name,
    count(*) AS count, min(value) AS min, max(value) AS max,
    count(*) FILTER (WHERE abs(value) <= 1e140) AS sum_count,
    coalesce(sum(value) FILTER (WHERE abs(value) <= 1e140), 0) AS sum,
    coalesce(sum(value * value) FILTER (WHERE abs(value) BETWEEN 1e-150 AND 1e140), 0) AS sum_squares
FROM trackmate.metrics GROUP BY 1, 2, 3, 4, 5, 6, 7 WITH NO DATA;
"""

CONTINUOUS_HOURS = """
CREATE MATERIALIZED VIEW trackmate.events_1h WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
SELECT time_bucket('1 hour', bucket) AS bucket, site_id, app_name, tool, kind, severity,
    sum(events)::bigint AS events, sum(failed)::bigint AS failed, sum(aborted)::bigint AS aborted,
    sum(duration_count)::bigint AS duration_count, sum(duration_sum) AS duration_sum, max(duration_max) AS duration_max
FROM trackmate.events_1m GROUP BY 1, 2, 3, 4, 5, 6 WITH NO DATA;
CREATE MATERIALIZED VIEW trackmate.metrics_1h WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
SELECT time_bucket('1 hour', bucket) AS bucket, site_id, app_name, tool, chamber, recipe, name,
    sum(count)::bigint AS count, min(min) AS min, max(max) AS max,
    sum(sum_count)::bigint AS sum_count, sum(sum) AS sum, sum(sum_squares) AS sum_squares
FROM trackmate.metrics_1m GROUP BY 1, 2, 3, 4, 5, 6, 7 WITH NO DATA;
"""

BOOKS = """
CREATE TABLE trackmate.replication (
    reader text COLLATE "C" PRIMARY KEY,
    confirmed_xid bigint NOT NULL,
    confirmed_at timestamp NOT NULL DEFAULT (now() AT TIME ZONE 'UTC')
);
CREATE TABLE trackmate.store (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    level text NOT NULL
);
CREATE TABLE trackmate.dropped (
    day date PRIMARY KEY
);
"""

HYPERTABLE = """
SELECT create_hypertable('trackmate.{table}', 'timestamp',
    chunk_time_interval => interval '1 day', create_default_indexes => false)
"""

DEFAULT_PARTITIONS = """
CREATE TABLE trackmate.events_default PARTITION OF trackmate.events DEFAULT;
CREATE TABLE trackmate.metrics_default PARTITION OF trackmate.metrics DEFAULT;
"""

# Every column of orderby gets its smallest and largest value noted: ingest_xid is there for the readers that follow it.
COMPRESSION = """
ALTER TABLE trackmate.events SET (timescaledb.compress, timescaledb.compress_segmentby = 'site_id',
    timescaledb.compress_orderby = '"timestamp", ingest_xid, event_id');
ALTER TABLE trackmate.metrics SET (timescaledb.compress, timescaledb.compress_segmentby = 'site_id, name',
    timescaledb.compress_orderby = '"timestamp"');
"""


def upgrade() -> None:
    level = context.config.attributes["level"]
    partitioned = ' PARTITION BY RANGE ("timestamp")' if level == "plain" else ""
    run(EVENTS.format(partitioned=partitioned))
    run(METRICS.format(partitioned=partitioned))
    run(BOOKS)
    run(f"INSERT INTO trackmate.store (level) VALUES ('{level}')")
    if level == "plain":
        run(DEFAULT_PARTITIONS)
    else:
        for table in ("events", "metrics"):
            run(HYPERTABLE.format(table=table))
    run(INDEXES)
    if level == "community":
        run(COMPRESSION)
        run(CONTINUOUS_MINUTES)
        run(CONTINUOUS_HOURS)
    else:
        for unit in ("1m", "1h"):
            run(AGGREGATE_TABLES.format(unit=unit))
        run("INSERT INTO trackmate.replication (reader, confirmed_xid) VALUES ('aggregates', 0)")


def run(statements: str) -> None:
    """Send the text as it is: no parameters, so no colon or percent sign in it means anything."""
    for statement in statements.split(";"):
        if statement.strip():
            op.get_bind().exec_driver_sql(statement)


def downgrade() -> None:
    message = "the first version can't be undone: it would drop every event"
    raise NotImplementedError(message)
