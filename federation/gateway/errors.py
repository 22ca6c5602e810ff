"""One shape for everything that goes wrong: {"error": {"code", "message", "where", "hint"}}."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from contract.errors import InvalidBody, TrackMateError
from federation.auth import Denied
from federation.cursor import BadCursor
from federation.limits import TooMany

LOG = logging.getLogger(__name__)

CLIENT_CLOSED: Final = 499
"""The status written to the log when the caller went away; nobody receives it."""


_LOGGED: Final = "trackmate.error_logged"


class ApiError(TrackMateError):
    """A request can't be answered: HTTP `status`, a stable `code`, what happened, `where`, and what to do (`hint`)."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        where: str | None = None,
        hint: str | None = None,
        retry_after: float | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        self.status = status
        self.code = code
        self.where = where
        self.hint = hint
        self.retry_after = retry_after
        self.extra = dict(extra or {})
        super().__init__(message)


class ErrorBody(msgspec.Struct, kw_only=True):
    """What stands under `error`."""

    code: str
    message: str
    where: str | None = None
    hint: str | None = None


def response(error: ApiError) -> Response:
    """The HTTP answer for `error`."""
    body = {"error": ErrorBody(code=error.code, message=str(error), where=error.where, hint=error.hint), **error.extra}
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    if error.status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="trackmate"'
    if error.status in {408, 413}:
        headers["Connection"] = "close"
    return Response(msgspec.json.encode(body), error.status, headers, media_type="application/json")


def from_exception(error: Exception) -> ApiError:
    """The answer for an exception of the parts below; what nobody foresaw becomes a 500 without its text."""
    match error:
        case ApiError():
            return error
        case Denied():
            return ApiError(error.status, error.code, str(error), where="Authorization", hint=error.hint)
        case TooMany():
            hint = "wait as long as Retry-After says"
            return ApiError(429, error.code, str(error), hint=hint, retry_after=error.retry_after)
        case InvalidBody():
            return ApiError(error.status, error.code, str(error), where="body")
        case BadCursor():
            return ApiError(400, "bad_cursor", str(error), where="cursor")
        case RequestValidationError():
            return _invalid_request(error)
        case HTTPException():
            return _http(error)
        case ClientDisconnect():
            return ApiError(CLIENT_CLOSED, "client_closed", "the caller closed the connection")
        case _:
            return ApiError(
                500,
                "internal",
                "the gateway failed to answer; its log has the reason",
                hint="report it with the time of the request",
            )


def _invalid_request(error: RequestValidationError) -> ApiError:
    problems = [(".".join(str(part) for part in problem["loc"]), problem["msg"]) for problem in error.errors()]
    where, first = problems[0]
    more = "".join(f"; {place}: {text}" for place, text in problems[1:5])
    return ApiError(400, "invalid_request", f"{where}: {first}{more}", where=where, hint="see /openapi.json for what is expected")


_HTTP_CODES: Final = {404: "not_found", 405: "method_not_allowed", 406: "not_acceptable", 415: "unsupported_media_type"}


def _http(error: HTTPException) -> ApiError:
    code = _HTTP_CODES.get(error.status_code, "refused")
    hint = "see /openapi.json for the routes there are" if error.status_code in {404, 405} else None
    return ApiError(error.status_code, code, str(error.detail), hint=hint)


async def handle(request: Request, error: Exception) -> Response:
    """The exception handler that FastAPI is given for every type."""
    answer = from_exception(error)
    if answer.status == 500:
        _log(request.scope, error)
    return response(answer)


def _log(scope: Scope, error: Exception) -> None:
    if not scope.setdefault(_LOGGED, False):
        scope[_LOGGED] = True
        LOG.error("unforeseen error in %s %s", scope["method"], scope["path"], exc_info=error)


def install(app: FastAPI) -> None:
    """Have every error that leaves a route answered in the one shape."""
    for kind in (TrackMateError, RequestValidationError, HTTPException, ClientDisconnect, Exception):
        app.add_exception_handler(kind, handle)


class CatchAll:
    """Outermost ASGI layer: an error that nobody foresaw is logged with its trace and answered with a 500 in the one shape."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application and answer for what it lets through, as long as nothing was sent yet."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def watching(message: Any) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, watching)
        except Exception as error:  # noqa: BLE001 - the last line of defence; logged with its trace
            answer = from_exception(error)
            if answer.status == 500:
                _log(scope, error)
            if not started:
                await response(answer)(scope, receive, send)
