"""POST /v1/sql: one read-only statement over the catalog, behind the engines' gate."""

from __future__ import annotations

import datetime as dt
import time
from dataclasses import dataclass
from typing import Annotated, Any, Final

import msgspec
import pyarrow as pa
from fastapi import APIRouter, Request
from starlette.responses import Response

from contract.errors import InvalidBody
from federation.engines.base import EngineError, GateError, Limits, QueryError, QueryTimeout, ResourceLimit, Stats
from federation.gateway import audit, formats
from federation.gateway import body as bodies
from federation.gateway.disconnect import while_connected
from federation.gateway.errors import ApiError
from federation.gateway.permissions import permission
from federation.gateway.services import Asker, Served
from federation.renditions import Renditions

router = APIRouter()

MAX_SQL_BYTES: Final = 256 * 1024

STATS: Final = "X-TrackMate-Stats"
TRUNCATED: Final = "X-TrackMate-Truncated"

_REQUEST_BODY: Final[dict[str, Any]] = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["sql"],
                "additionalProperties": False,
                "properties": {
                    "sql": {"type": "string", "description": "One SELECT over the tables of /v1/catalog"},
                    "as_of": {"type": "string", "format": "date-time", "description": "Read the lake as it was then"},
                    "limit": {
                        "type": "integer",
                        "minimum": 1,
                        "description": "Rows at most; never more than the gateway's own cap",
                    },
                },
            }
        }
    },
}


class SqlRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The body: a statement, the moment to read the lake at, and how many rows to give at most."""

    sql: Annotated[str, msgspec.Meta(min_length=1)]
    as_of: Annotated[dt.datetime, msgspec.Meta(tz=True)] | None = None
    limit: Annotated[int, msgspec.Meta(ge=1)] | None = None


@router.post(
    "/v1/sql",
    summary="Query in SQL",
    tags=["data"],
    openapi_extra={"requestBody": _REQUEST_BODY},
    responses={
        200: {
            "description": "Columns, rows and what they cost; `truncated` names the cap that cut the answer",
            "content": {form.value: {} for form in formats.Form},
        },
        400: {"description": "Not JSON, or a statement that is refused or can't run; `where` points at the place"},
        422: {"description": "The statement needs more time, memory or disk than it may have"},
        503: {"description": "A store behind the engine can't be reached"},
    },
)
@permission("query")
async def sql(request: Request, services: Served, asker: Asker) -> Response:
    """Run one SELECT; what the token's sites hide is not there for it."""
    form = formats.negotiate(request.headers.get("accept"))
    media_type = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise ApiError(
            415, "unsupported_media_type", f"Content-Type {media_type[:64]!r} is not supported", hint="send application/json"
        )
    received = await bodies.read(request, seconds=services.settings.body_timeout, cap=MAX_SQL_BYTES)
    asked = _decode(received)
    started = time.monotonic()
    try:
        answer = await while_connected(request, _run(services, asker, asked))
    except EngineError as error:
        audit.record("sql", asker, outcome=error.code, sql=asked.sql, seconds=round(time.monotonic() - started, 3))
        raise _refusal(error) from error
    audit.record(
        "sql", asker, outcome="ok", sql=asked.sql, rows=answer.table.num_rows, seconds=round(time.monotonic() - started, 3)
    )
    return await _respond(answer, form)


def _decode(received: bytes) -> SqlRequest:
    try:
        return msgspec.json.decode(received, type=SqlRequest)
    except msgspec.ValidationError as error:
        text, _, where = str(error).partition(" - at ")
        raise ApiError(
            400, "invalid_request", text, where=where.strip("`").removeprefix("$.") or "body", hint='send {"sql": "SELECT ..."}'
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidBody(400, "not_json", f"the body is not JSON: {error}") from error


@dataclass(frozen=True)
class _Answer:
    table: pa.Table
    stats: Stats
    renditions: Renditions


async def _run(services: Served, asker: Asker, asked: SqlRequest) -> _Answer:
    caps = services.sql_limits
    limits = Limits(caps.timeout, min(caps.max_rows, asked.limit or caps.max_rows), caps.max_bytes)
    async with await services.engine.query(asked.sql, principal=asker, limits=limits, as_of=asked.as_of) as result:
        table = await result.read_all()
        return _Answer(formats.zoned(table), result.stats, result.renditions)


def _refusal(error: EngineError) -> ApiError:
    match error:
        case GateError():
            where = None if error.line is None else f"line {error.line}, column {error.column}"
            return ApiError(400, f"sql_{error.code}", error.what, where=where or "sql", hint=error.hint)
        case QueryError():
            return ApiError(400, f"sql_{error.code}", str(error), where="sql")
        case QueryTimeout() | ResourceLimit():
            return ApiError(
                422,
                f"sql_{error.code}",
                str(error),
                where="sql",
                hint="ask for a shorter time range, fewer rows or fewer columns",
            )
        case _:
            return ApiError(503, f"sql_{error.code}", str(error), retry_after=5)


async def _respond(answer: _Answer, form: formats.Form) -> Response:
    table, stats = answer.table, answer.stats
    rows = await answer.renditions.get(form.value, table.num_rows, lambda: _rows(table, form))
    costs = {
        "rows": stats.rows,
        "seconds": round(stats.seconds, 6),
        "cache": stats.cache,
        "files": stats.files,
        "files_total": stats.files_total,
        "bytes": stats.bytes,
        "bytes_total": stats.bytes_total,
        "truncated": stats.truncated,
        "scans": [formats.plain(scan) for scan in stats.scans],
    }
    if form is not formats.Form.JSON:
        headers = {
            STATS: formats.json_bytes({k: v for k, v in costs.items() if k != "scans"}).decode(),
            TRUNCATED: stats.truncated or "no",
        }
        return formats.response(rows, form, headers)
    body = {
        "columns": [{"name": column.name, "type": str(column.type)} for column in table.schema],
        "rows": msgspec.Raw(rows),
        "truncated": stats.truncated,
        "stats": costs,
    }
    return formats.response(formats.json_bytes(body), form, {})


def _rows(table: pa.Table, form: formats.Form) -> bytes:
    if form is formats.Form.JSON:
        return formats.json_bytes(formats.rows_as_arrays(table))
    return formats.table_bytes(table, form)
