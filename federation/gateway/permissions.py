"""What a caller must be allowed for each route: declared beside the route, checked at start, looked up before a body is read."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, Literal, TypeVar

from starlette.routing import BaseRoute, Match, Route
from starlette.types import Scope

from contract.errors import TrackMateError

Permission = Literal["public", "ingest", "query", "admin"]

_ATTRIBUTE: Final = "__trackmate_permission__"
_Endpoint = TypeVar("_Endpoint", bound=Callable[..., object])


class UndeclaredRoute(TrackMateError):
    """A route does not say who may use it, so the gateway does not start."""


def permission(needed: Permission) -> Callable[[_Endpoint], _Endpoint]:
    """Declare that an endpoint needs the scope `needed`, or none at all (`public`)."""

    def declare(endpoint: _Endpoint) -> _Endpoint:
        setattr(endpoint, _ATTRIBUTE, needed)
        return endpoint

    return declare


class PermissionTable:
    """The declared permission of every route; making one raises `UndeclaredRoute` when any route has none."""

    def __init__(self, routes: Iterable[BaseRoute]) -> None:
        self._routes: list[tuple[Route, Permission]] = []
        for route in routes:
            needed = getattr(getattr(route, "endpoint", None), _ATTRIBUTE, None)
            if not isinstance(route, Route) or needed is None:
                message = f"route {getattr(route, 'path', route)!r} declares no permission: put @permission(...) on its function"
                raise UndeclaredRoute(message)
            self._routes.append((route, needed))

    def needed(self, scope: Scope) -> Permission:
        """What the request in `scope` needs; a path that no route serves needs nothing: its answer is 404."""
        for route, needed in self._routes:
            if route.matches(scope)[0] is not Match.NONE:
                return needed
        return "public"

    def declared(self, path: str, method: str) -> Permission:
        """The permission of the route with this path template and method."""
        for route, needed in self._routes:
            if route.path == path and method in (route.methods or ()):
                return needed
        message = f"there is no route {method} {path}"
        raise UndeclaredRoute(message)

    def listed(self) -> list[tuple[str, str, Permission]]:
        """Every route as method, path template and permission."""
        return [
            (method, route.path, needed)
            for route, needed in self._routes
            for method in sorted((route.methods or set()) - {"HEAD"})
        ]

    def route(self, scope: Scope) -> str:
        """The path template that serves the request, for metrics: bounded in number whatever callers ask."""
        for route, _ in self._routes:
            if route.matches(scope)[0] is not Match.NONE:
                return route.path
        return "(none)"
