"""The reference page of backends: every setting of every sink's `config` block, read from the sinks' own models."""

from __future__ import annotations

import ast
import inspect
import textwrap
import types
import typing
from functools import cache
from typing import Any, get_args, get_origin

import msgspec

from contract.settings import Secret
from sinks import registry
from sinks.base import Sink


def backends_page(note: str) -> str:
    """Markdown with a section a type."""
    rows = [
        note,
        "# Backends\n",
        "What stands under `config` of a backend, in `sidecar.yaml` (`sidecar.backends`) and in `monitoring-config.yaml`",
        "(`sdk.direct_backends`) alike. What arrives in each system is told in [its own page](../backends/README.md).\n",
    ]
    for kind in registry.known_types():
        sink = registry.sink_class(kind)
        rows += [f"## {kind}\n", f"{_first_sentence(sink)} {_limits(sink)}\n"]
        rows += ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
        rows += _rows(sink.Config, "")
        rows.append("")
    return "\n".join(rows).rstrip() + "\n"


def _first_sentence(sink: type[Sink]) -> str:
    module = inspect.getmodule(sink)
    return (inspect.getdoc(module) or "").partition("\n\n")[0].replace("\n", " ")


def _limits(sink: type[Sink]) -> str:
    limits = sink.limits
    size = f"{limits.max_events:,} events and {limits.max_bytes:,} bytes"
    return f"One delivery: at most {size}; up to {limits.max_concurrency} at once."


def _rows(model: type[msgspec.Struct], path: str) -> list[str]:
    rows = []
    words = _docstrings(model)
    for field in msgspec.structs.fields(model):
        here = f"{path}.{field.encode_name}" if path else field.encode_name
        inner = _struct_of(field.type)
        if inner is not None:
            rows += _rows(inner, here)
            continue
        rows.append(f"| `{here}` | {_type(field.type)} | {_default(field)} | {_cell(words.get(field.name, ''))} |")
    return rows


def _struct_of(kind: Any) -> type[msgspec.Struct] | None:
    """The model behind a field that is one, or may be null in place of one."""
    options = [option for option in get_args(kind) if option is not types.NoneType] if _is_union(kind) else [kind]
    if len(options) == 1 and isinstance(options[0], type) and issubclass(options[0], msgspec.Struct):
        return options[0]
    return None


def _is_union(kind: Any) -> bool:
    return get_origin(kind) in {typing.Union, types.UnionType}


def _type(kind: Any) -> str:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is typing.Annotated:
        return _type(arguments[0])
    if origin is typing.Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if _is_union(kind):
        return " or ".join(_type(option) for option in arguments)
    if origin in {list, tuple, set, frozenset}:
        return "list of " + _type(arguments[0])
    if origin is dict:
        return "map"
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return "map"
    names = {str: "string", int: "integer", float: "number", bool: "boolean", types.NoneType: "null", Secret: "secret"}
    return names.get(kind, "path" if getattr(kind, "__name__", "") == "Path" else "any")


def _default(field: Any) -> str:
    if field.required:
        return "required"
    value = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    if isinstance(value, Secret) or value is None or value == "":
        return ""
    if isinstance(value, str):
        return f"`{value}`"
    return f"`{msgspec.json.encode(value, enc_hook=str).decode()}`"


@cache
def _docstrings(model: type[msgspec.Struct]) -> dict[str, str]:
    """The text below each field, of the model and of those it is derived from."""
    found: dict[str, str] = {}
    for cls in reversed(model.__mro__):
        if not issubclass(cls, msgspec.Struct) or cls is msgspec.Struct:
            continue
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
        assert isinstance(tree, ast.ClassDef)
        for statement, following in zip(tree.body, tree.body[1:], strict=False):
            is_field = isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)
            if is_field and isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
                found[statement.target.id] = str(following.value.value)
    return found


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
