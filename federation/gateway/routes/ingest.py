"""POST /v1/ingest/managed: events into the hot store, answered only once they are committed."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from fastapi import APIRouter, Request
from starlette.responses import Response

from contract.codec import Batch, decode_batch
from federation.auth import Principal
from federation.gateway import body, formats
from federation.gateway.errors import ApiError
from federation.gateway.permissions import permission
from federation.gateway.services import Asker, Served
from lakehouse.hot.errors import HotStoreError, HotStoreUnavailable

router = APIRouter()

INLINE_BYTES: Final = 1024 * 1024
"""Bodies up to this size are decoded on the event loop (some 4 ms a 1,000 events), larger ones in a thread."""

_REQUEST_BODY: Final[dict[str, Any]] = {
    "required": True,
    "description": "Up to 5,000 events and 10 MiB (after decompression; Content-Encoding gzip or zstd): a JSON array, "
    '{"events": [...]}, one event, or NDJSON.',
    "content": {"application/json": {"schema": {}}, "application/x-ndjson": {"schema": {"type": "string"}}},
}


@router.post(
    "/v1/ingest/managed",
    summary="Store events",
    tags=["ingest"],
    openapi_extra={"requestBody": _REQUEST_BODY},
    responses={
        200: {"description": "Committed: accepted = inserted + duplicates; what was refused stands in rejected, with its reason"},
        400: {"description": "Not JSON at all"},
        403: {"description": "Every event is of a site that the token may not send for"},
        413: {"description": "More than 10 MiB or 5,000 events"},
        415: {"description": "Another Content-Type or Content-Encoding"},
        429: {"description": "Too much at once; Retry-After says when to try again"},
        503: {"description": "The hot store can't be reached; nothing was stored"},
    },
)
@permission("ingest")
async def ingest_managed(request: Request, services: Served, asker: Asker) -> Response:
    """Store a batch of events, event by event: what is valid is stored, what isn't comes back with path and reason."""
    with services.ingests.enter(), services.metrics.ingests_running.track_inprogress():
        writer = services.writer
        if writer is None:
            raise _unavailable(services.waiting_for)
        received = await body.read(request, seconds=services.settings.body_timeout)
        content_type = request.headers.get("content-type")
        if len(received) <= INLINE_BYTES:
            batch = decode_batch(received, content_type)
        else:
            batch = await asyncio.to_thread(decode_batch, received, content_type)
        del received
        rejected = [rejection.answer() for rejection in batch.rejected]
        events, places = _allowed(batch, asker, rejected)
        inserted = duplicates = 0
        if events:
            try:
                result = await writer.write(events)
            except HotStoreUnavailable as error:
                raise _unavailable(str(error)) from error
            except HotStoreError as error:
                raise ApiError(
                    503, "hot_store_failed", str(error), hint="nothing was stored: send the batch again", retry_after=5
                ) from error
            inserted, duplicates = result.inserted, result.duplicates
            rejected += [
                {
                    "index": places[refusal.index] if places is not None else refusal.index,
                    "event_id": refusal.event_id,
                    "path": "",
                    "error": refusal.reason,
                }
                for refusal in result.refused
            ]
    rejected.sort(key=_index)
    services.metrics.events(inserted=inserted, duplicates=duplicates, rejected=len(rejected))
    answer = {"accepted": inserted + duplicates, "inserted": inserted, "duplicates": duplicates, "rejected": rejected}
    return Response(formats.json_bytes(answer), media_type="application/json")


def _allowed(batch: Batch, asker: Principal, rejected: list[dict[str, Any]]) -> tuple[list[Any], list[int] | None]:
    """The events that the asker may send, and the place of each in the batch (None: its own index); the others join `rejected`.

    Raises `ApiError` (403) when the asker may send none of them.
    """
    places: list[int] | None = None
    if rejected:
        gone = {entry["index"] for entry in rejected}
        places = [index for index in range(len(batch.events) + len(gone)) if index not in gone]
    if asker.sites is None or all(event.site_id in asker.sites for event in batch.events):
        return batch.events, places
    kept, kept_places = [], []
    for index, event in enumerate(batch.events):
        place = index if places is None else places[index]
        if asker.sees(event.site_id):
            kept.append(event)
            kept_places.append(place)
        else:
            error = f"token {asker.token_id} may not send events of site {event.site_id!r}"
            rejected.append({"index": place, "event_id": event.event_id, "path": "site_id", "error": error})
    if not kept and len(rejected) == len(batch.events) + len(batch.rejected):
        rejected.sort(key=_index)
        raise ApiError(
            403,
            "wrong_site",
            f"token {asker.token_id} may not send events of these sites",
            where="site_id",
            hint=f"it may send for: {', '.join(sorted(asker.sites)) or 'none'}",
            extra={"rejected": rejected},
        )
    return kept, kept_places


def _index(entry: dict[str, Any]) -> int:
    index: int = entry["index"]
    return index


def _unavailable(reason: str) -> ApiError:
    return ApiError(503, "hot_store_unavailable", reason, hint="nothing was stored: send the batch again later", retry_after=5)
