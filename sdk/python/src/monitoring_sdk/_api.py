"""The calls of the SDK: one client a process, made by `initialize`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from monitoring_sdk import _backends, _config, _lifecycle, _state
from monitoring_sdk._client import Client
from monitoring_sdk._config import Config, Settings
from monitoring_sdk._counts import Stats
from monitoring_sdk._exceptions import InvalidEventError
from monitoring_sdk._results import EmitResult, FlushResult
from monitoring_sdk._transport import Transport

transport_for_tests: Transport | None = None
"""Set by `monitoring_sdk.testing.capture`: whatever is initialized meanwhile records instead of sending."""

_last_stats = Stats()


def initialize(config: Config | None = None, *, transport: Transport | None = None, **overrides: Any) -> None:
    """Read the configuration and start. A second call closes the client of the first, and starts anew.

    `config`: the name of a YAML or JSON file (default: what `MONITORING_CONFIG` names, else `./monitoring-config.yaml` if it is
    there), or the document as a mapping with the key `sdk`. `overrides` win over everything: keys below `sdk`, either nested,
    `app={"name": "etcher", "site_id": "fab1"}`, or stepping into a level, `sidecar__url="http://localhost:17000"`.
    `transport` stands in for the sidecar, and in direct mode for all backends at once.

    Raises ConfigurationError that names every mistake.
    """
    stand_in = transport_for_tests or transport
    run(_config.load(config, overrides, judge=None if stand_in is not None else _backends.judge), stand_in)


def run(settings: Settings, transport: Transport | None) -> None:
    """Start with settings at hand, in place of whatever runs."""
    close()
    _state.client = Client(settings, transport)
    _lifecycle.install()
    _state.client.start()


def emit_event(event: Mapping[str, Any]) -> str:
    """Report one event; the `event_id` that it got. At least `kind` and `name`:

        emit_event({"kind": "metric", "name": "chuck", "entities": {"tool": "E7"}, "metrics": {"temperature": 21.5}})

    The SDK adds id, timestamp, site, app, emitter, the run that the code is in, and the OpenTelemetry span. Costs microseconds,
    never waits for the network, and never raises for trouble with delivery.

    Raises InvalidEventError for an event that breaks the contract, NotInitializedError without `initialize`.
    """
    client = _state.client
    if client is None:
        client = _state.require("emit_event")
    return client.emit(event, _state.active.get())


def emit_batch(events: Iterable[Mapping[str, Any]]) -> EmitResult:
    """Report several events, as `emit_event` does each; a list of their ids. When one is invalid none is taken.

    The list also knows what becomes of the events: `result.backends` has for each backend how many are delivered, on disk or
    waiting as of now, and `result.flush(timeout)` waits until they are safe.

    Raises InvalidEventError whose path begins with the place of the event, such as
    `[3].metrics.temperature`; NotInitializedError.
    """
    client = _state.require("emit_batch")
    if isinstance(events, (Mapping, str, bytes)) or not isinstance(events, Iterable):
        raise InvalidEventError("", f"expected a list of events, got {type(events).__name__}; use emit_event for one")
    return client.emit_all(events, _state.active.get())


def flush(timeout: float = 5.0) -> FlushResult:
    """Wait until all that was emitted is delivered or safe on disk; whether that came about within `timeout` seconds.

    The result is true or false accordingly, and `result.backends` tells how each backend stands.

    Raises NotInitializedError.
    """
    return _state.require("flush").flush(timeout)


def stats() -> Stats:
    """What became of the events of this process; after `close` the last word of the client that was closed."""
    client = _state.client
    return client.stats() if client is not None else _last_stats


def close() -> None:
    """Deliver what is queued, put on disk what can't be delivered within a second, and end. Does nothing when nothing runs."""
    global _last_stats  # noqa: PLW0603 - one client a process
    client = _state.retire()
    if client is not None:
        client.close()
        _last_stats = client.stats()
        _lifecycle.uninstall()
