"""What the hot store and the lake need to know: where they are and how long they keep what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

from contract.settings import Secret, parse_duration


def _duration(value: str | float | timedelta) -> timedelta:
    if isinstance(value, timedelta):
        return value
    return timedelta(seconds=parse_duration(value) if isinstance(value, str) else value)


@dataclass(frozen=True)
class HotConfig:
    """The hot store: a PostgreSQL database, with TimescaleDB or without.

    `retention` is the age at which raw events may go, provided that every reader in `readers` has confirmed them;
    `late_window` is how long retries and late events are expected, before which nothing is compressed;
    `aggregate_retention` is the age at which rows of the aggregates go.
    """

    dsn: Secret
    retention: timedelta = timedelta(days=90)
    late_window: timedelta = timedelta(days=7)
    aggregate_retention: timedelta = timedelta(days=730)
    readers: tuple[str, ...] = ("lake",)
    pool_size: int = 4
    connect_timeout: timedelta = timedelta(seconds=10)
    statement_timeout: timedelta = timedelta(seconds=30)

    @classmethod
    def from_mapping(cls, section: Mapping[str, Any]) -> Self:
        """The `hot` section of trackmate.yaml; durations may be text (`90d`), seconds or timedelta."""
        values = dict(section)
        if not isinstance(values["dsn"], Secret):
            values["dsn"] = Secret(values["dsn"])
        for name in ("retention", "late_window", "aggregate_retention", "connect_timeout", "statement_timeout"):
            if name in values:
                values[name] = _duration(values[name])
        if "readers" in values:
            values["readers"] = tuple(values["readers"])
        return cls(**values)


@dataclass(frozen=True)
class LakeConfig:
    """The lake: a folder or an `s3://` address that holds the Delta tables, and the spools that are read into it."""

    root: str
    storage_options: Mapping[str, Secret] = field(default_factory=dict)
    spools: tuple[Path, ...] = ()

    @classmethod
    def from_mapping(cls, section: Mapping[str, Any], base: Path | None = None) -> Self:
        """The `lake` section of trackmate.yaml; relative paths are taken from `base`, the configuration file's folder."""
        base = base or Path()
        root = str(section.get("root", "./lake"))
        if "://" not in root:
            root = str((base / root).resolve())
        options = section.get("storage_options") or {}
        return cls(
            root=root,
            storage_options={key: item if isinstance(item, Secret) else Secret(str(item)) for key, item in options.items()},
            spools=tuple((base / spool).resolve() for spool in section.get("spools") or ()),
        )
