"""A front for a real sidecar that can be slow or busy, as a loaded one is."""

from __future__ import annotations

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

import httpx


class SlowFront:
    """Passes every request on after `delay` seconds; the first `busy` ingest requests get 429 with `retry_after` instead."""

    def __init__(self, url: str, *, delay: float = 0.0, busy: int = 0, retry_after: str = "1") -> None:
        self._target = url
        self._delay = delay
        self._busy = busy
        self._retry_after = retry_after
        self._lock = threading.Lock()
        self._refused_at: dict[bytes, float] = {}
        self.refused = 0
        self.shortest_wait = float("inf")
        front = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                front.answer(self)

            def do_POST(self) -> None:
                front.answer(self)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        if request.command == "POST" and self._refuse(body):
            self._send(request, 429, b'{"error": "busy"}', {"Retry-After": self._retry_after})
            return
        if request.command == "POST":
            time.sleep(self._delay)
        kept = {k: v for k, v in request.headers.items() if k.lower() in {"content-type", "content-encoding"}}
        passed = httpx.request(request.command, self._target + request.path, content=body, headers=kept, timeout=30)
        self._send(request, passed.status_code, passed.content, {"Content-Type": "application/json"})

    def _refuse(self, body: bytes) -> bool:
        with self._lock:
            now = time.monotonic()
            if body in self._refused_at:
                self.shortest_wait = min(self.shortest_wait, now - self._refused_at[body])
            if self.refused >= self._busy:
                return False
            self.refused += 1
            self._refused_at[body] = now
            return True

    @staticmethod
    def _send(request: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str]) -> None:
        try:
            request.send_response(status)
            for name, value in headers.items():
                request.send_header(name, value)
            request.send_header("Content-Length", str(len(body)))
            request.end_headers()
            request.wfile.write(body)
        except ConnectionError:
            request.close_connection = True

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
