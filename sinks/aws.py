"""What the sinks on AWS and compatible systems share: settings, one client, and every error in words with what to do about it.

`AwsClient.call` gives the answer of one operation. It raises Throttled where the system asks for patience, AwsRefusal where it
refuses the whole request, and Unavailable for all else. Nothing is retried here: the router does that, and counts it.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Annotated, Any, Final

import aiohttp
import msgspec
from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession, get_session
from botocore import exceptions as boto
from botocore.loaders import Loader, create_loader
from botocore.parsers import ResponseParserError
from msgspec import Meta

from contract.settings import Secret
from sinks.base import SinkError, Throttled, Unavailable, describe
from sinks.http_answers import phrase, retry_after_seconds
from sinks.http_client import CONNECT_TIMEOUT_SECONDS, READ_TIMEOUT_SECONDS, USER_AGENT
from sinks.network_errors import causes, explain
from sinks.tls import Tls, ssl_context
from sinks.urls import HttpAddress

DEFAULT_REGION: Final = "us-east-1"
"""What a compatible system that knows no regions expects in a signature."""

_TEXT_SHOWN: Final = 300
_SENT_AT_ONCE_BYTES: Final = 256 * 1024
_XML_CODE: Final = re.compile(r"<Code>([\w.]+)</Code>")

_THROTTLED: Final = frozenset(
    {"BandwidthLimitExceeded", "KmsThrottled", "RequestLimitExceeded", "RequestThrottled", "RequestThrottledException",
     "SlowDown", "SlowDownRead", "SlowDownWrite", "ThrottledException", "Throttling", "ThrottlingException",
     "TooManyRequests", "TooManyRequestsException", "TooManyRequestsFault"}
)  # fmt: skip
_KEY_UNKNOWN: Final = frozenset(
    {"InvalidAccessKeyId", "InvalidClientTokenId", "UnrecognizedClientException", "AuthFailure", "XAdminUserNotFound"}
)
_SECRET_WRONG: Final = frozenset({"SignatureDoesNotMatch", "InvalidSignatureException", "IncompleteSignature"})
_TOKEN_OVER: Final = frozenset({"ExpiredToken", "ExpiredTokenException", "InvalidToken", "TokenRefreshRequired"})
_DENIED: Final = frozenset(
    {"AccessDenied", "AccessDeniedException", "AccessForbidden", "AllAccessDisabled", "AuthorizationError", "NotAuthorized",
     "UnauthorizedOperation", "MissingAuthenticationToken", "MissingAuthenticationTokenException", "OptInRequired",
     "SubscriptionRequiredException", "MethodNotAllowed"}
)  # fmt: skip
_MISSING: Final = frozenset(
    {"NoSuchBucket", "NonExistentQueue", "QueueDoesNotExist", "ResourceNotFoundException", "QueueDeletedRecently"}
)
_SKEWED: Final = frozenset({"RequestTimeTooSkewed", "RequestExpired"})
_SKEWED_TEXT: Final = ("signature expired", "signature not yet current", "is too skewed")
_ELSEWHERE: Final = frozenset(
    {"AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "PermanentRedirect", "TemporaryRedirect", "301", "307"}
)
_FULL: Final = frozenset(
    {"EntityTooLarge", "InsufficientCapacity", "InsufficientStorage", "QuotaExceeded", "StorageFull", "XMinioStorageFull",
     "XMinioAdminBucketQuotaExceeded"}
)  # fmt: skip
_CONCERNS_EVERYTHING: Final = (
    _THROTTLED | _KEY_UNKNOWN | _SECRET_WRONG | _TOKEN_OVER | _DENIED | _MISSING | _SKEWED | _ELSEWHERE | _FULL
)


def concerns_everything(code: str) -> bool:
    """Whether a code says something of the key, the place or the load, and nothing of one event."""
    return code in _CONCERNS_EVERYTHING or code.startswith(("KMS", "Kms"))


class AwsCredentials(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The `credentials` block of a backend on AWS; left out or empty, the default AWS chain is used.

    The chain: environment, shared files, web identity, container, instance.
    """

    access_key_id: str = ""
    """The key's public half."""
    secret_access_key: Secret = Secret("")
    """Its secret half."""
    session_token: Secret = Secret("")
    """For temporary keys only."""

    def __post_init__(self) -> None:
        """Both halves or none. Raises ValueError."""
        if bool(self.access_key_id) != bool(self.secret_access_key):
            message = "set both access_key_id and secret_access_key, or neither to use the default AWS chain"
            raise ValueError(message)


class AwsConfig(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What the `config` block of every backend on AWS may hold."""

    region: Annotated[str, Meta(pattern="^[a-z0-9-]{1,32}$", description="a region such as eu-central-1")] | None = None
    """The region, such as eu-central-1; by default what the AWS environment says, and us-east-1 with an `endpoint_url`."""
    endpoint_url: HttpAddress | None = None
    """Address of a compatible system, or of a private endpoint; null for Amazon's own."""
    credentials: AwsCredentials = msgspec.field(default_factory=AwsCredentials)
    """The key to sign with; without it the default AWS chain."""
    tls: Tls = msgspec.field(default_factory=Tls)
    """TLS towards the endpoint; without `ca_file` the authorities that the AWS tools trust."""
    proxy: Secret = Secret("")
    """URL of an HTTP proxy on the way; proxies from the environment are not used."""
    connect_timeout: Annotated[float, Meta(gt=0)] = CONNECT_TIMEOUT_SECONDS
    """Seconds."""
    read_timeout: Annotated[float, Meta(gt=0)] = READ_TIMEOUT_SECONDS
    """Seconds of silence while the system works."""


class AwsRefusal(Unavailable):
    """The system answered that it does not take this request; `code` is its own name for the reason, without a prefix."""

    def __init__(self, message: str, code: str, status: int, text: str, retry_after: float | None = None) -> None:
        self.code = code
        self.status = status
        self.text = text
        super().__init__(message, retry_after)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a sink writes, for messages."""

    name: str
    """Such as `bucket 'events'`."""
    missing: str
    """What to do when it is not there."""
    permissions: str
    """What the key must be allowed to do."""


class AwsClient:
    """One client of one AWS service; `close` and `open` again as often as wanted."""

    def __init__(self, service: str, config: AwsConfig, place: Place, *, connections: int = 10, **options: Any) -> None:
        self._service = service
        self._config = config
        self._place = place
        self._connections = connections
        self._options = options
        self._stack: AsyncExitStack | None = None
        self._client: Any = None

    @property
    def where(self) -> str:
        """The place and its address."""
        region = self._config.region or "its default region"
        return f"{self._place.name} at {self._config.endpoint_url or f'AWS in {region}'}"

    async def open(self) -> None:
        """Make the client; nothing is sent, except what the default AWS chain asks to find a key. Raises Unavailable."""
        if self._client is not None:
            return
        config = self._config
        ssl_context(config.tls)  # tells which file is wrong, where botocore only says that one is
        proxy = config.proxy.reveal()
        settings = AioConfig(
            connect_timeout=config.connect_timeout,
            read_timeout=config.read_timeout,
            retries={"total_max_attempts": 1, "mode": "standard"},
            max_pool_connections=self._connections,
            proxies={"http": proxy, "https": proxy} if proxy else {},
            client_cert=_client_certificate(config.tls),
            parameter_validation=False,
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            disable_request_compression=True,
            user_agent_extra=USER_AGENT,
            warm_up_loader_caches=True,
            **self._options,
        )
        key = config.credentials
        stack = AsyncExitStack()
        try:
            self._client = await stack.enter_async_context(
                _session().create_client(
                    self._service,
                    region_name=config.region or (DEFAULT_REGION if config.endpoint_url else None),
                    endpoint_url=config.endpoint_url,
                    verify=(str(config.tls.ca_file) if config.tls.ca_file else None) if config.tls.verify else False,
                    aws_access_key_id=key.access_key_id or None,
                    aws_secret_access_key=key.secret_access_key.reveal() or None,
                    aws_session_token=key.session_token.reveal() or None,
                    config=settings,
                )
            )
        except (boto.BotoCoreError, ValueError, OSError) as error:
            raise self._failure(error) from error
        self._client.meta.events.register("before-send", _in_pieces)
        self._stack = stack

    async def call(self, operation: str, **parameters: Any) -> dict[str, Any]:
        """One request: `operation` in snake case as botocore names it. Raises AwsRefusal, Throttled or Unavailable."""
        if self._client is None:
            raise Unavailable(f"{self.where}: the backend is not open")
        method: Callable[..., Any] = getattr(self._client, operation)
        try:
            answer: dict[str, Any] = await method(**parameters)
        except (boto.ClientError, boto.BotoCoreError, ResponseParserError, OSError, ValueError, EOFError) as error:
            raise self._failure(error) from error
        return answer

    async def close(self) -> None:
        """Close the connections."""
        if self._stack is not None:
            stack, self._stack, self._client = self._stack, None, None
            await stack.aclose()

    def not_aws(self, what: str) -> Unavailable:
        """The error for an answer that says success, but not as this service says it."""
        return Unavailable(f"{self.where}: {what}: is it the right address, and nothing in between that answers in its place?")

    def _failure(self, error: Exception) -> SinkError:
        if isinstance(error, boto.ClientError):
            return self._refusal(error.response)
        return Unavailable(f"{self.where}: {self._explained(error)}")

    def _explained(self, error: Exception) -> str:
        match error:
            case boto.NoCredentialsError() | boto.PartialCredentialsError():
                return "no AWS key was found: set `credentials`, or give this machine one by the default AWS chain"
            case (
                boto.CredentialRetrievalError() | boto.TokenRetrievalError() | boto.ProfileNotFound() | boto.InvalidConfigError()
            ):
                return f"the default AWS chain gives no key ({describe(error)}): mend it, or set `credentials`"
            case boto.NoRegionError():
                return "no region is known: set `region`"
            case boto.ConnectTimeoutError():
                return "the connection could not be made in time: is the host up, and does a firewall let this machine through?"
            case boto.ProxyConnectionError():
                return "the proxy can't be reached or refuses: check `proxy`"
            case ResponseParserError() | UnicodeDecodeError():
                return "its answer is not what the protocol says: is it the right address?"
        explained = explain(error)
        if explained is not None:
            return f"can't be reached: {explained}"
        if isinstance(error, boto.ConnectionClosedError):
            return "the connection was cut in the middle, or the answer is not HTTP: did it restart, and is the port right?"
        if any(isinstance(cause, aiohttp.ClientResponseError) for cause in causes(error)):
            return "its answer is not HTTP: is the port right?"
        return self._without_secrets(describe(error))

    def _refusal(self, response: Mapping[str, Any]) -> SinkError:
        error, meta = response.get("Error", {}), response.get("ResponseMetadata", {})
        status = int(meta.get("HTTPStatusCode") or 0)
        headers = meta.get("HTTPHeaders") or {}
        text = self._without_secrets(" ".join(str(error.get("Message") or "").split()))[:_TEXT_SHOWN]
        code = str(error.get("Code") or status)
        if code.isdecimal() and (found := _XML_CODE.search(text)):  # an answer in XML to a question in JSON
            code = found[1]
        code = code.removeprefix("AWS.SimpleQueueService.")
        wait = retry_after_seconds(headers.get("retry-after"))
        told = f"{code}: {text}" if text else code
        if code in _THROTTLED or status == 429:
            return Throttled(f"{self.where} asks to wait ({told})", wait)
        message = f"{self.where}: {self._advice(code, status, text, error, headers)} ({told})"
        return AwsRefusal(message, code, status, text, wait)

    def _advice(self, code: str, status: int, text: str, error: Mapping[str, Any], headers: Mapping[str, str]) -> str:
        key = self._config.credentials.access_key_id
        if code in _SKEWED or any(words in text.lower() for words in _SKEWED_TEXT):
            now = datetime.now(UTC)
            return f"this machine's clock is wrong: it says {now:%Y-%m-%d %H:%M:%S} UTC, over there it is {headers.get('date')}"
        if code in _KEY_UNKNOWN:
            return f"the access key{f' {key}' if key else ''} is not known there: set `credentials` to one that is"
        if code in _SECRET_WRONG:
            return "the secret access key does not belong to the access key: set credentials.secret_access_key"
        if code in _TOKEN_OVER:
            return "the session token is wrong or has expired: get new temporary keys"
        if code in _DENIED or (status in {401, 403} and code.isdecimal()):
            return f"the key has no permission, or nobody may write there: allow it {self._place.permissions}"
        if code in _MISSING:
            return f"it does not exist: {self._place.missing}"
        if code in _ELSEWHERE:
            region = headers.get("x-amz-bucket-region") or error.get("Region")
            return f"it is in another region: set `region` to {region or 'the one that it is in'}"
        if code in _FULL or status == 507:
            return "it is full, or its quota is used up: make room there or raise the quota"
        if code.startswith(("KMS", "Kms")):
            return "its encryption key can't be used: enable the KMS key, and let this access key use it"
        if code == "InvalidStorageClass":
            return "it does not know this storage class: change `storage_class`"
        if status >= 500:
            return f"it fails ({phrase(status)})"
        return f"it refuses the request ({phrase(status)})"

    def _without_secrets(self, text: str) -> str:
        key = self._config.credentials
        for secret in (key.secret_access_key, key.session_token, self._config.proxy):
            if secret:
                text = text.replace(secret.reveal(), "***")
        return text


def _in_pieces(request: Any, **_: Any) -> None:
    """Let a large body be sent piece by piece: in one go it would hold up every other task meanwhile."""
    if isinstance(request.body, bytes) and len(request.body) > _SENT_AT_ONCE_BYTES:
        request.body = io.BytesIO(request.body)


@cache
def _loader() -> Loader:
    """What reads the descriptions of the services; each is large and never changes, so one for all clients of the process."""
    return create_loader(get_session().get_config_variable("data_path"))


def _session() -> AioSession:
    session = get_session()
    session.register_component("data_loader", _loader())
    return session


def _client_certificate(tls: Tls) -> str | tuple[str, str] | None:
    if tls.cert_file is None:
        return None
    return (str(tls.cert_file), str(tls.key_file)) if tls.key_file else str(tls.cert_file)
