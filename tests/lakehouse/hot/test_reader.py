"""Following the store by transaction, and asking it: nothing committed is ever passed over, and every filter is right."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from contract.columns import NAMES, flatten
from contract.event import Event
from contract.ids import stable_id, uuid7
from contract.request import Cursor, EventRequest, severities_from
from contract.settings import Secret
from lakehouse.hot import reader
from lakehouse.hot.errors import HotStoreError, HotStoreUnavailable, NotMigrated
from lakehouse.hot.writer import HotWriter
from tests.lakehouse.hot.events import NOW, event, many, stored
from tests.services.base import free_port

INSERT = """INSERT INTO trackmate.events (event_id, "timestamp", kind, name, site_id, app_name, severity)
    VALUES (%s, %s, 'log', 'x', 'fab1', 'a', 'info')"""


@pytest.fixture
def place(dsn: str) -> int:
    """Where a reader stands that has read all there is: on hypertables the first event of a day makes others wait."""
    with session(dsn) as connection:
        insert(connection)
    return reader.read_since(dsn, 0, 10).last_xid


def session(dsn: str) -> psycopg.Connection:
    """A transaction of somebody else's, that never waits for ever."""
    return psycopg.connect(dsn, options="-c statement_timeout=10s")


def insert(connection: psycopg.Connection, moment: datetime = NOW) -> str:
    """One event in an open transaction of the caller's."""
    event_id = uuid7()
    connection.execute(INSERT, [event_id, moment.replace(tzinfo=None)])
    return event_id


def follow(dsn: str, after: int = 0, max_rows: int = 1000) -> Iterator[reader.Page]:
    """Pages until there is no more."""
    while True:
        page = reader.read_since(dsn, after, max_rows)
        yield page
        after = page.last_xid
        if not page.more:
            return


def ids(page: reader.Page) -> list[str]:
    read: list[str] = page.table["event_id"].to_pylist()
    return read


# ------------------------------------------------------------------------------------------------- commits out of order


def test_a_transaction_that_commits_late_is_passed_over(dsn: str, place: int) -> None:
    with session(dsn) as early, session(dsn) as late:
        first = insert(early)
        second = insert(late)
        late.commit()
        page = reader.read_since(dsn, place, 100)
        # The second is committed, but the first may still come: neither is read yet.
        assert ids(page) == []
        early.commit()
        page = reader.read_since(dsn, page.last_xid, 100)
    assert sorted(ids(page)) == sorted([first, second])


NAIVE = {
    "follows event time": ('"timestamp"', 'max("timestamp")'),
    "follows arrival time": ("ingested_at", "max(ingested_at)"),
    "follows a sequence": ("position", "max(position)"),
    "follows transactions without the horizon": ("ingest_xid::text::bigint", "max(ingest_xid::text::bigint)"),
}


@pytest.mark.parametrize(("column", "last"), NAIVE.values(), ids=NAIVE)
def test_the_proof_itself_proves_nothing(dsn: str, place: int, column: str, last: str) -> None:
    """The same two transactions, read by whoever follows something else than the horizon: the first event is lost."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("CREATE SEQUENCE trackmate.positions")
        connection.execute("ALTER TABLE trackmate.events ADD COLUMN position bigint")
        connection.execute("ALTER TABLE trackmate.events ALTER COLUMN position SET DEFAULT nextval('trackmate.positions')")
    with session(dsn) as early, session(dsn) as late, psycopg.connect(dsn, autocommit=True) as naive:
        first = insert(early, NOW)
        second = insert(late, NOW + timedelta(seconds=1))
        late.commit()
        seen = {row[0] for row in naive.execute("SELECT event_id::text FROM trackmate.events")}
        reached = naive.execute(f"SELECT {last} FROM trackmate.events").fetchone()
        early.commit()
        rest = naive.execute(f"SELECT event_id::text FROM trackmate.events WHERE {column} > %s", reached)
        seen |= {row[0] for row in rest}
    assert second in seen
    assert first not in seen
    assert {row for page in follow(dsn, place) for row in ids(page)} == {first, second}


def test_a_late_event_is_passed_over(dsn: str) -> None:
    with session(dsn) as connection:
        insert(connection)
        connection.commit()
        page = reader.read_since(dsn, 0, 10)
        late = insert(connection, NOW - timedelta(days=60))
        connection.commit()
    assert ids(reader.read_since(dsn, page.last_xid, 10)) == [late]


def test_what_was_rolled_back_stops_the_reader(dsn: str) -> None:
    with session(dsn) as connection:
        insert(connection)
        connection.rollback()
        kept = insert(connection)
        connection.commit()
    assert [ids(page) for page in follow(dsn)] == [[kept]]


def test_transactions_in_random_order_are_lost_or_read_twice(dsn: str, place: int) -> None:
    """Many transactions open at once, ended in any order, with a reader in between: a model of a busy gateway."""
    dice = random.Random(7)
    committed: list[str] = []
    seen: list[str] = []
    open_ones: list[tuple[psycopg.Connection, list[str]]] = []
    for _ in range(60):
        if len(open_ones) < 5 and dice.random() < 0.6:
            connection = session(dsn)
            open_ones.append((connection, [insert(connection) for _ in range(dice.randint(1, 4))]))
        elif open_ones:
            connection, written = open_ones.pop(dice.randrange(len(open_ones)))
            if dice.random() < 0.8:
                connection.commit()
                committed += written
            else:
                connection.rollback()
            connection.close()
        if dice.random() < 0.3:
            page = reader.read_since(dsn, place, dice.randint(1, 6))
            seen += ids(page)
            place = page.last_xid
    for connection, written in open_ones:
        connection.commit()
        committed += written
        connection.close()
    for page in follow(dsn, place, 3):
        seen += ids(page)
    assert sorted(seen) == sorted(committed)


# ----------------------------------------------------------------------------------------------------------------- pages


async def test_a_page_ends_inside_a_transaction(writer: HotWriter, dsn: str) -> None:
    for size in (3, 3, 10, 1, 3):
        await writer.write(many(size))
    pages = list(follow(dsn, max_rows=6))
    assert [page.table.num_rows for page in pages] == [6, 10, 4]
    assert [page.more for page in pages] == [True, True, False]
    assert sorted(row for page in pages for row in ids(page)) == stored(dsn)
    xids = [set(page.table["ingest_xid"].to_pylist()) for page in pages]
    assert all(one.isdisjoint(other) for one, other in itertools.combinations(xids, 2))


def test_an_empty_store_has_another_schema_or_moves_the_place(dsn: str) -> None:
    page = reader.read_since(dsn, 41, 10)
    assert (page.table.schema, page.table.num_rows, page.last_xid, page.more) == (reader.FULL_SCHEMA, 0, 41, False)


async def test_a_reader_does_not_hear_that_there_is_more(writer: HotWriter, dsn: str) -> None:
    assert not reader.has_unconfirmed(dsn, "lake")
    await writer.write(many(2))
    assert reader.has_unconfirmed(dsn, "lake")
    reader.confirm(dsn, "lake", reader.read_since(dsn, 0, 10).last_xid)
    assert not reader.has_unconfirmed(dsn, "lake")


def test_a_confirmation_moves_back(dsn: str) -> None:
    for xid in (5, 9, 7):
        reader.confirm(dsn, "lake", xid)
    assert reader.confirmations(dsn)["lake"] == 9


def test_two_clusters_have_one_identity(dsn: str, server: Any, request: pytest.FixtureRequest) -> None:
    assert reader.system_identifier(dsn) == reader.system_identifier(server.dsn(server.maintenance))
    assert reader.system_identifier(dsn).isdigit()


# -------------------------------------------------------------------------------------------------------------- requests

RUN, TRACE = uuid7(), "0af7651916cd43dd8448eb211c80319c"


def corpus() -> list[Event]:
    """Events that differ in everything that can be asked for, with equal timestamps among them."""
    dice = random.Random(3)
    made = []
    for number in range(120):
        moment = NOW + timedelta(minutes=dice.randrange(-3000, 3000, 50))
        made.append(
            event(
                event_id=stable_id(f"{number}", moment),
                timestamp=moment,
                kind=dice.choice(["log", "start"]),
                name=dice.choice(["etch", "Dünnschicht 100%", "a_b"]),
                site_id=dice.choice(["fab1", "fab2", "fab'3"]),
                severity=dice.choice(["debug", "info", "warning", "error", "critical"]),
                message=dice.choice(["Chamber LEAK", "ÄRGER", "ok", "50%", "back\\slash"]),
                **({"run_id": RUN} if dice.random() < 0.2 else {}),
                **({"trace_id": TRACE} if dice.random() < 0.2 else {}),
                **({"entities": {"lot": dice.choice("AB"), "slot": dice.choice("12")}} if dice.random() < 0.8 else {}),
            )
        )
    return made


def expected(events: list[Event], request: EventRequest) -> list[str]:
    """What the request means, in Python."""

    def wanted(row: dict[str, Any], entities: dict[str, str]) -> bool:
        text = (request.text or "").lower()
        place = (row["timestamp"], row["event_id"])
        after = request.after and (request.after.timestamp.replace(tzinfo=None), request.after.event_id)
        return (
            request.start.replace(tzinfo=None) <= row["timestamp"] < request.end.replace(tzinfo=None)
            and (request.sites is None or row["site_id"] in request.sites)
            and (not request.kinds or row["kind"] in request.kinds)
            and (not request.names or row["name"] in request.names)
            and request.entities.items() <= entities.items()
            and request.run_id in {None, row["run_id"]}
            and request.trace_id in {None, row["trace_id"]}
            and (request.severity_min is None or row["severity"] in severities_from(request.severity_min))
            and any(text in (row[name] or "").lower() for name in ("name", "message", "error_message"))
            and (not after or (place > after if request.order == "asc" else place < after))
        )

    rows = [(dict(zip(NAMES, flatten(each), strict=True)), each.entities or {}) for each in events]
    places = sorted((row["timestamp"], row["event_id"]) for row, entities in rows if wanted(row, entities))
    if request.order == "desc":
        places.reverse()
    return [event_id for _, event_id in places][: request.limit]


ALL = {"start": NOW - timedelta(days=5), "end": NOW + timedelta(days=5)}
REQUESTS = {
    "everything": {},
    "newest first": {"order": "desc"},
    "a limit": {"limit": 7},
    "the newest": {"limit": 7, "order": "desc"},
    "a time range": {"start": NOW - timedelta(hours=10), "end": NOW + timedelta(hours=5)},
    "an empty range": {"start": NOW, "end": NOW},
    "one site": {"sites": frozenset({"fab1"})},
    "a site with a quote": {"sites": frozenset({"fab'3", "nowhere"})},
    "no site allowed": {"sites": frozenset()},
    "kinds and names": {"kinds": frozenset({"start", "error"}), "names": frozenset({"etch", "a_b"})},
    "a promoted entity": {"entities": {"lot": "A"}},
    "another entity": {"entities": {"slot": "2", "lot": "B"}},
    "an unknown entity": {"entities": {"it's": "1"}},
    "a run": {"run_id": RUN},
    "what is no run": {"run_id": "'; DROP TABLE trackmate.events --"},
    "a trace": {"trace_id": TRACE, "order": "desc"},
    "text in another case": {"text": "leak"},
    "text beyond ASCII in another case": {"text": "ärger"},
    "text in the name": {"text": "DÜNN"},
    "text that means something to LIKE": {"text": "100%"},
    "an underscore": {"text": "a_b"},
    "a backslash": {"text": "back\\slash"},
    "text that PostgreSQL can't hold": {"text": "\0"},
    "severity": {"severity_min": "warning"},
    "all at once": {
        "sites": frozenset({"fab1", "fab2"}), "kinds": frozenset({"log"}), "entities": {"lot": "A"}, "severity_min": "info",
        "text": "e", "limit": 3, "order": "desc",
    },
}  # fmt: skip


async def test_a_filter_that_is_pushed_down_answers_another_question(writer: HotWriter, dsn: str) -> None:
    events = corpus()
    await writer.write(events)
    for name, fields in REQUESTS.items():
        request = EventRequest(**{**ALL, **fields})
        batches = list(reader.query(dsn, request))
        assert all(batch.schema == reader.SCHEMA for batch in batches)
        found = [event_id for batch in batches for event_id in batch.column("event_id").to_pylist()]
        assert found == expected(events, request), name


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_pages_skip_or_repeat_events_of_one_moment(writer: HotWriter, dsn: str, order: Any) -> None:
    events = [event(timestamp=NOW + timedelta(seconds=number // 7)) for number in range(40)]
    await writer.write(events)
    found: list[str] = []
    after = None
    while True:
        request = EventRequest(**ALL, limit=9, order=order, after=after)
        rows = [row for batch in reader.query(dsn, request) for row in batch.to_pylist()]
        found += [row["event_id"] for row in rows]
        if len(rows) < 9:
            break
        after = Cursor(rows[-1]["timestamp"].replace(tzinfo=UTC), rows[-1]["event_id"])
    assert found == expected(events, EventRequest(**ALL, order=order))
    place = Cursor(NOW + timedelta(seconds=2), "an id of another system")
    asked = EventRequest(**ALL, order=order, after=place)
    assert [row for batch in reader.query(dsn, asked) for row in batch.column("event_id").to_pylist()] == expected(events, asked)


async def test_an_event_is_not_found_by_its_id(writer: HotWriter, dsn: str) -> None:
    long_ago = event(timestamp=NOW - timedelta(days=30))
    foreign = event(event_id="f47ac10b-58cc-4372-a567-0e02b2c3d479")
    twice = [event(event_id=foreign.event_id[:-1] + "a", timestamp=NOW + timedelta(days=days)) for days in (0, 3)]
    await writer.write([long_ago, foreign, *twice])
    for each in (long_ago, foreign):
        assert reader.find(dsn, each.event_id)["event_id"].to_pylist() == [each.event_id]
    assert reader.find(dsn, twice[0].event_id).num_rows == 2
    assert reader.find(dsn, uuid7()).num_rows == 0
    assert reader.find(dsn, "no uuid").num_rows == 0


async def test_custody_counts_another_hour_or_emitter(writer: HotWriter, dsn: str) -> None:
    start = NOW.replace(minute=59, second=59, microsecond=990_000)
    one, two = many(20, start), many(5, start)
    await writer.write(one[:3] + one[5:] + two + [event()])
    found = {
        (row["emitter_id"], row["hour"].hour): row
        for row in reader.custody_counts(dsn, NOW, NOW + timedelta(hours=3)).to_pylist()
    }
    emitter = one[0].emitter.id
    assert [found[emitter, hour]["events"] for hour in (12, 13)] == [8, 10]
    assert (found[emitter, 12]["min_seq"], found[emitter, 13]["max_seq"]) == (1, 20)
    assert found[two[0].emitter.id, 12]["events"] == 5
    assert len(found) == 3
    assert reader.custody_counts(dsn, NOW - timedelta(hours=1), NOW).num_rows == 0


# ---------------------------------------------------------------------------------------------------------------- errors


def test_a_store_that_is_not_there_gives_an_empty_answer(server: Any) -> None:
    request = EventRequest(**ALL)
    with pytest.raises(HotStoreUnavailable):
        list(reader.query(f"postgresql://x@127.0.0.1:{free_port()}/x", request))
    with pytest.raises(HotStoreError, match="can't be read") as failure:
        list(reader.query(Secret("postgresql://u:hunter2%ZZ@127.0.0.1/d"), request))
    assert "hunter2" not in str(failure.value)
    empty = server.fresh_database()
    with pytest.raises(NotMigrated, match="trackmate migrate"):
        list(reader.query(empty, request))
    with pytest.raises(NotMigrated, match="trackmate migrate"):
        reader.read_since(empty, 0, 1)
    server.drop(empty)
