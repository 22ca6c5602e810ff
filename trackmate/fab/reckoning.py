"""Counting a shift's events in every place, and saying whether the counts agree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from trackmate.fab.ledger import Ledger
from trackmate.gateway_api import Answer

PLACES = ("hot.events", "bronze.events", "silver.events")
Ask = Callable[[str], Answer]


@dataclass(frozen=True)
class Place:
    """What one table holds of the shift."""

    table: str
    rows: int
    distinct: int
    gaps: list[str]
    """Applications of which a number is missing, with how many are there."""


@dataclass(frozen=True)
class Reckoning:
    """What the tools say they did, and what the places hold."""

    planned: int
    emitted: int
    acknowledged: int
    resent: int
    spooled: int
    dropped: int
    places: list[Place]

    def differences(self) -> list[str]:
        """Each count that is not what was emitted, in words; empty when all agree."""
        found = []
        if self.planned != self.emitted:
            found.append(f"the seed's plan has {self.planned:,} events, {self.emitted:,} were emitted")
        if self.acknowledged != self.emitted:
            waiting = f", {self.spooled:,} of them went through the SDK's own spool" if self.spooled else ""
            found.append(f"{self.acknowledged:,} of {self.emitted:,} events were acknowledged{waiting}")
        if self.dropped:
            found.append(f"the SDK had to drop {self.dropped:,} events")
        for place in self.places:
            if place.distinct != self.emitted:
                found.append(f"{place.table} has {place.distinct:,} of {self.emitted:,} events")
            found += [f"{place.table}: {gap}" for gap in place.gaps]
        silver = next((place for place in self.places if place.table == "silver.events"), None)
        if silver is not None and silver.rows != silver.distinct:
            found.append(f"silver.events has {silver.rows - silver.distinct:,} events twice")
        return found

    def table_rows(self) -> list[tuple[str, int, str]]:
        """The reckoning for people."""
        rows = [
            ("emitted by the tools, distinct", self.emitted, f"as planned from the seed: {self.planned:,}"),
            ("acknowledged", self.acknowledged, f"and {self.resent:,} of them sent a second time on purpose"),
        ]
        names = {"hot.events": "in the hot store", "bronze.events": "in bronze, distinct", "silver.events": "in silver"}
        for place in self.places:
            extra = f"in {place.rows:,} rows: the spool and the hot store both bring it" if place.table == "bronze.events" else ""
            rows.append((names[place.table], place.distinct, extra if place.rows != place.distinct else ""))
        return rows


def quoted(text: str) -> str:
    """Text as a string of SQL."""
    return "'" + text.replace("'", "''") + "'"


def count_place(ask: Ask, table: str, instance: str) -> tuple[int, int]:
    """Rows and distinct events that a table has of an `app.instance_id`."""
    answer = ask(f"SELECT count(*), count(DISTINCT event_id) FROM {table} WHERE app_instance_id = {quoted(instance)}")  # noqa: S608 - quoted
    rows, distinct = answer.rows[0]
    return int(rows), int(distinct)


def look_at(ask: Ask, table: str, instance: str, numbered: dict[str, int]) -> Place:
    """What a table has of the shift, down to the numbers that the SDK gave: `numbered` is the last one of each application."""
    rows, distinct = count_place(ask, table, instance)
    answer = ask(
        "SELECT app_name, count(DISTINCT emitter_seq), min(emitter_seq), max(emitter_seq) "  # noqa: S608 - quoted
        f"FROM {table} WHERE app_instance_id = {quoted(instance)} AND emitter_seq IS NOT NULL GROUP BY app_name"
    )
    found = {str(name): (int(count), int(low), int(high)) for name, count, low, high in answer.rows}
    gaps = [
        f"{name} numbered its events 1 to {last:,}; here are {found.get(name, (0, 0, 0))[0]:,} of them"
        for name, last in numbered.items()
        if last and found.get(name) != (last, 1, last)
    ]
    return Place(table, rows, distinct, gaps)


def reckon(ledgers: Sequence[Ledger], ask: Ask, instance: str, places: Sequence[str] = PLACES) -> Reckoning:
    """The whole reckoning of a shift."""
    numbered = {ledger.application: ledger.sdk["emitted"] for ledger in ledgers}
    return Reckoning(
        planned=sum(ledger.planned for ledger in ledgers),
        emitted=sum(ledger.emitted for ledger in ledgers),
        acknowledged=sum(ledger.acknowledged for ledger in ledgers),
        resent=sum(ledger.legacy for ledger in ledgers),
        spooled=sum(ledger.sdk["spooled"] for ledger in ledgers),
        dropped=sum(ledger.sdk["dropped"] for ledger in ledgers),
        places=[look_at(ask, table, instance, numbered) for table in places],
    )
