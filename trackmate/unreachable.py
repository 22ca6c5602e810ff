"""What is said of a service that does not answer."""

from __future__ import annotations

from contract.errors import TrackMateError


class Unreachable(TrackMateError):
    """A service did not answer; `what` says which, where and why, without advising to look at the status."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}. Is it up? See 'trackmate status'")
        self.what = what
