"""How much longer a statement may make the texts that it reads, where DuckDB makes them outside its memory limit.

DuckDB counts rows that it keeps, not those it is working on, about two thousand at once. What makes a text longer by a number
that the statement names is bounded here, from the statement alone: lpad and rpad to a width, replace and regexp_replace by a
factor. One replacement may read what another has made, through names that only DuckDB resolves: so all factors multiply.
"""

from __future__ import annotations

from typing import Final

from sqlglot import exp

from federation.engines.base import GateError

MAX_PADDING: Final = 10_000
"""Characters that lpad and rpad may pad to."""

MAX_GROWTH: Final = 100
"""How many times as long all replacements of a statement together may make a text."""

_REPLACING: Final = {exp.Replace: "replace", exp.RegexpReplace: "regexp_replace"}
_LONGEST_CHARACTER: Final = 4
"""Bytes."""


def check_replacements(tree: exp.Expr) -> None:
    """Raise GateError when the statement's replacements may make a text too long."""
    total = 1.0
    seen: set[tuple[int, exp.Expr]] = set()
    for node in tree.find_all(*_REPLACING):
        key = (id(node.find_ancestor(exp.Select)), node)
        if key in seen:  # the same again in GROUP BY
            continue
        seen.add(key)
        name = _REPLACING[type(node)]
        factor = _factor(node)
        if factor is None:
            raise GateError(
                f"{name} needs what it puts in as a text", hint="write the text itself; concat and || put columns together"
            )
        if factor > 1 and _builds_on_itself(node):
            raise GateError(f"{name} makes texts longer in WITH RECURSIVE", hint="do it in the query that reads the result")
        total *= factor
        if total > MAX_GROWTH:
            raise GateError(
                f"the replacements may make a text more than {MAX_GROWTH} times as long",
                hint="put shorter texts in, or split it into several statements",
            )


def _factor(node: exp.Expr) -> float | None:
    """How many times as long the result may be as the text; None where the statement does not tell."""
    put = node.args.get("replacement")
    longest = _bytes(put) if isinstance(put, exp.Expr) else 0
    if longest is None:
        return None
    if isinstance(node, exp.Replace):
        return max(1.0, longest / max(1, _bytes(node.expression) or 1))
    options = node.args.get("modifiers")
    if options is None or (isinstance(options, exp.Literal) and "g" not in options.name):
        return 1.0 + _references(put)
    return 1.0 + longest  # between any two characters, or \1 for all of them


def _references(put: exp.Expr | None) -> int:
    return 0 if put is None else sum(text.name.count("\\") for text in put.find_all(exp.Literal, exp.RawString))


def _bytes(node: exp.Expr) -> int | None:
    """The most that a text made of nothing but words of the statement has."""
    if isinstance(node, exp.RawString) or (isinstance(node, exp.Literal) and node.is_string):
        return len(node.name.encode())
    if isinstance(node, exp.Null):
        return 0
    if isinstance(node, exp.Chr):
        return _LONGEST_CHARACTER * len(node.expressions)
    if isinstance(node, exp.Paren):
        return _bytes(node.this)
    if isinstance(node, exp.DPipe):
        left, right = _bytes(node.this), _bytes(node.expression)
        return None if left is None or right is None else left + right
    return None


def _builds_on_itself(node: exp.Expr) -> bool:
    cte = node.find_ancestor(exp.CTE)
    while cte is not None:
        if isinstance(cte.parent, exp.With) and cte.parent.args.get("recursive"):
            return True
        cte = cte.find_ancestor(exp.CTE)
    return False
