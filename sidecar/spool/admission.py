"""Whether the spool may take one more batch: its bounds, and how a site wants it to behave near them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from sidecar.spool.errors import SpoolBusy, SpoolShed, SpoolUnavailable
from sidecar.spool.format import ShedClass

if TYPE_CHECKING:
    from pathlib import Path

_LOW_WATER: Final = 0.9
_SHED_WATER: Final = 0.75
_MIN_SEGMENTS: Final = 16


@dataclass(frozen=True, kw_only=True)
class SpoolConfig:
    """How one spool behaves; bytes and seconds as plain numbers."""

    dir: Path
    readers: tuple[str, ...] = ()
    """Declared readers: a segment is kept until each has passed it. Without any, nothing is ever deleted."""
    max_bytes: int = 10 * 1024**3
    segment_bytes: int = 64 * 1024**2
    segment_age: float = 30.0
    high_water: float = 0.8
    """Share of `max_bytes` from which on batches are refused, until it is down to 0.9 of that again."""
    shed: Literal["none", "debug"] = "none"
    """`debug`: batches of debug events are refused from 0.75 of `high_water` on, and those of finish and error events only at
    the hard bound."""
    retry_after: float = 1.0
    retry_pause: float = 0.5
    """Seconds for which the disk is left alone after a failure."""
    max_pending_bytes: int = 32 * 1024**2
    """Batches that wait for the disk hold at most this much memory."""
    tick_interval: float = 1.0
    """Seconds between the log's own looks at age, checkpoints and a failing disk."""

    effective_segment_bytes: int = field(init=False)
    """`segment_bytes`, but small enough for space to be freed in steps."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "effective_segment_bytes", max(1, min(self.segment_bytes, self.max_bytes // _MIN_SEGMENTS)))


class Admission:
    """High-water mark with hysteresis, hard bound and shedding."""

    def __init__(self, config: SpoolConfig) -> None:
        self._config = config
        self._high = int(config.max_bytes * config.high_water)
        self._low = int(self._high * _LOW_WATER)
        self._shed_from = int(self._high * _SHED_WATER)
        self.busy = False
        """Whether the high-water mark was passed and the spool has not come down far enough since."""
        self.refused = 0
        """Batches refused at the high-water mark."""
        self.shed_events = 0
        """Events refused to leave room for others."""

    def judge(self, used: int, size: int, events: int, shed: ShedClass) -> None:
        """Take a batch of `size` bytes when `used` are in use, or raise SpoolBusy, SpoolShed or SpoolUnavailable."""
        if used >= self._high:
            self.busy = True
        elif used <= self._low:
            self.busy = False
        config = self._config
        if used + size > config.max_bytes:
            self.refused += 1
            raise SpoolUnavailable(f"it is full: {used} of {config.max_bytes} bytes", config.retry_after)
        sheds = config.shed == "debug"
        if sheds and shed is ShedClass.DEBUG and (self.busy or used >= self._shed_from):
            self.shed_events += events
            raise SpoolShed(
                config.retry_after, f"the spool holds {used} of {config.max_bytes} bytes: debug events are let go of first"
            )
        if self.busy and not (sheds and shed is ShedClass.VITAL):
            self.refused += 1
            raise SpoolBusy(
                config.retry_after,
                f"the spool holds {used} of {config.max_bytes} bytes: try again in {config.retry_after} s",
            )
