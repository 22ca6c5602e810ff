"""`trackmate postgres`: the embedded PostgreSQL alone, in the foreground."""

from __future__ import annotations

import typer

from contract.errors import TrackMateError
from trackmate.data_folder import DEFAULT_DATA, DataFolder, DataOption
from trackmate.generated_config import generate


def postgres(data: DataOption = DEFAULT_DATA) -> None:
    """Run the embedded PostgreSQL of a data folder in the foreground until SIGTERM; its log goes to stderr.

    Example:

        trackmate postgres --data /srv/trackmate
    """
    from trackmate.embedded_postgres import run_foreground
    from trackmate.services import read_stack

    folder = DataFolder(data)
    generate(folder)
    end = read_stack(folder).endpoints.get("postgres")
    if end is None:
        raise TrackMateError(
            f"{folder.trackmate_yaml} names a PostgreSQL of its own: start that one, or set stack.embedded_postgres to true"
        )
    raise typer.Exit(run_foreground(folder.postgres, end.port))
