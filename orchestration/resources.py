"""What assets, sensors and checks work on: the site as trackmate.yaml describes it."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Final

import dagster as dg

from federation.config import TrackMateConfig, load_config
from lakehouse.lake import Lake

LAKE_READER: Final = "lake"
"""The name under which the lake's progress is known to spools (their checkpoint) and to the hot store (its confirmation)."""


class Site(dg.ConfigurableResource):  # type: ignore[type-arg]
    """One site: its lake, its hot store and its spools, read from trackmate.yaml when first needed."""

    config_file: str

    @cached_property
    def _config(self) -> TrackMateConfig:
        return load_config(Path(self.config_file))

    @cached_property
    def lake(self) -> Lake:
        """The Delta tables."""
        return Lake(self._config.lake)

    @property
    def dsn(self) -> str:
        """The hot store's address, with its password: never log it."""
        return self._config.hot.dsn.reveal()

    @property
    def config(self) -> TrackMateConfig:
        """The whole of trackmate.yaml."""
        return self._config

    @property
    def spools(self) -> tuple[Path, ...]:
        """Folders of the sidecars' spools that this machine can read."""
        return self._config.lake.spools
