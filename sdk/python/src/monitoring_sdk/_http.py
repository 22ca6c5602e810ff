"""Posts over one kept connection, each request within a deadline however slowly the answer drips; first of all to the sidecar."""

from __future__ import annotations

import codecs
import contextlib
import http.client
import io
import json
import os
import socket
import ssl
import time
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast
from urllib.parse import urlsplit

from monitoring_sdk._batch import Batch
from monitoring_sdk._retry import retry_after
from monitoring_sdk._transport import Answer, Outcome

USER_AGENT = "monitoring-sdk-python"
INGEST_PATH = "/v1/ingest/events"
_WORTH_COMPRESSING = 1400
"""Bytes that fit into one packet anyway."""
_LARGEST_ANSWER = 4 * 1024 * 1024
_STALE = (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError)
"""How it shows that the server has closed a connection that we kept."""

# Resolving a host's name imports this codec. Left to the sender, a fork in that very moment gives the child a lock of the import
# system that nobody will ever release.
codecs.lookup("idna")

_RETRY = frozenset({408, 425, 429})
_REFUSED = frozenset({400, 415, 422})


class Reply(NamedTuple):
    """What a server answered."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes


class Poster:
    """Posts to one URL over one kept connection.

    `context` is how a server with TLS is judged; None: as this machine does. `resolve` gives the addresses of the host that may
    be connected to; None: all that it has.
    """

    def __init__(
        self,
        url: str,
        context: ssl.SSLContext | None = None,
        *,
        method: str = "POST",
        resolve: Callable[[str, int], list[str]] | None = None,
    ) -> None:
        address = urlsplit(url)
        self._https = address.scheme == "https"
        self.host = address.hostname or "localhost"
        self._port = address.port or (443 if self._https else 80)
        self._path = (address.path or "/") + (f"?{address.query}" if address.query else "")
        self._context = context
        self._method = method
        self._resolve = resolve
        self._connection: _Connection | None = None
        self._pid = os.getpid()
        self._interrupted = False

    def post(self, body: bytes, headers: Mapping[str, str], timeout: float) -> Reply | str:
        """The answer to one request, or why there is none within `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while not self._interrupted:
            connection, kept = self._connect()
            try:
                reply = connection.exchange(self._method, self._path, body, headers, deadline)
            except (OSError, http.client.HTTPException, ValueError) as error:
                self.close()
                if kept and isinstance(error, _STALE):
                    continue
                return _described(error)
            if connection.is_finished:
                self.close()
            return reply
        return "the SDK is closing"

    def interrupt(self) -> None:
        """Wake a `post` that waits for the server."""
        self._interrupted = True
        connection = self._connection
        sock = connection.sock if connection is not None else None
        if sock is not None:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:  # it is closed already, which is what was wanted
                return

    def close(self) -> None:
        """Close the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _connect(self) -> tuple[_Connection, bool]:
        """The connection, and whether it was used before."""
        if self._pid != os.getpid():
            self._connection, self._pid = None, os.getpid()  # a forked child must not talk over its parent's
        if self._connection is not None:
            return self._connection, True
        self._connection = _Connection(self.host, self._port, https=self._https, context=self._context, resolve=self._resolve)
        return self._connection, False


class SidecarTransport:
    """Delivers to `POST {url}/v1/ingest/events`."""

    def __init__(self, url: str, token: str) -> None:
        self._poster = Poster(url.rstrip("/") + INGEST_PATH)
        self._compress = not _is_loopback(self._poster.host)
        self._headers = {"Content-Type": "application/x-ndjson", "User-Agent": USER_AGENT}
        if token.strip():
            self._headers["Authorization"] = f"Bearer {token.strip()}"

    def send(self, batch: Batch, timeout: float) -> Answer:
        """Post one batch; see `Transport.send`."""
        body, headers = self._encoded(batch)
        reply = self._poster.post(body, headers, timeout)
        return Answer(Outcome.RETRY, reply) if isinstance(reply, str) else _judge(*reply)

    def interrupt(self) -> None:
        """Wake a `send` that waits for the server."""
        self._poster.interrupt()

    def close(self) -> None:
        """Close the connection."""
        self._poster.close()

    def _encoded(self, batch: Batch) -> tuple[bytes, dict[str, str]]:
        """The body, compressed when that pays: the way to another host is narrow, the loopback is not."""
        body = batch.body()
        if self._compress and len(body) > _WORTH_COMPRESSING:
            packer = zlib.compressobj(1, zlib.DEFLATED, 31)
            packed = packer.compress(body) + packer.flush()
            if len(packed) < len(body):
                return packed, {**self._headers, "Content-Encoding": "gzip"}
        return body, self._headers


class _Connection:
    """One connection that keeps a deadline for the whole of an exchange."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        https: bool,
        context: ssl.SSLContext | None,
        resolve: Callable[[str, int], list[str]] | None,
    ) -> None:
        self._http = http.client.HTTPSConnection(host, port, context=context) if https else http.client.HTTPConnection(host, port)
        self._context = (context or ssl.create_default_context()) if https and resolve is not None else None
        self._resolve = resolve
        self.is_finished = False

    @property
    def sock(self) -> socket.socket | None:
        """The open socket."""
        return cast("socket.socket | None", self._http.sock)

    def exchange(self, method: str, path: str, body: bytes, headers: Mapping[str, str], deadline: float) -> Reply:
        """The answer. Raises OSError, HTTPException or ValueError."""
        connection = self._http
        connection.timeout = _remaining(deadline)
        if connection.sock is None:
            self._connect(deadline)
        sock: socket.socket = connection.sock
        sock.settimeout(_remaining(deadline))
        connection.request(method, path, body=body, headers=dict(headers))

        def timed(sock: socket.socket, *args: Any, **kwargs: Any) -> _TimedResponse:
            return _TimedResponse(sock, deadline, *args, **kwargs)

        connection.response_class = cast("type[http.client.HTTPResponse]", timed)
        with connection.getresponse() as response:
            length = _LARGEST_ANSWER if response.length is None else min(response.length, _LARGEST_ANSWER)
            answer = response.read(length)
            self.is_finished = response.will_close or not response.isclosed()
            return Reply(response.status, response.headers, answer)

    def _connect(self, deadline: float) -> None:
        if self._resolve is None:
            self._http.connect()
            return
        host, port = self._http.host, self._http.port
        *others, last = self._resolve(host, port)
        sock = None
        for address in others:
            with contextlib.suppress(OSError):
                sock = socket.create_connection((address, port), _remaining(deadline))
                break
        if sock is None:
            sock = socket.create_connection((last, port), _remaining(deadline))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._http.sock = sock if self._context is None else self._context.wrap_socket(sock, server_hostname=host)

    def close(self) -> None:
        self._http.close()


class _TimedResponse(http.client.HTTPResponse):
    """Reads from its socket under one deadline, where http.client would grant the timeout anew for every byte."""

    def __init__(self, sock: socket.socket, deadline: float, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp.close()
        self.fp = io.BufferedReader(_TimedSocket(sock, deadline))


class _TimedSocket(io.RawIOBase):
    def __init__(self, sock: socket.socket, deadline: float) -> None:
        super().__init__()
        self._sock = sock
        self._deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._sock.settimeout(_remaining(self._deadline))
        return self._sock.recv_into(buffer)


def _remaining(deadline: float) -> float:
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        message = "timed out"
        raise socket.timeout(message)
    return seconds


def _judge(status: int, headers: http.client.HTTPMessage, body: bytes) -> Answer:
    if 200 <= status < 300:
        return _acknowledgement(status, body)
    detail = f"it answered {status}: {_said(body)}"
    if status in _RETRY or status >= 500:
        return Answer(Outcome.RETRY, detail, retry_after(headers.get("Retry-After")))
    if status == 413:
        return Answer(Outcome.TOO_LARGE, detail)
    if status in _REFUSED:
        return Answer(Outcome.REFUSED, detail)
    return Answer(Outcome.KEEP, detail)


def _acknowledgement(status: int, body: bytes) -> Answer:
    """Only an answer that says what it accepted is one: anything may listen on that port."""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict) or type(answer.get("accepted")) is not int:
        return Answer(Outcome.RETRY, f"it answered {status} with something that is no acknowledgement: {_said(body)}")
    rejected = answer.get("rejected", [])
    return Answer.of_rejections([entry for entry in rejected if isinstance(entry, dict)] if isinstance(rejected, list) else [])


def _said(body: bytes) -> str:
    text = " ".join(body[:400].decode(errors="replace").split())
    return text[:200] or "nothing"


def _described(error: Exception) -> str:
    if isinstance(error, socket.timeout):
        return "it did not answer in time"
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _is_loopback(host: str) -> bool:
    return host in {"localhost", "::1"} or host.startswith("127.")
