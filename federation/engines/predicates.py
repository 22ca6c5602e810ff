"""What a statement demands of every row of one table: the conditions that may decide which files and rows are read at all.

They stand in the SELECT that names the table (`conditions`), or in one around it (`demands`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, Final

import pyarrow as pa
from sqlglot import exp

from federation.engines.conditions import Condition, of_source, select_of
from federation.engines.demands import Demands
from federation.engines.pruning import Predicate

Evaluate = Callable[[Sequence[tuple[exp.Expr, pa.DataType]]], Sequence[Any]]
"""Gives the values of constant expressions compared with columns of these types; None for one that has no usable value."""

_NOT_ANY_ROWS: Final = ("order", "group", "having", "qualify", "distinct", "with_", "joins", "laterals")


@dataclass(frozen=True)
class Found:
    """The conditions on one table; `complete` when they are the whole WHERE of a SELECT that reads only this table."""

    predicates: tuple[Predicate, ...]
    complete: bool


def freeze_now(tree: exp.Expr, now: datetime) -> bool:
    """Put `now` (aware) in place of now(), current_timestamp, current_date and today(), UTC; say whether there was any.

    now() is UTC without zone, as the tables' moments are; in a statement that names a time zone it has its zone, for AT TIME ZONE
    does the opposite to a moment without one. age() of one moment is its distance to today's midnight.
    """
    found = False
    utc = now.astimezone(UTC).replace(tzinfo=None)
    written, kind = utc.isoformat(sep=" "), exp.DType.TIMESTAMPNTZ
    if any(map(_names_zone, tree.walk())):
        written, kind = f"{written}+00", exp.DType.TIMESTAMPTZ
    for node in list(tree.walk()):
        if isinstance(node, exp.CurrentTimestamp) or (isinstance(node, exp.Anonymous) and node.name.lower() == "now"):
            node.replace(exp.cast(exp.Literal.string(written), kind))
            found = True
        elif isinstance(node, exp.CurrentDate):
            node.replace(exp.cast(exp.Literal.string(utc.date().isoformat()), exp.DType.DATE))
            found = True
        elif isinstance(node, exp.Anonymous) and node.name.lower() == "age" and len(node.expressions) == 1:
            today = exp.cast(exp.Literal.string(utc.date().isoformat()), exp.DType.TIMESTAMPNTZ)
            node.set("expressions", [today, *node.expressions])
            found = True
    return found


def _names_zone(node: exp.Expr) -> bool:
    if isinstance(node, exp.Anonymous) and node.name.lower() == "time_bucket":
        return len(node.expressions) > 2  # where a zone may stand
    return isinstance(node, exp.AtTimeZone)


def of_table(table: exp.Table, schema: pa.Schema, evaluate: Evaluate, demands: Demands | None = None) -> Found:
    """The conditions that rows of `table` (a node in a statement) must meet to matter.

    `demands` adds what the SELECTs around the one that names the table want of it.
    """
    types = {field.name.lower(): field.type for field in schema}
    own = of_source(table, types)
    outer = () if demands is None else demands.on(table)
    understood = [*own.found, *(each for each in outer if each.column in types and each not in own.found)]
    predicates = _evaluated(understood, types, evaluate)
    return Found(tuple(predicates), complete=own.complete and len(predicates) == len(understood))


def row_limit(table: exp.Table) -> int | None:
    """How many rows of `table` suffice, where its SELECT takes any so many of those that meet its WHERE, as they are."""
    select = select_of(table)
    if select is None or any(select.args.get(key) for key in _NOT_ANY_ROWS) or select.parent is not None:
        return None
    limit, offset = select.args.get("limit"), select.args.get("offset")
    if any(isinstance(node, exp.AggFunc | exp.Window | exp.Explode) for entry in select.expressions for node in entry.walk()):
        return None
    if not isinstance(limit, exp.Limit) or not isinstance(limit.expression, exp.Literal) or limit.expression.is_string:
        return None
    skipped = 0
    if offset is not None:
        if not isinstance(offset.expression, exp.Literal) or offset.expression.is_string:
            return None
        skipped = int(float(offset.expression.this))
    return int(float(limit.expression.this)) + skipped


def _evaluated(found: Sequence[Condition], types: dict[str, pa.DataType], evaluate: Evaluate) -> list[Predicate]:
    constants = [(constant, types[comparison.column]) for comparison in found for constant in comparison.constants]
    values = iter(evaluate(constants) if constants else ())
    predicates = []
    for comparison in found:
        own = [next(values) for _ in comparison.constants]
        if not all(_comparable(types[comparison.column], value) for value in own):
            continue
        if comparison.operator == "in":
            predicates.append(Predicate(comparison.column, "in", tuple(own)))
        elif not comparison.constants:
            predicates.append(Predicate(comparison.column, comparison.operator))
        else:
            predicates.append(Predicate(comparison.column, comparison.operator, (own[0],)))
    return predicates


def _comparable(kind: pa.DataType, value: Any) -> bool:
    """Whether the engine compares such a value with the column as it is, casting no row of it."""
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return isinstance(value, str)
    if pa.types.is_boolean(kind):
        return isinstance(value, bool)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return isinstance(value, int | float | Decimal) and not isinstance(value, bool)
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return isinstance(value, date)
    return False
