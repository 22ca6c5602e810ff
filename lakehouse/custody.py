"""Custody: for every emitter and hour, how many events it numbered and how many of them are in each place; gaps named.

Places are compared as of one moment, so that what is merely on its way raises no alarm: silver.events has read bronze.events up
to one version; the hot store and the spools are judged by what that version had taken of them.

- *Acknowledged and missing*: rows of the hot store or a spool that bronze says it has taken and has not, and events of bronze
  that silver has not. There must be none.
- *Gaps*: numbers that no event bears, though later ones of the same emitter arrived. Losses that the SDK reported itself
  (`sdk.dropped`, whose metrics are a count for each reason) explain as many of them.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

import duckdb
import pyarrow as pa

from contract.settings import Secret
from lakehouse.arrow_events import LineParser
from lakehouse.bronze import SpoolRecord, hot_app_id, spool_app_id
from lakehouse.files import DataFile, active_files
from lakehouse.lake import Lake, identifiers, quote, scan
from lakehouse.silver.step import Refreshed, source_cursor
from lakehouse.tables import BRONZE_EVENTS, GOLD_CUSTODY, INT, SILVER_EVENTS, STRING, TIMESTAMP
from lakehouse.writer import replace_partitions

SETTLE: Final = timedelta(minutes=10)
"""How long after a later event a number may still be on its way before it is called missing."""

LOOK_BACK: Final = timedelta(days=1)
"""How far before the days looked at an emitter's numbers are followed, so that a gap between two days is seen."""

COUNTS: Final = pa.schema([pa.field("emitter_id", STRING), pa.field("hour", TIMESTAMP), pa.field("events", INT)])
"""What a place outside the lake has: events for each emitter ('' for none) and hour."""


@dataclass(frozen=True)
class Outside:
    """Counts (in COUNTS) of one spool or hot store, as far as the lake has taken it in."""

    source: str
    source_id: str
    counts: pa.Table


@dataclass(frozen=True)
class Finding:
    """One emitter and hour that is not whole."""

    emitter_id: str
    hour: datetime
    app_name: str | None
    site_id: str | None
    acknowledged_missing: int
    missing: int
    gaps: str


@dataclass(frozen=True)
class CustodyReport:
    """What custody found; `ok` unless something acknowledged is missing; `unexplained` were never acknowledged."""

    emitters: int
    numbered: int
    in_silver: int
    acknowledged_missing: int
    missing: int
    dropped: int
    unexplained: int
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether everything that was acknowledged is there."""
        return self.acknowledged_missing == 0


def judged_version(lake: Lake) -> int | None:
    """The version of bronze.events that silver.events has read up to, as of which places are compared; None: nothing yet."""
    version: int | None = lake.table(SILVER_EVENTS.name).transaction_version(source_cursor(lake, BRONZE_EVENTS.name))
    return version


def spool_counts(lake: Lake, spool_id: str, records: Iterable[SpoolRecord]) -> Outside:
    """What a spool still holds of the events that the lake has taken; `records` may be all of its closed segments, in order."""
    version = judged_version(lake)
    taken = (
        None if version is None else lake.table(BRONZE_EVENTS.name, version=version).transaction_version(spool_app_id(spool_id))
    )
    parts = [COUNTS.empty_table()]
    with LineParser() as parser, duckdb.connect() as connection:
        for record in records:
            if taken is None or record.seq + record.count - 1 > taken:
                break
            connection.register("events", parser.parse(record.ndjson()).events)
            parts.append(connection.execute(_COUNT.format(rows="events")).to_arrow_table().cast(COUNTS))
    return Outside("spool", spool_id, pa.concat_tables(parts))


def hot_counts(lake: Lake, dsn: str | Secret, dates: Sequence[date]) -> Outside:
    """What the hot store has on these days of the transactions that the lake has taken."""
    from lakehouse.hot.reader import custody_counts, system_identifier

    cluster = system_identifier(dsn)
    version = judged_version(lake)
    bronze = None if version is None else lake.table(BRONZE_EVENTS.name, version=version)
    taken = None if bronze is None else bronze.transaction_version(hot_app_id(cluster))
    if taken is None or not dates:
        return Outside("hot", cluster, COUNTS.empty_table())
    start, end = _span(dates)
    counts = custody_counts(dsn, start.replace(tzinfo=UTC), end.replace(tzinfo=UTC), up_to_xid=taken)
    return Outside("hot", cluster, counts.select(COUNTS.names))


_COUNT: Final = """
    SELECT coalesce(emitter_id, '') AS emitter_id, date_trunc('hour', "timestamp") AS hour, count(*) AS events
    FROM {rows} GROUP BY ALL
"""


def refresh_custody(
    lake: Lake,
    dates: Iterable[date],
    *,
    outside: Sequence[Outside] = (),
    now: datetime | None = None,
    settle: timedelta = SETTLE,
) -> Refreshed:
    """Compute these days of gold.custody anew; `outside` is what `hot_counts` and `spool_counts` gave for them."""
    started = time.monotonic()
    days = tuple(sorted(set(dates)))
    version = judged_version(lake)
    if not days or version is None:
        return Refreshed(0, 0, 0, version, version, lake.version(GOLD_CUSTODY.name), time.monotonic() - started, days)
    moment = (now or datetime.now(UTC)).astimezone(UTC).replace(tzinfo=None)
    with lake.connect() as connection:
        _load(lake, connection, days, version, outside)
        query = _QUERY.format(
            dates=", ".join(f"DATE {quote(day.isoformat())}" for day in days),
            first=f"TIMESTAMP {quote(_span(days)[0].isoformat(sep=' '))}",
            settled=f"TIMESTAMP {quote((moment - settle).isoformat(sep=' '))}",
            columns=identifiers(GOLD_CUSTODY.names),
        )

        def rows() -> pa.RecordBatchReader:
            return connection.execute(query).to_arrow_reader(65_536)

        commit = replace_partitions(lake, GOLD_CUSTODY.name, rows, days)
    return Refreshed(commit.rows, commit.bytes, commit.rows, None, version, commit.version, time.monotonic() - started, days)


def check(lake: Lake, dates: Iterable[date] | None = None) -> CustodyReport:
    """What gold.custody says about these days, or all: `ok` is False when anything acknowledged is missing."""
    table = lake.table(GOLD_CUSTODY.name)
    wanted = None if dates is None else set(dates)
    files = [file.uri for file in active_files(lake, GOLD_CUSTODY.name, table) if wanted is None or file.partition in wanted]
    rows = scan(GOLD_CUSTODY, files)
    with lake.connect() as connection:
        sums: Any = connection.execute(
            f"""
            SELECT count(*) FILTER (emitter_id <> ''), sum(numbered), sum(in_silver), sum(acknowledged_missing), sum(missing),
                   sum(dropped), sum(greatest(missing - dropped, 0))
            FROM (SELECT emitter_id, sum(numbered) AS numbered, sum(in_silver) AS in_silver, sum(missing) AS missing,
                         sum(acknowledged_missing) AS acknowledged_missing, sum(dropped) AS dropped
                  FROM {rows} GROUP BY emitter_id)
            """
        ).fetchone()
        findings = connection.execute(
            f"""
            SELECT emitter_id, hour, app_name, site_id, acknowledged_missing, missing, gaps FROM {rows}
            WHERE acknowledged_missing > 0 OR missing > 0
            ORDER BY acknowledged_missing DESC, missing DESC, hour, emitter_id LIMIT 100
            """
        ).fetchall()
    emitters, numbered, in_silver, acknowledged_missing, missing, dropped, unexplained = (int(value or 0) for value in sums)
    return CustodyReport(
        emitters=emitters,
        numbered=numbered,
        in_silver=in_silver,
        acknowledged_missing=acknowledged_missing,
        missing=missing,
        dropped=dropped,
        unexplained=unexplained,
        findings=tuple(Finding(*row) for row in findings),
    )


def _span(days: Sequence[date]) -> tuple[datetime, datetime]:
    start = datetime.combine(min(days), datetime.min.time())
    return start, datetime.combine(max(days), datetime.min.time()) + timedelta(days=1)


def _load(
    lake: Lake, connection: duckdb.DuckDBPyConnection, days: Sequence[date], version: int, outside: Sequence[Outside]
) -> None:
    """Make the tables `bronze`, `silver` and `places`: the events of these days, and what is outside the lake."""
    start, end = _span(days)
    window = f"\"timestamp\" >= TIMESTAMP '{start - LOOK_BACK}' AND \"timestamp\" < TIMESTAMP '{end}'"

    def rows(name: str, files: Sequence[DataFile], columns: Sequence[str]) -> str:
        near = [file.uri for file in files if file.may_hold("timestamp", start - LOOK_BACK, end)]
        return f"(SELECT * FROM {scan(lake.declaration(name), near, columns=columns)} WHERE {window})"

    common = ["event_id", "timestamp", "emitter_id", "emitter_seq", "app_name", "site_id"]
    bronze = active_files(lake, BRONZE_EVENTS.name, lake.table(BRONZE_EVENTS.name, version=version))
    silver = active_files(lake, SILVER_EVENTS.name, lake.table(SILVER_EVENTS.name))
    bronze_rows = rows(BRONZE_EVENTS.name, bronze, [*common, "source", "source_id"])
    silver_rows = rows(SILVER_EVENTS.name, silver, [*common, "name", "metrics", "ingested_at"])
    hour = "coalesce(emitter_id, '') AS emitter_id, date_trunc('hour', \"timestamp\") AS hour"
    connection.execute(
        f"""
        CREATE TEMP TABLE bronze AS
        SELECT {hour}, count(DISTINCT event_id) AS in_bronze, min(app_name) AS app_name, min(site_id) AS site_id
        FROM {bronze_rows} GROUP BY ALL;
        CREATE TEMP TABLE taken AS SELECT {hour}, source, source_id, count(*) AS events FROM {bronze_rows} GROUP BY ALL;
        CREATE TEMP TABLE unread AS
        SELECT {hour}, count(DISTINCT event_id) AS events
        FROM {bronze_rows} ANTI JOIN {silver_rows} AS s USING (event_id) GROUP BY ALL;
        CREATE TEMP TABLE silver AS
        SELECT {hour}, count(*) AS in_silver, max(emitter_seq) - min(emitter_seq) + 1 AS numbered,
               coalesce(sum(CASE WHEN name = 'sdk.dropped'
                            THEN list_sum(map_values(from_json(metrics, '"MAP(VARCHAR, DOUBLE)"'))) END), 0) AS dropped
        FROM {silver_rows} GROUP BY ALL;
        CREATE TEMP TABLE numbers AS
        SELECT emitter_id, "timestamp", emitter_seq, ingested_at,
               lag(emitter_seq) OVER (PARTITION BY emitter_id ORDER BY emitter_seq, "timestamp") AS previous
        FROM {silver_rows} WHERE emitter_id IS NOT NULL AND emitter_seq IS NOT NULL;
        CREATE TEMP TABLE places (source VARCHAR, source_id VARCHAR, emitter_id VARCHAR, hour TIMESTAMP, events BIGINT);
        """
    )
    for place in outside:
        connection.register("counts", place.counts)
        connection.execute(
            "INSERT INTO places SELECT ?, ?, coalesce(emitter_id, ''), hour, sum(events) FROM counts GROUP BY ALL",
            [place.source, place.source_id],
        )
        connection.unregister("counts")


# A number below the first one seen is missing only if the emitter was born in the days looked at, as its UUIDv7 tells.
_QUERY: Final = """
    WITH gaps AS (
        SELECT emitter_id, date_trunc('hour', "timestamp") AS hour, previous + 1 AS low, emitter_seq - 1 AS high
        FROM (SELECT * REPLACE (coalesce(previous, CASE WHEN emitter_id[15] = '7' AND make_timestamp(
                  CAST('0x' || emitter_id[1:8] || emitter_id[10:13] AS BIGINT) * 1000) >= {first} THEN 0 END) AS previous)
              FROM numbers)
        WHERE emitter_seq > previous + 1 AND ingested_at < {settled}
    ),
    named AS (
        SELECT emitter_id, hour, sum(high - low + 1) AS missing,
               string_agg(CASE WHEN low = high THEN CAST(low AS VARCHAR) ELSE low || '-' || high END, ', ' ORDER BY low) AS gaps
        FROM gaps GROUP BY ALL
    ),
    outside AS (
        SELECT p.emitter_id, p.hour,
               sum(p.events) FILTER (p.source = 'spool') AS in_spool, sum(p.events) FILTER (p.source = 'hot') AS in_hot,
               sum(greatest(p.events - coalesce(t.events, 0), 0)) AS missing
        FROM places AS p LEFT JOIN taken AS t USING (source, source_id, emitter_id, hour) GROUP BY ALL
    ),
    hours AS (
        SELECT emitter_id, hour FROM bronze UNION SELECT emitter_id, hour FROM silver UNION SELECT emitter_id, hour FROM outside
    ),
    counted AS (
        SELECT h.emitter_id, h.hour, b.app_name, b.site_id, s.numbered, o.in_spool, o.in_hot,
               coalesce(b.in_bronze, 0) AS in_bronze, coalesce(s.in_silver, 0) AS in_silver,
               coalesce(n.gaps, '') AS gaps, coalesce(n.missing, 0) AS missing, coalesce(s.dropped, 0) AS dropped,
               coalesce(o.missing, 0) + coalesce(u.events, 0) AS acknowledged_missing,
               CAST(h.hour AS DATE) AS day
        FROM hours AS h LEFT JOIN bronze AS b USING (emitter_id, hour) LEFT JOIN silver AS s USING (emitter_id, hour)
             LEFT JOIN outside AS o USING (emitter_id, hour) LEFT JOIN unread AS u USING (emitter_id, hour)
             LEFT JOIN named AS n USING (emitter_id, hour)
    )
    SELECT {columns} FROM counted WHERE day IN ({dates})
"""
