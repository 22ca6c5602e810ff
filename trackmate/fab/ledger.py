"""What a simulated tool is told, and what it says afterwards that it did."""

from __future__ import annotations

import msgspec


class Orders(msgspec.Struct):
    """What a tool's process is told."""

    tool: str
    seed: int
    seconds: float
    starts_at: float
    """When the shift begins, in seconds since 1970."""
    site: str
    instance: str
    """`app.instance_id` of everything it emits: by it the events of one shift are told from others."""
    sidecar: str
    sdk_config: str
    ledger: str
    """The file that the ledger is written to."""


class Ledger(msgspec.Struct):
    """What a tool's process did; `sdk` is what the SDK counted."""

    tool: str
    application: str
    planned: int
    """Distinct events that the seed asks for."""
    emitted: int
    """Distinct events, by the simulator's own count."""
    event_ids: list[str]
    """Those whose ids the simulator chose itself: all but the starts, ends and progress of contexts."""
    legacy: int
    """Distinct events that went over plain HTTP, without the SDK, each of them twice under one id."""
    legacy_acknowledged: int
    """How many of these were acknowledged."""
    sdk: dict[str, int]

    @property
    def acknowledged(self) -> int:
        """Distinct events that a sidecar has confirmed."""
        return self.sdk["sent"] + self.sdk["replayed"] + self.legacy_acknowledged
