"""The one gate before every engine: what comes through is a single query that can only read tables of the catalog.

SQLGlot parses the text, every node of the tree is looked up in an allow-list (a CTE can hide an INSERT, a table can be a file,
a function can read the environment), every table must be in the catalog or be a CTE that is visible where it stands. The engine
is then given what SQLGlot writes from the tree, never the text itself, so nothing that the parser overlooked can reach it.
"""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from sqlglot import exp, parse, tokenize
from sqlglot.errors import ParseError, TokenError

from federation.engines.base import GateError
from federation.engines.dialect import PublishedSql
from federation.engines.grammar import PASSED, SERIES, STRUCTURE, TYPES, function_name, function_nodes
from federation.engines.growth import MAX_PADDING, check_replacements

MAX_LENGTH: Final = 64 * 1024
"""Characters of one statement."""

MAX_TOKENS: Final = 20_000
MAX_NESTING: Final = 60
"""How deep parentheses, brackets and CASE may nest in the text."""

MAX_DEPTH: Final = 250
"""How deep the parsed tree may be; a chain of operators counts one level each."""

_EXPLAIN: Final = re.compile(r"\A(?:\s|--[^\n]*(?:\n|\Z)|/\*.*?\*/)*(explain)\b", re.IGNORECASE | re.DOTALL)
_OPENING: Final = frozenset({"(", "[", "{", "CASE"})
_CLOSING: Final = frozenset({")", "]", "}", "END"})
_PLAIN_TABLE: Final = frozenset({"this", "db", "alias", "joins"})
_ONLY_QUERIES: Final = "only queries are answered here: write SELECT … FROM silver.events …"

_HINTS: Final[dict[type[exp.Expr], str]] = {
    exp.ReadCSV: "files can't be read from SQL: ask a table of the catalog",
    exp.ReadParquet: "files can't be read from SQL: ask a table of the catalog",
    exp.Pivot: "write it with conditions: count(*) FILTER (WHERE kind = 'error')",
    exp.Placeholder: "write the value itself into the statement",
    exp.Parameter: "write the value itself into the statement",
    exp.TableSample: "write a condition, or LIMIT",
    exp.Columns: "name the columns, or use * EXCLUDE (…)",
    exp.Into: "the answer goes to the caller: leave INTO out",
    exp.Lock: "queries take no locks: leave FOR UPDATE out",
    exp.Version: "ask with as_of (--as-of on the command line)",
    exp.HistoricalData: "ask with as_of (--as-of on the command line)",
    exp.Collate: "text is compared by its bytes: leave COLLATE out",
}

# SQLGlot warns on its logger about every statement that it can only read as a command; the gate refuses those by itself
logging.getLogger("sqlglot").setLevel(logging.ERROR)


@dataclass(frozen=True)
class Statement:
    """A statement that passed: its tree, the nodes in it that are catalog tables, and whether it is only to be explained."""

    tree: exp.Query
    tables: tuple[exp.Table, ...]
    explain: bool

    @cached_property
    def text(self) -> str:
        """The statement in one spelling: statements that differ in case, space and comments alone have the same."""
        return self.tree.sql(dialect="duckdb", comments=False)


def table_name(table: exp.Table) -> str:
    """A catalog table's name, `schema.table` in lower case."""
    return f"{table.db}.{table.name}".lower()


def check(sql: str, tables: Collection[str]) -> Statement:
    """Let one statement through, or say why not; `tables` are the names (`schema.table`) that the caller may read.

    Raises GateError.
    """
    if len(sql) > MAX_LENGTH:
        raise GateError(f"the statement has {len(sql):,} characters", hint=f"at most {MAX_LENGTH:,} are read: shorten it")
    if "\0" in sql:
        raise GateError("the statement holds a NUL character", hint="leave it out")
    found = _EXPLAIN.match(sql)
    if found:
        sql = sql[: found.start(1)] + " " * len("explain") + sql[found.end(1) :]
    try:
        tree = _parse(sql)
        _check_depth(tree)
        for node in tree.walk():
            _check_node(node)
        check_replacements(tree)
        catalog = tuple(_tables(tree, frozenset(), {name.lower() for name in tables}))
    except RecursionError:
        raise GateError("the statement is nested too deeply", hint="split it with WITH") from None
    return Statement(tree, catalog, explain=found is not None)


def _parse(sql: str) -> exp.Query:
    try:
        tokens = tokenize(sql, read="duckdb")
    except TokenError as error:
        raise GateError(f"the statement can't be read ({error})", hint="look for a quote that is not closed") from None
    if len(tokens) > MAX_TOKENS:
        raise GateError(f"the statement has {len(tokens):,} words", hint=f"at most {MAX_TOKENS:,} are read: shorten it")
    nesting = 0
    for token in tokens:
        text = token.text.upper()
        nesting += (text in _OPENING) - (text in _CLOSING)
        if nesting > MAX_NESTING:
            raise GateError(
                f"more than {MAX_NESTING} parentheses are open", hint="split it with WITH", line=token.line, column=token.col
            )
    try:
        statements = [statement for statement in parse(sql, read=PublishedSql) if statement is not None]
    except ParseError as error:
        first = error.errors[0] if error.errors else {}
        what = str(first.get("description") or "it can't be parsed").rstrip(".")
        near = first.get("highlight")
        raise GateError(
            f"{what}{f' near {near!r}' if near else ''}",
            hint="write it as DuckDB's SELECT is written",
            line=first.get("line"),
            column=first.get("col"),
        ) from None
    if not statements:
        raise GateError("there is no statement", hint=_ONLY_QUERIES)
    if len(statements) > 1:
        line, column = _place(statements[1])
        raise GateError(f"{len(statements)} statements were sent", hint="send one at a time", line=line, column=column)
    tree = statements[0]
    if isinstance(tree, exp.Subquery):
        tree = exp.select("*").from_(tree)
    if not isinstance(tree, exp.Query | exp.Values):
        raise _refused(tree)
    return exp.select("*").from_(tree) if isinstance(tree, exp.Values) else tree


def _check_depth(tree: exp.Expr) -> None:
    level: list[exp.Expr] = [tree]
    depth = 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            line, column = _place(level[0])
            raise GateError(
                f"the statement is nested more than {MAX_DEPTH} levels deep",
                hint="write long chains of OR as IN (…), and split it with WITH",
                line=line,
                column=column,
            )
        level = [child for node in level for child in node.iter_expressions()]


def _check_node(node: exp.Expr) -> None:
    if isinstance(node, exp.DataType):
        if node.this not in TYPES:
            kind = node.sql(dialect="duckdb").lower()
            raise _error(node, f"type {kind} can't be used", "use varchar, bigint, double, boolean, date, timestamp or interval")
    elif isinstance(node, exp.Table):
        _check_table(node)
    elif type(node) in STRUCTURE:
        return
    elif isinstance(node, exp.GenerateSeries) or (isinstance(node, exp.Anonymous) and node.name.lower() in SERIES):
        if not isinstance(node.parent, exp.Table):
            name = "range" if node.args.get("is_end_exclusive") else "generate_series"
            raise _error(node, f"{name} can't be used as a value", f"use it as a table: FROM {name}(1, 10) AS t(n)")
    elif isinstance(node, exp.Anonymous) or type(node) in function_nodes():
        _check_function(node)
    else:
        raise _refused(node)


def _check_table(table: exp.Table) -> None:
    if not isinstance(table.this, exp.Identifier):
        if isinstance(table.this, exp.GenerateSeries):
            return
        name = function_name(table.this)
        raise _error(table, f"{name}(…) can't be read from", "table functions are closed: ask a table of the catalog")
    extra = sorted(key for key, value in table.args.items() if value and key not in _PLAIN_TABLE and key != "catalog")
    if extra:
        node = table.args[extra[0]]
        node = node[0] if isinstance(node, list) else node
        if isinstance(node, exp.Expr):
            raise _refused(node)
        raise _error(table, f"{extra[0]} can't be used on a table", _ONLY_QUERIES)


def _check_function(node: exp.Expr) -> None:
    name = function_name(node)
    if name not in PASSED:
        near = difflib.get_close_matches(name, PASSED, n=2)
        hint = f"did you mean {' or '.join(near)}?" if near else "GET /v1/catalog lists the functions that can be used"
        raise _error(node, f"function {name} can't be used", hint)
    if name in {"lpad", "rpad"}:
        width = node.args.get("expression") if isinstance(node, exp.Pad) else None
        if not isinstance(width, exp.Literal) or width.is_string or float(width.this) > MAX_PADDING:
            raise _error(node, f"{name} needs its width as a number", f"write a number of at most {MAX_PADDING:,}")
    if name in {"replace", "regexp_replace"} and isinstance(node, exp.Anonymous):
        raise _error(node, f"{name} can't be called so", f"write {name}(text, what, by_what)")


def _tables(node: exp.Expr, visible: frozenset[str], catalog: Collection[str]) -> Iterator[exp.Table]:
    """Catalog tables in the tree under `node`, where the CTEs `visible` can be named."""
    with_ = node.args.get("with_")
    if isinstance(with_, exp.With):
        for cte in with_.expressions:
            name = cte.alias.lower()
            yield from _tables(cte.this, visible | {name} if with_.args.get("recursive") else visible, catalog)
            visible |= {name}
    if isinstance(node, exp.Table) and isinstance(node.this, exp.Identifier):
        if not node.db and not node.catalog:
            if node.name.lower() not in visible:
                raise _unknown_table(node, node.name, catalog, visible)
        elif node.catalog or table_name(node) not in catalog:
            raise _unknown_table(node, ".".join(part.name for part in node.parts), catalog, visible)
        else:
            yield node
    for child in node.iter_expressions():
        if child is not with_:
            yield from _tables(child, visible, catalog)


def _unknown_table(node: exp.Expr, name: str, catalog: Collection[str], visible: Collection[str]) -> GateError:
    known = sorted({*catalog, *visible})
    near = [table for table in known if table.rpartition(".")[2] == name.lower().rpartition(".")[2]]
    near = near or difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.5)
    if near:
        hint = f"did you mean {' or '.join(near[:3])}?"
    else:
        hint = f"the tables are {', '.join(sorted(catalog))}" if catalog else "this token may read no table"
    return _error(node, f"there is no table {name}", hint)


def _refused(node: exp.Expr) -> GateError:
    hint = next((text for kind, text in _HINTS.items() if isinstance(node, kind)), None)
    if isinstance(node, exp.Func):
        hint = hint or "GET /v1/catalog lists the functions that can be used"
        return _error(node, f"function {function_name(node)} can't be used", hint)
    if isinstance(node, exp.Command):
        return _error(node, f"{str(node.this).upper()} can't be used", _ONLY_QUERIES)
    return _error(node, f"{type(node).__name__.upper()} can't be used", hint or _ONLY_QUERIES)


def _error(node: exp.Expr, what: str, hint: str) -> GateError:
    line, column = _place(node)
    return GateError(what, hint=hint, line=line, column=column)


def _place(node: exp.Expr) -> tuple[int | None, int | None]:
    """Line and column of the first word under `node` that SQLGlot remembers the place of; columns count from the word's start."""
    for inner in node.walk(bfs=False):
        meta = inner.meta
        if "line" in meta and "col" in meta:
            length = meta.get("end", 0) - meta.get("start", 0)
            return meta["line"], max(1, meta["col"] - length)
    return None, None
