"""For the tests of programs that use the SDK: record what they report, without any sidecar.

    from monitoring_sdk.testing import capture

    def test_that_etching_reports_its_temperature():
        with capture() as recorded:
            etch(wafer="7")
        assert recorded.named("chuck")[0]["metrics"] == {"temperature": 21.5}

In direct mode, and for a `BackendRouter`, the recorder stands in for all backends at once; no package of theirs is needed.

`capture` needs no pytest; as a fixture: `@pytest.fixture` around `with capture() as recorded: yield recorded`.
"""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from monitoring_sdk import _api, _config, _state
from monitoring_sdk._batch import Batch
from monitoring_sdk._transport import Answer, Outcome

_FLUSH_SECONDS = 10.0
_APP = {"name": "test", "site_id": "test"}


class RecordingTransport:
    """Takes every batch and keeps its events; give it to `initialize(transport=...)`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._events: list[dict[str, Any]] = []
        self._trouble = ""

    @property
    def events(self) -> list[dict[str, Any]]:
        """What was sent so far, as it would have gone over the wire; what is still queued is flushed first."""
        for client in _state.running():
            client.flush(_FLUSH_SECONDS)
        with self._lock:
            return list(self._events)

    def named(self, name: str) -> list[dict[str, Any]]:
        """The events of that name."""
        return [event for event in self.events if event["name"] == name]

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        """The events of that kind."""
        return [event for event in self.events if event["kind"] == kind]

    def fail(self, why: str = "as the test wants") -> None:
        """Refuse what comes from now on, to see what the program makes of it."""
        self._trouble = why

    def work(self) -> None:
        """Take events again."""
        self._trouble = ""

    def send(self, batch: Batch, timeout: float) -> Answer:  # noqa: ARG002 - nothing to wait for
        """Keep the batch's events, or be in trouble."""
        if self._trouble:
            return Answer(Outcome.REFUSED, self._trouble)
        with self._lock:
            self._events.extend(batch.events())
        return Answer(Outcome.ACCEPTED)

    def interrupt(self) -> None:
        """Nothing to interrupt."""

    def close(self) -> None:
        """Nothing to close."""


@contextmanager
def capture() -> Generator[RecordingTransport, None, None]:
    """Run the SDK with a recorder for the length of a block, whatever this machine's files and environment configure.

    Code in the block may call `initialize` and `close` itself: it still records. Afterwards the SDK is closed.
    """
    recorder = RecordingTransport()
    _api.transport_for_tests = recorder
    try:
        _api.run(_config.checked({"sdk": {"app": _APP}}, "capture"), recorder)
        yield recorder
    finally:
        _api.close()
        _api.transport_for_tests = None
