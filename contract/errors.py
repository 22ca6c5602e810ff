"""The errors of the contract, in one tree.

TrackMateError            what happened, where, what to do next
├── InvalidEvent          one event breaks the contract: path and reason
├── InvalidBody           a whole request body does: HTTP status, code and reason
└── ConfigError           a configuration does: every problem, each with its path
"""

from collections.abc import Sequence
from dataclasses import dataclass


class TrackMateError(Exception):
    """Base of every error that TrackMate raises on purpose; its text is fit to be shown to a user."""


class InvalidEvent(TrackMateError):
    """One event breaks the contract.

    `path` is dotted (`app.name`, `metrics.temperature`), empty for the event as a whole.
    """

    def __init__(self, path: str, error: str) -> None:
        self.path = path
        self.error = error
        super().__init__(f"{path}: {error}" if path else error)


class InvalidBody(TrackMateError):
    """A request body can't be taken as a whole; `status` is the HTTP status and `code` a stable word for programs."""

    def __init__(self, status: int, code: str, message: str) -> None:
        self.status = status
        self.code = code
        super().__init__(message)


@dataclass(frozen=True)
class Problem:
    """One mistake in a configuration: where it is and what was expected there."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class ConfigError(TrackMateError):
    """A configuration is wrong; `problems` names every mistake at once."""

    def __init__(self, source: str, problems: Sequence[Problem]) -> None:
        self.source = source
        self.problems = list(problems)
        count = "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        lines = "".join(f"\n  - {problem}" for problem in self.problems)
        super().__init__(f"{source}: {count} in the configuration{lines}")
