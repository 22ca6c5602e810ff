"""Compares what came with what a case expects: given keys must be there with the given values, others may be there too.

In an expectation `$any` stands for any value, `$absent` for none, `$uuid7` for a UUID of version 7, `$uuid` for any UUID,
`$positive` for a number above 0, `$string` for a text, and `~PATTERN` for a text in which the regular expression is found.
"""

from __future__ import annotations

import re
from typing import Any

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def matches(value: Any, expected: Any) -> bool:
    """Whether `value` is as expected."""
    return mismatch(value, expected) is None


def mismatch(value: Any, expected: Any, path: str = "") -> str | None:
    """Where and how `value` is not as expected; None when it is."""
    where = path or "it"
    if isinstance(expected, dict):
        if set(expected) == {"$exactly"}:
            return None if value == expected["$exactly"] else f"{where} is {value!r}, not exactly {expected['$exactly']!r}"
        return _missing(value, expected, path)
    if isinstance(expected, list):
        if not isinstance(value, list) or len(value) != len(expected):
            return f"{where} is {value!r}, not {expected!r}"
        problems = (mismatch(item, wanted, f"{path}[{n}]") for n, (item, wanted) in enumerate(zip(value, expected, strict=True)))
        return next((problem for problem in problems if problem is not None), None)
    if isinstance(expected, str) and expected[:1] in {"$", "~"}:
        return None if _meant(value, expected) else f"{where} is {value!r}, not {expected}"
    is_number = isinstance(expected, int | float) and not isinstance(expected, bool)
    same_kind = isinstance(value, int | float) and not isinstance(value, bool) if is_number else type(value) is type(expected)
    return None if same_kind and value == expected else f"{where} is {value!r}, not {expected!r}"


def _missing(value: Any, expected: dict[str, Any], path: str) -> str | None:
    if not isinstance(value, dict):
        return f"{path or 'it'} is {value!r}, no object"
    for key, wanted in expected.items():
        inner = f"{path}.{key}" if path else str(key)
        if wanted == "$absent":
            if key in value:
                return f"{inner} is there: {value[key]!r}"
        elif key not in value:
            return f"{inner} is missing"
        elif (problem := mismatch(value[key], wanted, inner)) is not None:
            return problem
    return None


def _meant(value: Any, expected: str) -> bool:
    if expected.startswith("~"):
        return isinstance(value, str) and re.search(expected[1:], value, re.DOTALL) is not None
    match expected:
        case "$any":
            return True
        case "$uuid7":
            return isinstance(value, str) and _UUID.fullmatch(value) is not None and value[14] == "7"
        case "$uuid":
            return isinstance(value, str) and _UUID.fullmatch(value) is not None
        case "$positive":
            return isinstance(value, int | float) and value > 0
        case "$string":
            return isinstance(value, str) and bool(value)
    return bool(value == expected)
