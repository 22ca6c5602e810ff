"""Which client and which run the calling code is in: one client a process, one run a context."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from monitoring_sdk._exceptions import NotInitializedError

if TYPE_CHECKING:
    from monitoring_sdk._client import Client
    from monitoring_sdk._runs import Run

client: Client | None = None
"""The running client; None before `initialize` and after `close`."""

retired: Client | None = None
"""The client that was last taken out of service; it may still be closing."""

routers: set[Client] = set()
"""The running clients of `BackendRouter`s, which are no process's only one."""

Link = tuple["Run", Any]
"""The active run, and the link that was active around it (or None)."""

active: ContextVar[Link | None] = ContextVar("monitoring_sdk_run", default=None)


def retire() -> Client | None:
    """Take the running client, if any, out of service; the caller closes it."""
    global client, retired  # noqa: PLW0603 - one client a process
    taken, client = client, None
    if taken is not None:  # of two threads that ask at once, the other has it
        retired = taken
    return taken


def running() -> list[Client]:
    """Every client that runs."""
    return [*routers, *(() if client is None else (client,))]


def require(call: str) -> Client:
    """The running client. Raises NotInitializedError that names the `call` which needs it."""
    if client is None:
        raise NotInitializedError(call)
    return client
