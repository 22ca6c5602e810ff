"""Sending batches of events to a sidecar: compressed, with the sidecar's own pace honoured, and patient when it is away."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
import zstandard

from contract.errors import TrackMateError
from trackmate.trust import advice, machine

_PATH = "/v1/ingest/events"
_FIRST_PAUSE = 0.2
_LONGEST_PAUSE = 10.0
_ACCEPTED = 202
_TOO_LARGE = 413
_TOO_MANY = 429
_SERVER_ERROR = 500
_MAX_RETRY_AFTER = 300.0


@dataclass(frozen=True)
class Answer:
    """What the sidecar said to one batch: how many events it accepted, and the rest as (index, path, reason)."""

    accepted: int
    rejected: list[tuple[int, str, str]] = field(default_factory=list)


class Sender:
    """Sends batches of events, each event a JSON text without line ends; safe to call from several threads."""

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        patience: float = 300.0,
        timeout: float = 30.0,
        sleep: Callable[[float], None] | None = None,
        on_wait: Callable[[str], None] | None = None,
    ) -> None:
        """`patience` is how long, in seconds, a sidecar may be away or busy without an event accepted before we give up."""
        self.url = url.rstrip("/")
        headers = {"Content-Type": "application/x-ndjson", "Content-Encoding": "zstd"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        self._client = httpx.Client(timeout=timeout, headers=headers, trust_env=False, verify=machine(self.url))
        self._patience = patience
        self._stop = threading.Event()
        self._sleep = sleep or self._wait
        self._on_wait = on_wait or (lambda _reason: None)

    def close(self) -> None:
        """Wake what waits, and drop the connections."""
        self._stop.set()
        self._client.close()

    def check(self) -> None:
        """Raise TrackMateError unless a sidecar answers."""
        try:
            self._client.get(f"{self.url}/health", timeout=5.0)
        except httpx.HTTPError as error:
            what = f"no sidecar answers at {self.url} ({error}{advice(error)})"
            raise TrackMateError(f"{what}. Start one with 'trackmate up', or name another with --url") from error

    def send(self, events: Sequence[bytes]) -> Answer:
        """Send until the batch is acknowledged; raises TrackMateError when the sidecar refuses it or patience runs out."""
        body = zstandard.ZstdCompressor(level=1).compress(b"\n".join(events))
        give_up_at = time.monotonic() + self._patience
        pause = _FIRST_PAUSE
        while True:
            try:
                response = self._client.post(self.url + _PATH, content=body)
            except httpx.HTTPError as error:
                reason, wait = f"the sidecar at {self.url} can't be reached ({type(error).__name__}: {error})", None
            else:
                if response.status_code == _ACCEPTED:
                    return _answer(response.json(), len(events))
                if response.status_code == _TOO_LARGE and len(events) > 1:
                    return self._send_halves(events)
                if response.status_code != _TOO_MANY and response.status_code < _SERVER_ERROR:
                    raise TrackMateError(
                        f"the sidecar at {self.url} refused a batch with status {response.status_code}: {_reason(response)}"
                    )
                reason = f"the sidecar answered {response.status_code}: {_reason(response)}"
                wait = retry_after(response.headers.get("Retry-After"), datetime.now(UTC))
            if wait is None:
                wait = random.uniform(pause / 2, pause)  # noqa: S311 - jitter, not a secret
                pause = min(pause * 2, _LONGEST_PAUSE)
            if self._stop.is_set() or time.monotonic() + wait > give_up_at:
                raise TrackMateError(f"{reason}; waited {self._patience:g} s. See 'trackmate status', then go on with --resume")
            self._on_wait(f"{reason}; trying again in {wait:.1f} s")
            self._sleep(wait)

    def _send_halves(self, events: Sequence[bytes]) -> Answer:
        middle = len(events) // 2
        first, second = self.send(events[:middle]), self.send(events[middle:])
        moved = [(index + middle, path, reason) for index, path, reason in second.rejected]
        return Answer(first.accepted + second.accepted, first.rejected + moved)

    def _wait(self, seconds: float) -> None:
        self._stop.wait(seconds)


def retry_after(header: str | None, now: datetime) -> float | None:
    """Seconds that a Retry-After header asks for, in either of its forms; None without a header that makes sense."""
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(header) - now).total_seconds()
        except (ValueError, TypeError):
            return None
    return min(max(seconds, 0.0), _MAX_RETRY_AFTER) if seconds == seconds else None


def _answer(said: dict[str, Any], sent: int) -> Answer:
    rejected = [(int(entry["index"]), str(entry.get("path", "")), str(entry["error"])) for entry in said.get("rejected", [])]
    accepted = int(said["accepted"])
    if accepted + len(rejected) != sent:
        raise TrackMateError(f"the answer accepts {accepted} and rejects {len(rejected)} of {sent} events: is --url a sidecar?")
    return Answer(accepted, rejected)


def _reason(response: httpx.Response) -> str:
    try:
        said = response.json()
    except ValueError:
        return response.text[:200]
    return str(said.get("message") or said.get("error") or said)[:500] if isinstance(said, dict) else str(said)[:500]
