"""GET /v1/catalog and GET /v1/sources: what can be asked for, and of whom."""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from contract.errors import TrackMateError
from federation.adapters.base import Adapter, SourceHealth
from federation.engines.catalog import described
from federation.engines.grammar import published
from federation.gateway import formats
from federation.gateway.permissions import permission
from federation.gateway.services import Asker, Served

router = APIRouter()

CHECK_SECONDS = 3.0
"""How long one source may take to say how it is."""


@router.get("/v1/catalog", summary="Tables and columns", tags=["data"])
@permission("query")
async def catalog(services: Served, asker: Asker) -> Response:
    """Every table that SQL can ask for, with its columns and what they mean, and the functions of the SQL subset."""
    tables = await asyncio.to_thread(services.catalog.describe, asker)
    return Response(formats.json_bytes({"tables": described(tables), "sql": published()}), media_type="application/json")


@router.get("/v1/sources", summary="Sources of unified data", tags=["data"])
@permission("query")
async def sources(services: Served) -> Response:
    """Every source by name, best first: whether it answers, up to when it is complete, and what it filters by itself."""
    adapters = services.unified.chosen(None)
    described = await asyncio.gather(*(_describe(adapter) for adapter in adapters))
    return Response(formats.json_bytes({"sources": described}), media_type="application/json")


async def _describe(adapter: Adapter) -> dict[str, Any]:
    as_of: dt.datetime | None = None
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            health = await adapter.check()
            as_of = await adapter.as_of() if health.ok else None
    except TimeoutError:
        health = SourceHealth(ok=False, detail=f"no answer within {CHECK_SECONDS:g} s")
    except TrackMateError as error:
        health = SourceHealth(ok=False, detail=str(error))
    return {
        "name": adapter.name,
        "type": adapter.kind,
        "ok": health.ok,
        "detail": health.detail,
        "as_of": as_of,
        "pushes_down": sorted(adapter.pushes_down),
    }
