"""The errors of the SDK: all of them tell of misuse, none of a sidecar that can't be reached.

MonitoringError
├── ConfigurationError      what is configured is wrong; `problems` lists everything that is
├── NotInitializedError     called before `initialize`, or after `close`
└── InvalidEventError       an event that breaks the contract; `path` says where
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class MonitoringError(Exception):
    """Base of every error that the SDK raises."""


class Problem(NamedTuple):
    """One mistake in a configuration: its dotted path (empty: the whole), and what was expected there."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class ConfigurationError(MonitoringError):
    """The configuration is wrong; the message names every mistake, and `problems` has them one by one."""

    def __init__(self, source: str, problems: Sequence[Problem]) -> None:
        self.source = source
        self.problems = tuple(problems)
        count = "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        lines = "".join(f"\n  {problem}" for problem in self.problems)
        super().__init__(f"{source}: {count}{lines}")

    def __reduce__(self) -> tuple[type[ConfigurationError], tuple[str, tuple[Problem, ...]]]:
        return type(self), (self.source, self.problems)


class NotInitializedError(MonitoringError):
    """An event was handed over before `initialize` was called, or after `close`."""

    def __init__(self, call: str = "emit_event") -> None:
        self.call = call
        super().__init__(f"{call} needs a running SDK: call monitoring_sdk.initialize() first, and close() only at the end")

    def __reduce__(self) -> tuple[type[NotInitializedError], tuple[str]]:
        return type(self), (self.call,)


class InvalidEventError(MonitoringError):
    """An event breaks the contract: `path` is the dotted place of the first mistake, `error` what was expected there."""

    def __init__(self, path: str, error: str) -> None:
        self.path = path
        self.error = error
        super().__init__(f"invalid event: {path}: {error}" if path else f"invalid event: {error}")

    def __reduce__(self) -> tuple[type[InvalidEventError], tuple[str, str]]:
        return type(self), (self.path, self.error)
