"""Finds sinks by the `type` of a backend: ours and those of other packages, through the entry-point group `trackmate.sinks`."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec.inspect import DictType, ListType, Metadata, StrType, StructType, UnionType

from contract.errors import ConfigError, Problem, TrackMateError
from sinks.base import Sink, describe

GROUP: Final = "trackmate.sinks"
_PATTERN = re.compile(r"Expected `str` matching regex (?P<pattern>.*)$", re.DOTALL)
_AT_PATH = re.compile(r"^(?P<what>.*?) - at `\$(?P<path>.*)`$")


class UnknownSink(TrackMateError):
    """No installed package offers a sink of this type."""

    def __init__(self, kind: str, known: list[str]) -> None:
        self.kind = kind
        self.known = known
        super().__init__(f"unknown backend type '{kind}'; installed are: {', '.join(known) or 'none'}")


@cache
def _entry_points() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def known_types() -> list[str]:
    """The types that are installed, sorted."""
    return sorted(_entry_points())


def sink_class(kind: str) -> type[Sink]:
    """The class behind a `type`. Raises UnknownSink, or TrackMateError when its package can't be imported."""
    entry = _entry_points().get(kind)
    if entry is None:
        raise UnknownSink(kind, known_types())
    try:
        loaded: type[Sink] = entry.load()
    except ImportError as error:
        message = f"the sink '{kind}' can't be loaded: {error}. Install what it needs: pip install 'trackmate[{kind}]'"
        raise TrackMateError(message) from error
    except Exception as error:
        message = f"the sink '{kind}' can't be loaded from {entry.value}: {describe(error)}: is its package whole?"
        raise TrackMateError(message) from error
    return loaded


def parse_config(kind: str, config: Mapping[str, Any], *, base: Path | None = None, source: str = "config") -> msgspec.Struct:
    """A backend's `config` block as the sink's own struct; relative paths in it are taken from the folder `base`.

    Raises ConfigError with every problem; the problems' paths are relative to the block.
    """

    def convert(wanted: type, value: Any) -> Any:
        if not isinstance(value, str):
            message = f"expected `str`, got `{type(value).__name__}`"
            raise ValueError(message)  # noqa: TRY004 - msgspec turns a ValueError into its own error with the path
        return (base or Path.cwd()) / Path(value).expanduser() if wanted is Path else wanted(value)

    model = sink_class(kind).Config
    problems: list[Problem] = []
    fields = {item.encode_name: item for item in msgspec.structs.fields(model)}
    problems += [
        Problem(key, f"unknown setting of a '{kind}' backend; known are: {', '.join(sorted(fields))}")
        for key in config
        if key not in fields
    ]
    problems += [Problem(key, "required, but missing") for key, item in fields.items() if item.required and key not in config]
    for key, item in fields.items():
        if key in config:
            try:
                msgspec.convert(config[key], item.type, strict=False, dec_hook=convert)
            except msgspec.ValidationError as error:
                problems.append(_problem(key, error, item.type))
    if problems:
        raise ConfigError(source, problems)
    try:
        return msgspec.convert(dict(config), model, strict=False, dec_hook=convert)
    except msgspec.ValidationError as error:
        raise ConfigError(source, [_problem("", error, model)]) from error


def _problem(key: str, error: msgspec.ValidationError, wanted: Any) -> Problem:
    found = _AT_PATH.match(str(error))
    what = found["what"] if found else str(error)
    path = key + (found["path"] if found else "")
    if (pattern := _PATTERN.match(what)) and (words := descriptions(wanted).get(ast.literal_eval(pattern["pattern"]))):
        what = f"expected {words}"
    return Problem(path.lstrip("."), what[:1].lower() + what[1:])


def descriptions(wanted: Any) -> dict[str, str]:
    """What each pattern means that text in this type must match, in words: the `description` beside it, or nothing."""
    found: dict[str, str] = {}
    structs: set[type] = set()
    waiting = [msgspec.inspect.type_info(wanted)]
    while waiting:
        match waiting.pop():
            case Metadata(StrType(pattern=str(pattern)), extra_json_schema=schema):
                found[pattern] = (schema or {}).get("description", "")
            case Metadata(type=inner) | ListType(item_type=inner):
                waiting.append(inner)
            case UnionType(types=several):
                waiting.extend(several)
            case DictType(key_type=key, value_type=value):
                waiting += [key, value]
            case StructType(cls=struct, fields=fields) if struct not in structs:
                structs.add(struct)  # one may hold itself
                waiting.extend(field.type for field in fields)
    return found


def make_sink(kind: str, name: str, config: Mapping[str, Any], *, base: Path | None = None) -> Sink:
    """A sink of this type, not yet open. Raises UnknownSink or ConfigError."""
    return sink_class(kind)(name, parse_config(kind, config, base=base))
