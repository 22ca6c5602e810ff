"""Which items a Zabbix host has, and how missing ones come to be: over the API, or by low-level discovery from our template."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Final, Protocol

import msgspec

from sinks.base import Unavailable
from sinks.zabbix_api import KnownHost, KnownItem, ZabbixApi
from sinks.zabbix_items import Item
from sinks.zabbix_trapper import Trapper

CHECK_KEY: Final = "trackmate.check"
"""The template's own item: it holds when an agent last looked whether it could write."""
DISCOVERY_KEY: Final = "trackmate.discovery[{}]"
REASON_SECONDS: Final = 30.0
"""How long a reason to refuse is believed before Zabbix is asked again."""
LOOK_SECONDS: Final = 2.0
"""Between two looks at the host while values fail."""


class Register(Protocol):
    """Knows the host's items."""

    async def ensure(self, items: Collection[Item]) -> dict[Item, str]:
        """See to it that they exist; return those that can't be used, with the reason. Raises Unavailable."""

    async def judge(self, items: Collection[Item], *, nothing_taken: bool) -> dict[Item, str]:
        """Of items whose values failed, those to give up, with the reason; the others may yet take them. Raises Unavailable."""

    def taken(self, items: Collection[Item]) -> None:
        """These took values."""

    def keeps_seconds(self, item: Item) -> float | None:
        """How long Zabbix keeps the item's values; None when that is not known."""

    async def check(self, now: int) -> str:
        """What stands with the host, `now` being Unix time. Raises Unavailable."""


class _Patience:
    """Since when items fail, and whether that is long enough."""

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self._seconds = seconds
        self._clock = clock
        self._since: dict[Item, float] = {}

    def over(self, item: Item) -> bool:
        return self._clock() - self._since.setdefault(item, self._clock()) >= self._seconds

    def forget(self, items: Collection[Item]) -> None:
        for item in items:
            self._since.pop(item, None)


class Registered:
    """Items made over the API."""

    def __init__(
        self,
        api: ZabbixApi,
        host: str,
        group: str,
        max_items: int,
        history: str,
        item_wait: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api = api
        self._name = host
        self._group = group
        self._max_items = max_items
        self._history = history
        self._clock = clock
        self._wait = item_wait
        self._patience = _Patience(item_wait, clock)
        self._known: dict[str, KnownItem] = {}
        self._reasons: dict[Item, tuple[str, float]] = {}
        self._looked = -LOOK_SECONDS
        self._host: KnownHost | None = None

    async def ensure(self, items: Collection[Item]) -> dict[Item, str]:
        """Make what is missing; see Register."""
        now = self._clock()
        found = {item: self._reasons[item][0] for item in items if self._reasons.get(item, ("", 0.0))[1] > now}
        open_items = [item for item in items if item not in found]
        if any(self._doubtful(item) for item in open_items):
            await self._look()
            found |= await self._make([item for item in open_items if item.key not in self._known])
            found |= {item: reason for item in open_items if (reason := self._defect(item))}
            until = self._clock() + REASON_SECONDS
            self._reasons |= {item: (reason, until) for item, reason in found.items() if item in open_items}
        return found

    async def judge(self, items: Collection[Item], *, nothing_taken: bool) -> dict[Item, str]:  # noqa: ARG002 - the API knows
        """Give up what stays missing; see Register."""
        if self._clock() - self._looked >= LOOK_SECONDS:
            await self._look()
        missing = [item for item in items if item.key not in self._known]
        found = await self._make(missing)
        for item in items:
            defect = self._defect(item)
            if defect:
                found[item] = defect
            elif item not in found and self._patience.over(item):
                found[item] = self._advice(item)
        return found

    def taken(self, items: Collection[Item]) -> None:
        """Their patience begins anew."""
        self._patience.forget(items)

    def keeps_seconds(self, item: Item) -> float | None:
        """As the item says, or the template; see Register."""
        known = self._known.get(item.key)
        return None if known is None else known.history_seconds

    async def check(self, now: int) -> str:  # noqa: ARG002 - the API says it without a value
        """Look at the host; see Register."""
        host = await self._api.host(self._name)
        if host is None:
            return f"the host '{self._name}' will be made with the first event"
        self._enabled(host)
        return f"the host '{self._name}' is there"

    def _doubtful(self, item: Item) -> bool:
        return item.key not in self._known or self._defect(item) is not None

    async def _look(self) -> None:
        host = await self._api.host(self._name)
        if host is None:
            await self._api.make_host(self._name, self._group)
            host = await self._api.host(self._name)
        if host is None:
            raise Unavailable(
                f"the host '{self._name}' was made, but the API user can't see it: "
                f"give its role read and write access to '{self._group}'"
            )
        self._enabled(host)
        self._host = host
        self._known = await self._api.items(host)
        self._looked = self._clock()

    def _enabled(self, host: KnownHost) -> None:
        if not host.enabled:
            raise Unavailable(f"the host '{self._name}' is disabled in Zabbix, so it takes no values: enable it there")

    async def _make(self, items: list[Item]) -> dict[Item, str]:
        assert self._host is not None  # noqa: S101 - _look has set it
        room = max(0, self._max_items - len(self._known))
        refused = {
            item: f"{item.key} would be one item more than the {self._max_items} that max_items allows on '{self._name}': "
            "raise it, or give this backend fewer events by `match`"
            for item in items[room:]
        }
        if items[:room]:
            lost = await self._api.make_items(self._host, items[:room], self._history)
            refused |= {item: f"Zabbix refuses to make the item {item.key}: {reason}" for item, reason in lost.items()}
            self._known = await self._api.items(self._host)
        return refused

    def _defect(self, item: Item) -> str | None:
        known = self._known.get(item.key)
        if known is None:
            return None
        if not known.trapper:
            return f"the item {item.key} is not of the type Zabbix trapper: change or delete it in Zabbix"
        if not known.enabled:
            return f"the item {item.key} is disabled in Zabbix: enable it there"
        if known.value_type != item.family.value_type:
            return (
                f"the item {item.key} keeps another type of information ({known.value_type}) than these values have "
                f"({item.family.value_type}), so Zabbix would drop them: delete it in Zabbix, it is made anew"
            )
        return None

    def _advice(self, item: Item) -> str:
        by_proxy = self._host is not None and self._host.by_proxy
        proxy = " The host is monitored by a proxy: `url` must name that proxy." if by_proxy else ""
        return (
            f"Zabbix has the item {item.key} but took no value for {self._wait:g} s: is this machine among its allowed hosts, "
            f"is the host in a maintenance without data, and is item_wait longer than the server's CacheUpdateFrequency?{proxy}"
        )


class Announced:
    """Items that the server makes itself, from what is announced to the discovery rules of our template."""

    def __init__(
        self,
        trapper: Trapper,
        host: str,
        max_items: int,
        keeps_seconds: float,
        item_wait: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._trapper = trapper
        self._host = host
        self._max_items = max_items
        self._keeps = keeps_seconds
        self._wait = item_wait
        self._patience = _Patience(item_wait, clock)
        self._clock = clock
        self._announced: set[Item] = set()
        self._undiscovered: dict[str, float] = {}
        """Discovery rules that took nothing, and when to try them again."""

    async def ensure(self, items: Collection[Item]) -> dict[Item, str]:
        """Make what is missing; see Register."""
        new = [item for item in items if item not in self._announced]
        room = max(0, self._max_items - len(self._announced))
        self._announced |= set(new[:room])
        for rule in sorted({item.family.discovery for item in new[:room]}):
            await self._announce(rule)
        return {
            item: f"{item.key} would be one item more than the {self._max_items} that max_items allows on '{self._host}': "
            "raise it, or give this backend fewer events by `match`"
            for item in new[room:]
        }

    async def judge(self, items: Collection[Item], *, nothing_taken: bool) -> dict[Item, str]:
        """Give up what stays missing; see Register."""
        if nothing_taken:
            await self._prove_host(int(time.time()))
        for rule, until in list(self._undiscovered.items()):
            if self._clock() >= until:
                await self._announce(rule)
        return {
            item: f"Zabbix took no value for {item.key} in {self._wait:g} s: "
            f"the host '{self._host}' has no such enabled trapper item. "
            "Link the template of docs/backends/zabbix.md, which makes items by discovery, or set api_url and api_key"
            for item in items
            if self._patience.over(item)
        }

    def taken(self, items: Collection[Item]) -> None:
        """Their patience begins anew."""
        self._patience.forget(items)

    def keeps_seconds(self, item: Item) -> float | None:  # noqa: ARG002 - the template keeps all alike
        """As the item says, or the template; see Register."""
        return self._keeps

    async def check(self, now: int) -> str:
        """Look at the host; see Register."""
        await self._prove_host(now)
        return f"the host '{self._host}' takes values"

    async def _announce(self, rule: str) -> None:
        rows = [msgspec.json.encode(i.macros) for i in self._announced if i.family.discovery == rule]
        rows = sorted(set(rows))  # a run has several items and one row
        value = (b"[" + b",".join(rows) + b"]").decode()
        body = {"host": self._host, "key": DISCOVERY_KEY.format(rule), "value": value}
        if (await self._trapper.send([body])).failed:
            self._undiscovered[rule] = self._clock() + REASON_SECONDS
        else:
            self._undiscovered.pop(rule, None)

    async def _prove_host(self, now: int) -> None:
        counts = await self._trapper.send([{"host": self._host, "key": CHECK_KEY, "value": str(now)}])
        if counts.failed:
            raise Unavailable(
                f"Zabbix at {self._trapper.address} takes nothing for the host '{self._host}': is there an enabled host "
                "of this name, with the template of docs/backends/zabbix.md linked to it, and is this machine among the allowed "
                "hosts of its items? "
                "With api_url and api_key the host is made"
            )
