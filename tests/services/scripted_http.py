"""A real HTTP(S) server that answers from a script and keeps what it was asked: for what no real system can be made to do."""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import ssl
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from tests.services.certificates import Certificate


@dataclass(frozen=True)
class Asked:
    """One request as it came; `body` is decompressed."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    sent: bytes = field(repr=False)
    """The body as it was sent."""

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def lines(self) -> list[Any]:
        """The body's lines, each read as JSON."""
        return [json.loads(line) for line in self.body.splitlines() if line]


@dataclass(frozen=True)
class Reply:
    """A whole answer, after `delay` seconds or the server's end."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0


@dataclass(frozen=True)
class Reset:
    """A TCP reset: before any answer, or after `sent` bytes of a body that was announced as longer."""

    sent: int | None = None


@dataclass(frozen=True)
class Hang:
    """No answer for as long as the server runs."""


@dataclass(frozen=True)
class Garbage:
    """Bytes that are not HTTP."""

    data: bytes = b"SSH-2.0-OpenSSH_9.2p1\r\n"


Step = Reply | Reset | Hang | Garbage
Script = Callable[[Asked], Step]


def json_reply(value: Any, status: int = 200, **headers: str) -> Reply:
    """A reply with a JSON body."""
    return Reply(status, json.dumps(value).encode(), {"Content-Type": "application/json", **headers})


class ScriptedHttp:
    """`steps` are taken first, in order; then `script` answers. Requests are in `asked` once they are read whole."""

    def __init__(
        self,
        script: Script | Step | None = None,
        *,
        port: int = 0,
        certificate: Certificate | None = None,
        client_ca: Path | None = None,
    ) -> None:
        self.script: Script | Step = script or Reply()
        self.steps: deque[Script | Step] = deque()
        self.asked: list[Asked] = []
        self.connections: list[socket.socket] = []
        self._ended = threading.Event()
        self._lock = threading.Lock()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                self.request.settimeout(60)
                if owner._context is not None:
                    self.request = owner._shake_hands(self.request)
                super().setup()
                with owner._lock:
                    owner.connections.append(self.connection)

            def finish(self) -> None:
                super().finish()
                if owner._context is not None:
                    self.connection.close()  # the server itself knows only the socket underneath

            def answer(self) -> None:
                owner._answer(self)

            do_GET = do_POST = do_PUT = do_PATCH = do_HEAD = do_DELETE = answer  # noqa: N815 - names that http.server looks for

            def log_message(self, *_: object) -> None:
                return

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, *_: object) -> None:
                """A handshake or a connection that the other side gave up is not the server's error."""

        self._context: ssl.SSLContext | None = None
        if certificate is not None:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(*certificate)
            if client_ca is not None:
                self._context.verify_mode = ssl.CERT_REQUIRED
                self._context.load_verify_locations(client_ca)
        self._server = Server(("127.0.0.1", port), Handler)
        self.port: int = self._server.server_address[1]
        self.url = f"{'http' if certificate is None else 'https'}://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def then(self, *steps: Script | Step) -> Self:
        """Answer the next requests with these."""
        self.steps.extend(steps)
        return self

    def bodies(self) -> Iterable[bytes]:
        """The bodies of all requests."""
        return [asked.body for asked in self.asked]

    def _shake_hands(self, plain: socket.socket) -> ssl.SSLSocket:
        assert self._context is not None
        secure = self._context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
        try:
            secure.do_handshake()
        except ssl.SSLError:
            # Closed with bytes unread, the connection would be reset, and the alert lost on its way.
            tcp = socket.socket(fileno=secure.detach())
            with tcp, contextlib.suppress(OSError):
                tcp.settimeout(10)
                tcp.shutdown(socket.SHUT_WR)
                while tcp.recv(65536):
                    pass
            raise
        except OSError:  # such as a reset
            secure.close()
            raise
        return secure

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        sent = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        if handler.headers.get("Transfer-Encoding", "").lower() == "chunked":
            sent = _chunks(handler)
        plain = gzip.decompress(sent) if handler.headers.get("Content-Encoding") == "gzip" else sent
        asked = Asked(handler.command, handler.path, {k.title(): v for k, v in handler.headers.items()}, plain, sent)
        with self._lock:
            step = self.steps.popleft() if self.steps else self.script
            self.asked.append(asked)
        step = step(asked) if callable(step) else step
        match step:
            case Reply():
                self._reply(handler, step)
            case Reset(sent=None):
                self._reset(handler)
            case Reset(sent=count):
                handler.send_response(200)
                handler.send_header("Content-Length", str((count or 0) + 1000))
                handler.end_headers()
                handler.wfile.write(b"x" * (count or 0))
                handler.wfile.flush()
                self._reset(handler)
            case Garbage(data):
                handler.connection.sendall(data)
                handler.close_connection = True
            case Hang():
                self._ended.wait(120)
                handler.close_connection = True

    def _reply(self, handler: BaseHTTPRequestHandler, reply: Reply) -> None:
        if reply.delay and self._ended.wait(reply.delay):
            handler.close_connection = True
            return
        handler.send_response(reply.status)
        for name, value in reply.headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(reply.body)))
        handler.end_headers()
        with contextlib.suppress(ConnectionError):  # the other side may have given up waiting
            if handler.command != "HEAD":
                handler.wfile.write(reply.body)

    @staticmethod
    def _reset(handler: BaseHTTPRequestHandler) -> None:
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        handler.connection.close()
        handler.rfile.close()
        handler.close_connection = True

    def stop(self) -> None:
        """End it, and every connection."""
        self._ended.set()
        self._server.shutdown()
        self._server.server_close()
        with self._lock:
            for connection in self.connections:
                with contextlib.suppress(OSError):  # closed by the other side
                    connection.shutdown(socket.SHUT_RDWR)
                connection.close()
        self._thread.join(5)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _chunks(handler: BaseHTTPRequestHandler) -> bytes:
    parts = []
    while size := int(handler.rfile.readline().split(b";")[0], 16):
        parts.append(handler.rfile.read(size))
        handler.rfile.readline()
    handler.rfile.readline()
    return b"".join(parts)
