"""Commands that are imported when they are used, so that `trackmate --help` answers at once."""

from __future__ import annotations

import importlib
import sys
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from contract.errors import TrackMateError

if TYPE_CHECKING:
    from collections.abc import Sequence

EXIT_EXPECTED = 2
"""Exit code for a problem that was foreseen: wrong usage, configuration, a service that is not there."""


@dataclass(frozen=True)
class LazyCommand:
    """Where a command lives: `attribute` of `module` is a function, or a Typer application for a group of commands."""

    name: str
    module: str
    attribute: str
    help: str
    panel: str

    def stub(self) -> TyperCommand:
        """What `--help` of the whole program shows, without importing the command."""
        return TyperCommand(self.name, help=self.help, rich_help_panel=self.panel)

    def load(self) -> Any:
        """Import the command and make it runnable under its name."""
        target = getattr(importlib.import_module(self.module), self.attribute)
        if isinstance(target, typer.Typer):
            application = target
        else:
            application = typer.Typer(add_completion=False, rich_markup_mode="rich")
            application.command(self.name)(target)
        command = get_command(application)
        command.name = self.name
        return command


class LazyGroup(TyperGroup):
    """The program: knows its commands by name, and turns foreseen errors into one clear text and exit code 2."""

    lazy: dict[str, LazyCommand]

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for name, command in self.lazy.items():
            self.commands[name] = command.stub()

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Find the command by name and import it."""
        name, command, rest = super().resolve_command(ctx, args)
        if name in self.lazy:
            command = self.lazy[name].load()
        return name, command, rest

    def invoke(self, ctx: Any) -> Any:
        """Run the command; a TrackMateError ends it with its text, and with its traceback only under `--debug`."""
        try:
            return super().invoke(ctx)
        except TrackMateError as error:
            if ctx.params.get("debug"):
                traceback.print_exc(file=sys.stderr)
            typer.secho("error: ", fg="red", bold=True, nl=False, err=True)
            typer.echo(str(error), err=True)
            raise typer.Exit(EXIT_EXPECTED) from error
        except KeyboardInterrupt as interrupt:
            typer.echo("stopped", err=True)
            raise typer.Exit(130) from interrupt


def lazy_group(commands: Sequence[LazyCommand]) -> type[LazyGroup]:
    """A group class that knows these commands."""
    return type("TrackMateGroup", (LazyGroup,), {"lazy": {command.name: command for command in commands}})
