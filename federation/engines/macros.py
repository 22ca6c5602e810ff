"""From the published subset to one engine's SQL: our macros written out for it, and nothing else changed.

One function, `compile_query`, is the seam: another engine is another table of rewrites. SQLGlot's own translation is not
trusted with these: it writes DuckDB's time_bucket and quantiles into Trino in words that mean something else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Literal

from sqlglot import exp

from federation.engines.base import GateError

Dialect = Literal["duckdb"]

Rewrite = Callable[[list[exp.Expr]], exp.Expr]


def compile_query(tree: exp.Query, dialect: Dialect) -> str:
    """The statement as `dialect` runs it; `tree` is changed. Raises GateError when a macro is called wrongly."""
    expand(tree, dialect)
    return tree.sql(dialect=dialect, comments=False, copy=False)


def expand(tree: exp.Query, dialect: Dialect) -> None:
    """Write our macros out in place."""
    rewrites = _REWRITES[dialect]
    for node in list(tree.find_all(exp.Anonymous)):
        rewrite = rewrites.get(node.name.lower())
        if rewrite is not None:
            node.replace(rewrite(node.expressions))


def _arguments(name: str, usage: str, given: list[exp.Expr], count: int) -> list[exp.Expr]:
    if len(given) != count:
        raise GateError(f"{name} takes {count} arguments, got {len(given)}", hint=f"write {usage}")
    return given


def _percentile_duckdb(given: list[exp.Expr]) -> exp.Expr:
    value, fraction = _arguments("percentile", "percentile(duration_ms, 0.95)", given, 2)
    return exp.PercentileCont(this=value, expression=fraction)


def _json_path(name: str, given: list[exp.Expr]) -> tuple[exp.Expr, exp.Expr]:
    column, key = _arguments(name, f"{name}(attributes, 'key')", given, 2)
    if not isinstance(key, exp.Literal) or not key.is_string:
        raise GateError(f"{name} needs its key as text", hint=f"write {name}(attributes, 'key')")
    text = str(key.this)
    if '"' in text or "\\" in text:
        raise GateError(f"{name} can't look for a key with a quote or a backslash", hint="use json_extract_string")
    return column, exp.Literal.string(f'$."{text}"')


def _json_text_duckdb(given: list[exp.Expr]) -> exp.Expr:
    column, path = _json_path("json_text", given)
    return exp.Anonymous(this="json_extract_string", expressions=[column, path])


def _json_number_duckdb(given: list[exp.Expr]) -> exp.Expr:
    column, path = _json_path("json_number", given)
    text = exp.Anonymous(this="json_extract_string", expressions=[column, path])
    return exp.TryCast(this=text, to=exp.DataType.build("double"))


_REWRITES: Final[Mapping[Dialect, Mapping[str, Rewrite]]] = {
    # time_bucket is DuckDB's own: buckets count from Monday, 2000-01-03 (months and years from 2000-01-01), as TimescaleDB's do
    "duckdb": {
        "percentile": _percentile_duckdb,
        "json_text": _json_text_duckdb,
        "json_number": _json_number_duckdb,
    },
}
