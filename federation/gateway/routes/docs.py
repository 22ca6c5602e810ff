"""GET /docs: the routes as a page to read, whole in itself, for sites without a way out."""

from __future__ import annotations

from html import escape
from typing import Any, Final

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse

from federation.gateway.permissions import permission

router = APIRouter()

_STYLE: Final = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "h2{margin-top:2.5rem;border-top:1px solid #ccc;padding-top:1rem}code{background:#f2f2f2;padding:.1em .3em}"
    "table{border-collapse:collapse;width:100%}"
    "td,th{border-bottom:1px solid #ddd;padding:.3em .6em;text-align:left;vertical-align:top}"
)


@router.get("/docs", include_in_schema=False)
@permission("public")
async def docs(request: Request) -> HTMLResponse:
    """Every route with its parameters, answers and the scope that it needs, from the OpenAPI description."""
    document = request.app.openapi()
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(document['info']['title'])}</title>",
        f"<style>{_STYLE}</style>",
        f"<h1>{escape(document['info']['title'])} {escape(document['info']['version'])}</h1>",
        f"<p>{escape(document['info']['description'])}</p><p>For programs: <a href=/openapi.json>/openapi.json</a></p>",
    ]
    for path, operations in document["paths"].items():
        parts += [_operation(method, path, operation) for method, operation in operations.items()]
    headers = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'", "X-Content-Type-Options": "nosniff"}
    return HTMLResponse("".join(parts), headers=headers)


def _operation(method: str, path: str, operation: dict[str, Any]) -> str:
    parameters = "".join(
        f"<tr><td><code>{escape(p['name'])}</code><td>{escape(p.get('description', ''))}"
        f"<td>{escape(str(p['schema'].get('default', '')))}"
        for p in operation.get("parameters", ())
    )
    answers = "".join(
        f"<tr><td>{escape(status)}<td>{escape(answer.get('description', ''))}"
        for status, answer in operation["responses"].items()
    )
    table = f"<table><tr><th>parameter<th>meaning<th>default{parameters}</table>" if parameters else ""
    body = escape(operation.get("requestBody", {}).get("description", ""))
    return (
        f"<h2><code>{method.upper()} {escape(path)}</code></h2><p><b>{escape(operation.get('summary', ''))}.</b> "
        f"{escape(operation.get('description', ''))} {body}<p>Needs: {escape(operation['x-trackmate-scope'])}</p>"
        f"{table}<table><tr><th>answer<th>meaning{answers}</table>"
    )
