"""Adapters by type: the entry points of the group `trackmate.adapters`, and the sources that a configuration makes of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import Any, Final

from contract.errors import ConfigError, Problem
from federation.adapters.base import Adapter
from federation.adapters.managed import ManagedAdapter, WriteClock
from federation.config import TrackMateConfig

GROUP: Final = "trackmate.adapters"
BUILT_IN: Final = ("managed", "lake")
"""The types that every gateway has without configuration, made from `hot` and `lake`."""

Factory = Callable[..., Adapter]
"""Called as `factory(config, name=...)` with the source's own `config` block."""


def known() -> Mapping[str, Any]:
    """Entry points by type."""
    return {point.name: point for point in entry_points(group=GROUP)}


def make_all(config: TrackMateConfig, writes: WriteClock) -> list[Adapter]:
    """The hot store, the lake, and every enabled source of the configuration.

    Raises ConfigError naming every source whose type is unknown or whose adapter can't be loaded or does not take its `config`.
    """
    from federation.adapters.lake import LakeAdapter

    made: list[Adapter] = [
        ManagedAdapter(config.hot, writes=writes, timeout=config.gateway.source_timeout),
        LakeAdapter(config.lake),
    ]
    registered = known()
    problems: list[Problem] = []
    for name, source in config.sources.items():
        if not source.enabled:
            continue
        path = f"sources.{name}"
        if name in BUILT_IN or source.type in BUILT_IN:
            problems.append(Problem(path, "managed and lake are always there: configure them under hot and lake"))
        elif source.type not in registered:
            names = ", ".join(sorted(registered))
            problems.append(
                Problem(f"{path}.type", f"unknown type {source.type!r}; known: {names}. Install the package that has it")
            )
        else:
            try:
                factory: Factory = registered[source.type].load()
                made.append(factory(source.config, name=name))
            except (ImportError, AttributeError) as error:
                problems.append(Problem(f"{path}.type", f"adapter {source.type!r} can't be loaded: {error}"))
            except (TypeError, ValueError, KeyError) as error:
                problems.append(
                    Problem(f"{path}.config", f"not what adapter {source.type!r} takes: {type(error).__name__}: {error}")
                )
    if problems:
        raise ConfigError(str(config.file or "sources"), problems)
    return made
