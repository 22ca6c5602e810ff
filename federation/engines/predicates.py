"""What a statement demands of every row of one table: the conditions that may decide which files and rows are read at all.

Conservative on purpose: only comparisons of a plain column with a constant, joined by AND, in the WHERE (or inner-join ON) of the
SELECT that names the table. A condition that is not understood is not used; DuckDB applies all of them anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Final

import pyarrow as pa
from sqlglot import exp

from federation.engines.pruning import Operator, Predicate

Evaluate = Callable[[Sequence[tuple[exp.Expr, pa.DataType]]], Sequence[Any]]
"""Gives the values of constant expressions compared with columns of these types; None for one that has no usable value."""

_COMPARISONS: Final[dict[type[exp.Expr], Operator]] = {
    exp.EQ: "=",
    exp.LT: "<",
    exp.LTE: "<=",
    exp.GT: ">",
    exp.GTE: ">=",
}
_MIRRORED: Final[dict[Operator, Operator]] = {"=": "=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}
_PLAIN_JOINS: Final = frozenset({"", "INNER", "CROSS", "OUTER"})
_NOT_CONSTANT: Final = (
    exp.Column, exp.Query, exp.Subquery, exp.Window, exp.AggFunc, exp.Rand, exp.Uuid, exp.Star, exp.Lambda, exp.Identifier,
)  # fmt: skip
_MAX_VALUES: Final = 1_000
"""The longest IN list that is judged file by file."""

_NOT_ANY_ROWS: Final = ("order", "group", "having", "qualify", "distinct", "with_", "joins", "laterals")
_NULL_REJECTING: Final = frozenset({"=", "<", "<=", ">", ">=", "in", "is not null"})


@dataclass(frozen=True)
class Found:
    """The conditions on one table; `complete` when they are the whole WHERE of a SELECT that reads only this table."""

    predicates: tuple[Predicate, ...]
    complete: bool


def freeze_now(tree: exp.Expr, now: datetime) -> bool:
    """Put `now` (aware) in place of now(), current_timestamp, current_date and today(), UTC; say whether there was any."""
    found = False
    for node in list(tree.walk()):
        if isinstance(node, exp.CurrentTimestamp) or (isinstance(node, exp.Anonymous) and node.name.lower() == "now"):
            moment = exp.Literal.string(now.replace(tzinfo=None).isoformat(sep=" "))
            node.replace(exp.cast(moment, exp.DType.TIMESTAMPNTZ))
            found = True
        elif isinstance(node, exp.CurrentDate):
            node.replace(exp.cast(exp.Literal.string(now.date().isoformat()), exp.DType.DATE))
            found = True
    return found


def of_table(table: exp.Table, schema: pa.Schema, evaluate: Evaluate) -> Found:
    """The conditions that rows of `table` (a node in a statement) must meet to matter."""
    select = _select_of(table)
    if select is None:
        return Found((), complete=False)
    joins: list[exp.Join] = select.args.get("joins") or []
    alone = not joins and not select.args.get("laterals")
    if any(join.args.get("method") or str(join.args.get("kind") or "") not in _PLAIN_JOINS for join in joins):
        return Found((), complete=False)  # ASOF and the like choose among rows: leaving some out would change the choice
    types = {field.name.lower(): field.type for field in schema}
    alias = table.alias_or_name.lower()
    if sum(_names(select, alias)) != 1:
        return Found((), complete=False)
    where = select.args.get("where")
    conditions = list(_conjuncts(where.this)) if where is not None else []
    wanted = [_comparison(condition, alias, types, alone=alone) for condition in conditions]
    understood = [found for found in wanted if found is not None]
    complete = alone and len(understood) == len(conditions)
    on = _own_join_condition(table)
    if on is not None:
        found_on = [_comparison(condition, alias, types, alone=False) for condition in _conjuncts(on)]
        understood += [found for found in found_on if found is not None]
    if not alone:
        understood = [found for found in understood if found.operator in _NULL_REJECTING]
    predicates = _evaluated(understood, types, evaluate)
    return Found(tuple(predicates), complete=complete and len(predicates) == len(understood))


def row_limit(table: exp.Table) -> int | None:
    """How many rows of `table` suffice, where its SELECT takes any so many of those that meet its WHERE, as they are."""
    select = _select_of(table)
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


@dataclass(frozen=True)
class _Comparison:
    column: str
    operator: Operator
    constants: tuple[exp.Expr, ...] = ()


def _select_of(table: exp.Table) -> exp.Select | None:
    """The SELECT whose FROM or JOIN names the table directly."""
    holder = table.parent
    if isinstance(holder, exp.From | exp.Join) and isinstance(holder.parent, exp.Select) and not table.args.get("joins"):
        return holder.parent
    return None


def _names(select: exp.Select, alias: str) -> Iterator[int]:
    """1 for each source of the SELECT that goes by `alias`."""
    source = select.args.get("from_")
    sources = [source.this] if source is not None else []
    sources += [join.this for join in select.args.get("joins") or []]
    for entry in sources:
        yield int(entry.alias_or_name.lower() == alias)


def _own_join_condition(table: exp.Table) -> exp.Expr | None:
    """The ON of the join that brings this table in, where rows that fail it can't matter: inner, or the right of a left join."""
    join = table.parent
    if isinstance(join, exp.Join) and str(join.args.get("side") or "") in {"", "LEFT"}:
        on = join.args.get("on")
        return on if isinstance(on, exp.Expr) else None
    return None


def _conjuncts(condition: exp.Expr) -> Iterator[exp.Expr]:
    waiting = [condition]
    while waiting:
        node = waiting.pop()
        if isinstance(node, exp.And):
            waiting += [node.expression, node.this]
        elif isinstance(node, exp.Paren):
            waiting.append(node.this)
        elif isinstance(node, exp.Between) and not node.args.get("symmetric"):
            waiting.append(exp.LTE(this=node.this.copy(), expression=node.args["high"].copy()))
            waiting.append(exp.GTE(this=node.this.copy(), expression=node.args["low"].copy()))
        else:
            yield node


def _comparison(node: exp.Expr, alias: str, types: Collection[str], *, alone: bool) -> _Comparison | None:
    operator = _COMPARISONS.get(type(node))
    if operator is not None:
        left, right = _column(node.this, alias, types, alone=alone), _column(node.expression, alias, types, alone=alone)
        if left is not None and _constant(node.expression):
            return _Comparison(left, operator, (node.expression,))
        if right is not None and _constant(node.this):
            return _Comparison(right, _MIRRORED[operator], (node.this,))
        return None
    if isinstance(node, exp.In) and not any(node.args.get(key) for key in ("query", "unnest", "field")):
        column = _column(node.this, alias, types, alone=alone)
        listed = tuple(node.expressions)
        if column is not None and 0 < len(listed) <= _MAX_VALUES and all(map(_constant, listed)):
            return _Comparison(column, "in", listed)
        return None
    negated = isinstance(node, exp.Not)
    inner = node.this if negated else node
    if isinstance(inner, exp.Paren):
        inner = inner.this
    if isinstance(inner, exp.Is) and isinstance(inner.expression, exp.Null):
        column = _column(inner.this, alias, types, alone=alone)
        return None if column is None else _Comparison(column, "is not null" if negated else "is null")
    return None


def _column(node: exp.Expr, alias: str, types: Collection[str], *, alone: bool) -> str | None:
    """The table's column that the node is; an unqualified name counts only where no other source could mean it."""
    while isinstance(node, exp.Paren):
        node = node.this
    if not isinstance(node, exp.Column) or not isinstance(node.this, exp.Identifier):
        return None
    name = node.name.lower()
    qualifier = node.table.lower()
    if name not in types or (qualifier != alias if qualifier else not alone):
        return None
    return name


def _constant(node: exp.Expr) -> bool:
    return not any(isinstance(inner, _NOT_CONSTANT) for inner in node.walk())


def _evaluated(found: Sequence[_Comparison], types: dict[str, pa.DataType], evaluate: Evaluate) -> list[Predicate]:
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
