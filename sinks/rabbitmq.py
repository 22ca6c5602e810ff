"""Publishes each event as one persistent message to a RabbitMQ exchange; it counts once it is confirmed and lies in a queue.

The broker has no memory of what it took: a batch that is sent again after a timeout or a crash may stand in a queue twice.
Consumers know a repetition by the message id, which is the event's; with the broker's deduplication plugin,
`deduplication_header` lets the broker do it. It speaks through aiormq, the layer under aio-pika, whose connection can be cut.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import ssl
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Annotated, Any, ClassVar, Final, Literal

import aiormq
import msgspec
from aiormq import spec
from aiormq.abc import AbstractChannel, AbstractConnection
from aiormq.exceptions import (
    AMQPConnectionError,
    AMQPError,
    AuthenticationError,
    ChannelAccessRefused,
    ChannelInvalidStateError,
    ChannelNotFoundEntity,
    ChannelPreconditionFailed,
    ConnectionNotAllowed,
    DeliveryError,
    IncompatibleProtocolError,
    InvalidFrameError,
    ProbableAuthenticationError,
    PublishError,
)
from msgspec import Meta
from yarl import URL

from contract.limits import MAX_BATCH_EVENTS, MAX_BODY_BYTES
from contract.settings import Secret
from sinks.amqp_transport import AbortableTransport
from sinks.base import (
    RAISED_SHOWN,
    DeliveryReport,
    Health,
    Refused,
    SinkBatch,
    SinkError,
    SinkLimits,
    Throttled,
    Unavailable,
    describe,
    event_id_of,
)
from sinks.network_errors import explain
from sinks.rabbitmq_messages import check_template, properties, routed, routing_key
from sinks.tls import Tls, ssl_context

FULL_RETRY_SECONDS: Final = 1.0
"""Pause after a full queue refused messages."""

_BLOCK_POLL_SECONDS: Final = 0.5
_CLOSE_SECONDS: Final = 5.0
_SIZE_LIMIT: Final = re.compile(r"max size (\d+)")


class RabbitmqConfig(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The `config` block of a `rabbitmq` backend."""

    url: Secret
    """`amqp://user:password@host:5672/vhost`, or `amqps://` for TLS; the vhost `/` is written %2F or left out."""
    exchange: str = "trackmate"
    """Where the events go; empty for the default exchange, where `routing_key` is the name of a queue."""
    exchange_type: Literal["topic", "direct", "fanout", "headers"] = "topic"
    """What kind of exchange is declared."""
    routing_key: str = "events.{kind}"
    """May hold {kind}, {site_id}, {app}, {name} and {severity}; in their values, dots, spaces, * and # become _, so that each is
    one word of the key."""
    queue: str | None = None
    """A queue that must be there, or is declared and bound to the exchange."""
    queue_type: Literal["quorum", "classic"] = "quorum"
    """What kind of queue is declared."""
    binding_key: str = "#"
    """How a declared queue is bound."""
    declare: bool = False
    """Declare exchange and queue when they are missing, durable; otherwise their absence is an error."""
    unroutable: Literal["retry", "refuse"] = "retry"
    """What becomes of an event that reaches no queue: it waits until a queue is bound, or it goes to the dead letters."""
    deduplication_header: bool = False
    """Add the header `x-deduplication-header`, by which the plugin rabbitmq_message_deduplication knows a repetition."""
    tls: Tls | None = None
    """For `amqps://`; without it, what this machine trusts is trusted."""
    connect_timeout: Annotated[float, Meta(gt=0)] = 5
    """Seconds."""
    publish_timeout: Annotated[float, Meta(gt=0)] = 20
    """Seconds until a batch that the broker has not confirmed is given up; less than the backend's `timeout`."""

    def __post_init__(self) -> None:
        address = URL(self.url.reveal())
        if address.scheme not in {"amqp", "amqps"} or not address.host:
            message = "url: expected amqp://user:password@host:port/vhost, or amqps://"
            raise ValueError(message)
        if self.tls is not None and address.scheme != "amqps":
            message = "tls: the url must begin with amqps:// for this"
            raise ValueError(message)
        check_template(self.routing_key)


# It would log every try to connect, with a traceback; the backend's state says once what is wrong.
logging.getLogger("aiormq").setLevel(logging.CRITICAL)


class RabbitmqSink:
    """One exchange; a message counts as delivered when the broker has confirmed it and did not send it back."""

    Config: ClassVar[type[msgspec.Struct]] = RabbitmqConfig
    limits: ClassVar[SinkLimits] = SinkLimits(MAX_BATCH_EVENTS, MAX_BODY_BYTES, max_concurrency=1)
    """One delivery at a time, on one channel: so a queue gets the events in their order."""

    def __init__(self, name: str, config: RabbitmqConfig) -> None:
        self.name = name
        self._config = config
        url = URL(config.url.reveal())
        self._encrypted = url.scheme == "amqps"
        self._user = url.user or "guest"
        self._vhost = url.path.removeprefix("/") or "/"
        self._where = f"RabbitMQ exchange '{config.exchange}' at {url.host}:{url.port or url.scheme}"
        self._context: ssl.SSLContext | None = None
        self._transport: AbortableTransport | None = None
        self._connection: AbstractConnection | None = None
        self._channel: AbstractChannel | None = None
        self._largest: int | None = None
        """Bytes of the largest body that the broker takes, once it has refused one."""
        self._is_open = False

    async def open(self) -> None:
        """Read the certificates; declare what is to be declared. Raises Unavailable when that can't be done."""
        if self._encrypted:
            self._context = ssl_context(self._config.tls or Tls())
        self._is_open = True
        if self._config.declare:
            async with self._speaking(self._config.connect_timeout):
                await self._ready_channel()

    async def deliver(self, batch: SinkBatch) -> DeliveryReport:
        """Publish every event and wait for each one's confirmation.

        Raises Unavailable or Throttled when none was taken. When it is cancelled, the connection is cut and the rest never sent.
        """
        if batch.count == 0:
            return DeliveryReport(0)
        fates: list[BaseException | None] = [None] * batch.count
        await self._publish_all(batch, fates, self._within_limit(batch, fates))
        if self._learn_limit(batch, fates):
            undecided = [index for index, fate in enumerate(fates) if fate is not None and not isinstance(fate, _TooLarge)]
            await self._publish_all(batch, fates, undecided)
        return self._report(batch, fates)

    async def check(self) -> Health:
        """Ask for exchange and queue, and whether this user may publish: the broker judges that before it looks at the
        message, which it then refuses for a false sender."""
        started = time.perf_counter()
        transport = AbortableTransport(self._context)
        try:
            async with self._speaking(self._config.connect_timeout):
                await self._ask(transport)
        except SinkError as error:
            return Health(False, str(error))
        finally:
            transport.abort()
        return Health(True, f"{self._where} can be published to", (time.perf_counter() - started) * 1000)

    async def close(self) -> None:
        """Close the connection in good order, or cut it when the broker does not answer."""
        connection, self._connection, self._channel = self._connection, None, None
        self._largest = None
        self._is_open = False
        if connection is not None and not connection.is_closed:
            with contextlib.suppress(TimeoutError, AMQPError, OSError):
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await connection.close()
        self._cut()

    def _cut(self) -> None:
        """Drop the connection with all that it has not sent yet."""
        transport, self._transport = self._transport, None
        self._connection = self._channel = None
        if transport is not None:
            transport.abort()

    @contextlib.asynccontextmanager
    async def _speaking(self, seconds: float) -> AsyncIterator[None]:
        """Turn what goes wrong with the broker into SinkError; cut the connection when it was not finished with."""
        if not self._is_open:
            raise Unavailable(f"backend '{self.name}' is not open")
        try:
            async with asyncio.timeout(seconds):
                yield
        except (TimeoutError, AMQPError, ChannelInvalidStateError, OSError) as error:
            self._cut()
            raise self._failure(error) from error
        except BaseException:
            self._cut()
            raise

    async def _connect(self, transport: AbortableTransport) -> AbstractConnection:
        try:
            async with asyncio.timeout(self._config.connect_timeout):
                return await aiormq.connect(self._config.url.reveal(), transport_factory=transport)
        except InvalidFrameError as error:
            # aiormq throws the broker's words away when it closes the connection in answer to the choice of a vhost.
            if "Connection.OpenOk" not in str(error):
                raise
            raise Unavailable(
                f"{self._where}: user '{self._user}' is not let into vhost '{self._vhost}': "
                "is there such a vhost, and has the user a permission in it?"
            ) from error
        except AMQPConnectionError as error:
            if isinstance(error.__cause__, asyncio.IncompleteReadError):
                raise IncompatibleProtocolError(str(error)) from error
            raise

    async def _ready_channel(self) -> AbstractChannel:
        if self._channel is not None and self._channel.is_closed:
            # The broker closed it over a message. What was still under way to it would meet the next channel of that number.
            self._cut()
        if self._connection is None or self._connection.is_closed:
            self._transport = AbortableTransport(self._context)
            self._connection = await self._connect(self._transport)
            self._channel = None
        if self._channel is None:
            self._channel = await self._connection.channel(publisher_confirms=True, on_return_raises=True)
            if self._config.declare:
                await self._declare(self._channel)
        return self._channel

    async def _declare(self, channel: AbstractChannel) -> None:
        config = self._config
        if config.exchange:
            await channel.exchange_declare(config.exchange, exchange_type=config.exchange_type, durable=True)
        if config.queue is not None:
            await channel.queue_declare(config.queue, durable=True, arguments={"x-queue-type": config.queue_type})
            if config.exchange:
                await channel.queue_bind(config.queue, config.exchange, config.binding_key)

    async def _ask(self, transport: AbortableTransport) -> None:
        connection = await self._connect(transport)
        channel = await connection.channel(publisher_confirms=True)
        if self._config.declare:
            await self._declare(channel)
        if self._config.exchange:
            await channel.exchange_declare(self._config.exchange, passive=True)
        if self._config.queue is not None:
            await channel.queue_declare(self._config.queue, passive=True)
        try:
            false_sender = spec.Basic.Properties(user_id=f"not-{self._user}", expiration="0")
            await channel.basic_publish(
                b"", exchange=self._config.exchange, routing_key="trackmate.check", properties=false_sender
            )
        except ChannelPreconditionFailed:
            await connection.close()

    async def _publish_all(self, batch: SinkBatch, fates: list[BaseException | None], chosen: Sequence[int]) -> None:
        """Publish the chosen ones and note what became of each."""
        async with self._speaking(self._config.publish_timeout):
            channel = await self._ready_channel()
        messages = [asyncio.ensure_future(self._publish(channel, batch.lines[index])) for index in chosen]
        try:
            why = await self._settled(messages)
        except BaseException:
            self._cut()
            raise
        finally:
            for message in messages:
                message.cancel()
        for index, message in zip(chosen, messages, strict=True):
            fates[index] = message.exception() if message.done() and not message.cancelled() else why
        if why is not None:
            self._cut()

    def _publish(self, channel: AbstractChannel, line: bytes) -> Coroutine[Any, Any, object]:
        event = routed(line)
        return channel.basic_publish(
            line,
            exchange=self._config.exchange,
            routing_key=routing_key(self._config.routing_key, event),
            properties=properties(event, deduplication_header=self._config.deduplication_header),
            mandatory=True,
        )

    async def _settled(self, messages: Sequence[asyncio.Future[Any]]) -> BaseException | None:
        """Wait for the fate of every message; if some must be given up, why."""
        deadline = time.monotonic() + self._config.publish_timeout
        while not all(message.done() for message in messages):
            if time.monotonic() > deadline:
                return TimeoutError()
            if await self._blocked():
                return Unavailable(
                    f"{self._where} has blocked its publishers: a memory or disk alarm is raised on the broker; "
                    "free memory or disk there, or let consumers catch up (rabbitmqctl status)"
                )
            await asyncio.wait(messages, timeout=_BLOCK_POLL_SECONDS)
        return None

    async def _blocked(self) -> bool:
        """Whether the broker has said that it takes no messages for now."""
        if self._connection is None or self._connection.is_closed:
            return False
        try:
            async with asyncio.timeout(0):
                await self._connection.ready()
        except TimeoutError:
            return True
        return False

    def _within_limit(self, batch: SinkBatch, fates: list[BaseException | None]) -> list[int]:
        """Who is small enough; the others are refused without asking, since asking costs the channel and all in flight."""
        if self._largest is None:
            return list(range(batch.count))
        for index, line in enumerate(batch.lines):
            if len(line) > self._largest:
                fates[index] = _TooLarge(self._largest)
        return [index for index, fate in enumerate(fates) if fate is None]

    def _learn_limit(self, batch: SinkBatch, fates: list[BaseException | None]) -> bool:
        """When the broker closed the channel over a message's size: note the limit and who is over it, and say so."""
        closed = next((fate for fate in fates if isinstance(fate, ChannelPreconditionFailed) and "size" in str(fate)), None)
        if closed is None:
            return False
        undecided = [index for index, fate in enumerate(fates) if fate is not None]
        told = _SIZE_LIMIT.search(str(closed))
        self._largest = int(told[1]) if told else max(len(batch.lines[index]) for index in undecided) - 1
        for index in undecided:
            if len(batch.lines[index]) > self._largest:
                fates[index] = _TooLarge(self._largest)
        return True

    def _report(self, batch: SinkBatch, fates: list[BaseException | None]) -> DeliveryReport:
        refused: list[Refused] = []
        retry: list[int] = []
        for index, fate in enumerate(fates):
            if isinstance(fate, _TooLarge) or (isinstance(fate, PublishError) and self._config.unroutable == "refuse"):
                refused.append(Refused(index, event_id_of(batch.lines[index]), self._reason(fate)))
            elif fate is not None:
                retry.append(index)
        delivered = batch.count - len(refused) - len(retry)
        if not retry:
            return DeliveryReport(delivered, refused)
        failure = self._failure(next(fate for fate in map(fates.__getitem__, retry) if fate is not None))
        if not delivered and not refused:
            raise failure
        return DeliveryReport(delivered, refused, retry, failure.retry_after, str(failure))

    def _reason(self, fate: BaseException) -> str:
        if isinstance(fate, _TooLarge):
            return f"larger than the {fate.largest} bytes that the broker takes: raise max_message_size there"
        return f"{self._where} has no queue for it: bind one"

    def _failure(self, error: BaseException) -> SinkError:
        """What happened and what to do, as the error that the caller acts on."""
        match error:
            case SinkError():
                return error
            case PublishError():
                advice = (
                    f"there is no queue for events with the routing key '{getattr(error.frame, 'routing_key', '')}': "
                    "bind one to the exchange, or set unroutable: refuse"
                )
            case DeliveryError():
                return Throttled(
                    f"{self._where}: a queue refuses messages; it is full (overflow reject-publish): let its consumers catch up",
                    FULL_RETRY_SECONDS,
                )
            case ChannelNotFoundEntity():
                advice = f"{_said(error)}: create it, set declare: true, or correct its name"
            case ChannelAccessRefused():
                advice = f"user '{self._user}' lacks the permission ({_said(error)}): grant it in vhost '{self._vhost}'"
            case ChannelPreconditionFailed():
                advice = f"what is declared there differs from this configuration ({_said(error)}): make them agree"
            case AuthenticationError() | ProbableAuthenticationError():
                advice = f"the credential of user '{self._user}' is refused: correct user and password in `url`"
            case ConnectionNotAllowed():
                advice = f"user '{self._user}' may not enter vhost '{self._vhost}': {_said(error)}"
            case IncompatibleProtocolError():
                advice = "what is there breaks off or does not speak AMQP 0-9-1: is the port right, and does it want amqps://?"
            case _:
                return Unavailable(f"{self._where} can't be reached: {explain(error) or describe(error)}")
        return Unavailable(f"{self._where}: {advice}")


class _TooLarge(Exception):
    """A body is larger than the broker takes; `largest` is in bytes."""

    def __init__(self, largest: int) -> None:
        self.largest = largest
        super().__init__(f"larger than {largest} bytes")


def _said(error: BaseException) -> str:
    """The broker's own words, without the number of its error."""
    return " ".join(str(error).split())[:RAISED_SHOWN]
