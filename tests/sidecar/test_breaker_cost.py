"""What a backend that hangs costs: one try an interval, and nobody else a thing."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Any, Self

import pytest

from tests.services.base import wait_until
from tests.sidecar.harness import RunningSidecar, events, files_backend
from tests.sidecar.test_running import ids

INTERVAL = 0.5
TIMEOUT = 0.2
"""Seconds. Two probes are as far apart as both together: by as much may this process be late to see one. Without an interval
they would be as far apart as a timeout, which is less than what is asked for."""

PROBES = 5


class HungServer:
    """Accepts every connection and answers nothing; `tries` are the moments at which they came."""

    def __init__(self) -> None:
        self.tries: list[float] = []
        self.most_at_once = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._open: set[socket.socket] = set()
        self._poll = selectors.DefaultSelector()
        self._poll.register(self._listener, selectors.EVENT_READ)
        self._ended = False
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True
        self._thread.join()
        for connection in self._open:
            connection.close()
        self._listener.close()
        self._poll.close()

    def _run(self) -> None:
        while not self._ended:
            for key, _ in self._poll.select(0.05):
                if key.fileobj is self._listener:
                    self._accept()
                else:
                    self._read(key.fileobj)  # type: ignore[arg-type]

    def _accept(self) -> None:
        accepted, _ = self._listener.accept()
        self.tries.append(time.monotonic())
        accepted.setblocking(False)
        # One that was given up before this one came counts no more, though its end has not been read yet.
        for connection in list(self._open):
            self._read(connection)
        self._open.add(accepted)
        self._poll.register(accepted, selectors.EVENT_READ)
        self.most_at_once = max(self.most_at_once, len(self._open))

    def _read(self, connection: socket.socket) -> None:
        """Take what came, so that a request is never kept from being sent; and see whether it was the end."""
        if connection not in self._open:
            return
        with contextlib.suppress(ConnectionError):  # reset: ended as well
            try:
                while connection.recv(65536):
                    continue
            except BlockingIOError:
                return
        self._open.discard(connection)
        self._poll.unregister(connection)
        connection.close()


BACKENDS: list[dict[str, Any]] = [
    {"type": "managed", "config": {"url": ""}},
    {"type": "webhook", "config": {"url": "", "allow_private": True}},
    {"type": "elk", "concurrency": 4, "config": {"url": "", "index": "events"}},
]


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: str(backend["type"]))
def test_hung_backend_costs_more_than_one_try_an_interval(
    new_sidecar: Callable[..., RunningSidecar], backend: dict[str, Any]
) -> None:
    with HungServer() as server:
        hung = {
            "name": "hung",
            "timeout": f"{TIMEOUT * 1000:g}ms",
            "probe_interval": f"{INTERVAL * 1000:g}ms",
            **backend,
            "config": {**backend["config"], "url": server.url},
        }
        sidecar = new_sidecar(backends=[hung, files_backend()], shutdown_grace="500ms").start()
        sent: list[dict[str, Any]] = []

        def post() -> None:
            batch = events(20)
            assert sidecar.post(batch).status_code == 202
            sent.extend(batch)

        def gave_up() -> bool:
            """Whether nothing is under way of what began before the breaker opened."""
            post()
            return sidecar.backend("hung")["breaker"] == "open" and not sidecar.metric("sidecar_calls_in_flight", backend="hung")

        wait_until(gave_up, seconds=60, what="the breaker to open")
        before = len(server.tries)
        server.most_at_once = 0

        def probed() -> bool:
            post()
            return len(server.tries) >= before + PROBES

        wait_until(probed, seconds=60, what="probes")
        probes = server.tries[before : before + PROBES]
        gaps = [later - earlier for earlier, later in pairwise(probes)]
        assert min(gaps) >= INTERVAL
        assert server.most_at_once == 1
        sidecar.wait_for_backend("files", seconds=60, position=len(sent))
        assert sidecar.backend("hung")["lag_events"] == len(sent)
    assert Counter(item["event_id"] for item in sidecar.delivered()) == Counter(ids(sent))
