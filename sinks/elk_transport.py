"""Lets the official Elasticsearch client speak through the sinks' HTTP client; the choice among several nodes stays its own."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import urlsplit

import elastic_transport
from elastic_transport import ApiResponseMeta, BaseAsyncNode, HttpHeaders, NodeConfig
from elastic_transport._node import NodeApiResponse

from sinks.base import Unavailable
from sinks.http_client import HttpClient, NoAnswer

_CLIENT: Final = "trackmate_client"
_PORTS: Final = {"http": 80, "https": 443}


class SharedClientNode(BaseAsyncNode):
    """One address of a cluster; its requests go through the HTTP client that `node_config` was given."""

    def __init__(self, config: NodeConfig) -> None:
        super().__init__(config)
        self._http: HttpClient = config._extras[_CLIENT]  # noqa: SLF001 - the transport's documented place for a node's own settings

    async def perform_request(  # type: ignore[override]
        self,
        method: str,
        target: str,
        body: bytes | None = None,
        headers: HttpHeaders | None = None,
        request_timeout: Any = None,  # noqa: ARG002 - the HTTP client has its own
    ) -> NodeApiResponse:
        """Send one request; raises the transport's own errors, of which a timeout is not tried again at another node."""
        try:
            answer = await self._http.request(method, self.base_url + target, content=body, headers=headers)
        except Unavailable as error:
            kind = elastic_transport.ConnectionTimeout if isinstance(error, NoAnswer) else elastic_transport.ConnectionError
            raise kind(str(error), errors=(error,)) from error
        # A deprecation is for who wrote this client; without security each answer has one.
        kept = HttpHeaders({name: value for name, value in answer.headers.items() if name.lower() != "warning"})
        content = answer.content
        if not answer.ok and "json" not in (kept.get("content-type") or ""):
            # What a proxy says in a page of its own is no reason to hide its status.
            kept["content-type"] = "text/plain"
            content = content.decode("utf-8", "replace").encode()
        return NodeApiResponse(ApiResponseMeta(answer.status, "1.1", kept, 0.0, self.config), content)

    async def close(self) -> None:  # type: ignore[override]
        """Nothing: the HTTP client belongs to the sink."""


def node_config(url: str, client: HttpClient) -> NodeConfig:
    """One address of the cluster, reached through `client`."""
    parts = urlsplit(url)
    return NodeConfig(
        parts.scheme,
        parts.hostname or "",
        parts.port or _PORTS[parts.scheme],
        path_prefix=parts.path.rstrip("/"),
        _extras={_CLIENT: client},
    )
