"""Which data files can't hold a row that matches: decided from the Delta log's partition values and column statistics.

A file is left out only when its statistics prove that no row in it matches; whatever is missing, rounded or cut short keeps it:

- timestamps are kept in the log to the millisecond, so the largest is taken a millisecond later (and the smallest earlier);
- text may be cut to a prefix, so the largest stands for everything that begins with it, up to its first doubtful character;
- NaN is in no statistics and DuckDB sorts it above every number, so "greater than" proves nothing about floats;
- a float may have lost its last bit on its way through JSON, so both ends are widened by two units in the last place;
- decimals (written as JSON numbers), nested and binary columns decide nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final, Literal

import pyarrow as pa

Operator = Literal["=", "<", "<=", ">", ">=", "in", "is null", "is not null"]

_MILLISECOND: Final = timedelta(milliseconds=1)
_DOUBTFUL: Final = re.compile("[\ufffd-\U0010ffff]")
"""Characters in a largest text that prove nothing: writers put one after a text that they cut, and those beyond U+FFFF come out
of the log too small when JSON spelt them as a pair of escapes (arrow-rs joins the halves with OR)."""

_EXACT_IN_DOUBLE: Final = 2**53


@dataclass(frozen=True)
class Predicate:
    """A condition on one column that every row of the answer meets; `values` are Python values, one unless `in`."""

    column: str
    operator: Operator
    values: tuple[Any, ...] = ()

    def __str__(self) -> str:
        if self.operator == "in":
            return f"{self.column} in ({', '.join(map(_shown, self.values))})"
        return f"{self.column} {self.operator}" + (f" {_shown(self.values[0])}" if self.values else "")


@dataclass(frozen=True)
class ColumnStats:
    """What the log knows of one column, a list entry a file; None where it does not know.

    `exact` is for partition columns: smallest and largest are then the one value that the whole file has.
    """

    type: pa.DataType
    smallest: Sequence[Any]
    largest: Sequence[Any]
    nulls: Sequence[int | None]
    rows: Sequence[int | None]
    exact: bool = False


def prune(files: Sequence[int], stats: ColumnStats, predicate: Predicate) -> list[int]:
    """Those of `files` (indices) that may hold a row that meets `predicate`."""
    if predicate.operator == "is null":
        return [i for i in files if stats.nulls[i] != 0]
    known_empty = _all_null(stats)
    if predicate.operator == "is not null":
        return [i for i in files if not known_empty(i)]
    bounds = _bounds(stats)
    if bounds is None:
        return [i for i in files if not known_empty(i)]
    values = _of_one_type(predicate.values)
    tests = [test for value in values if (test := _test(bounds, predicate.operator, value)) is not None]
    if len(tests) < len(values):  # a value that can't be judged may be in any file
        return [i for i in files if not known_empty(i)]
    return [i for i in files if not known_empty(i) and any(test(i) for test in tests)]


def _of_one_type(values: Sequence[Any]) -> Sequence[Any]:
    """The values of a list as the engine compares them: all as double when one of them is."""
    if not any(isinstance(value, float) for value in values):
        return values
    return [float(value) if isinstance(value, int | Decimal) else value for value in values]


def _all_null(stats: ColumnStats) -> Callable[[int], bool]:
    nulls, rows = stats.nulls, stats.rows
    return lambda i: nulls[i] is not None and nulls[i] == rows[i]


@dataclass(frozen=True)
class _Bounds:
    """Comparisons of one column's statistics with a value: each says whether the file may hold such a row."""

    at_least: Callable[[int, Any], bool]  # some row >= value
    above: Callable[[int, Any], bool]  # some row > value
    at_most: Callable[[int, Any], bool]  # some row <= value
    below: Callable[[int, Any], bool]  # some row < value
    coerce: Callable[[Any], Any]  # a literal as the statistics' own type; None when it can't be judged
    nan: bool = False


def _test(bounds: _Bounds, operator: Operator, value: Any) -> Callable[[int], bool] | None:
    wanted = bounds.coerce(value)
    if wanted is None:
        return None
    match operator:
        case "=" | "in":
            return lambda i: bounds.at_least(i, wanted) and bounds.at_most(i, wanted)
        case "<":
            return lambda i: bounds.below(i, wanted)
        case "<=":
            return lambda i: bounds.at_most(i, wanted)
        case ">":
            return None if bounds.nan else lambda i: bounds.above(i, wanted)
        case ">=":
            return None if bounds.nan else lambda i: bounds.at_least(i, wanted)
        case _:
            return None


def _bounds(stats: ColumnStats) -> _Bounds | None:
    kind = stats.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _text(stats)
    if pa.types.is_integer(kind):
        return _ordered(stats, _number, lambda value: value, lambda value: value)
    if pa.types.is_float64(kind):
        return _ordered(stats, _float, _lower_float, _upper_float, nan=True)
    if pa.types.is_timestamp(kind):
        if stats.exact:
            return _ordered(stats, _moment(kind), lambda value: value, lambda value: value)
        return _ordered(stats, _moment(kind), _earlier, _later)
    if pa.types.is_date(kind):
        return _ordered(stats, _moment(pa.timestamp("us")), _midnight, _midnight)
    if pa.types.is_boolean(kind):
        return _ordered(stats, lambda value: value if isinstance(value, bool) else None, lambda v: v, lambda v: v)
    return None


def _ordered(
    stats: ColumnStats,
    coerce: Callable[[Any], Any],
    lower: Callable[[Any], Any],
    upper: Callable[[Any], Any],
    *,
    nan: bool = False,
) -> _Bounds:
    smallest = [None if value is None else lower(value) for value in stats.smallest]
    largest = [None if value is None else upper(value) for value in stats.largest]
    return _Bounds(
        at_least=lambda i, value: largest[i] is None or largest[i] >= value,
        above=lambda i, value: largest[i] is None or largest[i] > value,
        at_most=lambda i, value: smallest[i] is None or smallest[i] <= value,
        below=lambda i, value: smallest[i] is None or smallest[i] < value,
        coerce=coerce,
        nan=nan,
    )


def _text(stats: ColumnStats) -> _Bounds:
    smallest, largest = stats.smallest, stats.largest

    def reaches(i: int, value: str) -> bool:
        most = largest[i]
        if most is None or stats.exact:
            return most is None or value <= most
        stem = _DOUBTFUL.split(most, maxsplit=1)[0]
        return value[: len(stem)] <= stem

    return _Bounds(
        at_least=reaches,
        above=lambda i, value: reaches(i, value) and not (stats.exact and largest[i] == value),
        at_most=lambda i, value: smallest[i] is None or smallest[i] <= value,
        below=lambda i, value: smallest[i] is None or smallest[i] < value,
        coerce=lambda value: value if isinstance(value, str) else None,
    )


def _number(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    # beyond 2^53 an engine that compares as double takes neighbours for equal; NaN fails the comparison too
    return value if isinstance(value, float | Decimal) and abs(float(value)) < _EXACT_IN_DOUBLE else None


def _float(value: Any) -> Any:
    number = _number(value)
    return float(number) if number is not None and abs(number) < _EXACT_IN_DOUBLE else None


def _lower_float(value: float) -> float | None:
    return None if math.isnan(value) else math.nextafter(math.nextafter(value, -math.inf), -math.inf)


def _upper_float(value: float) -> float | None:
    return None if math.isnan(value) else math.nextafter(math.nextafter(value, math.inf), math.inf)


def _moment(kind: Any) -> Callable[[Any], Any]:
    zoned = kind.tz is not None

    def coerce(value: Any) -> Any:
        if isinstance(value, datetime):
            return value if (value.tzinfo is not None) == zoned else None
        if isinstance(value, date) and not zoned:
            return _midnight(value)
        return None

    return coerce


def _midnight(value: date) -> datetime:
    return datetime.combine(value, time())


def _earlier(value: datetime) -> datetime | None:
    try:
        return value - _MILLISECOND
    except OverflowError:
        return None


def _later(value: datetime) -> datetime | None:
    try:
        return value + _MILLISECOND
    except OverflowError:
        return None


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return repr(value if len(value) <= 60 else value[:57] + "...")
    return str(value)
