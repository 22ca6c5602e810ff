"""What the routes work with, put together once for a process and given back at its end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Protocol

from fastapi import Depends, Request

from contract.event import Event
from federation.adapters.base import Adapter, SourceHealth
from federation.auth import Principal, TokenStore
from federation.engines.base import Engine, Limits
from federation.engines.catalog import Catalog
from federation.gateway.access import PRINCIPAL
from federation.gateway.metrics import Metrics
from federation.gateway.settings import GatewaySettings
from federation.limits import Gate, Limiter
from federation.trace import Tracer
from federation.unified import Unified


class Writer(Protocol):
    """Where ingested events go; returns only after they are committed."""

    async def write(self, events: Sequence[Event]) -> Any:
        """Write a batch; the result has `inserted`, `duplicates` and `refused`."""


@dataclass
class Services:
    """One gateway's parts.

    `writer` is None until the hot store has been reached and migrated; `sql_limits` are the caps of one statement.
    """

    settings: GatewaySettings
    tokens: TokenStore
    metrics: Metrics
    adapters: Sequence[Adapter]
    unified: Unified
    engine: Engine
    sql_limits: Limits
    tracer: Tracer
    catalog: Catalog
    writer: Writer | None = None
    limiter: Limiter = field(init=False)
    ingests: Gate = field(init=False)
    waiting_for: str = "the hot store has not been reached yet"

    def __post_init__(self) -> None:
        self.limiter = Limiter(self.settings.limits)
        self.ingests = Gate("ingest", self.settings.ingests)

    async def check(self) -> dict[str, SourceHealth]:
        """Whether hot store and lake answer now, by source name."""
        return {adapter.name: await adapter.check() for adapter in self.adapters}


async def of_request(request: Request) -> Services:
    """The services of the application that serves `request`; asynchronous because FastAPI runs all else in a thread."""
    services: Services = request.app.state.services
    return services


async def principal_of(request: Request) -> Principal:
    """Who asks, as the door found out."""
    principal: Principal = request.scope[PRINCIPAL]
    return principal


Served = Annotated[Services, Depends(of_request)]
Asker = Annotated[Principal, Depends(principal_of)]
