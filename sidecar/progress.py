"""How a backend is doing: what /health tells and what the log says when that changes."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime

logger = logging.getLogger(__name__)

_TROUBLED = frozenset({"down", "retrying", "throttled"})


@dataclass
class Progress:
    """One backend's state and counts since the start."""

    backend: str
    state: str = "starting"
    """`ok`, `waiting` (a fallback on standby), `retrying`, `throttled`, `down`, `starting` or `stopped`."""
    error: str | None = None
    error_at: datetime | None = None
    delivered_at: datetime | None = None
    delivered: int = 0
    refused: int = 0
    latency: float | None = None
    """Seconds that the last call took, whatever came of it."""

    def failed(self, message: str, state: str) -> None:
        """The backend does not take events; told in the log when it is news."""
        if state != self.state or message != self.error:
            logger.warning("backend does not take events", extra={"backend": self.backend, "state": state, "error": message})
        self.state = state
        self.error = message
        self.error_at = datetime.now(UTC)

    def works(self) -> None:
        """Nothing is wrong (any more)."""
        if self.state in _TROUBLED:
            logger.info("backend takes events again", extra={"backend": self.backend})
        self.state = "ok"
        self.error = None

    def took(self, events: int) -> None:
        """So many events are delivered."""
        self.delivered += events
        self.delivered_at = datetime.now(UTC)
