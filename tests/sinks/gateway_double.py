"""A small real HTTP server that gives the documented answers of `POST /v1/ingest/managed`, and the faults a test asks for."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from contract import codec, compression, framing
from contract.errors import InvalidBody

Answer = tuple[int, dict[str, str], bytes]
Fault = Callable[[list[dict[str, Any]]], Answer | None]


class GatewayDouble:
    """Keeps events by id. `fault` may answer instead of it; `delay` is in seconds; `token` is what it asks for."""

    def __init__(self, port: int = 0) -> None:
        self.events: dict[str, dict[str, Any]] = {}
        self.requests: list[dict[str, Any]] = []
        self.fault: Fault | None = None
        self.delay = 0.0
        self.token: str | None = None
        self.refuse: set[str] = set()
        self.released = threading.Event()
        self.connections: list[socket.socket] = []
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                owner.connections.append(self.connection)

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                status, headers, answer = owner.answer(self.path, dict(self.headers), body)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                with contextlib.suppress(ConnectionError):  # the other side may have given up waiting
                    self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def answer(self, path: str, headers: dict[str, str], body: bytes) -> Answer:
        if self.delay:
            self.released.wait(self.delay)
        if self.token is not None and headers.get("Authorization") != f"Bearer {self.token}":
            return 401, {}, b'{"error":{"code":"token_unknown","message":"no"}}'
        if path != "/v1/ingest/managed":
            return 404, {}, b"{}"
        try:
            batch = codec.decode_batch(compression.decompress(body, headers.get("Content-Encoding")), headers.get("Content-Type"))
        except InvalidBody as error:
            return error.status, {}, json.dumps({"error": {"code": error.code, "message": str(error)}}).encode()
        plain = framing.split_ndjson(compression.decompress(body, headers.get("Content-Encoding")), batch.format)
        received = [json.loads(line) for line in plain.splitlines() if line.strip()]
        self.requests.append({"headers": headers, "body": body, "count": len(received), "at": time.monotonic()})
        if self.fault is not None and received:
            answer = self.fault(received)
            if answer is not None:
                return answer
        rejected = []
        for index, item in enumerate(received):
            if item["event_id"] in self.refuse:
                rejected.append({"index": index, "event_id": item["event_id"], "path": "name", "error": "unknown here"})
            else:
                self.events.setdefault(item["event_id"], item)
        return (
            202,
            {"Content-Type": "application/json"},
            json.dumps({"accepted": len(received) - len(rejected), "rejected": rejected}).encode(),
        )

    def stop(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        for connection in self.connections:
            with contextlib.suppress(OSError):  # closed by the other side
                connection.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
