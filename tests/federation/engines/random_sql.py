"""Random tables and random SQL over them: whatever a seed gives once, it gives again."""

from __future__ import annotations

import datetime as dt
import math
import random
from collections.abc import Callable
from typing import Any, Final

import pyarrow as pa

from tests.federation.engines.conftest import DAY, rows_of

NOW: Final = dt.datetime(2024, 5, 3, tzinfo=dt.UTC)

COLUMNS: Final[dict[str, dict[str, str]]] = {
    "silver.events": {
        "timestamp": "moment", "event_date": "day", "site_id": "text", "kind": "text", "message": "text", "tool": "text",
        "duration_ms": "float", "emitter_seq": "int", "status": "text", "run_id": "text", "progress": "float", "event_id": "text",
    },
    "silver.runs": {
        "run_id": "text", "run_date": "day", "started_at": "moment", "ended_at": "moment", "site_id": "text", "tool": "text",
        "status": "text", "duration_ms": "float", "events": "int", "last_seen": "moment",
    },
    "silver.metrics": {
        "timestamp": "moment", "event_date": "day", "site_id": "text", "tool": "text", "metric": "text", "value": "float",
    },
}  # fmt: skip

VALUES: Final[dict[str, list[str]]] = {
    "text": [
        "'fab1'", "'fab2'", "'FAB1'", "'error'", "'metric'", "'a'", "'A'", "''", "'t1'", "'ok'", "'r1'", "'r2'", "'m1'", "NULL",
        "'e1-3'", "lower('A')", "'f' || 'ab1'", "CAST('fab1' AS VARCHAR)", "'z'",
    ],
    "moment": [
        "TIMESTAMP '2024-05-02'", "'2024-05-02 12:00:00'", "DATE '2024-05-03'", "TIMESTAMPTZ '2024-05-02 12:00:00+02'",
        "'2024-05-02 12:00:00+05:00'", "TIMESTAMP '2024-05-01' + INTERVAL 1 DAY", "NULL",
        "TIMESTAMP '2024-05-02 12:00:00.000999'",
        "TIMESTAMP '2024-05-03 23:00:00.999999'", "now()", "current_date", "'2024-05-02'::TIMESTAMPTZ",
        "make_timestamp(2024, 5, 3, 0, 0, 0)", "CAST('2024-05-03' AS TIMESTAMP_S)",
        "TIMESTAMP_NS '2024-05-02 12:00:00.000000001'",
        "to_timestamp(1714651200)", "date_trunc('day', TIMESTAMP '2024-05-02 12:00:00')", "strptime('2024-05-03', '%Y-%m-%d')",
        "(TIMESTAMP '2024-05-03' AT TIME ZONE 'UTC')", "(TIMESTAMP '2024-05-03' AT TIME ZONE 'Europe/Berlin')",
        "(TIMESTAMPTZ '2024-05-02 22:00:00+00' AT TIME ZONE 'Europe/Berlin')", "(now() AT TIME ZONE 'America/New_York')",
        "(now() - INTERVAL 1 DAY)", "date_trunc('day', now() AT TIME ZONE 'Europe/Berlin')",
        "TIMESTAMPTZ '2024-05-02 23:00:00-05'::DATE",
        "time_bucket(INTERVAL '1 day', now(), 'Asia/Tokyo')", "(DATE '2024-05-02' AT TIME ZONE 'Asia/Tokyo')",
    ],
    "day": [
        "DATE '2024-05-02'", "'2024-05-03'", "TIMESTAMP '2024-05-02 12:00:00'", "TIMESTAMPTZ '2024-05-02 23:00:00-05'",
        "DATE '2024-05-01' + INTERVAL 1 DAY", "DATE '2024-05-01' + 1", "NULL", "'2024-05-02 13:00:00'", "make_date(2024, 5, 2)",
        "current_date", "TIMESTAMPTZ '2024-05-02 23:00:00-05'::DATE", "(now() AT TIME ZONE 'America/New_York')",
    ],
    "float": [
        "0", "1", "1.5", "1e0", "'1'", "NULL", "'nan'::DOUBLE", "-2", "0.5::FLOAT", "1::DECIMAL(4,2)", "2.5", "1/3", "0.1+0.2",
    ],
    "int": [
        "1", "2", "3", "'2'", "1.5", "2e0", "NULL", "9007199254740993", "9007199254740992.0", "true::INT", "2::TINYINT",
        "1::HUGEINT", "'2.4'", "3.0::DECIMAL(5,2)",
    ],
}  # fmt: skip
AROUND: Final = [
    "{} AT TIME ZONE 'UTC'",
    "({} AT TIME ZONE 'UTC') AT TIME ZONE 'Europe/Berlin'",
    "{} AT TIME ZONE 'America/New_York'",
    "date_trunc('day', {} AT TIME ZONE 'UTC' AT TIME ZONE 'Europe/Berlin')",
    "CAST({} AT TIME ZONE 'UTC' AS DATE)",
    "time_bucket(INTERVAL '1 day', {} AT TIME ZONE 'UTC', 'Europe/Berlin')",
]
"""What is made of a moment before it is compared."""

OPERATORS: Final = ["=", "=", "<", "<=", ">", ">=", "<>", "IS DISTINCT FROM", "IS NOT DISTINCT FROM"]
JOINS: Final = [
    "JOIN", "INNER JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN", "FULL OUTER JOIN", "SEMI JOIN", "ANTI JOIN", "CROSS JOIN", ",",
    "LATERAL", "ASOF JOIN", "ASOF LEFT JOIN", "NATURAL", "POSITIONAL", "USING", "NESTED",
]  # fmt: skip

Columns = list[tuple[str, str]]
"""Names with what they hold."""

Query = tuple[str, Columns]


def random_rows(name: str, day: int, count: int, dice: random.Random) -> pa.Table:
    """Rows of few values, so that files differ in their statistics and joins find partners."""
    moments = [
        DAY + dt.timedelta(days=day, hours=dice.choice([0, 0, 12, 23]), microseconds=dice.choice([0, 1, 999, 999_999]))
        for _ in range(count)
    ]

    def few(*pool: Any) -> Callable[[int], Any]:
        chosen = dice.sample(pool, dice.choice([1, 2]))
        return lambda _: dice.choice(chosen)

    columns: dict[str, Callable[[int], Any]] = {
        "site_id": few("fab1", "fab2", "FAB1"),
        "tool": few("t1", "t2", None),
        "duration_ms": few(None, 0.0, 1.0, 1.5, -2.0, math.nan),
        "status": few(None, "ok", "failed"),
        "run_id": few(None, "r1", "r2", "r3"),
        "timestamp": lambda i: moments[i],
        "event_date": lambda i: moments[i].date(),
    }
    if name == "silver.events":
        columns |= {
            "event_id": lambda _: f"e{day}-{dice.randrange(9)}",
            "kind": few("error", "metric", "log"),
            "message": few("a", "b", "A", "", "ab"),
            "emitter_seq": few(None, 1, 2, 3, 2**53 + 1),
            "progress": few(None, 0.5, 1.0),
        }
    elif name == "silver.runs":
        columns |= {
            "run_id": few("r1", "r2", "r3", "r4"),
            "run_date": lambda i: moments[i].date(),
            "started_at": lambda i: dice.choice([None, moments[i]]),
            "ended_at": lambda i: dice.choice([None, moments[i] + dt.timedelta(hours=2)]),
            "events": few(1, 2, 3),
            "last_seen": lambda i: moments[i],
        }
    else:
        columns |= {"metric": few("m1", "m2"), "value": few(0.0, 1.0, 2.5, math.nan)}
    return rows_of(name, count, **columns)


class Statements:
    """One statement after the other."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self._aliases = 0
        self._ctes: list[tuple[str, Columns]] = []

    def one(self) -> str:
        """The next statement; it may be one that no engine runs."""
        self._ctes, self._aliases = [], 0
        dice, parts, opening = self.dice, [], "WITH "
        for place in range(dice.choice([0, 0, 1, 2, 3])):
            text, columns = self._query(2)
            name = dice.choice([f"c{place}", "events", "runs", f"C{place}"])
            if any(name.lower() == other.lower() for other, _ in self._ctes):
                name = f"c{place}"
            parts.append(f"{name} AS{dice.choice(['', ' MATERIALIZED', ' NOT MATERIALIZED'])} ({text})")
            self._ctes.append((name, columns))
        if dice.random() < 0.07:
            table, columns = self._table()
            keys = [column for column in columns if column[1] in {"text", "day"}][:2]
            listed = names(keys)
            parts.append(
                f"rec AS (SELECT {listed}, 1 AS lvl FROM {table} WHERE {self._where(columns)} "
                f"UNION ALL SELECT {listed}, lvl + 1 FROM rec WHERE lvl < 3 AND {self._where(keys)})"
            )
            self._ctes.append(("rec", keys))
            opening = "WITH RECURSIVE "
        text, columns = self._query(3)
        if dice.random() < 0.5:
            alias = self._alias()
            text = f"SELECT * FROM ({text}) AS {alias} WHERE {self._where(columns, dice.choice(['', f'{alias}.']))}"
        if self._ctes and dice.random() < 0.4:
            name, columns = dice.choice(self._ctes)
            text = f"SELECT count(*) FROM ({text}) AS q1 UNION ALL SELECT count(*) FROM {name} WHERE {self._where(columns)}"
        return f"{opening}{', '.join(parts)} {text}" if parts else text

    # ------------------------------------------------------------------------------------------------------- conditions

    def _value(self, kind: str) -> str:
        return self.dice.choice(VALUES[kind])

    def _where(self, columns: Columns, qualifier: str = "", least: int = 1, most: int = 3) -> str:
        count = self.dice.randint(least, most)
        return " AND ".join(self._condition(columns, qualifier) for _ in range(count)) or "true"

    def _condition(self, columns: Columns, qualifier: str, depth: int = 0) -> str:
        dice = self.dice
        plain, kind = dice.choice(columns)
        name = dice.choice([qualifier, qualifier, ""]) + plain
        if dice.random() < 0.1:
            name = name.upper()
        operator, value = dice.choice(OPERATORS), self._value(kind)
        if kind == "moment" and dice.random() < 0.2:
            return f"{dice.choice(AROUND).format(name)} {operator} {value}"
        match dice.randrange(20):
            case 7:
                return f"{value} {operator} {name}"
            case 8 | 9 as which:
                listed = ", ".join(self._value(kind) for _ in range(dice.randint(1, 3)))
                return f"{name} {'NOT ' if which == 9 else ''}IN ({listed})"
            case 10 | 11 as which:
                return f"{name} {'NOT ' if which == 11 else ''}BETWEEN {value} AND {self._value(kind)}"
            case 12:
                return f"{name} IS {dice.choice(['', 'NOT '])}NULL"
            case 13 if kind == "text":
                pattern = dice.choice(["f%", "fab_", "a"])
                return f"{name} {dice.choice(['LIKE', 'ILIKE', 'NOT LIKE'])} '{pattern}'"
            case 14:
                return f"coalesce({name}, {value}) {operator} {self._value(kind)}"
            case 15:
                return f"CASE WHEN {name} = {value} THEN true ELSE {name} {operator} {self._value(kind)} END"
            case 16 | 17 | 18 | 19 as form if depth < 5:
                return self._composed(form, columns, qualifier, depth)
            case _:
                return f"{name} {operator} {value}"

    def _composed(self, form: int, columns: Columns, qualifier: str, depth: int) -> str:
        dice, inner = self.dice, self._condition(columns, qualifier, depth + 1)
        if form == 16:
            return f"NOT ({inner})"
        if form == 17:
            return f"({inner} OR {self._condition(columns, qualifier, depth + 1)})"
        if form == 18 or depth > 1:
            return f"({inner}) {dice.choice(['IS TRUE', 'IS NOT TRUE', 'IS FALSE', 'IS NULL', '= true', '= false'])}"
        return self._subquery(columns, qualifier)

    def _subquery(self, columns: Columns, qualifier: str) -> str:
        dice = self.dice
        table, own = self._table()
        alias = self._alias()
        shared = [column for column in own if any(column[1] == kind for _, kind in columns)]
        name, kind = dice.choice(shared or own)
        outer = [other for other, wanted in columns if wanted == kind]
        correlated = (
            f" AND {alias}.{name} = {qualifier}{dice.choice(outer)}" if outer and qualifier and dice.random() < 0.6 else ""
        )
        where = self._where(own, dice.choice(["", f"{alias}."]))
        source = f"FROM {table} AS {alias} WHERE {where}"
        form = dice.randrange(5)
        if form == 0:
            return f"{dice.choice(['', 'NOT '])}EXISTS (SELECT 1 {source}{correlated})"
        if outer and form < 4:
            left = f"{qualifier}{dice.choice(outer)}"
            if form == 1:
                return f"{left} {dice.choice(['', 'NOT '])}IN (SELECT {alias}.{name} {source}{correlated})"
            if form == 2:
                largest = f"{dice.choice(['max', 'min'])}({alias}.{name})"
                return f"{left} {dice.choice(['=', '<=', '>'])} (SELECT {largest} {source}{correlated})"
            return f"{left} {dice.choice(['=', '>', '<'])} {dice.choice(['ANY', 'ALL'])} (SELECT {alias}.{name} {source})"
        return f"(SELECT count(*) {source}{correlated}) > {dice.randint(0, 3)}"

    # ---------------------------------------------------------------------------------------------------------- sources

    def _alias(self) -> str:
        self._aliases += 1
        return f"{self.dice.choice('xX')}{self._aliases}"

    def _table(self) -> Query:
        table = self.dice.choice(list(COLUMNS))
        return table, list(COLUMNS[table].items())

    def _source(self, depth: int) -> tuple[str, str, Columns]:
        """What stands in FROM, with its alias, the alias, and the columns."""
        dice, alias = self.dice, self._alias()
        chance = dice.random()
        if self._ctes and chance < 0.35:
            name, columns = dice.choice(self._ctes)
            return f"{dice.choice([name, name.upper()])} AS {alias}", alias, list(columns)
        if depth <= 0 or chance < 0.6:
            table, columns = self._table()
            return f"{dice.choice([table, table, table.upper()])} AS {alias}", alias, columns
        text, columns = self._query(depth - 1)
        if dice.random() < 0.08:
            renamed = [name for name, _ in columns]
            dice.shuffle(renamed)
            given = [(new, kind) for new, (_, kind) in zip(renamed, columns, strict=True)]
            return f"({text}) AS {alias}({', '.join(renamed)})", alias, given
        return f"({text}) AS {alias}", alias, columns

    # ---------------------------------------------------------------------------------------------------------- queries

    def _query(self, depth: int) -> Query:
        form = self.dice.randrange(20)
        if 7 <= form < 11:
            return self._join(depth)
        if 11 <= form < 13:
            return self._group(depth)
        if 13 <= form < 16:
            return self._set_operation(depth)
        if 16 <= form < 19:
            return (self._distinct, self._window, self._limited)[form - 16](depth)
        return self._simple(depth)

    def _simple(self, depth: int) -> Query:
        dice = self.dice
        source, alias, columns = self._source(depth)
        rest = f"FROM {source} WHERE {self._where(columns, dice.choice(['', f'{alias}.']), 0)}"
        name, kind = dice.choice(columns)
        others = [column for column in columns if column[0] != name]
        left = [column for column in columns if column[1] != kind or kind == "text"]
        match dice.randrange(8):
            case 0:
                return f"SELECT * {rest}", columns
            case 1:
                return f"SELECT {alias}.* {rest}", columns
            case 2 if others:
                return f"SELECT * EXCLUDE ({name}) {rest}", others
            case 3 if left:
                return f"SELECT * REPLACE (coalesce({name}, {self._value(kind)}) AS {name}) {rest}", left
            case 4:
                mixed = [other for other, _ in columns]
                dice.shuffle(mixed)
                pairs = list(zip(columns, mixed, strict=True))
                listed = ", ".join(f"{old} AS {new}" for (old, _), new in pairs)
                return f"SELECT {listed} {rest}", [(new, own) for (_, own), new in pairs]
            case 5:
                same = dice.choice([other for other, own in columns if own == kind])
                return f"SELECT {''.join(f'{other}, ' for other, _ in others)}{same} AS {name} {rest}", [*others, (name, kind)]
            case 6:
                picked = dice.sample(columns, min(len(columns), 3))
                return f"SELECT {names(picked, alias)} {rest}", picked
            case _:
                return f"SELECT *, {self._value(kind)} AS {name}_k, {name} AS extra {rest}", columns

    def _join(self, depth: int) -> Query:
        dice = self.dice
        source, a, left = self._source(depth - 1)
        other, b, right = self._source(depth - 1)
        pairs = [(x, y) for x, kind in left for y, own in right if own == kind]
        x, y = dice.choice(pairs) if pairs else (left[0][0], right[0][0])
        on = f"{a}.{x} = {b}.{y}"
        if dice.random() < 0.5:
            columns, alias = dice.choice([(left, a), (right, b)])
            on += f" AND {self._where(columns, f'{alias}.', 1, 1)}"
        where = f"{self._where(left, f'{a}.', 0, 2)} AND {self._where(right, f'{b}.', 0, 2)}"
        mine = dice.sample(left, min(3, len(left)))
        yours = [column for column in dice.sample(right, min(3, len(right))) if column[0] not in dict(mine)]
        listed = ", ".join([f"{a}.{n} AS {n}" for n, _ in mine] + [f"{b}.{n} AS {n}" for n, _ in yours])
        kind = dice.choice(JOINS)
        if kind in {"SEMI JOIN", "ANTI JOIN"}:
            return f"SELECT {names(mine, a)} FROM {source} {kind} {other} ON {on} WHERE {self._where(left, f'{a}.', 0, 2)}", mine
        if kind in {"CROSS JOIN", ","}:
            return f"SELECT {listed} FROM {source} {kind} {other} WHERE {where} AND {on}", mine + yours
        if kind == "LATERAL" and yours:
            c = self._alias()
            lateral = f"SELECT {names(yours, b)} FROM {other} WHERE {b}.{y} = {a}.{x} AND {self._where(right, f'{b}.', 0, 1)}"
            outer = f"{self._where(left, f'{a}.', 0, 1)} AND {self._where(yours, f'{c}.', 0, 1)}"
            listed = f"{names(mine, a)}, {names(yours, c)}"
            return f"SELECT {listed} FROM {source}, LATERAL ({lateral}) AS {c} WHERE {outer}", mine + yours
        if kind.startswith("ASOF"):
            return f"SELECT {listed} FROM {source} {kind} {other} ON {a}.{x} >= {b}.{y} WHERE {where}", mine + yours
        if kind in {"NATURAL", "POSITIONAL"}:
            return f"SELECT {listed} FROM {source} {kind} JOIN {other} WHERE {where}", mine + yours
        if kind == "USING":
            common = [column for column in left if column in right]
            if not common:
                return self._simple(depth)
            key = dice.choice(common)
            side = dice.choice(["", "LEFT ", "RIGHT ", "FULL "])
            condition = dice.choice([where, self._where([key], "", 1, 1)])
            text = f"FROM {source} {side}JOIN {other} USING ({key[0]}) WHERE {condition} GROUP BY {key[0]}"
            return f"SELECT {key[0]}, count(*) AS n_ {text}", [key]
        if kind == "NESTED":
            third, d, last = self._source(0)
            links = [(u, v) for u, wanted in left for v, own in last if wanted == own]
            if not links:
                return self._simple(depth)
            u, v = dice.choice(links)
            first, second = (dice.choice(["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"]) for _ in "ab")
            link = f"{a}.{u} = {d}.{v} AND {self._where(last, f'{d}.', 1, 1)}"
            both = f"{source} {first} {other} ON {on}"
            return (
                f"SELECT {listed} FROM {dice.choice([both, f'({both})'])} {second} {third} ON {link} "
                f"WHERE {where} AND {self._where(last, f'{d}.', 0, 1)}"
            ), mine + yours
        return f"SELECT {listed} FROM {source} {kind if 'JOIN' in kind else 'JOIN'} {other} ON {on} WHERE {where}", mine + yours

    def _group(self, depth: int) -> Query:
        dice = self.dice
        source, _, columns = self._source(depth)
        rest = f"FROM {source} WHERE {self._where(columns, '', 0, 1)}"
        keys = dice.sample(columns, min(len(columns), dice.choice([1, 2])))
        key = names(keys)
        other = dice.choice(columns)
        if dice.random() < 0.1:
            return f"SELECT max({other[0]}) AS {other[0]}, count(*) AS cnt {rest}", [other]
        by = dice.choice([key, key, "ALL", f"ROLLUP ({key})", f"CUBE ({key})", f"GROUPING SETS (({key}), ())"])
        given = [(f"k{place}", kind) for place, (_, kind) in enumerate(keys)] if dice.random() < 0.3 else keys
        listed = ", ".join(f"{old} AS {new}" for (old, _), (new, _) in zip(keys, given, strict=True))
        having = dice.choice(
            [
                "",
                " HAVING count(*) > 1",
                f" HAVING max({other[0]}) = {self._value(other[1])}",
                f" HAVING {keys[0][0]} = {self._value(keys[0][1])}",
            ]
        )
        if other[0] not in dict(given) and dice.random() < 0.5:
            return f"SELECT {listed}, min({other[0]}) AS {other[0]} {rest} GROUP BY {by}{having}", [*given, other]
        return f"SELECT {listed}, count(*) AS cnt {rest} GROUP BY {by}{having}", given

    def _set_operation(self, depth: int) -> Query:
        dice = self.dice
        operator = dice.choice(
            ["UNION", "UNION ALL", "EXCEPT", "EXCEPT ALL", "INTERSECT", "INTERSECT ALL", "UNION BY NAME", "UNION ALL BY NAME"]
        )
        if dice.random() < 0.7:
            text, columns = self._query(depth - 1)
            kept = dice.sample(columns, min(len(columns), dice.randint(1, 4)))
            left = f"SELECT {names(kept)} FROM ({text}) AS {self._alias()}"
        else:
            table, columns = self._table()
            kept = dice.sample(columns, dice.randint(1, 4))
            left = f"SELECT {names(kept)} FROM {table} WHERE {self._where(columns, '', 0, 1)}"
        table, columns = self._table() if not self._ctes or dice.random() < 0.6 else dice.choice(self._ctes)
        taken = []
        for _, kind in kept:
            same = [name for name, own in columns if own == kind]
            taken.append(dice.choice(same) if same and dice.random() < 0.9 else self._value(kind))
        listed = ", ".join(taken)
        if "BY NAME" in operator:
            named = [f"{value} AS {name}" for value, (name, _) in zip(taken, kept, strict=True)]
            dice.shuffle(named)
            listed = ", ".join(named[1:] if dice.random() < 0.3 and len(named) > 1 else named)
        right = f"SELECT {listed} FROM {table} WHERE {self._where(columns, '', 0, 1)}"
        if dice.random() < 0.3:
            left, right = f"({left})", f"({right})"
        text = f"{left} {operator} {right}"
        if dice.random() < 0.2:
            text += f" {dice.choice(['UNION ALL', 'EXCEPT', 'INTERSECT'])} {right}"
        return (f"({text})" if dice.random() < 0.1 else text), kept

    def _distinct(self, depth: int) -> Query:
        source, _, columns = self._source(depth)
        keys = self.dice.sample(columns, min(len(columns), 2))
        if self.dice.random() < 0.5:
            return f"SELECT DISTINCT {names(keys)} FROM {source} WHERE {self._where(columns, '', 0, 1)}", keys
        listed = names(columns)
        return f"SELECT DISTINCT ON ({keys[0][0]}) {listed} FROM {source} ORDER BY {listed}", columns

    def _window(self, depth: int) -> Query:
        dice = self.dice
        source, _, columns = self._source(depth)
        rest = f"FROM {source} WHERE {self._where(columns, '', 0, 1)}"
        window = f"(PARTITION BY {dice.choice(columns)[0]} ORDER BY {dice.choice(columns)[0]})"
        form = dice.choice(
            [
                f"SELECT * {rest} QUALIFY rank() OVER {window} = 1",
                f"SELECT *, count(*) OVER {window} AS win {rest}",
                f"SELECT {names(columns)}, rank() OVER win AS rk {rest} WINDOW win AS {window}",
            ]
        )
        return form, columns

    def _limited(self, depth: int) -> Query:
        source, _, columns = self._source(depth)
        rest = f"FROM {source} WHERE {self._where(columns, '', 0, 1)} ORDER BY {names(columns)}"
        return f"SELECT {names(columns)} {rest} LIMIT {self.dice.randint(1, 5)} OFFSET {self.dice.randint(0, 2)}", columns


def names(columns: Columns, alias: str = "") -> str:
    """Columns as a list for SELECT."""
    return ", ".join(f"{alias}.{name}" if alias else name for name, _ in columns)
