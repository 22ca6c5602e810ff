"""What the statement around a query demands of its rows: conditions that reach a table through CTEs, subqueries and unions.

A condition of a SELECT goes down into a query that it reads only where a row that fails it can change nothing on its way up:

- the query hands the column on as it is: named plainly or by a star, once, under a name that nothing else can have;
- it filters, joins, groups or removes duplicates, but neither cuts off (LIMIT), numbers (windows) nor unfolds rows, and where it
  groups, the column is one of the keys (else it could not be named plainly) and no grouping set empties it;
- where a join may make up rows with NULL in the column, the condition rejects NULL;
- both sides of a set operation have the column with one type, so that comparing means the same above and below;
- a CTE is read in several places: what all of them demand.

Everywhere else nothing is demanded, and all files are read. Names are resolved here as the gate does, without regard to case:
SQLGlot's own scopes tell them apart by case, and one place that is overlooked would be one whose rows are missing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import pyarrow as pa
from sqlglot import exp

from federation.engines.conditions import (
    NULL_REJECTING,
    Condition,
    Source,
    alone,
    of_source,
    plain_column,
    plainly_joined,
    select_of,
    sources_of,
)

MAX_LEVELS: Final = 40
"""How many queries, one reading the other, a condition is followed through."""

_SEEN_THROUGH: Final = frozenset(
    {"expressions", "from_", "joins", "laterals", "where", "group", "having", "order", "distinct", "with_"}
)
_SAME_FOR_BOTH: Final = frozenset({"this", "expression", "distinct", "order", "with_"})
_NAMED_BY_ITS_TEXT: Final = (exp.AggFunc, exp.Literal, exp.Null, exp.Cast)
"""One column each, called `max(value)` and the like; a struct's member, which is named after the member, is not among them."""

_NUMBERED: Final = re.compile(r"_[0-9]+$")
"""DuckDB so tells columns of one name apart, and the number may make it a name that another column has."""

_DEPENDS_ON_OTHER_ROWS: Final = (exp.Window, exp.Explode, exp.Unnest)


@dataclass(frozen=True)
class _Output:
    """A column of a query's answer: its name where that is certain, its type where it is a table's own column."""

    name: str | None
    type: pa.DataType | None = None


class Demands:
    """What is demanded in one statement, which must not change meanwhile; `schema` gives the columns of a catalog table."""

    def __init__(self, tree: exp.Expr, schema: Callable[[exp.Table], pa.Schema]) -> None:
        self._schema = schema
        self._uses: dict[int, list[exp.Table]] = {}
        self._bodies: dict[int, exp.CTE] = {}
        self._of: dict[int, tuple[Condition, ...]] = {}
        self._shown: dict[int, tuple[_Output, ...] | None] = {}
        self._level = 0
        if tree.find(exp.CTE) is not None:
            self._resolve(tree, {})

    def on(self, source: Source) -> tuple[Condition, ...]:
        """What those who read the SELECT that names `source` demand of its rows, besides that SELECT's own conditions."""
        select = select_of(source)
        if select is None or not _seen_through(select):
            return ()
        passed = []
        for condition in self._of_query(select):
            column = _origin(select, source, condition.column)
            if column is not None and (condition.operator in NULL_REJECTING or alone(select)):
                passed.append(replace(condition, column=column))
        return tuple(passed)

    # ------------------------------------------------------------------------------------------------------- conditions

    def _of_query(self, query: exp.Expr) -> tuple[Condition, ...]:
        """Conditions on a query's answer that each of its readers sets."""
        key = id(query)
        if key not in self._of:
            if self._level >= MAX_LEVELS:
                return ()
            self._level += 1
            try:
                self._of[key] = tuple(self._by_readers(query))
            finally:
                self._level -= 1
        return self._of[key]

    def _by_readers(self, query: exp.Expr) -> Iterable[Condition]:
        reader = query.parent
        if isinstance(reader, exp.Subquery):
            if _given(reader) - {"this", "alias"}:
                return ()
            if isinstance(reader.parent, exp.From | exp.Join):
                return self._of_source(reader)
            return () if reader.args.get("alias") else self._of_query(reader)
        if isinstance(reader, exp.CTE):
            return () if _renamed(reader) else _common([self._of_source(use) for use in self._uses.get(id(reader), [])])
        if isinstance(reader, exp.SetOperation) and not _given(reader) - _SAME_FOR_BOTH:
            return self._of_branch(reader, query)
        return ()

    def _of_source(self, source: Source) -> list[Condition]:
        found = (*of_source(source).found, *self.on(source))
        return [condition for condition in found if not _NUMBERED.search(condition.column)]

    def _of_branch(self, both: exp.SetOperation, branch: exp.Expr) -> Iterable[Condition]:
        wanted = self._of_query(both)
        if not wanted:
            return
        outputs, own = self._outputs(both), self._outputs(branch)
        if outputs is None or own is None:
            return
        names, own_names = [output.name for output in outputs], [output.name for output in own]
        for condition in wanted:
            if names.count(condition.column) != 1:
                continue
            place = names.index(condition.column)
            name = own_names[place]
            if outputs[place].type is not None and name is not None and own_names.count(name) == 1:
                yield replace(condition, column=name)

    # ---------------------------------------------------------------------------------------------------------- columns

    def _outputs(self, query: exp.Expr) -> tuple[_Output, ...] | None:
        """A query's columns in order; None where they are not all known."""
        key = id(query)
        if key not in self._shown:
            if self._level >= MAX_LEVELS:
                return None
            self._level += 1
            try:
                self._shown[key] = self._read_outputs(query)
            finally:
                self._level -= 1
        return self._shown[key]

    def _read_outputs(self, query: exp.Expr) -> tuple[_Output, ...] | None:
        if isinstance(query, exp.Subquery):
            return self._outputs(query.this) if not query.args.get("alias") else None
        if isinstance(query, exp.SetOperation):
            left, right = self._outputs(query.this), self._outputs(query.expression)
            if left is None or right is None or len(left) != len(right) or query.args.get("by_name"):
                return None
            return tuple(
                _Output(one.name, one.type if one.type is not None and one.type == other.type else None)
                for one, other in zip(left, right, strict=True)
            )
        if not isinstance(query, exp.Select):
            return None
        outputs: list[_Output] = []
        for entry in query.expressions:
            found = self._entry_outputs(query, entry)
            if found is None:
                return None
            outputs += found
        return tuple(outputs)

    def _entry_outputs(self, select: exp.Select, entry: exp.Expr) -> Sequence[_Output] | None:
        star = _star(entry)
        if star is not None:
            source = next((each for each in sources_of(select) if star.covers(select, each)), None)
            columns = None if source is None or not star.plain else self._columns(source)
            return None if columns is None else [column for column in columns if column.name not in star.without]
        named = entry.this if isinstance(entry, exp.Alias) else entry
        name = _name(entry)
        if name is None:
            return [_Output(None)] if isinstance(entry, _NAMED_BY_ITS_TEXT) else None
        for source in sources_of(select):
            column = plain_column(named, source.alias_or_name.lower(), None, alone=alone(select))
            if column is not None:
                types = [known.type for known in self._columns(source) or () if known.name == column]
                return [_Output(name, types[0] if len(types) == 1 else None)]
        return [_Output(name)]

    def _columns(self, source: exp.Expr) -> tuple[_Output, ...] | None:
        if not isinstance(source, exp.Table | exp.Subquery) or select_of(source) is None:
            return None
        if isinstance(source, exp.Subquery):
            return None if _given(source) - {"this", "alias"} else self._outputs(source.this)
        if source.db:
            return tuple(_Output(field.name.lower(), field.type) for field in self._schema(source))
        cte = self._bodies.get(id(source))
        return None if cte is None or _renamed(cte) else self._outputs(cte.this)

    # ------------------------------------------------------------------------------------------------------------ names

    def _resolve(self, node: exp.Expr, visible: dict[str, exp.CTE | None]) -> None:
        """Find every place where a CTE is read; one that may read itself stands as None, and so do all of its WITH."""
        with_ = node.args.get("with_")
        if isinstance(with_, exp.With):
            visible = dict(visible)
            recursive = bool(with_.args.get("recursive"))
            if recursive:
                visible |= {cte.alias.lower(): None for cte in with_.expressions}
            for cte in with_.expressions:
                self._resolve(cte.this, visible)
                visible[cte.alias.lower()] = None if recursive else cte
        if isinstance(node, exp.Table) and isinstance(node.this, exp.Identifier) and not node.db:
            cte = visible.get(node.name.lower())
            if cte is not None:
                self._uses.setdefault(id(cte), []).append(node)
                self._bodies[id(node)] = cte
        for child in node.iter_expressions():
            if child is not with_:
                self._resolve(child, visible)


@dataclass(frozen=True)
class _Star:
    qualifier: str
    without: frozenset[str]
    plain: bool

    def covers(self, select: exp.Select, source: exp.Expr) -> bool:
        return source.alias_or_name.lower() == self.qualifier if self.qualifier else alone(select)


def _star(entry: exp.Expr) -> _Star | None:
    qualifier = ""
    if isinstance(entry, exp.Column):
        qualifier, entry = entry.table.lower(), entry.this
    if not isinstance(entry, exp.Star):
        return None
    without = frozenset(excluded.name.lower() for excluded in entry.args.get("except_") or ())
    return _Star(qualifier, without, plain=not _given(entry) - {"except_"})


def _name(entry: exp.Expr) -> str | None:
    return entry.alias_or_name.lower() if isinstance(entry, exp.Alias | exp.Column) else None


def _origin(select: exp.Select, source: Source, name: str) -> str | None:
    """The source's column that the SELECT's answer has under `name`; None unless there is exactly one, as it is."""
    alias = source.alias_or_name.lower()
    origins: list[str | None] = []
    for entry in select.expressions:
        star = _star(entry)
        if star is not None:
            if not star.plain or not star.covers(select, source):
                return None
            if name not in star.without:
                origins.append(name)
        elif isinstance(entry, exp.Alias | exp.Column):
            if _name(entry) == name:
                named = entry.this if isinstance(entry, exp.Alias) else entry
                origins.append(plain_column(named, alias, None, alone=alone(select)))
        elif not isinstance(entry, _NAMED_BY_ITS_TEXT):
            return None
    return origins[0] if len(origins) == 1 else None


def _seen_through(select: exp.Select) -> bool:
    """Whether leaving out rows that fail a condition on a column that is handed on leaves all other rows as they are."""
    if _given(select) - _SEEN_THROUGH or not plainly_joined(select):
        return False
    group, distinct = select.args.get("group"), select.args.get("distinct")
    if group is None and select.args.get("having") is not None:
        return False
    if group is not None and (_given(group) - {"expressions", "all"} or group.find(exp.Cube, exp.Rollup, exp.GroupingSets)):
        return False
    if distinct is not None and distinct.args.get("on") is not None:
        return False
    return not any(entry.find(*_DEPENDS_ON_OTHER_ROWS) for entry in select.expressions)


def _given(node: exp.Expr) -> set[str]:
    values: dict[str, Any] = node.args
    return {key for key, value in values.items() if value}


def _renamed(cte: exp.CTE) -> bool:
    """Whether its columns go by other names than its query's, or it is one that builds on itself."""
    alias = cte.args.get("alias")
    return bool(_given(cte) - {"this", "alias", "materialized"}) or (isinstance(alias, exp.TableAlias) and bool(alias.columns))


def _common(demands: Sequence[Sequence[Condition]]) -> list[Condition]:
    """What stands in each of these."""
    if not demands:
        return []
    first, *others = demands
    return [condition for condition in first if all(condition in other for other in others)]
