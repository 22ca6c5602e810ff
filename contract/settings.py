"""Configuration from a file, the environment and arguments, checked against a JSON Schema, with every mistake named at once.

Later wins: the schema's defaults (applied by the part that reads it), the file, the environment (`PREFIX__A__B=value` steps
into levels), arguments. `${VAR}` and `${VAR:-default}` are replaced in every string of the file; in a block with
`enabled: false` a variable may be unset.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from contract.errors import ConfigError, Problem

T = TypeVar("T")

_VARIABLE: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(B|KiB|MiB|GiB|TiB|kB|KB|MB|GB|TB)?")
_SIZE_UNITS: Final = {
    "B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40,
}  # fmt: skip
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?")
_DURATION_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Secret:
    """Text that is shown nowhere: `str`, `repr` and formatting give ***; only `reveal()` gives the text."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return "***"

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)

    def reveal(self) -> str:
        """The text itself."""
        return self._text


def convert(value: Any, to: type[T]) -> T:
    """A checked part of a configuration as the struct that a part of TrackMate works with; text becomes Secret where asked for.

    Raises ConfigError when struct and schema disagree.
    """
    try:
        return msgspec.convert(value, to, dec_hook=_decode_secret)
    except msgspec.ValidationError as error:
        raise ConfigError(to.__name__, [Problem("", str(error))]) from error


def _decode_secret(wanted: type, value: Any) -> Any:
    if wanted is Secret and isinstance(value, str):
        return Secret(value)
    message = f"expected {wanted.__name__}, got {type(value).__name__}"
    raise TypeError(message)


def parse_size(value: str | float) -> int:
    """Bytes of `64MiB`, `10GB` or a plain number. Raises ValueError."""
    if isinstance(value, int | float):
        return int(value)
    found = _SIZE.fullmatch(value.strip())
    if not found:
        message = f"expected a size such as 64MiB, got '{value}'"
        raise ValueError(message)
    return int(float(found[1]) * _SIZE_UNITS[found[2] or "B"])


def parse_duration(value: str | float) -> float:
    """Seconds of `500ms`, `30s`, `90d` or a plain number. Raises ValueError."""
    if isinstance(value, int | float):
        return float(value)
    found = _DURATION.fullmatch(value.strip())
    if not found:
        message = f"expected a duration such as 30s, got '{value}'"
        raise ValueError(message)
    return float(found[1]) * _DURATION_UNITS[found[2] or "s"]


@cache
def schema(name: str) -> dict[str, Any]:
    """One of the contract's schemas by file name without `.schema.json`: `event`, `config`, `sidecar` or `trackmate`."""
    loaded: dict[str, Any] = json.loads((files("contract") / f"{name}.schema.json").read_text())
    return loaded


def load(
    schema_name: str,
    file: Path | None,
    *,
    env_prefix: str,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The merged configuration, valid against `contract/{schema_name}.schema.json`.

    `env_prefix` is what names environment variables, such as `TRACKMATE`; `environ` stands in for `os.environ`.
    Raises ConfigError with every problem: an unreadable file, an unset variable, an unknown key, a wrong type or value.
    """
    merged, problems = examine(schema_name, file, env_prefix=env_prefix, environ=environ, overrides=overrides)
    if problems:
        raise ConfigError(str(file) if file else "configuration", problems)
    return merged


def examine(
    schema_name: str,
    file: Path | None,
    *,
    env_prefix: str,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> tuple[dict[str, Any], list[Problem]]:
    """What `load` does, with the problems returned: for a part that has rules of its own to check in the same go.

    Raises ConfigError when the file can't be read.
    """
    environment = os.environ if environ is None else environ
    problems: list[Problem] = []
    merged = _interpolate(_read(file), environment, "", problems) if file else {}
    rules = schema(schema_name)
    for path, text in _from_environment(env_prefix, environment):
        _set(merged, path, text if _holds_text(rules, path) else _typed(text))
    for dotted, value in (overrides or {}).items():
        _set(merged, dotted.split("."), value)
    problems += check(rules, merged, [problem.path for problem in problems])
    return merged, problems


def _read(file: Path) -> dict[str, Any]:
    try:
        content = _parse(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(str(file), [Problem("", "there is no such file")]) from error
    except OSError as error:
        raise ConfigError(str(file), [Problem("", f"can't be read: {error.strerror}")]) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(str(file), [Problem("", f"not valid YAML or JSON: {' '.join(str(error).split())}")]) from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(str(file), [Problem("", f"expected a mapping at the top, got {type(content).__name__}")])
    return content


_HIDDEN: Final = re.compile("\ue000([0-9]+)\ue001")
"""Two characters of the private use area, which mean nothing to YAML, around a variable's number."""


def _parse(text: str) -> Any:
    """YAML in which `${VAR}` needs no quotes, though its braces would mean something else inside `{...}`."""
    variables: list[str] = []

    def hide(found: re.Match[str]) -> str:
        variables.append(found[0])
        return f"\ue000{len(variables) - 1}\ue001"

    def show(value: Any) -> Any:
        if isinstance(value, dict):
            return {show(key): show(entry) for key, entry in value.items()}
        if isinstance(value, list):
            return [show(entry) for entry in value]
        return _HIDDEN.sub(lambda found: variables[int(found[1])], value) if isinstance(value, str) else value

    return show(yaml.safe_load(_VARIABLE.sub(hide, text)))


def _interpolate(value: Any, environ: Mapping[str, str], path: str, problems: list[Problem]) -> Any:
    if isinstance(value, dict):
        if value.get("enabled") is False:  # nobody needs what it holds
            problems = []
        return {
            key: _interpolate(entry, environ, f"{path}.{key}" if path else str(key), problems) for key, entry in value.items()
        }
    if isinstance(value, list):
        return [_interpolate(entry, environ, f"{path}[{index}]", problems) for index, entry in enumerate(value)]
    if not isinstance(value, str):
        return value

    def replace(found: re.Match[str]) -> str:
        name, default = found[1], found[2]
        if name in environ:
            return environ[name]
        if default is None:
            problems.append(
                Problem(path, f"environment variable {name} is not set and has no default (write ${{{name}:-default}})")
            )
            return ""
        return str(default)

    return _VARIABLE.sub(replace, value)


def _from_environment(prefix: str, environ: Mapping[str, str]) -> Iterator[tuple[list[str], str]]:
    start = prefix + "__"
    for name in sorted(environ):
        if name.startswith(start):
            yield name.removeprefix(start).lower().split("__"), environ[name]


def _typed(text: str) -> Any:
    """An environment variable's text as YAML reads a scalar or a flow collection."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _holds_text(rules: Mapping[str, Any], path: list[str]) -> bool:
    node: Any = rules
    for part in path:
        node = node.get("properties", {}).get(part, {}) if isinstance(node, dict) else {}
    return isinstance(node, dict) and node.get("type") == "string"


def _set(tree: dict[str, Any], path: list[str], value: Any) -> None:
    for part in path[:-1]:
        inner = tree.get(part)
        if not isinstance(inner, dict):
            inner = tree[part] = {}
        tree = inner
    tree[path[-1]] = value


def check(rules: Mapping[str, Any], value: Any, known: list[str] | None = None) -> list[Problem]:
    """Every way in which `value` breaks the JSON Schema `rules`, except at the paths that are `known` to be wrong already."""
    found = [problem for error in Draft202012Validator(rules).iter_errors(value) for problem in _problems(error)]
    skip = set(known or ())
    return sorted({p for p in found if p.path not in skip}, key=lambda p: (p.path, p.message))


def _problems(error: ValidationError) -> Iterator[Problem]:
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path).removeprefix(".")
    wanted: Any = error.validator_value
    match error.validator:
        case "additionalProperties" | "unevaluatedProperties":
            allowed = sorted(error.schema.get("properties", {}))  # type: ignore[union-attr]
            for key in sorted(set(error.instance) - set(allowed)):  # type: ignore[arg-type]
                yield Problem(f"{path}.{key}" if path else str(key), f"unknown key; known here: {', '.join(allowed) or 'none'}")
        case "required":
            missing = next(key for key in wanted if key not in error.instance and f"'{key}'" in error.message)  # type: ignore[operator]
            yield Problem(f"{path}.{missing}" if path else missing, "required but missing")
        case "type":
            names = wanted if isinstance(wanted, str) else " or ".join(wanted)
            yield Problem(path, f"expected {names}, got {_shown(error.instance)}")
        case "enum":
            yield Problem(path, f"expected one of {', '.join(map(str, wanted))}, got {_shown(error.instance)}")
        case "const":
            yield Problem(path, f"expected {wanted}, got {_shown(error.instance)}")
        case "minimum" | "exclusiveMinimum" | "maximum" | "exclusiveMaximum":
            words = {
                "minimum": "at least",
                "exclusiveMinimum": "more than",
                "maximum": "at most",
                "exclusiveMaximum": "less than",
            }
            yield Problem(path, f"expected {words[error.validator]} {wanted}, got {_shown(error.instance)}")
        case "pattern":
            hint = error.schema.get("description", f"text like {wanted}")  # type: ignore[union-attr]
            yield Problem(path, f"expected {hint}, got {_shown(error.instance)}")
        case "anyOf" | "oneOf":
            hint = error.schema.get("description", "another form")  # type: ignore[union-attr]
            yield Problem(path, f"expected {hint}, got {_shown(error.instance)}")
        case _:
            yield Problem(path, error.message)


def _shown(value: Any) -> str:
    """A value in a message: short, and its kind rather than its content where it could be a secret's container."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
