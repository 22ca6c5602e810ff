"""The published SQL subset: which constructs, types and functions the gate lets through, and nothing else.

An allow-list, not a deny-list: what SQLGlot or DuckDB learn in their next version is refused until it is listed here. Every
function reads only its arguments: none reaches a file, the network, a setting, a sequence or another session.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, Final

from sqlglot import exp, parse_one
from sqlglot.errors import ParseError

QUERIES: Final = (exp.Select, exp.Union, exp.Except, exp.Intersect, exp.Values)
"""What a statement may be."""

STRUCTURE: Final[frozenset[type[exp.Expr]]] = frozenset(
    {
        *QUERIES,
        exp.Subquery, exp.With, exp.CTE, exp.TableAlias, exp.From, exp.Join, exp.Table, exp.Lateral, exp.Unnest,
        exp.Where, exp.Group, exp.Having, exp.Qualify, exp.Order, exp.Ordered, exp.Limit, exp.Offset, exp.Distinct,
        exp.Cube, exp.Rollup, exp.GroupingSets, exp.Window, exp.WindowSpec, exp.Filter, exp.WithinGroup,
        exp.Column, exp.Identifier, exp.Star, exp.Alias, exp.Dot, exp.Paren, exp.Tuple, exp.Var, exp.ColumnDef,
        exp.Literal, exp.RawString, exp.Boolean, exp.Null, exp.Interval, exp.DataType, exp.DataTypeParam,
        exp.And, exp.Or, exp.Not, exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE, exp.NullSafeEQ, exp.NullSafeNEQ,
        exp.Is, exp.In, exp.Between, exp.Exists, exp.Any, exp.All, exp.Like, exp.ILike, exp.Escape, exp.RegexpLike,
        exp.Add, exp.Sub, exp.Mul, exp.Div, exp.IntDiv, exp.Mod, exp.Neg, exp.DPipe,
        exp.BitwiseAnd, exp.BitwiseOr, exp.BitwiseXor, exp.BitwiseNot, exp.BitwiseLeftShift, exp.BitwiseRightShift,
        exp.Case, exp.If, exp.Cast, exp.TryCast, exp.AtTimeZone, exp.Bracket, exp.Slice, exp.Array, exp.Lambda,
        exp.Struct, exp.PropertyEQ, exp.IgnoreNulls, exp.RespectNulls,
        exp.JSONExtract, exp.JSONExtractScalar, exp.JSONPath, exp.JSONPathRoot, exp.JSONPathKey, exp.JSONPathSubscript,
    }
)  # fmt: skip
"""Nodes that are not functions."""

TYPES: Final[frozenset[exp.DType]] = frozenset(
    {
        exp.DType.BOOLEAN, exp.DType.TINYINT, exp.DType.SMALLINT, exp.DType.INT, exp.DType.BIGINT, exp.DType.INT128,
        exp.DType.UTINYINT, exp.DType.USMALLINT, exp.DType.UINT, exp.DType.UBIGINT,
        exp.DType.FLOAT, exp.DType.DOUBLE, exp.DType.DECIMAL, exp.DType.VARCHAR, exp.DType.TEXT, exp.DType.CHAR,
        exp.DType.DATE, exp.DType.TIME, exp.DType.TIMESTAMP, exp.DType.TIMESTAMPNTZ, exp.DType.TIMESTAMPTZ,
        exp.DType.TIMESTAMP_S, exp.DType.TIMESTAMP_MS, exp.DType.TIMESTAMP_NS, exp.DType.INTERVAL,
        exp.DType.UUID, exp.DType.JSON, exp.DType.LIST, exp.DType.ARRAY,
    }
)  # fmt: skip
"""Types that a value may be cast to."""

MACROS: Final[dict[str, str]] = {
    "time_bucket": "time_bucket(INTERVAL '5 minutes', timestamp): start of the bucket",
    "percentile": "percentile(value, 0.95): exact, linear between neighbours",
    "json_text": "json_text(attributes, 'key'): a member of a JSON object as text",
    "json_number": "json_number(metrics, 'key'): a member of a JSON object as double, NULL if it is not a number",
}
"""Our own functions, compiled for each engine."""

FUNCTIONS: Final[dict[str, str]] = {
    # aggregates
    "count": "aggregate", "sum": "aggregate", "avg": "aggregate", "min": "aggregate", "max": "aggregate",
    "median": "aggregate", "quantile_cont": "aggregate", "quantile_disc": "aggregate", "approx_quantile": "aggregate",
    "approx_count_distinct": "aggregate", "mode": "aggregate",
    "stddev": "aggregate", "stddev_samp": "aggregate", "stddev_pop": "aggregate",
    "variance": "aggregate", "var_samp": "aggregate", "var_pop": "aggregate", "skewness": "aggregate", "kurtosis": "aggregate",
    "corr": "aggregate", "covar_pop": "aggregate", "covar_samp": "aggregate", "regr_slope": "aggregate",
    "regr_intercept": "aggregate", "regr_r2": "aggregate",
    "arg_min": "aggregate", "arg_max": "aggregate", "min_by": "aggregate", "max_by": "aggregate",
    "first": "aggregate", "last": "aggregate", "any_value": "aggregate", "bool_and": "aggregate", "bool_or": "aggregate",
    "string_agg": "aggregate", "listagg": "aggregate", "group_concat": "aggregate", "array_agg": "aggregate",
    "list": "aggregate", "histogram": "aggregate",
    # windows
    "row_number": "window", "rank": "window", "dense_rank": "window", "percent_rank": "window", "cume_dist": "window",
    "ntile": "window", "lag": "window", "lead": "window", "first_value": "window", "last_value": "window", "nth_value": "window",
    # conditions
    "coalesce": "condition", "nullif": "condition", "ifnull": "condition", "greatest": "condition", "least": "condition",
    "if": "condition",
    # numbers
    "abs": "number", "sign": "number", "round": "number", "floor": "number", "ceil": "number", "ceiling": "number",
    "trunc": "number", "sqrt": "number", "power": "number", "pow": "number", "exp": "number", "ln": "number", "log": "number",
    "log10": "number", "log2": "number", "mod": "number", "pi": "number", "sin": "number", "cos": "number", "tan": "number",
    "asin": "number", "acos": "number", "atan": "number", "atan2": "number", "degrees": "number", "radians": "number",
    "isnan": "number", "isfinite": "number", "isinf": "number", "bit_count": "number", "random": "number",
    # text
    "lower": "text", "upper": "text", "length": "text", "len": "text", "strlen": "text", "trim": "text", "ltrim": "text",
    "rtrim": "text", "substring": "text", "substr": "text", "left": "text", "right": "text", "replace": "text",
    "concat": "text", "concat_ws": "text", "split_part": "text", "string_split": "text", "strpos": "text", "instr": "text",
    "position": "text", "contains": "text", "starts_with": "text", "prefix": "text", "ends_with": "text", "suffix": "text",
    "reverse": "text", "regexp_matches": "text", "regexp_extract": "text", "regexp_replace": "text",
    "regexp_full_match": "text", "md5": "text", "sha256": "text", "hash": "text", "ascii": "text", "chr": "text",
    "format_bytes": "text", "lpad": "text", "rpad": "text",
    # time
    "now": "time", "current_timestamp": "time", "current_date": "time", "today": "time",
    "date_trunc": "time", "date_part": "time", "extract": "time", "date_diff": "time", "datediff": "time", "date_add": "time",
    "date_sub": "time", "year": "time", "quarter": "time", "month": "time", "week": "time", "day": "time", "hour": "time",
    "minute": "time", "second": "time", "dayofweek": "time", "isodow": "time", "dayofyear": "time", "strftime": "time",
    "strptime": "time", "try_strptime": "time", "to_timestamp": "time", "make_date": "time", "make_timestamp": "time",
    "epoch": "time", "epoch_ms": "time", "epoch_us": "time", "last_day": "time", "age": "time",
    # JSON
    "json_extract": "json", "json_extract_string": "json", "json_keys": "json", "json_array_length": "json",
    "json_type": "json", "json_valid": "json", "json_exists": "json",
    # lists
    "list_transform": "list", "list_filter": "list", "list_contains": "list", "list_sort": "list", "list_distinct": "list",
    "list_sum": "list", "list_avg": "list", "list_min": "list", "list_max": "list", "list_extract": "list",
    "array_length": "list", "unnest": "list", "row": "list",
    # other
    "typeof": "other", "uuid": "other",
}  # fmt: skip
"""Functions of the subset by what they are about; the aggregates work as windows too."""

SERIES: Final = frozenset({"generate_series", "range"})
"""Functions allowed after FROM only, where their rows stream; as a value they would be made in memory at once."""

PASSED: Final = frozenset({*FUNCTIONS, *MACROS})
"""Every name that may be called."""

CHANGING: Final = (exp.Rand, exp.Uuid)
"""Functions that give another value each time: answers with them are never kept."""


@cache
def function_nodes() -> Mapping[type[exp.Expr], str]:
    """The classes that SQLGlot reads the listed functions as, each with one such name.

    SQLGlot gives many functions a class whose name is another one; it writes a class back in one way only, so whatever else is
    read as that class does the same.
    """
    classes: dict[type[exp.Expr], str] = {}
    for name in sorted(PASSED):
        for arguments in ("", "a", "a, b", "a, b, c", "'day', b", "'day', b, c", "day FROM a", "b IN a"):
            try:
                node = parse_one(f"SELECT {name}({arguments})", read="duckdb").expressions[0]
            except ParseError:
                continue
            while isinstance(node, exp.IgnoreNulls | exp.RespectNulls):
                node = node.this
            if isinstance(node, exp.Func) and not isinstance(node, exp.Anonymous) and type(node) not in STRUCTURE:
                classes.setdefault(type(node), name)
    return classes


def published() -> dict[str, Any]:
    """The subset's functions by what they are about, and our macros with how each is called, as the catalog tells them."""
    groups: dict[str, list[str]] = {}
    for name, group in FUNCTIONS.items():
        groups.setdefault(group, []).append(name)
    return {"functions": {group: sorted(names) for group, names in groups.items()}, "macros": MACROS, "tables": sorted(SERIES)}


def function_name(node: exp.Expr) -> str:
    """The name under which a function node is listed here, lower case."""
    if isinstance(node, exp.Anonymous):
        return str(node.name).lower()
    named = function_nodes().get(type(node))
    if named is not None:
        return named
    return str(node.sql_name()).lower() if isinstance(node, exp.Func) else type(node).__name__.lower()
