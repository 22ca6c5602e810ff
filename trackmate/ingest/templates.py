"""Field values of a mapping: text with `{column}` in it, with an optional look-up table and default."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

Row = Any
"""A CSV row (list of strings) or an NDJSON row (dict of strings)."""

Column = Callable[[Row], str]
"""Reads one column of a row; an absent value is the empty string."""

Resolve = Callable[[str], Column]
"""Finds the column of that name, or raises KeyError."""

Field = Callable[[Row], str]
"""Computes one value of a row; the empty string means that the field is absent."""

_REFERENCE = re.compile(r"\{\{|\}\}|\{([^{}]+)\}")


def columns_of(template: str) -> list[str]:
    """The columns that a template names, in order."""
    return [match[1] for match in _REFERENCE.finditer(template) if match[1] is not None]


def compile_template(template: str, resolve: Resolve) -> Field:
    """Make a template ready: `{column}` stands for the column's value, `{{` and `}}` for braces.

    A template whose columns are all empty in a row gives nothing at all, so that `lot-{id}` without an id is no lot.
    """
    parts: list[str | Column] = []
    position = 0
    for match in _REFERENCE.finditer(template):
        parts.append(template[position : match.start()])
        parts.append(match[0][0] if match[1] is None else resolve(match[1]))
        position = match.end()
    parts.append(template[position:])
    kept = [part for part in parts if part != ""]
    readers = [part for part in kept if not isinstance(part, str)]
    if not readers:
        constant = "".join(part for part in kept if isinstance(part, str))
        return lambda _row: constant
    if len(kept) == 1:
        return readers[0]

    def fill(row: Row) -> str:
        values = iter([read(row) for read in readers])
        filled = [part if isinstance(part, str) else next(values) for part in kept]
        if any(text for part, text in zip(kept, filled, strict=True) if not isinstance(part, str)):
            return "".join(filled)
        return ""

    return fill


def compile_field(spec: str | Mapping[str, Any], resolve: Resolve) -> Field:
    """Make a field ready: a template, or `{value, map, default}`.

    With `map`, a value that is not in it becomes `default`; without `default` it is an error that names the value.
    """
    if isinstance(spec, str):
        return compile_template(spec, resolve)
    read = compile_template(str(spec["value"]), resolve)
    table: Mapping[str, str] | None = spec.get("map")
    default: str | None = spec.get("default")
    if table is None:
        fallback = default or ""
        return lambda row: read(row) or fallback

    def look_up(row: Row) -> str:
        value = read(row)
        if value in table:
            return table[value]
        if default is not None:
            return default
        if value == "":
            return ""
        known = ", ".join(sorted(table))
        raise ValueError(f"{value!r} is not in the mapping's table (it has {known}); add it or give a default")

    return look_up
