"""The door of the gateway, as plain ASGI: who asks, and whether they may, is settled on the headers, before any body is read."""

from __future__ import annotations

import ipaddress
import time
from typing import Any, Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from federation.auth import LOOPBACK, Denied, Principal, TokenStore
from federation.gateway import errors
from federation.gateway.metrics import Metrics
from federation.gateway.permissions import Permission, PermissionTable
from federation.limits import Limiter, TooMany

PRINCIPAL: Final = "trackmate.principal"
"""The key of the ASGI scope that holds the request's `Principal`."""

_LOCAL_NAMES: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})


class Access:
    """ASGI middleware that admits or refuses a request; the refusal is the one error shape with 401, 403 or 429."""

    def __init__(self, app: ASGIApp, table: PermissionTable, tokens: TokenStore, limiter: Limiter, metrics: Metrics) -> None:
        self._app = app
        self._table = table
        self._tokens = tokens
        self._limiter = limiter
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Judge an HTTP request on its headers; there are no websockets here."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def watching(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._admit(scope, receive, watching)
        finally:
            self._metrics.request(self._table.route(scope), scope["method"], status, time.perf_counter() - started)

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            needed = self._table.needed(scope)
            principal = self._principal(scope, needed)
            if principal is None:
                await self._app(scope, receive, send)
                return
            scope[PRINCIPAL] = principal
            with self._limiter.admit(principal.token_id):
                await self._app(scope, receive, send)
        except (Denied, TooMany) as error:
            answer = errors.from_exception(error)
            self._metrics.refused(answer.code)
            await errors.response(answer)(scope, receive, send)

    def _principal(self, scope: Scope, needed: Permission) -> Principal | None:
        headers = Headers(scope=scope)
        if not self._tokens.required:
            _check_local(scope, headers)
            return LOOPBACK
        if needed == "public":
            return None
        principal = self._tokens.authenticate(_bearer(headers))
        if not principal.may(needed):
            raise Denied(
                403,
                "missing_scope",
                f"token {principal.token_id} lacks the scope '{needed}'",
                f"make a token with it: trackmate token new --scope {needed}",
            )
        return principal


def _bearer(headers: Headers) -> str:
    values = headers.getlist("authorization")
    scheme, _, token = (values[0] if len(values) == 1 else "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Denied(401, "missing_token", "this route needs a bearer token", "send the header 'Authorization: Bearer tm_...'")
    return token.strip()


def _check_local(scope: Scope, headers: Headers) -> None:
    """Without any token: only this machine, and only under a local name, so that no web page reaches in by rebinding DNS."""
    hint = "configure a token (trackmate token new) and send it, or ask from the gateway's own machine"
    if not _is_loopback(scope.get("client")):
        raise Denied(401, "loopback_only", "no token is configured, so only this machine is served", hint)
    if _host_name(headers.get("host", "")) not in _LOCAL_NAMES:
        raise Denied(
            403, "wrong_host", "no token is configured, so only requests to localhost, 127.0.0.1 or [::1] are served", hint
        )
    origin = headers.get("origin")
    if origin is not None and _host_name(origin.partition("://")[2]) not in _LOCAL_NAMES:
        raise Denied(403, "wrong_origin", "no token is configured, so no web page of another origin is served", hint)


def _host_name(host: str) -> str:
    host = host.strip().lower()
    return host.partition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]


def _is_loopback(client: Any) -> bool:
    if not client:
        return False
    try:
        address = ipaddress.ip_address(client[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)
