"""The built-in `webhook` backend: what TrackMate's sink of that name does without templates, and without a dependency.

A request holds events as JSON Lines, as a JSON array, or one event. Every request has an `Idempotency-Key` that is the same when
the same events are sent again. With a `secret`, it is signed: the header `X-TrackMate-Signature` is `v1=` and the HMAC-SHA256, in
hex, of the header `X-TrackMate-Timestamp` (seconds since 1970), a dot and the body as it was sent.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import hmac
import http
import json
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from monitoring_sdk._addresses import public_only
from monitoring_sdk._batch import Batch
from monitoring_sdk._config import BackendSettings
from monitoring_sdk._http import USER_AGENT, Poster, Reply
from monitoring_sdk._retry import retry_after
from monitoring_sdk._transport import Answer, Bounds, Outcome

SIGNATURE_HEADER = "X-TrackMate-Signature"
TIMESTAMP_HEADER = "X-TrackMate-Timestamp"
KEY_HEADER = "Idempotency-Key"
DEFAULT_MAX_EVENTS = 100

_CONTENT_TYPES = {"ndjson": "application/x-ndjson", "array": "application/json", "event": "application/json"}
_KNOWN = frozenset(
    {"url", "method", "body", "headers", "secret", "max_events", "parallel", "success", "compression", "allow_private",
     "connect_timeout", "read_timeout", "tls"}
)  # fmt: skip
_RESERVED = frozenset(
    {"host", "content-length", "content-encoding", "transfer-encoding", "connection", KEY_HEADER.lower(),
     SIGNATURE_HEADER.lower(), TIMESTAMP_HEADER.lower()}
)  # fmt: skip
_TRY_AGAIN = frozenset({401, 402, 403, 404, 405, 406, 407, 408, 409, 410, 411, 415, 421, 423, 424, 425, 426, 429, 451})
"""Statuses 4xx that are about the endpoint, the credential or the moment; all others are about what was sent."""

_SOON = frozenset({408, 409, 423, 424, 425, 429})
_SHORTEST_SECRET = 6
_SHOWN = 200


def serves(config: Mapping[str, Any]) -> bool:
    """Whether a config block needs nothing that only the sink can do: templates, and placeholders in headers."""
    headers = config.get("headers", {})
    plain = not isinstance(headers, Mapping) or not any("${" in str(value) for value in headers.values())
    return plain and config.get("body", "ndjson") != "template" and set(config) <= _KNOWN


def problems(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a schema can't tell to be wrong in a config block."""
    found = []
    headers = config.get("headers", {})
    for name, value in headers.items() if isinstance(headers, Mapping) else ():
        if not isinstance(value, str) or not value.isascii() or not value.isprintable():
            found.append((f"config.headers.{name}", "expected one line of ASCII"))
        if str(name).lower() in _RESERVED or not str(name).replace("-", "").replace("_", "").isalnum():
            found.append((f"config.headers.{name}", "it is no header's name, or one that is set here"))
    url = config.get("url")
    if isinstance(url, str):
        try:
            parts = urlsplit(url)
            sound = bool(parts.hostname) and parts.port != 0 and parts.username is None and not parts.fragment
        except ValueError:
            sound = False
        if not sound:
            found.append(("config.url", "expected an http:// or https:// address without a name, a password or a # in it"))
    return found


class WebhookBackend:
    """One endpoint. Its path and query are shown nowhere, since many a service has its key in them."""

    keeps_rejected = False
    outlives_executors = True

    def __init__(self, settings: BackendSettings, *, clock: Callable[[], float] = time.time) -> None:
        config = settings.config
        parts = urlsplit(config["url"])
        self._config = config
        self._base = settings.base
        self._clock = clock
        self._shown = f"{parts.scheme}://{parts.netloc}"
        self._format = config.get("body", "ndjson")
        self._key = str(config.get("secret", "")).encode()
        self._secrets = [text for text in (parts.path, parts.query, *self._credentials()) if len(text) >= _SHORTEST_SECRET]
        self.bounds = Bounds(1 if self._format == "event" else int(config.get("max_events", DEFAULT_MAX_EVENTS)))
        self._poster: Poster | None = None
        self._interrupted = False

    def send(self, batch: Batch, timeout: float) -> Answer:
        """Send the events in one request."""
        if self._poster is None:
            try:
                self._poster = self._connect()
            except (OSError, ValueError) as error:  # of a file of the `tls` block
                return Answer(Outcome.KEEP, f"a file of its `tls` block can't be used: {error}")
        if self._interrupted:
            return Answer(Outcome.RETRY, "the SDK is closing")
        body, headers = self._request(batch)
        reply = self._poster.post(body, headers, timeout)
        if isinstance(reply, str):
            return Answer(Outcome.RETRY, f"{self._shown}: {reply}")
        return self._judge(reply, len(batch))

    def interrupt(self) -> None:
        """Wake a `send` that waits for the endpoint."""
        self._interrupted = True
        if self._poster is not None:
            self._poster.interrupt()

    def tick(self) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Close the connection."""
        if self._poster is not None:
            self._poster.close()

    def forget(self) -> None:
        """The connection notices by itself."""

    def _connect(self) -> Poster:
        resolve = None if self._config.get("allow_private", False) else public_only
        method = self._config.get("method", "POST")
        context = self._context() if self._shown.startswith("https:") else None
        return Poster(self._config["url"], context, method=method, resolve=resolve)

    def _context(self) -> ssl.SSLContext:
        tls = self._config.get("tls", {})
        authority = self._file(tls.get("ca_file"))
        with _naming(authority):
            context = ssl.create_default_context(cafile=authority)
        if not tls.get("verify", True):
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        certificate = self._file(tls.get("cert_file"))
        if certificate is not None:
            # Without a password of its own OpenSSL would ask for one on the terminal, and wait.
            key = self._file(tls.get("key_file"))
            with _naming(certificate, key):
                context.load_cert_chain(certificate, key, password="")
        return context

    def _file(self, name: str | None) -> Path | None:
        return None if name is None else (self._base or Path.cwd()) / Path(name).expanduser()

    def _request(self, batch: Batch) -> tuple[bytes, dict[str, str]]:
        if self._format == "event":
            body = batch.lines[0]
        else:
            body = b"[%b]" % b",".join(batch.lines) if self._format == "array" else batch.body()
        headers = {"User-Agent": USER_AGENT, "Content-Type": _CONTENT_TYPES[self._format], KEY_HEADER: self._idempotency(batch)}
        headers.update(self._config.get("headers", {}))
        if self._config.get("compression", "none") == "gzip":
            body = gzip.compress(body, 1)
            headers["Content-Encoding"] = "gzip"
        if self._key:
            moment = str(int(self._clock()))
            headers[TIMESTAMP_HEADER] = moment
            headers[SIGNATURE_HEADER] = "v1=" + hmac.new(self._key, moment.encode() + b"." + body, hashlib.sha256).hexdigest()
        return body, headers

    def _idempotency(self, batch: Batch) -> str:
        if self._format == "event":
            return str(json.loads(batch.lines[0])["event_id"])
        last = batch.first_seq + len(batch) - 1
        return hashlib.sha256(f"{batch.log} {batch.first_seq} {last} ".encode() + batch.body()).hexdigest()[:32]

    def _credentials(self) -> list[str]:
        values = [str(value) for value in self._config.get("headers", {}).values()]
        return [str(self._config.get("secret", "")), *values, *(value.split()[-1] for value in values if value.split())]

    def _judge(self, reply: Reply, events: int) -> Answer:
        status = reply.status
        success = self._config.get("success") or range(200, 300)
        if status in success:
            return Answer(Outcome.ACCEPTED)
        said = " ".join(reply.body[:4096].decode(errors="replace").split())
        for secret in self._secrets:
            said = said.replace(secret, "***")
        detail = f"{self._shown} answered {_phrase(status)}: {said[:_SHOWN]}".removesuffix(": ")
        if not 400 <= status < 500:
            outcome = Outcome.RETRY if status >= 500 else Outcome.KEEP
        elif status in _TRY_AGAIN:
            outcome = Outcome.RETRY if status in _SOON else Outcome.KEEP
        else:
            # Halved until the culprits stand alone.
            return Answer(Outcome.TOO_LARGE if events > 1 else Outcome.REFUSED, detail)
        return Answer(outcome, detail, retry_after(reply.headers.get("Retry-After")), alive=status == 429)


def _phrase(status: int) -> str:
    try:
        return f"{status} {http.HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


@contextlib.contextmanager
def _naming(*files: Path | None) -> Iterator[None]:
    """Say which files an error is about, since OpenSSL does not."""
    try:
        yield
    except (OSError, ValueError) as error:
        message = f"{' and '.join(str(file) for file in files if file is not None)}: {error}"
        raise ValueError(message) from error
