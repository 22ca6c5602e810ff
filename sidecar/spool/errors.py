"""What can go wrong with a spool, as its callers see it.

SpoolError
├── SpoolBusy           above the high-water mark: try again after `retry_after` seconds (HTTP 429)
│   └── SpoolShed       only this class of events is refused, to leave room for the others
├── SpoolUnavailable    full, failing or closed: nothing was acknowledged (HTTP 503)
└── SpoolLocked         another process holds the folder
"""

from pathlib import Path

from contract.errors import TrackMateError


class SpoolError(TrackMateError):
    """Base of the spool's errors."""


class SpoolBusy(SpoolError):
    """The spool is above its high-water mark; `retry_after` is in seconds."""

    def __init__(self, retry_after: float, message: str) -> None:
        self.retry_after = retry_after
        super().__init__(message)


class SpoolShed(SpoolBusy):
    """The spool fills up and the site chose to let go of events of this class first."""


class SpoolUnavailable(SpoolError):
    """Nothing can be made durable now; `reason` is fit for a health page, `retry_after` is in seconds."""

    def __init__(self, reason: str, retry_after: float = 1.0) -> None:
        self.reason = reason
        self.retry_after = retry_after
        super().__init__(f"the spool can't take events: {reason}")


class SpoolLocked(SpoolError):
    """Another process holds the spool; `pid` is its process id when it could be read."""

    def __init__(self, folder: Path, pid: int | None) -> None:
        self.folder = folder
        self.pid = pid
        holder = f"process {pid}" if pid else "another process"
        super().__init__(
            f"spool {folder} is held by {holder}: one spool folder serves one sidecar; stop that one or set another spool.dir"
        )
