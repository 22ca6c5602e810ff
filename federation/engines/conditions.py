"""What one SELECT demands of the rows of one of its sources: comparisons of a plain column with a constant, joined by AND.

Conservative on purpose: a condition that is not understood is not used; the engine applies all of them anyway.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final

from sqlglot import exp

from federation.engines.pruning import Operator

NULL_REJECTING: Final = frozenset({"=", "<", "<=", ">", ">=", "in", "is not null"})
"""Operators that no row passes which has NULL in the column."""

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
    exp.Explode, exp.Unnest,
)  # fmt: skip
_MAX_VALUES: Final = 1_000
"""The longest IN list that is judged file by file."""

Source = exp.Table | exp.Subquery
"""What a FROM or a JOIN names."""


@dataclass(frozen=True)
class Condition:
    """A column of a source (lower case) compared with constants."""

    column: str
    operator: Operator
    constants: tuple[exp.Expr, ...] = ()


@dataclass(frozen=True)
class Conditions:
    """The conditions on one source; `complete` when they are the whole WHERE of a SELECT that reads only this source."""

    found: tuple[Condition, ...]
    complete: bool


_NOTHING: Final = Conditions((), complete=False)


def of_source(source: Source, columns: Collection[str] | None = None) -> Conditions:
    """The conditions that rows of `source` must meet to matter to the SELECT that names it.

    `columns` are the source's own (lower case); None where they are not known, and a name may turn out to be none of them.
    """
    select = select_of(source)
    if select is None or not plainly_joined(select):
        return _NOTHING
    sole = alone(select)
    alias = source.alias_or_name.lower()
    if sum(entry.alias_or_name.lower() == alias for entry in sources_of(select)) != 1:
        return _NOTHING
    where = select.args.get("where")
    conditions = list(_conjuncts(where.this)) if where is not None else []
    wanted = [_comparison(condition, alias, columns, alone=sole) for condition in conditions]
    understood = [found for found in wanted if found is not None]
    complete = sole and len(understood) == len(conditions)
    on = _own_join_condition(source)
    if on is not None:
        found_on = [_comparison(condition, alias, columns, alone=False) for condition in _conjuncts(on)]
        understood += [found for found in found_on if found is not None]
    if not sole:
        understood = [found for found in understood if found.operator in NULL_REJECTING]
    return Conditions(tuple(understood), complete)


def select_of(source: Source) -> exp.Select | None:
    """The SELECT whose FROM or JOIN names the source directly, with its columns under their own names."""
    holder = source.parent
    alias = source.args.get("alias")
    if isinstance(alias, exp.TableAlias) and alias.columns:
        return None
    if isinstance(holder, exp.From | exp.Join) and isinstance(holder.parent, exp.Select) and not source.args.get("joins"):
        return holder.parent
    return None


def sources_of(select: exp.Select) -> Iterator[exp.Expr]:
    """What the SELECT's FROM and JOINs name."""
    source = select.args.get("from_")
    if source is not None:
        yield source.this
    for join in select.args.get("joins") or []:
        yield join.this


def alone(select: exp.Select) -> bool:
    """Whether the SELECT reads one source only, so that a name without qualifier can mean no other."""
    return not select.args.get("joins") and not select.args.get("laterals")


def plainly_joined(select: exp.Select) -> bool:
    """Whether each row of its joins stands for itself: ASOF and the like choose among rows, so that leaving some out would
    change the choice."""
    joins: list[exp.Join] = select.args.get("joins") or []
    return not any(join.args.get("method") or str(join.args.get("kind") or "") not in _PLAIN_JOINS for join in joins)


def plain_column(node: exp.Expr, alias: str, columns: Collection[str] | None, *, alone: bool) -> str | None:
    """The source's column that the node is; an unqualified name counts only where no other source could mean it."""
    while isinstance(node, exp.Paren):
        node = node.this
    if not isinstance(node, exp.Column) or not isinstance(node.this, exp.Identifier) or node.args.get("db"):
        return None
    name = node.name.lower()
    qualifier = node.table.lower()
    if (columns is not None and name not in columns) or (qualifier != alias if qualifier else not alone):
        return None
    return name


def _own_join_condition(source: Source) -> exp.Expr | None:
    """The ON of the join that brings it in, where rows that fail it can't matter: inner, or the right of a left join."""
    join = source.parent
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


def _comparison(node: exp.Expr, alias: str, columns: Collection[str] | None, *, alone: bool) -> Condition | None:
    operator = _COMPARISONS.get(type(node))
    if operator is not None:
        left, right = (plain_column(side, alias, columns, alone=alone) for side in (node.this, node.expression))
        if left is not None and _constant(node.expression):
            return Condition(left, operator, (node.expression,))
        if right is not None and _constant(node.this):
            return Condition(right, _MIRRORED[operator], (node.this,))
        return None
    if isinstance(node, exp.In) and not any(node.args.get(key) for key in ("query", "unnest", "field")):
        column = plain_column(node.this, alias, columns, alone=alone)
        listed = tuple(node.expressions)
        if column is not None and 0 < len(listed) <= _MAX_VALUES and all(map(_constant, listed)):
            return Condition(column, "in", listed)
        return None
    negated = isinstance(node, exp.Not)
    inner = node.this if negated else node
    if isinstance(inner, exp.Paren):
        inner = inner.this
    if isinstance(inner, exp.Is) and isinstance(inner.expression, exp.Null):
        column = plain_column(inner.this, alias, columns, alone=alone)
        return None if column is None else Condition(column, "is not null" if negated else "is null")
    return None


def _constant(node: exp.Expr) -> bool:
    return not any(isinstance(inner, _NOT_CONSTANT) for inner in node.walk())
