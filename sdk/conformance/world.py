"""Runs the steps of one case.

A case is a list of steps; a step is a mapping whose first key names what to do and whose value says with what. Steps that are
commands of the harness protocol may also have `as` (which process; default `main`), `expect` (what its answer must hold), `fails`
(what its error must hold) and `save` (a name under which later steps find the answer: `$NAME.field`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sdk.conformance.acts import Acts
from sdk.conformance.checks import Checks

COMMANDS = frozenset(
    (
        "emit_event", "emit_batch", "repeat", "threads", "context_start", "progress", "finish", "error", "flush", "stats",
        "sleep", "idle", "fork", "close", "resources",
    )
)  # fmt: skip
WITH_OUTCOME = frozenset(("initialize", "initialize_with", "emit_large", "emit_nested"))
"""Steps that are commands in disguise: they may be expected to fail."""


class World(Acts, Checks):
    """One run of one case in one language."""

    def run(self, steps: list[dict[str, Any]]) -> None:
        """Do every step; the first that fails says which it was."""
        for number, step in enumerate(steps, start=1):
            name = next(iter(step))
            try:
                self._step(name, step)
            except AssertionError as error:
                message = f"step {number} ({name}): {error}"
                raise AssertionError(message) from error

    def _step(self, name: str, step: dict[str, Any]) -> None:
        argument = self.filled(step[name])
        if name in COMMANDS:
            self.command(name, argument or {}, step)
            return
        do: Callable[..., None] | None = getattr(self, f"step_{name}", None)
        assert do is not None, f"no such step: {name}"
        if name in WITH_OUTCOME:
            do(argument, step)
        else:
            do(argument)
