"""The gateway as an ASGI application: routes, errors and the door, around services that are made elsewhere."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.metadata import PackageNotFoundError, version

from fastapi import FastAPI
from starlette.types import ASGIApp

from federation.gateway import errors
from federation.gateway.access import Access
from federation.gateway.permissions import PermissionTable
from federation.gateway.routes import catalog, docs, ingest, service, sql, trace, unified
from federation.gateway.services import Services

ROUTERS = (service.router, docs.router, ingest.router, unified.router, sql.router, catalog.router, trace.router)

DESCRIPTION = """Events in, and answers out, over every source at once.

Send `Authorization: Bearer tm_...`; what a route needs of the token (ingest, query or admin) stands with it. Every error is
`{"error": {"code", "message", "where", "hint"}}`."""

Running = Callable[[Services], AbstractAsyncContextManager[None]]
"""What goes on beside the requests while the application runs."""


@asynccontextmanager
async def nothing(_services: Services) -> AsyncIterator[None]:
    """No work beside the requests."""
    yield


def create_app(services: Services, running: Running = nothing) -> ASGIApp:
    """The application; raises `UndeclaredRoute` when a route declares no permission."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with running(services):
            yield

    app = FastAPI(
        title="TrackMate gateway",
        version=_version(),
        description=DESCRIPTION,
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.services = services
    for router in ROUTERS:
        app.router.routes.extend(router.routes)
    errors.install(app)
    table = PermissionTable(app.routes)
    _document_permissions(app, table)
    return errors.CatchAll(Access(app, table, services.tokens, services.limiter, services.metrics))


def _document_permissions(app: FastAPI, table: PermissionTable) -> None:
    """Let the OpenAPI description say which scope each operation needs."""
    document = app.openapi()
    schemes = document.setdefault("components", {}).setdefault("securitySchemes", {})
    schemes["token"] = {"type": "http", "scheme": "bearer", "description": "A token made with `trackmate token new`"}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            needed = table.declared(path, method.upper())
            operation["x-trackmate-scope"] = needed
            operation["security"] = [] if needed == "public" else [{"token": []}]


def _version() -> str:
    try:
        return version("trackmate")
    except PackageNotFoundError:
        return "0"
