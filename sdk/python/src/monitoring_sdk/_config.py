"""Where the configuration comes from: defaults, then a file, then the environment, then arguments; later wins.

The file is the one that `MONITORING_CONFIG` names, else `./monitoring-config.yaml` if it is there; YAML or JSON. In the
environment, `MONITORING_SDK__SIDECAR__URL` sets `sdk.sidecar.url`. All mistakes are reported at once.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Union
from urllib.parse import urlsplit

import yaml

from monitoring_sdk import _schema
from monitoring_sdk._exceptions import ConfigurationError, Problem, UnsupportedModeError

Config = Union[str, "os.PathLike[str]", Mapping[str, Any]]
"""What `initialize` takes: the name of a file, or the document itself as a mapping with the key `sdk`."""

DEFAULT_FILE = "monitoring-config.yaml"
_FILE_VARIABLE = "MONITORING_CONFIG"
_ENVIRONMENT = "MONITORING_SDK__"
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
_HIDDEN = re.compile("\ue000([0-9]+)\ue001")
_LONGEST_TIMEOUT = 86_400.0


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
class Settings:
    """A whole, valid configuration."""

    mode: str
    sidecar: SidecarSettings
    queue: QueueSettings
    app: AppSettings


@cache
def schema() -> dict[str, Any]:
    """The JSON Schema of the configuration, the same in all languages."""
    loaded: dict[str, Any] = json.loads(Path(__file__).with_name("config.schema.json").read_text(encoding="utf-8"))
    return loaded


def load(config: Config | None, overrides: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> Settings:
    """The merged configuration.

    `config` is the name of a file or a document; `overrides` are keys below `sdk`, where `sidecar__url` steps into a level and
    a mapping is merged; `environ` stands in for `os.environ`. Raises ConfigurationError with every mistake.
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
    return checked(merged, str(file) if file is not None else "configuration", problems)


def checked(document: dict[str, Any], source: str, problems: Sequence[Problem] = ()) -> Settings:
    """The settings in a whole document; `problems` are those already known. Raises ConfigurationError with all of them."""
    unset = {problem.path for problem in problems}
    found = [problem for problem in _schema.check(schema(), document) if problem.path not in unset]
    found += [*problems, *_check_url(document)]
    if found:
        raise ConfigurationError(source, sorted(set(found)))
    settings = _settings(_schema.with_defaults(schema(), document)["sdk"])
    if settings.mode != "sidecar":
        expected = (
            f"'{settings.mode}' is not in this version of the SDK; use 'sidecar', and let the sidecar write to the backends"
        )
        raise UnsupportedModeError(source, [Problem("sdk.mode", expected)])
    return settings


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


def _settings(sdk: dict[str, Any]) -> Settings:
    sidecar, queue, app = sdk["sidecar"], sdk["queue"], sdk["app"]
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
