"""DuckDB's SQL as SQLGlot reads it, set right where SQLGlot reads a statement as another one than DuckDB does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Final

from sqlglot import exp
from sqlglot.dialects.duckdb import DuckDB
from sqlglot.parsers.duckdb import DuckDBParser


def _typed_literal(parser: DuckDBParser, written: exp.Expr, kind: exp.DataType) -> exp.Expr:
    """`TIMESTAMPTZ '…'::DATE` is the moment as a date: SQLGlot takes what follows the text for a part of the text."""
    innermost = written
    while not isinstance(innermost, exp.Literal):
        if not isinstance(innermost.this, exp.Expr):
            return parser.expression(exp.Cast(this=written, to=kind))
        innermost = innermost.this
    typed = exp.Cast(this=innermost.copy(), to=kind)
    if innermost is written:
        return parser.expression(typed)
    innermost.replace(typed)
    return written


def _time_bucket(given: list[exp.Expr]) -> exp.Expr:
    """SQLGlot takes a third argument (a zone, an offset or an origin) for the name of a unit."""
    if len(given) > 2:
        return exp.Anonymous(this="time_bucket", expressions=given)
    return exp.DateBin.from_arg_list(given)


_TYPED: Final = frozenset(exp.DType) - frozenset(DuckDBParser.TYPE_LITERAL_PARSERS)


class PublishedSql(DuckDB):
    """What the gate reads statements with."""

    class Parser(DuckDBParser):
        """DuckDB's parser with these corrections."""

        FUNCTIONS: ClassVar[dict[str, Callable[..., exp.Expr]]] = {**DuckDBParser.FUNCTIONS, "TIME_BUCKET": _time_bucket}
        TYPE_LITERAL_PARSERS: ClassVar[dict[exp.DType, Callable[[Any, Any, Any], Any]]] = {
            **DuckDBParser.TYPE_LITERAL_PARSERS,
            **dict.fromkeys(_TYPED, _typed_literal),
        }
