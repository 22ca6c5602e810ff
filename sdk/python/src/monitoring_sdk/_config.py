"""Where the configuration comes from: defaults, then a file, then the environment, then arguments; later wins.

The file is the one that `MONITORING_CONFIG` names, else `./monitoring-config.yaml` if it is there; YAML or JSON. In the
environment, `MONITORING_SDK__SIDECAR__URL` sets `sdk.sidecar.url`. All mistakes are reported at once. Of a backend that is not
`enabled`, only its own keys must be right: its `config` is not looked at, and variables in it may be unset.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Union
from urllib.parse import urlsplit

import yaml

from monitoring_sdk import _schema
from monitoring_sdk._exceptions import ConfigurationError, Problem
from monitoring_sdk._plugins import entry_points

Config = Union[str, "os.PathLike[str]", Mapping[str, Any]]
"""What `initialize` takes: the name of a file, or the document itself as a mapping with the key `sdk`."""

Judge = Callable[[str, Mapping[str, Any], "Path | None"], Iterable[tuple[str, str]]]
"""Finds what is wrong with a backend's type and `config`, given the folder that paths are relative to: places and messages."""

DEFAULT_FILE = "monitoring-config.yaml"
_FILE_VARIABLE = "MONITORING_CONFIG"
_ENVIRONMENT = "MONITORING_SDK__"
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
_HIDDEN = re.compile("\ue000([0-9]+)\ue001")
_TYPE = re.compile(r"sdk\.direct_backends\[\d+\]\.type")
_GIVEN = re.compile(r'got "([^"]*)"$')
_LONGEST_TIMEOUT = 86_400.0
_TIMEOUT = 30.0
"""Of a backend of direct mode, in seconds; the same as the sidecar gives it."""


@dataclass(frozen=True)
class SidecarSettings:
    """How to reach the sidecar, and where to keep what it can't take now. Times are in seconds."""

    url: str
    timeout: float
    retries: int
    enable_spooling: bool
    spool_dir: Path
    token: str = field(repr=False)


@dataclass(frozen=True)
class QueueSettings:
    """The queue between the program and the worker. `flush_interval` is in seconds."""

    max_events: int
    batch_size: int
    flush_interval: float
    on_full: str


@dataclass(frozen=True)
class AppSettings:
    """Which program reports, and from where."""

    name: str
    site_id: str
    version: str | None
    instance_id: str | None


@dataclass(frozen=True)
class BackendSettings:
    """One place to deliver to in direct mode. `timeout` is in seconds, for one call."""

    name: str
    type: str
    priority: int
    fallback: bool
    timeout: float
    retries: int
    config: Mapping[str, Any] = field(repr=False)
    base: Path | None = None
    """The folder that relative paths in `config` are relative to; None: the working folder."""


@dataclass(frozen=True)
class Settings:
    """A whole, valid configuration."""

    mode: str
    sidecar: SidecarSettings
    queue: QueueSettings
    app: AppSettings
    backends: tuple[BackendSettings, ...] = ()
    """Of direct mode: those that are enabled, in order of priority."""


@cache
def schema() -> dict[str, Any]:
    """The JSON Schema of the configuration, the same in all languages."""
    loaded: dict[str, Any] = json.loads(Path(__file__).with_name("config.schema.json").read_text(encoding="utf-8"))
    return loaded


def load(
    config: Config | None,
    overrides: Mapping[str, Any],
    environ: Mapping[str, str] | None = None,
    *,
    direct: bool = False,
    judge: Judge | None = None,
) -> Settings:
    """The merged configuration.

    `config` is the name of a file or a document; `overrides` are keys below `sdk`, where `sidecar__url` steps into a level and
    a mapping is merged; `environ` stands in for `os.environ`; `direct` asks for direct mode, whatever is configured; `judge`
    finds what is wrong with the config block of a backend. Raises ConfigurationError with every mistake.
    """
    environment = os.environ if environ is None else environ
    problems: list[Problem] = []
    merged: dict[str, Any] = {}
    file = _file(config, environment)
    if file is not None:
        document = _interpolated(_read(file), environment, "", problems)
        _anchor(document, file)
        _merge(merged, document)
    for path, text in _from_environment(environment):
        _set(merged, path, text if _is_text(path) else _typed(text))
    if isinstance(config, Mapping):
        _merge(merged, _interpolated(config, environment, "", problems))
    for key, value in overrides.items():
        path = ["sdk", *key.split("__")]
        _set(merged, path, _interpolated(value, environment, ".".join(path), problems))
    if direct:
        _set(merged, ["sdk", "mode"], "direct")
    base = file.absolute().parent if file is not None else None
    return checked(merged, str(file) if file is not None else "configuration", problems, base=base, judge=judge)


def checked(
    document: dict[str, Any],
    source: str,
    problems: Sequence[Problem] = (),
    *,
    base: Path | None = None,
    judge: Judge | None = None,
) -> Settings:
    """The settings in a whole document; `problems` are those already known. Raises ConfigurationError with all of them."""
    found = [*problems, *_schema.check(schema(), document), *_check_url(document)]
    found = [*_allow_installed_types(found), *_check_backends(document, base, judge)]
    if found:
        first: dict[str, Problem] = {}
        for problem in found:  # of several at one place, the first explains the others
            first.setdefault(problem.path, problem)
        raise ConfigurationError(source, sorted(first.values()))
    return _settings(_schema.with_defaults(schema(), document)["sdk"], base)


def _allow_installed_types(problems: Sequence[Problem]) -> list[Problem]:
    """The problems without those that other packages solve, by bringing a backend of that type."""
    if not any(_TYPE.fullmatch(problem.path) for problem in problems):
        return list(problems)
    known = sorted({*schema()["$defs"]["backend"]["properties"]["type"]["enum"], *entry_points("trackmate.sinks")})
    left = []
    for problem in problems:
        given = _GIVEN.search(problem.message) if _TYPE.fullmatch(problem.path) else None
        if given is None:
            left.append(problem)
        elif given[1] not in known:
            left.append(Problem(problem.path, f'expected one of {", ".join(known)}, got "{given[1]}"'))
    return left


def _check_backends(document: Mapping[str, Any], base: Path | None, judge: Judge | None) -> list[Problem]:
    """What a schema can't tell of the backends of direct mode."""
    sdk = document.get("sdk")
    if not isinstance(sdk, dict) or sdk.get("mode") != "direct":
        return []
    entries = sdk.get("direct_backends", [])
    enabled = [
        (index, entry)
        for index, entry in enumerate(entries if isinstance(entries, list) else ())
        if isinstance(entry, dict) and isinstance(entry.get("type"), str) and entry.get("enabled", True) is True
    ]
    if not enabled and isinstance(entries, list):
        return [Problem("sdk.direct_backends", "expected at least one backend that is enabled, since sdk.mode is direct")]
    problems = []
    names: dict[str, int] = {}
    for index, entry in enabled:
        path = f"sdk.direct_backends[{index}]"
        name = str(entry.get("name", entry["type"]))
        if name in names:
            first = f"sdk.direct_backends[{names[name]}]"
            problems.append(Problem(f"{path}.name", f"'{name}' is {first} already; give one of them another `name`"))
        names.setdefault(name, index)
        if entry.get("delivery") == "fallback" and not any(_priority(other) < _priority(entry) for _, other in enabled):
            message = "a fallback needs an enabled backend with a lower `priority` number to stand in for"
            problems.append(Problem(f"{path}.delivery", message))
        config = entry.get("config", {})
        if judge is not None and isinstance(config, dict):
            problems += [Problem(f"{path}.{where}", message) for where, message in judge(entry["type"], config, base)]
    return problems


def _priority(entry: Mapping[str, Any]) -> float:
    priority = entry.get("priority", 100)
    return priority if isinstance(priority, (int, float)) else 100


def _check_url(document: dict[str, Any]) -> list[Problem]:
    """What is wrong with the host or the port of the sidecar's URL, which a pattern can't tell."""
    sdk = document.get("sdk")
    sidecar = sdk.get("sidecar") if isinstance(sdk, dict) else None
    url = sidecar.get("url") if isinstance(sidecar, dict) else None
    if not isinstance(url, str) or not url.startswith(("http://", "https://")):
        return []
    try:
        address = urlsplit(url)
        sound = bool(address.hostname) and address.port != 0
    except ValueError:
        sound = False
    return [] if sound else [Problem("sdk.sidecar.url", f"expected a URL such as http://localhost:17000, got {json.dumps(url)}")]


def _settings(sdk: dict[str, Any], base: Path | None) -> Settings:
    sidecar, queue, app = sdk["sidecar"], sdk["queue"], sdk["app"]
    enabled = [entry for entry in sdk["direct_backends"] if entry.get("enabled", True)] if sdk["mode"] == "direct" else []
    return Settings(
        mode=sdk["mode"],
        sidecar=SidecarSettings(
            url=sidecar["url"],
            timeout=min(float(sidecar["timeout"]), _LONGEST_TIMEOUT),
            retries=int(sidecar["retries"]),
            enable_spooling=sidecar["enable_spooling"],
            spool_dir=Path(sidecar["spool_dir"]).expanduser().absolute(),
            token=sidecar["token"],
        ),
        queue=QueueSettings(
            max_events=int(queue["max_events"]),
            batch_size=int(queue["batch_size"]),
            flush_interval=min(float(queue["flush_interval"]), _LONGEST_TIMEOUT),
            on_full=queue["on_full"],
        ),
        app=AppSettings(
            name=app["name"],
            site_id=app["site_id"],
            version=str(app["version"]) if "version" in app else None,
            instance_id=app.get("instance_id"),
        ),
        backends=tuple(
            BackendSettings(
                name=entry.get("name", entry["type"]),
                type=entry["type"],
                priority=int(entry.get("priority", 100)),
                fallback=entry.get("delivery", "always") == "fallback",
                timeout=min(
                    float(entry.get("timeout", sidecar["timeout"] if entry["type"] == "sidecar" else _TIMEOUT)), _LONGEST_TIMEOUT
                ),
                retries=int(sidecar["retries"]),
                config=entry.get("config", {}),
                base=base,
            )
            for entry in sorted(enabled, key=_priority)
        ),
    )


def _file(config: Config | None, environ: Mapping[str, str]) -> Path | None:
    """The file to read; one that was named must exist, the default one need not."""
    if config is not None and not isinstance(config, Mapping):
        return Path(config)
    if environ.get(_FILE_VARIABLE):
        return Path(environ[_FILE_VARIABLE])
    default = Path(DEFAULT_FILE)
    return default if default.is_file() else None


def _read(file: Path) -> dict[str, Any]:
    def wrong(message: str) -> ConfigurationError:
        return ConfigurationError(str(file), [Problem("", message)])

    try:
        content = _parsed(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise wrong("there is no such file; check the argument of initialize() or MONITORING_CONFIG") from error
    except OSError as error:
        raise wrong(f"can't be read: {error.strerror}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise wrong(f"not valid YAML or JSON: {' '.join(str(error).split())}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise wrong(f"expected a mapping at the top, got {type(content).__name__}")
    return content


def _parsed(text: str) -> Any:
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
        if isinstance(value, str):
            return _HIDDEN.sub(lambda found: variables[int(found[1])], value)
        return value

    return show(yaml.safe_load(_VARIABLE.sub(hide, text)))


def _anchor(document: dict[str, Any], file: Path) -> None:
    """Make a relative spool folder relative to the file that names it, not to wherever the program was started."""
    sdk = document.get("sdk")
    sidecar = sdk.get("sidecar") if isinstance(sdk, dict) else None
    folder = sidecar.get("spool_dir") if isinstance(sidecar, dict) else None
    if isinstance(sidecar, dict) and isinstance(folder, str) and folder:
        sidecar["spool_dir"] = str(file.absolute().parent / Path(folder).expanduser())


def _interpolated(value: Any, environ: Mapping[str, str], path: str, problems: list[Problem]) -> Any:
    """`value` with `${VAR}` and `${VAR:-default}` replaced in every string; a copy, so that nobody else's mapping changes."""
    if isinstance(value, Mapping):
        if value.get("enabled") is False:  # nobody needs what it holds
            problems = []
        return {
            key: _interpolated(entry, environ, f"{path}.{key}" if path else str(key), problems) for key, entry in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_interpolated(entry, environ, f"{path}[{index}]", problems) for index, entry in enumerate(value)]
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str):
        return value

    def replace(found: re.Match[str]) -> str:
        name, default = found[1], found[2]
        if name in environ:
            return environ[name]
        if default is None:
            message = f"environment variable {name} is not set and has no default (write ${{{name}:-default}})"
            problems.append(Problem(path, message))
            return ""
        return str(default)

    return _VARIABLE.sub(replace, value)


def _from_environment(environ: Mapping[str, str]) -> Iterator[tuple[list[str], str]]:
    for name in sorted(environ):
        if name.startswith(_ENVIRONMENT):
            yield ["sdk", *name[len(_ENVIRONMENT) :].lower().split("__")], environ[name]


def _is_text(path: list[str]) -> bool:
    node: Any = schema()
    for part in path:
        node = node.get("properties", {}).get(part, {})
    return bool(node.get("type") == "string")


def _typed(text: str) -> Any:
    """An environment variable's text as YAML reads it: a number, a boolean, a list."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _set(tree: dict[str, Any], path: list[str], value: Any) -> None:
    for part in path[:-1]:
        inner = tree.get(part)
        if not isinstance(inner, dict):
            inner = tree[part] = {}
        tree = inner
    _merge(tree, {path[-1]: value})


def _merge(tree: dict[str, Any], other: Mapping[str, Any]) -> None:
    """Put `other` over `tree`, level by level; a list replaces a list."""
    for key, value in other.items():
        inner = tree.get(key)
        if isinstance(inner, dict) and isinstance(value, Mapping):
            _merge(inner, value)
        else:
            tree[key] = value
