"""GET /health, /ready, /metrics and /openapi.json: the gateway about itself."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request
from starlette.responses import Response

from contract.errors import TrackMateError
from federation.adapters.base import Adapter
from federation.gateway import formats
from federation.gateway.permissions import permission
from federation.gateway.services import Served

router = APIRouter()

CHECK_SECONDS = 3.0
"""How long hot store and lake may take to answer /ready."""


@router.get("/health", summary="Alive", tags=["service"])
@permission("public")
async def health(services: Served) -> Response:
    """200 while the process serves requests, whatever is behind it."""
    body = {"status": "ok", "ready": services.writer is not None, "tokens_required": services.tokens.required}
    return Response(formats.json_bytes(body), media_type="application/json")


@router.get(
    "/ready", summary="Ready for work", tags=["service"], responses={503: {"description": "Hot store or lake can't be reached"}}
)
@permission("public")
async def ready(services: Served) -> Response:
    """200 when hot store and lake can be reached, else 503; the words say which can't, without saying where it is."""
    checks = dict(zip([a.name for a in services.adapters], await asyncio.gather(*map(_answers, services.adapters)), strict=True))
    checks["writer"] = services.writer is not None
    good = all(checks.values())
    services.metrics.ready.set(int(good))
    body = {"ready": good, "checks": {name: "ok" if fine else "unreachable" for name, fine in checks.items()}}
    return Response(formats.json_bytes(body), 200 if good else 503, media_type="application/json")


@router.get("/metrics", summary="Prometheus metrics", tags=["service"])
@permission("public")
async def metrics(services: Served) -> Response:
    """Counters of the gateway in the Prometheus text format."""
    return Response(services.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


@router.get("/openapi.json", include_in_schema=False)
@permission("public")
async def openapi(request: Request) -> Response:
    """The OpenAPI 3.1 description of every route."""
    return Response(formats.json_bytes(request.app.openapi()), media_type="application/json")


async def _answers(adapter: Adapter) -> bool:
    if adapter.kind not in {"managed", "lake"}:
        return True
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            return (await adapter.check()).ok
    except (TimeoutError, TrackMateError):
        return False
