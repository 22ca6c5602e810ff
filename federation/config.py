"""trackmate.yaml as the gateway, the engines, Dagster and the command line read it: one struct for each section."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from contract.errors import ConfigError, Problem
from contract.settings import convert, load, parse_duration, parse_size
from federation.gateway.settings import GatewaySettings, configured_tokens
from federation.token_file import TokenRecord
from lakehouse.config import HotConfig, LakeConfig

ENV_PREFIX: Final = "TRACKMATE"
"""Environment variables `TRACKMATE__ENGINES__DUCKDB__TIMEOUT=60s` step into the file's levels."""

CONFIG_VARIABLE: Final = "TRACKMATE_CONFIG"
"""The environment variable that names the file when no argument does."""

DATA_VARIABLE: Final = "TRACKMATE_DATA"
"""The environment variable that names the data folder, whose trackmate.yaml is the next choice."""

FILE_NAME: Final = "trackmate.yaml"
DEFAULT_DATA: Final = Path("trackmate-data")


class StackConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `trackmate up` starts on this machine."""

    embedded_postgres: bool = False
    dagster_listen: str = "127.0.0.1:3000"


class SourceConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A system that is asked by name: `type` is the adapter, `config` what that adapter needs to know."""

    type: str
    enabled: bool = True
    config: dict[str, Any] = {}


@dataclass(frozen=True)
class DuckDBConfig:
    """How much one DuckDB engine may use, all its queries together, and how much one answer may hold.

    Sizes in bytes, times in seconds. `cache_bytes` bounds the kept answers, `concurrency` the queries that run at once (more
    wait), `threads` the cores that DuckDB uses (None: all), `temp_dir` where it spills (None: a folder of its own that is
    removed at the end).
    """

    memory_limit: int = 2 * 2**30
    temp_limit: int = 10 * 2**30
    timeout: float = 30.0
    max_rows: int = 100_000
    max_bytes: int = 64 * 2**20
    cache_bytes: int = 256 * 2**20
    concurrency: int = 4
    threads: int | None = None
    temp_dir: Path | None = None


@dataclass(frozen=True)
class EnginesConfig:
    """The SQL engines."""

    duckdb: DuckDBConfig = field(default_factory=DuckDBConfig)


@dataclass(frozen=True)
class TrackMateConfig:
    """The whole of trackmate.yaml, relative paths resolved against its folder.

    `tokens` are those that the file names itself; `file` is None when the configuration came from a mapping.
    """

    hot: HotConfig
    lake: LakeConfig
    gateway: GatewaySettings = field(default_factory=GatewaySettings)
    stack: StackConfig = field(default_factory=StackConfig)
    sources: Mapping[str, SourceConfig] = field(default_factory=dict)
    engines: EnginesConfig = field(default_factory=EnginesConfig)
    tokens: tuple[TokenRecord, ...] = ()
    alerts: Mapping[str, Any] = field(default_factory=dict)
    file: Path | None = None


def load_config(
    file: Path, *, environ: Mapping[str, str] | None = None, overrides: Mapping[str, Any] | None = None
) -> TrackMateConfig:
    """The configuration in `file`, with environment and `overrides` (dotted key → value) laid over it.

    Raises ConfigError with every mistake at once.
    """
    merged = load("trackmate", file, env_prefix=ENV_PREFIX, environ=environ, overrides=overrides)
    return from_mapping(merged, base=file.resolve().parent, file=file.resolve())


def from_mapping(tree: Mapping[str, Any], *, base: Path, file: Path | None = None) -> TrackMateConfig:
    """A checked tree as structs; relative paths are taken from `base`. Raises ConfigError."""
    return TrackMateConfig(
        hot=HotConfig.from_mapping(tree["hot"]),
        lake=LakeConfig.from_mapping(tree["lake"], base),
        gateway=GatewaySettings.from_mapping(tree, base),
        stack=convert(tree.get("stack") or {}, StackConfig),
        sources=convert(tree.get("sources") or {}, dict[str, SourceConfig]),
        engines=EnginesConfig(duckdb=_duckdb((tree.get("engines") or {}).get("duckdb") or {}, base)),
        tokens=tuple(configured_tokens(tree, FILE_NAME if file is None else str(file))),
        alerts=tree.get("alerts") or {},
        file=file,
    )


def find_config(option: Path | None = None, environ: Mapping[str, str] | None = None) -> Path:
    """The file to read: `option`, else TRACKMATE_CONFIG, else trackmate.yaml in TRACKMATE_DATA, here, or in ./trackmate-data.

    Raises ConfigError that says where it was looked for.
    """
    environment = os.environ if environ is None else environ
    if option is not None:
        return option
    if environment.get(CONFIG_VARIABLE):
        return Path(environment[CONFIG_VARIABLE])
    data = environment.get(DATA_VARIABLE)
    folders = [Path(data)] if data else [Path(), DEFAULT_DATA]
    candidates = [folder / FILE_NAME for folder in folders]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    looked = " or ".join(str(candidate) for candidate in candidates)
    raise ConfigError(
        FILE_NAME,
        [Problem("", f"not found as {looked}: name it with --config, or make one with `trackmate up`")],
    )


def _duckdb(section: Mapping[str, Any], base: Path) -> DuckDBConfig:
    values = dict(section)
    for name in ("memory_limit", "temp_limit", "max_bytes", "cache_bytes"):
        if name in values:
            values[name] = parse_size(values[name])
    if "timeout" in values:
        values["timeout"] = parse_duration(values["timeout"])
    if "temp_dir" in values:
        values["temp_dir"] = (base / values["temp_dir"]).resolve()
    return DuckDBConfig(**values)
