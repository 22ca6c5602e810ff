"""`trackmate migrate`: bring the hot store's tables to this version."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trackmate import terminal


def migrate(
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="trackmate.yaml.", show_default="found as by the gateway")
    ] = None,
) -> None:
    """Create or upgrade the hot store's tables; safe to run at any time, the gateway does the same when it starts.

    Example:

        trackmate migrate --config trackmate.yaml
    """
    from federation.config import find_config, load_config
    from lakehouse.hot.migrate import migrate as upgrade

    revision = upgrade(load_config(find_config(config)).hot.dsn)
    terminal.stdout().print(f"The hot store is at revision {revision}.", markup=False)
