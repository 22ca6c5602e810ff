"""GET /v1/data/unified: events from every source in one order, each once."""

from __future__ import annotations

import datetime as dt
from collections.abc import Hashable, Mapping
from typing import Annotated, Any, Final

import msgspec
import pyarrow as pa
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from contract.event import KINDS
from contract.ids import is_uuid
from contract.request import SEVERITIES, EventRequest
from federation import cursor as cursors
from federation.adapters.base import micros, moment_of
from federation.correlate import CORRELATIONS, correlate
from federation.gateway import event_json, formats, times
from federation.gateway.errors import ApiError
from federation.gateway.permissions import permission
from federation.gateway.services import Asker, Served
from federation.renditions import aside
from federation.unified import Answer, NoAnswer, Question, UnknownSource, cursor_of

router = APIRouter()

MAX_LIMIT: Final = 50_000
_ENTITY: Final = "entity."
PARAMETERS: Final = frozenset(
    {
        "start", "end", "site", "kind", "name", "run_id", "trace_id", "text", "severity", "sources", "limit", "order", "cursor",
        "max_staleness", "correlate", "tolerance",
    }
)  # fmt: skip
"""The parameters there are, beside entity.<key>; any other is an error and not silently left out."""
_MAX_VALUES: Final = 100
_MAX_TEXT: Final = 256

NEXT_CURSOR: Final = "X-TrackMate-Next-Cursor"
PARTIAL: Final = "X-TrackMate-Partial"
SOURCES: Final = "X-TrackMate-Sources"


@router.get(
    "/v1/data/unified",
    summary="Events from every source",
    tags=["data"],
    responses={
        200: {
            "description": "Events in order, each once; `partial` is true when a source failed or was late. Other forms "
            "than JSON carry next cursor, partial and sources in X-TrackMate-* headers.",
            "content": {form.value: {} for form in formats.Form},
        },
        400: {"description": "A parameter is wrong; `where` names it"},
        406: {"description": "No form in Accept is offered"},
        503: {"description": "Not one source answered"},
    },
)
@permission("query")
async def unified(
    request: Request,
    services: Served,
    asker: Asker,
    start: Annotated[
        str, Query(description="First moment (inclusive): RFC 3339 with offset, or back from now such as -1h")
    ] = "-1h",
    end: Annotated[str, Query(description="Last moment (exclusive), likewise, or now")] = "now",
    site: Annotated[list[str] | None, Query(description="Site ids; repeat for more")] = None,
    kind: Annotated[list[str] | None, Query(description="Kinds; repeat for more")] = None,
    name: Annotated[list[str] | None, Query(description="Names; repeat for more")] = None,
    run_id: Annotated[str | None, Query()] = None,
    trace_id: Annotated[str | None, Query()] = None,
    text: Annotated[
        str | None, Query(description="Looked for in name, message and error message, in any case", max_length=_MAX_TEXT)
    ] = None,
    severity: Annotated[str | None, Query(description="This severity and worse ones")] = None,
    sources: Annotated[list[str] | None, Query(description="Names of sources (see /v1/sources); default all")] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = 1_000,
    order: Annotated[str, Query(pattern="^(asc|desc)$", description="By (timestamp, event_id)")] = "asc",
    cursor: Annotated[str | None, Query(description="`next_cursor` of the page before, with all else unchanged")] = None,
    max_staleness: Annotated[float | None, Query(ge=0, le=600, description="Seconds that a cached answer may be old")] = None,
    correlate_by: Annotated[
        str | None, Query(alias="correlate", description="Group what belongs together: " + ", ".join(CORRELATIONS))
    ] = None,
    tolerance: Annotated[float, Query(gt=0, le=3_600, description="Seconds that 'nearest' looks around an event")] = 1.0,
) -> Response:
    """Ask every source at once and merge by time; entity.<key>=<value> filters by an entity."""
    form = formats.negotiate(request.headers.get("accept"))
    if correlate_by is not None and correlate_by not in CORRELATIONS:
        known = ", ".join(CORRELATIONS)
        raise ApiError(400, "bad_parameter", f"correlate: expected one of {known}", where="correlate")
    filters: dict[str, Any] = {
        "sites": None if site is None else frozenset(_values("site", site)),
        "kinds": _words("kind", kind, KINDS),
        "names": frozenset(_values("name", name or [])),
        "entities": _entities(request.query_params.multi_items()),
        "run_id": _uuid("run_id", run_id),
        "trace_id": trace_id,
        "text": text or None,
        "severity_min": next(iter(_words("severity", None if severity is None else [severity], SEVERITIES)), None),
        "limit": limit,
        "order": order,
    }
    chosen = None if sources is None else tuple(sorted({part for value in sources for part in value.split(",") if part}))
    if chosen == ():
        raise ApiError(400, "bad_parameter", "sources: name at least one", where="sources", hint="see /v1/sources")
    question_id = cursors.fingerprint(
        {k: sorted(v) if isinstance(v, frozenset) else v for k, v in filters.items() if k != "limit"}, chosen
    )
    span, range_key, after = _range(start, end, cursor, question_id, services.unified.now())
    asked = EventRequest(start=span[0], end=span[1], after=after, **filters)
    try:
        answer = await services.unified.ask(Question(asked, range_key, chosen, max_staleness), asker)
    except UnknownSource as error:
        raise ApiError(400, "unknown_source", str(error), where="sources", hint="see /v1/sources") from error
    except NoAnswer as error:
        reports = [formats.plain(report) for report in error.reports]
        raise ApiError(503, "no_source", f"no source answered: {error}", retry_after=5, extra={"sources": reports}) from error
    services.metrics.cache(answer.cache)
    return await _respond(answer, form, question_id, correlate_by, tolerance)


async def _respond(answer: Answer, form: formats.Form, question_id: str, correlate_by: str | None, tolerance: float) -> Response:
    following = None
    if answer.after is not None:
        following = cursors.encode(cursors.Cursor(answer.after, micros(answer.start), micros(answer.end)), question_id)
    if form is not formats.Form.JSON:
        headers = {
            PARTIAL: "true" if answer.partial else "false",
            SOURCES: formats.json_bytes(answer.reports).decode("ascii", "replace"),
            **({} if following is None else {NEXT_CURSOR: following}),
        }
        return formats.response(await answer.render(form.value, lambda table: _rows(table, form)), form, headers)
    groups = None
    if correlate_by is not None:
        groups = await aside(answer.table.num_rows, correlate, answer.table, correlate_by, tolerance)
    body = {
        "events": msgspec.Raw(await answer.render(form.value, event_json.encoded)),
        "next_cursor": following,
        "partial": answer.partial,
        "start": answer.start,
        "end": answer.end,
        "cache": {"result": answer.cache, "age_seconds": round(answer.age, 3)},
        "sources": answer.reports,
        **({} if groups is None else {"correlations": groups}),
    }
    return formats.response(formats.json_bytes(body), form, {})


def _rows(table: pa.Table, form: formats.Form) -> bytes:
    if form is formats.Form.NDJSON:
        return formats.rows_as_lines(event_json.events(table))
    return formats.table_bytes(formats.zoned(table), form)


def _range(
    start: str, end: str, cursor: str | None, question_id: str, now: dt.datetime
) -> tuple[tuple[dt.datetime, dt.datetime], Hashable, Any]:
    """The absolute time range, what stands for it in the cache's key, and the place to go on from."""
    if cursor is not None:
        place = cursors.decode(cursor, question_id)
        return (moment_of(place.start), moment_of(place.end)), (place.start, place.end), cursor_of(place.key)
    first, last = times.parse(start, "start", now), times.parse(end, "end", now)
    if first >= last:
        raise ApiError(400, "bad_time", f"start ({start[:64]}) is not before end ({end[:64]})", where="start")
    return (first, last), (start if times.is_relative(start) else first, end if times.is_relative(end) else last), None


def _values(where: str, values: list[str]) -> list[str]:
    if len(values) > _MAX_VALUES or any(not value or len(value) > _MAX_TEXT for value in values):
        raise ApiError(400, "bad_parameter", f"{where}: at most {_MAX_VALUES} values of 1 to {_MAX_TEXT} characters", where=where)
    return values


def _words(where: str, values: list[str] | None, known: tuple[str, ...]) -> frozenset[str]:
    words = frozenset(values or ())
    if unknown := sorted(words - set(known)):
        raise ApiError(
            400,
            "bad_parameter",
            f"{where}: unknown value {unknown[0][:64]!r}",
            where=where,
            hint=f"use one of {', '.join(known)}",
        )
    return words


def _uuid(where: str, value: str | None) -> str | None:
    if value is not None and not is_uuid(value):
        raise ApiError(400, "bad_parameter", f"{where}: {value[:64]!r} is not a UUID in lower case", where=where)
    return value


def _entities(parameters: list[tuple[str, str]]) -> Mapping[str, str]:
    """What entity.<key>=<value> asks for; raises `ApiError` (400) for every parameter that there is not."""
    entities: dict[str, str] = {}
    for key, value in parameters:
        if key.startswith(_ENTITY):
            _values(key[:64], [key.removeprefix(_ENTITY), value])
            if entities.setdefault(key.removeprefix(_ENTITY), value) != value:
                raise ApiError(400, "bad_parameter", f"{key[:64]}: given twice with different values", where=key[:64])
        elif key not in PARAMETERS:
            hint = f"known: {', '.join(sorted(PARAMETERS))}, entity.<key>"
            raise ApiError(400, "unknown_parameter", f"there is no parameter {key[:64]!r}", where=key[:64], hint=hint)
    return entities
