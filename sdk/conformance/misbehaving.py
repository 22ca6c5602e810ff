"""A sidecar that misbehaves on command: a real HTTP server whose answers a test scripts."""

from __future__ import annotations

import gzip
import json
import threading
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ACCEPT: dict[str, Any] = {}


class Request:
    """One request that the server read."""

    def __init__(self, path: str, headers: dict[str, str], body: bytes) -> None:
        self.path = path
        self.headers = headers
        self.size = len(body)
        self.body = gzip.decompress(body) if headers.get("content-encoding") == "gzip" else body
        self.at = time.monotonic()

    @property
    def events(self) -> list[dict[str, Any]]:
        """Its events, whichever of the protocol's bodies it has."""
        if self.headers.get("content-type", "").startswith("application/x-ndjson"):
            return [json.loads(line) for line in self.body.splitlines() if line.strip()]
        body = json.loads(self.body)
        if isinstance(body, list):
            return body
        events: list[dict[str, Any]] = body.get("events", [body])
        return events

    @property
    def ids(self) -> list[str]:
        """The ids of its events."""
        return [event["event_id"] for event in self.events]


class MisbehavingSidecar:
    """A real HTTP server whose next answers are scripted; without a script it answers by `default`, which accepts.

    An answer is a dict: `status`, `headers`, `body` (bytes or text); `wait` seconds before it; `cut` without any answer;
    `cut_after` that many bytes of it; `raw` bytes in place of HTTP; `drip` seconds between its bytes; `hang` until the test
    ends; `lose` the answer of a request that was accepted; `reject` the events of these places.
    """

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.accepted: list[dict[str, Any]] = []
        self.connections = 0
        self.default: dict[str, Any] = ACCEPT
        self._script: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        self._released = threading.Event()
        self._server: ThreadingHTTPServer | None = None
        self.port = 0
        self.start()

    @property
    def url(self) -> str:
        """Where it listens, or did."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Listen; after `stop` on the same port."""
        sidecar = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self) -> None:
                with sidecar._lock:
                    sidecar.connections += 1
                super().setup()

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                sidecar._answer(self, Request(self.path, {k.lower(): v for k, v in self.headers.items()}, body))

            def log_message(self, *args: Any) -> None:
                return

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, request: Any, client_address: Any) -> None:
                return

        self._server = Server(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True, name="misbehaving-sidecar").start()

    def stop(self) -> None:
        """Go away: connections are refused until `start`."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def close(self) -> None:
        """End for good, and let go of whoever hangs."""
        self._released.set()
        self.stop()

    def then(self, *answers: dict[str, Any]) -> None:
        """Answer the next requests like this."""
        with self._lock:
            self._script += answers

    @property
    def ids(self) -> list[str]:
        """The ids of the events that it accepted."""
        with self._lock:
            return [event["event_id"] for event in self.accepted]

    def named(self, name: str) -> list[dict[str, Any]]:
        """The accepted events of this name."""
        with self._lock:
            return [event for event in self.accepted if event["name"] == name]

    def _answer(self, handler: BaseHTTPRequestHandler, request: Request) -> None:
        with self._lock:
            self.requests.append(request)
            answer = self._script.pop(0) if self._script else self.default
        if answer.get("hang"):
            self._released.wait(60)
            handler.close_connection = True
            return
        self._released.wait(answer.get("wait", 0))
        status = answer.get("status", 202)
        body = answer.get("body")
        if 200 <= status < 300 and body is None and not answer.get("cut") and "raw" not in answer:
            body = self._accept(request, answer.get("reject", ()))
        if answer.get("cut") or answer.get("lose"):
            handler.close_connection = True
            return
        body = b'{"error":{"code":"scripted","message":"as the test wants"}}' if body is None else body
        body = body.encode() if isinstance(body, str) else body
        head = f"HTTP/1.1 {status} Scripted\r\nContent-Length: {len(body)}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in answer.get("headers", {}).items())
        raw = answer.get("raw", head.encode() + b"\r\n" + body)
        text = raw.encode() if isinstance(raw, str) else raw
        if "cut_after" in answer:
            text = text[: answer["cut_after"]]
        if "raw" in answer or "cut_after" in answer:
            handler.close_connection = True
        if "drip" in answer:
            for byte in text:
                handler.wfile.write(bytes([byte]))
                if self._released.wait(answer["drip"]):
                    return
        else:
            handler.wfile.write(text)

    def _accept(self, request: Request, rejected: Sequence[int]) -> bytes:
        with self._lock:
            self.accepted += [event for index, event in enumerate(request.events) if index not in rejected]
        reasons = [
            {"index": index, "event_id": request.ids[index], "path": "metrics.x", "error": "expected number"}
            for index in rejected
        ]
        return json.dumps({"accepted": len(request.events) - len(reasons), "rejected": reasons}).encode()
