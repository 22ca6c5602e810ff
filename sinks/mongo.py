"""Writes each event as one document of a MongoDB collection whose `_id` is the event's id, so that a repetition changes nothing.

The document is the event as it is, with `_id`, with `timestamp` in one spelling (UTC, microseconds, `Z`) that sorts as text, and
with the same moment as a date in `time`, which MongoDB keeps to the millisecond.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Final

import bson
import msgspec
from bson.decimal128 import Decimal128
from bson.errors import InvalidDocument
from msgspec import Meta
from pymongo import AsyncMongoClient, WriteConcern
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import (
    BulkWriteError,
    ConfigurationError,
    ConnectionFailure,
    DocumentTooLarge,
    InvalidURI,
    NotPrimaryError,
    OperationFailure,
    PyMongoError,
)

from contract.limits import MAX_BATCH_EVENTS, MAX_BODY_BYTES
from contract.settings import Secret
from sinks.base import (
    RAISED_SHOWN,
    DeliveryReport,
    Health,
    Refused,
    SinkBatch,
    SinkError,
    SinkLimits,
    Unavailable,
    describe,
    event_id_of,
)
from sinks.knock import knock
from sinks.network_errors import explain
from sinks.tls import Tls, ssl_context

MAX_INT64: Final = 2**63 - 1
"""BSON's largest integer (bsonspec.org)."""

MAX_DECIMAL_DIGITS: Final = 34
"""Digits that BSON's decimal128 keeps exactly (bsonspec.org)."""

MAX_DOCUMENT_BYTES: Final = 16 * 1024 * 1024
"""MongoDB's limit of a document (its manual, "MongoDB Limits and Thresholds")."""

DEFAULT_PORT: Final = 27017
_DUPLICATE: Final = 11000
_UNKNOWN_COMMAND: Final = 59
_AUTHENTICATION_FAILED: Final = frozenset({18, 8000})
_UNAUTHORIZED: Final = 13
_PASSING: Final = frozenset(
    {6, 7, 11, 24, 43, 46, 50, 64, 79, 89, 91, 112, 133, 134, 150, 175, 189, 202, 225, 251, 262, 314, 317, 358, 365, 9001,
     10058, 10107, 11600, 11602, 13388, 13435, 13436, 14031}
)  # fmt: skip
"""Codes that tell of the server's state, not of the document: network, locks, shutdown, elections, timeouts, a full disk
(MongoDB's src/mongo/base/error_codes.yml)."""

_ADVICE: Final = {
    14031: "its disk is full: make room there",
    10107: "it is no primary, so it is read-only: name the replica set's members in `url`",
    13435: "it is no primary, so it is read-only: name the replica set's members in `url`",
    64: "the write concern was not met in time: are enough members of the replica set up?",
    100: "the write concern can't be met: the replica set has too few members; correct `write_concern`",
}
_LONG_NUMBER: Final = re.compile(rb"[0-9]{18}")


class MongoConfig(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The `config` block of a `mongo` backend."""

    url: Secret
    """`mongodb://user:password@host:27017/?replicaSet=rs0&authSource=admin`, or `mongodb+srv://…`."""
    database: Annotated[
        str,
        Meta(pattern=r'^[^/\\. "$*<>:|?\x00]{1,63}$', description='1 to 63 characters without blanks and / \\ . " $ * < > : | ?'),
    ] = "trackmate"
    """Where the collection is; MongoDB makes it with the first event."""
    collection: Annotated[
        str,
        Meta(pattern=r"^(?!system\.)[^$\x00]{1,200}$", description="1 to 200 characters without $, not beginning with system."),
    ] = "events"
    """Where the events go; MongoDB makes it with the first event. It must not be a time series, which does not deduplicate."""
    write_concern: str | int = "majority"
    """How many members must have an event before it counts as delivered: `majority`, a number, or a tag set's name."""
    tls: Tls | None = None
    """Speak TLS; `{}` trusts what this machine trusts. The client's key is read from `cert_file`."""
    connect_timeout: Annotated[float, Meta(gt=0)] = 5
    """Seconds, also until a primary is found."""
    timeout: Annotated[float, Meta(gt=0)] = 20
    """Seconds for one batch; less than the backend's `timeout`."""

    def __post_init__(self) -> None:
        if not re.match(r"mongodb(\+srv)?://[^/]", self.url.reveal()):
            message = "url: expected mongodb://host:port or mongodb+srv://host"
            raise ValueError(message)
        if self.tls is not None and self.tls.key_file is not None:
            message = "tls.key_file: MongoDB's driver reads certificate and key from one file: put both into tls.cert_file"
            raise ValueError(message)
        if self.write_concern == 0:
            message = "write_concern: with 0 nobody confirms that an event was written: use majority, or 1 and more"
            raise ValueError(message)


class MongoSink:
    """One collection; documents are inserted unordered, and each one's fate is judged by itself."""

    Config: ClassVar[type[msgspec.Struct]] = MongoConfig
    limits: ClassVar[SinkLimits] = SinkLimits(MAX_BATCH_EVENTS, MAX_BODY_BYTES, max_concurrency=4)

    def __init__(self, name: str, config: MongoConfig) -> None:
        self.name = name
        self._config = config
        self._where = f"MongoDB collection '{config.database}.{config.collection}'"
        self._client: AsyncMongoClient[dict[str, Any]] | None = None

    async def open(self) -> None:
        """Make the client; nothing is sent. Raises Unavailable when the URL or a certificate can't be used."""
        if self._client is None:
            config = self._config
            if config.tls is not None:
                ssl_context(config.tls)
            try:
                self._client = AsyncMongoClient(
                    config.url.reveal(),
                    appname="trackmate",
                    serverSelectionTimeoutMS=int(config.connect_timeout * 1000),
                    connectTimeoutMS=int(config.connect_timeout * 1000),
                    socketTimeoutMS=int(config.timeout * 1000),
                    **_tls_options(config.tls),
                )
            except (InvalidURI, ConfigurationError, ValueError) as error:
                # Their texts may hold parts of the URL, and so of the password.
                raise Unavailable(
                    f"{self._where}: `url` can't be used ({type(error).__name__}): "
                    "check its options, and that user and password are percent-encoded"
                ) from None

    async def deliver(self, batch: SinkBatch) -> DeliveryReport:
        """Insert every event; one that is there already counts as delivered. Raises Unavailable when none was taken."""
        if batch.count == 0:
            return DeliveryReport(0)
        documents = await asyncio.to_thread(lambda: [document(line) for line in batch.lines])
        refused: dict[int, str] = {}
        retry: dict[int, str] = {}
        try:
            await self._insert(documents)
        except BulkWriteError as error:
            self._judge(error.details, refused, retry)
        except (InvalidDocument, OverflowError, DocumentTooLarge):
            refused = await asyncio.to_thread(_not_bson, documents)
            kept = [index for index in range(batch.count) if index not in refused]
            if len(kept) == batch.count:
                raise
            rest = await self.deliver(batch.subset(kept))
            return _joined(batch, rest, kept, refused)
        return self._report(batch, refused, retry)

    async def check(self) -> Health:
        """Find the primary, prove the credential, and ask what the collection is and whether this user may insert into it."""
        started = time.perf_counter()
        try:
            async with self._speaking(self._config.connect_timeout * 2):
                await self._inspect()
        except SinkError as error:
            return Health(False, str(error))
        return Health(True, f"{self._where} can be written", (time.perf_counter() - started) * 1000)

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            client, self._client = self._client, None
            await client.close()

    async def _insert(self, documents: list[dict[str, Any]]) -> None:
        async with self._speaking(self._config.timeout):
            await self._collection().insert_many(documents, ordered=False)

    def _collection(self) -> AsyncCollection[dict[str, Any]]:
        if self._client is None:
            raise Unavailable(f"backend '{self.name}' is not open")
        database = self._client[self._config.database]
        return database.get_collection(self._config.collection, write_concern=WriteConcern(w=self._config.write_concern))

    @contextlib.asynccontextmanager
    async def _speaking(self, seconds: float) -> AsyncIterator[None]:
        """Turn what goes wrong with the server into SinkError, but for what is told of single documents."""
        try:
            async with asyncio.timeout(seconds):
                yield
        except (BulkWriteError, DocumentTooLarge):
            raise
        except (PyMongoError, OSError) as error:
            raise await self._failure(error) from error

    async def _inspect(self) -> None:
        collection = self._collection()
        await collection.database.client.admin.command("ping")
        found = await (await collection.database.list_collections(filter={"name": collection.name})).to_list()
        if found and found[0].get("type", "collection") != "collection":
            raise Unavailable(
                f"{self._where} is a {found[0]['type']}, which does not keep one document for one _id: choose another collection"
            )
        try:
            status = await collection.database.command({"connectionStatus": 1, "showPrivileges": True})
        except OperationFailure as error:
            if error.code == _UNKNOWN_COMMAND:
                return
            raise
        account = status["authInfo"]
        if account["authenticatedUsers"] and not any(map(self._may_insert, account.get("authenticatedUserPrivileges", []))):
            raise Unavailable(self._forbidden())

    def _may_insert(self, privilege: dict[str, Any]) -> bool:
        resource = privilege["resource"]
        if "insert" not in privilege["actions"]:
            return False
        return bool(resource.get("anyResource")) or (
            resource.get("db") in {"", self._config.database} and resource.get("collection") in {"", self._config.collection}
        )

    def _forbidden(self) -> str:
        return f"{self._where}: this user may not insert into it: grant it the role readWrite on '{self._config.database}'"

    def _judge(self, details: Mapping[str, Any], refused: dict[int, str], retry: dict[int, str]) -> None:
        """Sort the errors of single documents by what becomes of them."""
        for error in details["writeErrors"]:
            index, code, text = error["index"], error.get("code"), str(error.get("errmsg", ""))[:RAISED_SHOWN]
            if code == _DUPLICATE and _is_of_id(error):
                continue
            if code in _PASSING or code == _UNAUTHORIZED:
                retry[index] = self._forbidden() if code == _UNAUTHORIZED else f"{self._where}: {_ADVICE.get(code, text)}"
            else:
                refused[index] = f"{text} ({error.get('codeName') or code})"
        for error in details["writeConcernErrors"]:
            # The documents are written, yet not as safely as was asked for: a repetition asks for the confirmation again.
            text = _ADVICE.get(error.get("code", 0), str(error.get("errmsg", ""))[:RAISED_SHOWN])
            raise Unavailable(f"{self._where}: {text}")

    def _report(self, batch: SinkBatch, refused: dict[int, str], retry: dict[int, str]) -> DeliveryReport:
        delivered = batch.count - len(refused) - len(retry)
        message = next(iter(retry.values()), None)
        if message is not None and not delivered and not refused:
            raise Unavailable(message)
        reasons = [Refused(index, event_id_of(batch.lines[index]), reason) for index, reason in sorted(refused.items())]
        return DeliveryReport(delivered, reasons, sorted(retry), message=message)

    async def _failure(self, error: BaseException) -> SinkError:
        match error:
            case OperationFailure(code=code) if code in _AUTHENTICATION_FAILED:
                return Unavailable(f"{self._where}: the credential is refused: correct user, password and authSource in `url`")
            case OperationFailure(code=code) if code == _UNAUTHORIZED:
                return Unavailable(self._forbidden())
            case OperationFailure(code=int() as code) if code in _ADVICE:
                return Unavailable(f"{self._where}: {_ADVICE[code]}")
            case NotPrimaryError(details=Mapping() as details):
                return Unavailable(f"{self._where}: {_ADVICE.get(details.get('code', 0), describe(error))}")
            case ConnectionFailure():
                return Unavailable(f"{self._where} can't be reached: {await self._look(error)}")
            case OperationFailure():
                return Unavailable(f"{self._where}: {describe(error)}")
            case _:
                return Unavailable(f"{self._where} can't be reached: {explain(error) or describe(error)}")

    async def _look(self, error: BaseException) -> str:
        """What a plain connection to the servers meets; the driver's own error lists them with what it knows of each."""
        known = [] if self._client is None else list(self._client.topology_description.server_descriptions())
        context = None if self._config.tls is None else ssl_context(self._config.tls)
        met = await knock([(host, port or DEFAULT_PORT) for host, port in known], context, self._config.connect_timeout)
        return met or explain(error) or describe(error)


def document(line: bytes) -> dict[str, Any]:
    """An event's JSON text as it is stored."""
    event: dict[str, Any] = _decode(line)
    moment = msgspec.convert(event["timestamp"], datetime).astimezone(UTC)
    event["timestamp"] = moment.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
    event["time"] = moment
    if _LONG_NUMBER.search(line):
        if "metrics" in event:
            event["metrics"] = {name: float(value) if _is_long(value) else value for name, value in event["metrics"].items()}
        event["attributes"] = _storable(event.get("attributes"))
        if event["attributes"] is None:
            del event["attributes"]
    return {"_id": event["event_id"], **event}


_decode = msgspec.json.Decoder().decode


def _is_long(value: object) -> bool:
    return isinstance(value, int) and not -MAX_INT64 - 1 <= value <= MAX_INT64


def _storable(value: Any) -> Any:
    """The value with integers that BSON has no room for as decimal128, or as text where that would round them."""
    if isinstance(value, dict):
        return {name: _storable(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_storable(item) for item in value]
    if _is_long(value):
        return Decimal128(str(value)) if len(str(abs(value))) <= MAX_DECIMAL_DIGITS else str(value)
    return value


def _is_of_id(error: Mapping[str, Any]) -> bool:
    """Whether a duplicate is one of `_id`, and not of an index that somebody made besides."""
    pattern = error.get("keyPattern")
    return list(pattern) == ["_id"] if pattern is not None else " index: _id_ " in str(error.get("errmsg", ""))


def _not_bson(documents: list[dict[str, Any]]) -> dict[int, str]:
    """Which of the documents can't be written as BSON, and why."""
    found: dict[int, str] = {}
    for index, each in enumerate(documents):
        try:
            size = len(bson.encode(each))
        except (InvalidDocument, OverflowError) as error:
            found[index] = describe(error)
        else:
            if size > MAX_DOCUMENT_BYTES:
                found[index] = f"{size} bytes as BSON; MongoDB takes {MAX_DOCUMENT_BYTES}"
    return found


def _joined(batch: SinkBatch, rest: DeliveryReport, kept: list[int], refused: dict[int, str]) -> DeliveryReport:
    """The report on the kept events of a batch, as one on all of it."""
    reasons = [Refused(index, event_id_of(batch.lines[index]), reason) for index, reason in refused.items()]
    reasons += [Refused(kept[item.index], item.event_id, item.reason) for item in rest.refused]
    retry = [kept[index] for index in rest.retry]
    return DeliveryReport(rest.delivered, sorted(reasons, key=lambda item: item.index), retry, rest.retry_after, rest.message)


def _tls_options(tls: Tls | None) -> dict[str, Any]:
    if tls is None:
        return {}
    files = {"tlsCAFile": tls.ca_file, "tlsCertificateKeyFile": tls.cert_file}
    options = {name: str(file) for name, file in files.items() if file is not None}
    return {"tls": True, "tlsAllowInvalidCertificates": not tls.verify, "tlsAllowInvalidHostnames": not tls.verify, **options}
