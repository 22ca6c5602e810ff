"""Delivery that answers: for programs that want to know, before they go on, which backends have an event."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any

from monitoring_sdk import _api, _backends, _config, _lifecycle, _state
from monitoring_sdk._client import Client
from monitoring_sdk._config import Config
from monitoring_sdk._counts import Stats
from monitoring_sdk._exceptions import InvalidEventError, NotInitializedError
from monitoring_sdk._results import EmitResult


class BackendRouter:
    """Delivers events to the backends of `sdk.direct_backends`, whatever `sdk.mode` says, and tells which of them took them.

        with BackendRouter("monitoring-config.yaml") as router:
            assert router.route_event({"kind": "log", "name": "etch"}) == {"filesystem": True, "s3": True}

    It is direct mode with a wait behind each call: the same retries, breakers, fallbacks and folders on disk. It may stand beside
    `initialize`, and there may be several; calls may come from any thread.
    """

    def __init__(self, config: Config | None = None, *, timeout: float | None = None, **overrides: Any) -> None:
        """Start with a configuration, as `initialize` takes it. `timeout` is how long a call waits at most, in seconds.

        By default that is `sdk.sidecar.timeout`. Raises ConfigurationError that names every mistake.
        """
        stand_in = _api.transport_for_tests
        judge = None if stand_in is not None else _backends.judge
        settings = _config.load(config, overrides, direct=True, judge=judge)
        self._timeout = settings.sidecar.timeout if timeout is None else timeout
        self._client: Client | None = Client(settings, stand_in)
        self._last_stats = Stats()
        _state.routers.add(self._client)
        _lifecycle.install()
        self._client.start()

    def route_event(self, event: Mapping[str, Any]) -> dict[str, bool]:
        """Deliver one event: for each backend, in order of priority, whether it has the event now.

        False means that the backend did not take it within the timeout, or refused it. What it did not take is on disk (or,
        without spooling, in memory) and goes to this backend alone when it works again. A fallback stands in the answer when
        it was asked.

        Raises InvalidEventError, NotInitializedError after `close`.
        """
        return self._route([event])

    def route_batch(self, events: Iterable[Mapping[str, Any]]) -> dict[str, bool]:
        """Deliver several events: for each backend whether it has all of them now; see `route_event`."""
        if isinstance(events, (Mapping, str, bytes)) or not isinstance(events, Iterable):
            raise InvalidEventError("", f"expected a list of events, got {type(events).__name__}; use route_event for one")
        return self._route(events)

    def _route(self, events: Iterable[Mapping[str, Any]]) -> dict[str, bool]:
        client = self._client
        if client is None:
            call = "route_event"
            raise NotInitializedError(call)
        result: EmitResult = client.emit_all(events, _state.active.get())
        client.hurry()
        result.wait(self._timeout)
        return {name: counts.delivered == len(result) for name, counts in result.backends.items()}

    def stats(self) -> Stats:
        """What became of the events of this router."""
        return self._client.stats() if self._client is not None else self._last_stats

    def close(self) -> None:
        """Deliver what is under way, put on disk what can't be delivered within a second, and end. Twice does no harm."""
        client, self._client = self._client, None
        if client is not None:
            client.close()
            self._last_stats = client.stats()
            _state.routers.discard(client)

    def __enter__(self) -> BackendRouter:  # noqa: PYI034 - Python 3.9 has no Self
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()
