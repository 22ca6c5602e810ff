"""The one way in which a sink speaks HTTP: no proxy from the environment, no redirects, bounded answers, errors in words.

`HttpClient.request` gives an `Answer` for whatever status, and raises Unavailable when there is no answer. A sink that hands an
httpx.AsyncClient to somebody else makes it with `new_client` and turns its errors with `unavailable`.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final

# httpx would import these two when its first client is made and used. In direct mode that is on a thread of the SDK's own, where
# a fork in that very moment gives the child an import lock that nobody will ever release.
import anyio._backends._asyncio  # noqa: F401
import httpcore  # noqa: F401
import httpx
from msgspec import Meta

from contract.settings import Secret
from sinks.base import Unavailable, describe
from sinks.http_answers import Answer
from sinks.network_errors import explain
from sinks.tls import Tls, ssl_context

HttpUrl = Annotated[str, Meta(pattern=r"^https?://[^/@?#\s]+(/[^?#\s]*)?$")]
"""An address of http or https without a credential in it, since messages show it; a credential has settings of its own."""

Seconds = Annotated[float, Meta(gt=0)]

CONNECT_TIMEOUT_SECONDS: Final = 5.0
READ_TIMEOUT_SECONDS: Final = 25.0
"""Below the 30 s that the agent gives one delivery, so that the message tells what was waited for."""

MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024
"""A longer answer comes from no system that a sink is made for."""

USER_AGENT: Final = "trackmate"
_KEEP_ALIVE_SECONDS: Final = 15.0


def basic_auth(username: str, password: Secret) -> str:
    """The value of an `Authorization` header of the scheme Basic."""
    return "Basic " + base64.b64encode(f"{username}:{password.reveal()}".encode()).decode()


def new_client(
    *,
    url: str,
    tls: Tls | None = None,
    headers: Mapping[str, str] | None = None,
    connect_timeout: float = CONNECT_TIMEOUT_SECONDS,
    read_timeout: float = READ_TIMEOUT_SECONDS,
    connections: int = 1,
) -> httpx.AsyncClient:
    """A client for the server at `url`; timeouts are in seconds, `connections` is how many requests may run at once.

    Raises Unavailable when a file of the `tls` block can't be used.
    """
    secure = url.lower().startswith("https:")
    return httpx.AsyncClient(
        headers={"User-Agent": USER_AGENT, **(headers or {})},
        timeout=httpx.Timeout(read_timeout, connect=connect_timeout),
        limits=httpx.Limits(
            max_connections=connections + 1, max_keepalive_connections=connections, keepalive_expiry=_KEEP_ALIVE_SECONDS
        ),
        verify=ssl_context(tls or Tls()) if secure else False,
        follow_redirects=False,
        trust_env=False,
    )


def unavailable(error: Exception, url: str) -> Unavailable:
    """What a client's error means: the address, what went wrong, and what to do."""
    return Unavailable(f"{url} can't be reached: {explain(error) or describe(error)}")


class HttpClient:
    """A connection of one sink to one system.

    `secrets` are texts that no answer shown to anybody may hold, such as a token that a server sends back in its complaint.
    """

    def __init__(
        self,
        *,
        url: str,
        tls: Tls | None = None,
        headers: Mapping[str, str] | None = None,
        secrets: Iterable[Secret] = (),
        connect_timeout: float = CONNECT_TIMEOUT_SECONDS,
        read_timeout: float = READ_TIMEOUT_SECONDS,
        connections: int = 1,
    ) -> None:
        # The longest first: a short one may be a part of it, and what is left of it then could still be read.
        self._secrets = tuple(sorted((secret for secret in secrets if secret), key=lambda secret: -len(secret.reveal())))
        self._client = new_client(
            url=url,
            tls=tls,
            headers=headers,
            connect_timeout=connect_timeout,
            read_timeout=read_timeout,
            connections=connections,
        )

    async def request(
        self,
        method: str,
        url: str,
        *,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        extensions: dict[str, Any] | None = None,
        shown_url: str | None = None,
    ) -> Answer:
        """Send one request and read the whole answer; `shown_url` stands for the address in messages.

        Raises Unavailable when there is no answer, it breaks off, or it is longer than MAX_ANSWER_BYTES.
        """
        shown = shown_url or url
        try:
            async with self._client.stream(
                method, url, content=content, headers=dict(headers or {}), extensions=extensions
            ) as response:
                body = await self._body(response, shown)
        except (httpx.RequestError, httpx.InvalidURL, OSError) as error:
            raise unavailable(error, shown) from error
        return Answer(response.status_code, response.headers, body, self._secrets)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    @staticmethod
    async def _body(response: httpx.Response, shown: str) -> bytes:
        parts: list[bytes] = []
        size = 0
        async for part in response.aiter_bytes():
            size += len(part)
            if size > MAX_ANSWER_BYTES:
                raise Unavailable(f"{shown} answers with more than {MAX_ANSWER_BYTES} bytes: is it the right server?")
            parts.append(part)
        return b"".join(parts)
