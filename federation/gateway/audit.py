"""The audit log: one JSON line for each use of SQL and of admin rights; who, what, when and how it ended, never a token."""

from __future__ import annotations

import logging
from typing import Final

from federation.auth import Principal

LOG: Final = logging.getLogger("trackmate.audit")

_MAX_TEXT: Final = 4_000


def record(action: str, principal: Principal, *, outcome: str, **details: object) -> None:
    """Write one line; long texts are cut."""
    kept = {key: value[:_MAX_TEXT] if isinstance(value, str) else value for key, value in details.items()}
    LOG.info(action, extra={"fields": {"audit": action, "token_id": principal.token_id, "outcome": outcome, **kept}})
