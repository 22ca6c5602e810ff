"""Checks a configuration against the JSON Schema that all languages share, and names every mistake.

It knows the part of JSON Schema 2020-12 that `config.schema.json` uses; a test holds it against the schema.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from monitoring_sdk._exceptions import Problem

Rules = Mapping[str, Any]

KEYWORDS = frozenset(
    {
        "$schema", "$id", "$defs", "$ref", "title", "description", "default", "type", "enum", "const", "pattern", "minLength",
        "maxLength", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "properties", "required",
        "additionalProperties", "items", "allOf", "if", "then",
    }
)  # fmt: skip
"""Every keyword understood here."""


def check(rules: Rules, value: Any) -> list[Problem]:
    """Every way in which `value` breaks `rules`, in the order of the paths."""
    return sorted(set(_check(rules, value, "", rules)))


def with_defaults(rules: Rules, value: Mapping[str, Any]) -> dict[str, Any]:
    """A valid `value` with the schema's defaults in the places that it leaves out."""
    full = dict(value)
    for key, entry in rules.get("properties", {}).items():
        if "properties" in entry:
            full[key] = with_defaults(entry, full.get(key, {}))
        elif key not in full and "default" in entry:
            full[key] = entry["default"]
    return full


def _check(rules: Rules, value: Any, path: str, root: Rules) -> Iterator[Problem]:
    if "$ref" in rules:
        rules = _resolve(rules["$ref"], root)
    if "type" in rules:
        wanted = [rules["type"]] if isinstance(rules["type"], str) else rules["type"]
        if not any(_is(value, name) for name in wanted):
            yield Problem(path, f"expected {' or '.join(wanted)}, got {_shown(value)}")
            return
    yield from _check_scalar(rules, value, path)
    if isinstance(value, Mapping):
        yield from _check_object(rules, value, path, root)
    elif isinstance(value, list):
        for index, entry in enumerate(value):
            yield from _check(rules.get("items", {}), entry, f"{path}[{index}]", root)
    for part in rules.get("allOf", ()):
        yield from _check(part, value, path, root)
    if "if" in rules and not any(_check(rules["if"], value, path, root)):
        yield from _check(rules.get("then", {}), value, path, root)


def _check_scalar(rules: Rules, value: Any, path: str) -> Iterator[Problem]:
    if "enum" in rules and value not in rules["enum"]:
        yield Problem(path, f"expected one of {', '.join(map(str, rules['enum']))}, got {_shown(value)}")
    if "const" in rules and value != rules["const"]:
        yield Problem(path, f"expected {rules['const']}, got {_shown(value)}")
    if isinstance(value, str):
        if "pattern" in rules and not re.search(rules["pattern"], value):
            hint = rules.get("description", f"text like {rules['pattern']}")
            yield Problem(path, f"expected {hint}, got {_shown(value)}")
        if len(value) < rules.get("minLength", 0):
            yield Problem(path, f"expected at least {rules['minLength']} character(s)")
        if len(value) > rules.get("maxLength", math.inf):
            yield Problem(path, f"expected at most {rules['maxLength']} characters, got {len(value)}")
    elif _is(value, "number"):
        bounds = (
            ("minimum", "at least", value >= rules.get("minimum", value)),
            ("maximum", "at most", value <= rules.get("maximum", value)),
            ("exclusiveMinimum", "more than", value > rules.get("exclusiveMinimum", -math.inf)),
            ("exclusiveMaximum", "less than", value < rules.get("exclusiveMaximum", math.inf)),
        )
        for keyword, words, kept in bounds:
            if not kept:
                yield Problem(path, f"expected {words} {rules[keyword]}, got {_shown(value)}")


def _check_object(rules: Rules, value: Mapping[str, Any], path: str, root: Rules) -> Iterator[Problem]:
    known: Mapping[str, Rules] = rules.get("properties", {})
    for key in rules.get("required", ()):
        if key not in value:
            yield Problem(_join(path, key), "required but missing")
    for key, entry in value.items():
        if key in known:
            yield from _check(known[key], entry, _join(path, key), root)
        elif rules.get("additionalProperties") is False:
            close = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known here: {', '.join(sorted(known)) or 'none'}"
            yield Problem(_join(path, str(key)), f"unknown key; {hint}")


def _is(value: Any, name: str) -> bool:
    if name in {"number", "integer"}:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            return False
        return name == "number" or float(value).is_integer()
    types: dict[str, type | tuple[type, ...]] = {
        "object": Mapping, "array": list, "string": str, "boolean": bool, "null": type(None),
    }  # fmt: skip
    return isinstance(value, types[name])


def _resolve(reference: str, root: Rules) -> Rules:
    node: Any = root
    for part in reference.lstrip("#/").split("/"):
        node = node[part]
    rules: Rules = node
    return rules


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _shown(value: Any) -> str:
    """A value in a message: short, and only its kind where it could hold a secret."""
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
