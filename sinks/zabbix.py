"""Writes metrics, run states, states and log lines to the trapper items of one Zabbix host, and makes those items.

Zabbix keeps one of two values of an item that have the same second and nanosecond, so each value gets a moment of its own that
an event has at every delivery (zabbix_moments): on a database with primary keys on the history tables (every new installation
since 6.0) a batch delivered twice leaves one copy, and the hourly trends count it once. Where an older installation was upgraded
without them, a repeated value stands there twice. Values of one item go out in order, so there is one delivery at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final, Literal

import msgspec
from msgspec import Meta

from contract.settings import Secret
from sinks.base import DeliveryReport, Health, Refused, SinkBatch, SinkError, SinkLimits, Unavailable
from sinks.tls import Tls, ssl_context
from sinks.urls import HttpAddress
from sinks.zabbix_api import ZabbixApi
from sinks.zabbix_items import FLOAT, LOG, MAX_FLOAT, MAX_KEY_CHARS, Item, Reading, readings_of
from sinks.zabbix_moments import SECOND, Moments, nanoseconds
from sinks.zabbix_register import Announced, Register, Registered
from sinks.zabbix_trapper import DEFAULT_PORT, MAX_VALUES, Trapper

MAX_EVENTS: Final = 1000
"""Events in one delivery: several requests of MAX_VALUES values each, well within the time that one may take."""
MAX_CLOCK: Final = 2**31 - 1
"""history.clock is a signed 32-bit integer: the last second is 2038-01-19T03:14:07Z."""
PICK_UP_SECONDS: Final = 5.0
"""How long one delivery waits for the server to take up items that are new; after that the events are retried."""
PICK_UP_POLL_SECONDS: Final = 0.5
RETRY_SECONDS: Final = 2.0
_DAY: Final = 86_400
_ADDRESS: Final = re.compile(r"(?:[a-z]+://)?(?P<host>\[[0-9A-Fa-f:.]+\]|[^\[\]:/\s]+)(?::(?P<port>\d{1,5}))?/?")


class ZabbixConfig(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The `config` block of a `zabbix` backend."""

    url: str
    """Where a Zabbix server or proxy takes values, such as http://zabbix:10051; only host and port count, as it isn't HTTP."""
    host: Annotated[str, Meta(min_length=1, max_length=128)]
    """The host in Zabbix that the values are of, by its technical name."""
    api_url: HttpAddress | None = None
    """The API of the Zabbix frontend, such as http://zabbix/api_jsonrpc.php; with it the host and items are made when missing."""
    api_key: Secret = Secret("")
    """An API token whose user may write the host."""
    username: str = ""
    """User of the API, where there is no token."""
    password: Secret = Secret("")
    """Password of that user."""
    host_group: Annotated[str, Meta(min_length=1, max_length=255)] = "TrackMate"
    """The group that a new host is put into; made when it is missing."""
    max_items: Annotated[int, Meta(ge=1)] = 2000
    """The most items on the host; an event that would need one more is refused."""
    history_days: Annotated[int, Meta(ge=1, le=9125)] = 90
    """How long Zabbix keeps the values of items made here; what is older when it comes is refused, as Zabbix would drop it."""
    item_wait: Annotated[float, Meta(ge=0)] = 180
    """Seconds for which values of an item that the server doesn't take are retried before they are refused: more than the
    server's CacheUpdateFrequency."""
    compression: bool = True
    """Whether requests are compressed."""
    tls_connect: Literal["unencrypted", "cert"] = "unencrypted"
    """How the connection for values is made, in Zabbix's own words; `cert` uses the `tls` block."""
    tls: Tls = msgspec.field(default_factory=Tls)
    """Certificates, for values with `tls_connect: cert` and for an `api_url` that begins with https."""
    connect_timeout: Annotated[float, Meta(gt=0)] = 5
    """Seconds."""
    read_timeout: Annotated[float, Meta(gt=0)] = 15
    """Seconds of waiting for one answer."""

    def __post_init__(self) -> None:
        found = _ADDRESS.fullmatch(self.url)
        if found is None or not 0 < int(found["port"] or DEFAULT_PORT) < 2**16:
            message = f"url '{self.url}' is no address: write it like http://zabbix:10051"
            raise ValueError(message)
        if self.api_url and not self.api_key and not (self.username and self.password):
            message = "api_url needs api_key, or username and password"
            raise ValueError(message)

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of `url`."""
        found = _ADDRESS.fullmatch(self.url)
        assert found is not None  # noqa: S101 - __post_init__ has seen it
        return found["host"].strip("[]"), int(found["port"] or DEFAULT_PORT)


@dataclass(frozen=True, slots=True)
class Value:
    """One value of the event at the place `index` of a batch."""

    index: int
    item: Item
    moment: int
    """Unix time in nanoseconds."""
    body: dict[str, Any]
    """As Zabbix takes it."""


class ZabbixSink:
    """One host's trapper items; an event with nothing for Zabbix counts as delivered, and `valueless` counts it."""

    Config: ClassVar[type[msgspec.Struct]] = ZabbixConfig
    limits: ClassVar[SinkLimits] = SinkLimits(max_events=MAX_EVENTS)

    def __init__(self, name: str, config: ZabbixConfig, *, clock: Callable[[], float] = time.time) -> None:
        self.name = name
        self.valueless = 0
        self._config = config
        self._clock = clock
        self._moments = Moments()
        self._trapper: Trapper | None = None
        self._api: ZabbixApi | None = None
        self._register: Register | None = None
        self._proven: set[Item] = set()
        """Items that took their last value."""

    async def open(self) -> None:
        """Read the certificates; nothing is sent. Raises Unavailable when one of them can't be used."""
        if self._trapper is not None:
            return
        config = self._config
        host, port = config.address
        trapper = Trapper(
            host,
            port,
            connect_timeout=config.connect_timeout,
            read_timeout=config.read_timeout,
            compress=config.compression,
            context=ssl_context(config.tls) if config.tls_connect == "cert" else None,
        )
        if config.api_url:
            self._api = ZabbixApi(
                config.api_url,
                api_key=config.api_key,
                username=config.username,
                password=config.password,
                tls=config.tls,
                connect_timeout=config.connect_timeout,
                read_timeout=config.read_timeout,
            )
            self._register = Registered(
                self._api, config.host, config.host_group, config.max_items, f"{config.history_days}d", config.item_wait
            )
        else:
            self._register = Announced(trapper, config.host, config.max_items, config.history_days * _DAY, config.item_wait)
        self._trapper = trapper

    async def deliver(self, batch: SinkBatch) -> DeliveryReport:
        """Hand over every value. Raises Unavailable when Zabbix, its API or the host can't be used."""
        if self._register is None:
            raise Unavailable(f"backend '{self.name}' is not open")
        refused: dict[int, str] = {}
        values = self._values(batch, refused)
        unusable = await self._register.ensure({value.item for value in values})
        pending = self._usable(values, unusable, refused)
        pending = await self._until_taken(pending, refused)
        retry = sorted({value.index for value in pending} - refused.keys())
        reports = [Refused(index, batch.events[index].event_id, refused[index]) for index in sorted(refused)]
        return DeliveryReport(
            batch.count - len(retry) - len(reports),
            reports,
            retry,
            RETRY_SECONDS if retry else None,
            f"Zabbix does not take values of {pending[0].item.key} yet: it takes up new items with its next CacheUpdateFrequency"
            if pending
            else None,
        )

    async def check(self) -> Health:
        """Ask the server, and the API where there is one; without it, write the time into the template's own item."""
        if self._trapper is None or self._register is None:
            return Health(False, f"backend '{self.name}' is not open")
        started = time.perf_counter()
        try:
            await self._trapper.send([])
            detail = await self._register.check(int(self._clock()))
        except SinkError as error:
            return Health(False, str(error))
        nothing = f"; {self.valueless} events had no value for Zabbix" if self.valueless else ""
        return Health(
            True, f"Zabbix at {self._trapper.address} answers; {detail}{nothing}", (time.perf_counter() - started) * 1000
        )

    async def close(self) -> None:
        """Sign out of the API."""
        self._trapper = self._register = None
        self._proven.clear()
        if self._api is not None:
            api, self._api = self._api, None
            with contextlib.suppress(SinkError):  # a session that can't be ended there ends by itself
                await api.close()

    def _values(self, batch: SinkBatch, refused: dict[int, str]) -> list[Value]:
        values: list[Value] = []
        for index, event in enumerate(batch.events):
            readings = readings_of(event)
            if not readings:
                self.valueless += 1
                continue
            wanted = nanoseconds(event)
            if wanted // SECOND >= MAX_CLOCK:
                refused[index] = (
                    f"the event is of {event.timestamp:%Y-%m-%d}: Zabbix keeps seconds in 32 bits, which end on 2038-01-19"
                )
                continue
            too_much = next((reason for reading in readings if (reason := _beyond(reading))), None)
            if too_much is not None:
                refused[index] = too_much
                continue
            for item, text, extra in readings:
                moment = self._moments.give(item.key, event.event_id, wanted)
                values.append(Value(index, item, moment, self._body(item, text, moment, extra)))
        return values

    def _body(self, item: Item, text: str, moment: int, extra: dict[str, Any] | None) -> dict[str, Any]:
        clock, ns = divmod(moment, SECOND)
        body: dict[str, Any] = {"host": self._config.host, "key": item.key, "value": text, "clock": clock, "ns": ns}
        if item.family.value_type == LOG:
            body["timestamp"] = clock
            body |= extra or {}
        return body

    def _usable(self, values: Sequence[Value], unusable: dict[Item, str], refused: dict[int, str]) -> list[Value]:
        assert self._register is not None  # noqa: S101 - deliver has seen it
        """What can be handed over: of an event of which one value can't, none goes."""
        now = self._clock()
        for value in values:
            keeps = self._register.keeps_seconds(value.item)
            if value.item in unusable:
                refused[value.index] = unusable[value.item]
            elif keeps is not None and value.moment / SECOND < now - keeps:
                refused[value.index] = (
                    f"the event is older than the {keeps / _DAY:g} days for which {value.item.key} keeps history: "
                    "Zabbix would drop it"
                )
        return [value for value in values if value.index not in refused]

    async def _until_taken(self, pending: list[Value], refused: dict[int, str]) -> list[Value]:
        """Hand over, and again while the server takes up new items; what is left is to be retried."""
        assert self._register is not None  # noqa: S101 - deliver has seen it
        deadline = time.monotonic() + PICK_UP_SECONDS
        while pending:
            count = len(pending)
            failed = await self._hand_over(pending)
            if not failed:
                return []
            reasons = await self._register.judge({value.item for value in failed}, nothing_taken=len(failed) == count)
            pending = self._usable(failed, reasons, refused)
            if time.monotonic() >= deadline:
                break
            if pending:
                await asyncio.sleep(PICK_UP_POLL_SECONDS)
        return pending

    async def _hand_over(self, values: Sequence[Value]) -> list[Value]:
        """Send every value once at least; return those that failed."""
        failed: list[Value] = []
        # Items that took values before are kept apart from the others, so that these alone are halved and sent again.
        for proven in (True, False):
            group = [value for value in values if (value.item in self._proven) is proven]
            for start in range(0, len(group), MAX_VALUES):
                chunk = group[start : start + MAX_VALUES]
                lost = await self._isolate(chunk)
                failed += lost
                self._note(chunk, lost)
        return failed

    async def _isolate(self, values: Sequence[Value]) -> list[Value]:
        """Send, and halve by item while the counts say that some failed: the answer doesn't tell which."""
        assert self._trapper is not None  # noqa: S101 - deliver has seen it
        counts = await self._trapper.send([value.body for value in values])
        if counts.failed == 0:
            return []
        if counts.processed == 0:
            return list(values)
        items = list(dict.fromkeys(value.item for value in values))
        if len(items) > 1:
            half = set(items[: len(items) // 2])
            parts = [[v for v in values if v.item in half], [v for v in values if v.item not in half]]
        else:
            parts = [list(values[: len(values) // 2]), list(values[len(values) // 2 :])]
        return [value for part in parts for value in await self._isolate(part)]

    def _note(self, sent: Iterable[Value], failed: Iterable[Value]) -> None:
        assert self._register is not None  # noqa: S101 - deliver has seen it
        lost = {value.item for value in failed}
        taken = {value.item for value in sent} - lost
        self._proven -= lost
        self._proven |= taken
        self._register.taken(taken)


def _beyond(reading: Reading) -> str | None:
    """Why Zabbix can't hold a value; None when it can."""
    key = reading.item.key
    if len(key) > MAX_KEY_CHARS:
        return f"the item's key has {len(key)} characters, Zabbix takes {MAX_KEY_CHARS}: use shorter names"
    if reading.item.family.value_type == FLOAT and abs(float(reading.text)) > MAX_FLOAT:
        return f"{key}: {reading.text} is beyond what Zabbix takes for a number, ±{MAX_FLOAT:g}"
    return None
