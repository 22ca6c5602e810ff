"""The one way in which a sink speaks HTTP: no proxy from the environment, redirects or cookies, bounded answers, errors in words.

`HttpClient.request` gives an `Answer` for whatever status, and raises Unavailable when there is no answer:

Unavailable
├── NotConnected    no connection could be made, so nothing was sent
└── NoAnswer        a connection was made, and the other side did not take the request, or not answer it, in time
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Annotated, Final
from urllib.parse import quote, urlsplit

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from msgspec import Meta
from yarl import URL

from contract.settings import Secret
from sinks.base import Unavailable, describe
from sinks.http_answers import Answer
from sinks.network_errors import explain
from sinks.tls import Tls, ssl_context

Seconds = Annotated[float, Meta(gt=0)]

CONNECT_TIMEOUT_SECONDS: Final = 5.0
READ_TIMEOUT_SECONDS: Final = 25.0
"""Below the 30 s that the agent gives one delivery, so that the message tells what was waited for."""

MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024
"""A longer answer comes from no system that a sink is made for."""

USER_AGENT: Final = "trackmate"
_KEEP_ALIVE_SECONDS: Final = 15.0
_PIECE_BYTES: Final = 256 * 1024
"""So much of a body is handed over at a time; each piece may take as long as an answer."""

_IN_PATHS: Final = "%!$&'()*+,/:;=@[\\]^|~"
_IN_QUERIES: Final = _IN_PATHS + "?`{}"
"""Characters that stay as they are; what is escaped already is not escaped again."""


class NotConnected(Unavailable):
    """No connection could be made, so nothing was sent."""


class NoAnswer(Unavailable):
    """The other side was reached and did not take the request, or not answer it, in time."""


def basic_auth(username: str, password: Secret) -> str:
    """The value of an `Authorization` header of the scheme Basic."""
    return "Basic " + base64.b64encode(f"{username}:{password.reveal()}".encode()).decode()


def unavailable(error: Exception, url: str) -> Unavailable:
    """What a client's error means: the address, what went wrong, and what to do."""
    if isinstance(error, aiohttp.ConnectionTimeoutError | aiohttp.ClientConnectorError):
        return NotConnected(f"{url} can't be reached: {_explain(error)}")
    kind = NoAnswer if isinstance(error, TimeoutError) else Unavailable
    return kind(f"{url} can't be reached: {_explain(error)}")


def _explain(error: Exception) -> str:
    """What is shown of an error: never the text of one that has the whole address in it, as a key may be a part of that."""
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return "the connection could not be made in time: is the host up, and does a firewall let this machine through?"
    if isinstance(error, aiohttp.ClientResponseError):
        return f"its answer is not HTTP ({' '.join(error.message.split())[:200]}): is this the right port?"
    if isinstance(error, aiohttp.InvalidURL):
        return "that is no address of HTTP: change it"
    wrapped = type(error) is aiohttp.ClientOSError and error.__cause__ is not None
    told = explain(error.__cause__ if wrapped and error.__cause__ is not None else error)
    if told is None and isinstance(error, aiohttp.ClientConnectionError | aiohttp.ClientPayloadError):
        return "the connection was cut in the middle: did it restart, or does something between break off?"
    return told or describe(error)


class HttpClient:
    """A connection of one sink to one system; timeouts are in seconds, `connections` is how many requests may run at once.

    `secrets` are texts that no answer shown to anybody may hold, such as a token that a server sends back in its complaint.
    Raises Unavailable when a file of the `tls` block can't be used.
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
        self._patience = read_timeout
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=connections + 1,
                ssl=ssl_context(tls or Tls()) if url.lower().startswith("https:") else False,
                resolver=aiohttp.ThreadedResolver(),
                use_dns_cache=False,
                keepalive_timeout=_KEEP_ALIVE_SECONDS,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": USER_AGENT, **(headers or {})},
            skip_auto_headers=["Content-Type"],
            timeout=aiohttp.ClientTimeout(total=None, connect=connect_timeout, sock_read=read_timeout),
            trust_env=False,
        )

    async def request(
        self,
        method: str,
        url: str,
        *,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        server_name: str | None = None,
        shown_url: str | None = None,
    ) -> Answer:
        """Send one request and read the whole answer.

        `server_name` is the name in the server's certificate where the address has another one; `shown_url` stands for the
        address in messages. Raises Unavailable when there is no answer, it breaks off, or it is longer than MAX_ANSWER_BYTES.
        """
        shown = shown_url or url
        try:
            async with self._session.request(
                method,
                _address(url),
                data=None if content is None else _Body(content, self._patience),
                headers=headers,
                allow_redirects=False,
                server_hostname=server_name,
            ) as response:
                body = await self._read(response, shown)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise unavailable(error, shown) from error
        return Answer(response.status, response.headers, body, self._secrets)

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    @staticmethod
    async def _read(response: aiohttp.ClientResponse, shown: str) -> bytes:
        parts: list[bytes] = []
        size = 0
        async for part in response.content.iter_any():
            size += len(part)
            if size > MAX_ANSWER_BYTES:
                raise Unavailable(f"{shown} answers with more than {MAX_ANSWER_BYTES} bytes: is it the right server?")
            parts.append(part)
        return b"".join(parts)


class _Body(aiohttp.Payload):
    """A request's body; `patience` is how long the other side may let a piece of it lie, in seconds."""

    def __init__(self, content: bytes, patience: float) -> None:
        super().__init__(content)
        self._size = len(content)
        self._patience = patience

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """The body as text."""
        return bytes(self._value).decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Hand it over piece by piece. Raises TimeoutError."""
        rest = memoryview(self._value)
        while rest:
            async with asyncio.timeout(self._patience):
                await writer.write(rest[:_PIECE_BYTES])
            rest = rest[_PIECE_BYTES:]


@lru_cache(maxsize=256)
def _address(url: str) -> URL:
    """The address as it was configured: what a path or a query has escaped may be signed, so it is not spelt anew."""
    parts = urlsplit(url)
    path, query = quote(parts.path, safe=_IN_PATHS), quote(parts.query, safe=_IN_QUERIES)
    origin = URL(f"{parts.scheme}://{parts.netloc}")
    return URL(f"{origin.scheme}://{origin.raw_authority}{path or '/'}{'?' if query else ''}{query}", encoded=True)
