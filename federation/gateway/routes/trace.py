"""GET /v1/events/{event_id}/trace: where one event is, and since when."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from federation.gateway import formats
from federation.gateway.errors import ApiError
from federation.gateway.permissions import permission
from federation.gateway.services import Asker, Served
from federation.trace import BadEventId

router = APIRouter()


@router.get(
    "/v1/events/{event_id}/trace",
    summary="Where an event is",
    tags=["data"],
    responses={
        200: {"description": "Each place: found, absent or unknown, with the time that the event came there"},
        400: {"description": "Not an event id"},
    },
)
@permission("query")
async def trace(event_id: str, services: Served, asker: Asker) -> Response:
    """Look for an event in the hot store, in bronze and in silver, and give custody's count of its emitter's hour."""
    try:
        found = await services.tracer.trace(event_id, asker)
    except BadEventId as error:
        raise ApiError(400, "bad_event_id", str(error), where="event_id") from error
    body = {"event_id": found.event_id, "found": found.found, "made_at": found.made_at, "places": found.places}
    return Response(formats.json_bytes(body), media_type="application/json")
