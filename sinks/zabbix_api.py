"""The few calls of the Zabbix API that a sink needs: find or make the host, its value map and its items."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from contract.settings import Secret, parse_duration
from sinks.base import Unavailable
from sinks.http_answers import phrase
from sinks.http_client import HttpClient
from sinks.tls import Tls
from sinks.zabbix_items import RUN_STATES, Item

TRAPPER_TYPE: Final = 2
VALUE_MAP: Final = "TrackMate run state"
_BEARER_FROM: Final = (6, 4)
"""From this version a token is taken in a header; before it only in the body, and from 7.2 no more there."""
_SIGNED_OUT: Final = ("Not authori", "Session terminated", "API token expired", "re-login")
_PERMISSION: Final = ("No permissions", "permission")
_WEEK_DAYS: Final = 7


class ApiError(Unavailable):
    """The API answered with an error of its own: `reason` is what Zabbix says."""

    def __init__(self, message: str, reason: str) -> None:
        self.reason = reason
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class KnownItem:
    """An item as the host has it."""

    trapper: bool
    enabled: bool
    value_type: int
    history_seconds: float | None
    """How long its values are kept; None where that is not written as a plain time."""


@dataclass(frozen=True, slots=True)
class KnownHost:
    """The host as Zabbix has it."""

    number: str
    enabled: bool
    by_proxy: bool


class ZabbixApi:
    """One user's or token's access to the API at `url`."""

    def __init__(
        self, url: str, *, api_key: Secret, username: str, password: Secret, tls: Tls, connect_timeout: float, read_timeout: float
    ) -> None:
        self._url = url
        self._api_key = api_key
        self._username = username
        self._password = password
        self._auth: str | None = None
        self._header = False
        self._http = HttpClient(
            url=url, tls=tls, secrets=[api_key, password], connect_timeout=connect_timeout, read_timeout=read_timeout
        )

    async def close(self) -> None:
        """Sign out where this signed in, and close the connection."""
        try:
            if self._auth is not None and not self._api_key:
                await self._request("user.logout", [])
        finally:
            self._auth = None
            await self._http.close()

    async def host(self, name: str) -> KnownHost | None:
        """The host of this name, None when there is none that may be seen. Raises Unavailable."""
        found = await self.call("host.get", {"output": "extend", "filter": {"host": [name]}})
        if not found:
            return None
        proxy = str(found[0].get("proxy_hostid", found[0].get("proxyid", "0")))  # the latter from Zabbix 7.0
        return KnownHost(str(found[0]["hostid"]), str(found[0]["status"]) == "0", proxy not in {"", "0"})

    async def make_host(self, name: str, group: str) -> None:
        """Make a host, and its group if need be."""
        groups = await self.call("hostgroup.get", {"output": ["groupid"], "filter": {"name": [group]}})
        number = groups[0]["groupid"] if groups else (await self.call("hostgroup.create", {"name": group}))["groupids"][0]
        try:
            await self.call("host.create", {"host": name, "groups": [{"groupid": number}]})
        except ApiError as error:
            if "already exists" not in error.reason:  # another agent was quicker
                raise

    async def items(self, host: KnownHost) -> dict[str, KnownItem]:
        """The host's items whose keys begin with `trackmate.`, by key."""
        question = {
            "output": ["key_", "type", "status", "value_type", "history"],
            "hostids": [host.number], "search": {"key_": "trackmate."}, "startSearch": True,
        }  # fmt: skip
        return {
            item["key_"]: KnownItem(
                str(item["type"]) == str(TRAPPER_TYPE),
                str(item["status"]) == "0",
                int(item["value_type"]),
                _seconds(item["history"]),
            )
            for item in await self.call("item.get", question)
        }

    async def make_items(self, host: KnownHost, items: Iterable[Item], history: str) -> dict[Item, str]:
        """Make items; what Zabbix refuses is returned with its reason, what another made meanwhile is fine."""
        wanted = list(items)
        mapping = await self._value_map(host) if any(item.family.mapped for item in wanted) else "0"
        bodies = [_body(item, host, mapping, history) for item in wanted]
        try:
            await self.call("item.create", bodies)
        except ApiError:
            refused: dict[Item, str] = {}
            for item, body in zip(wanted, bodies, strict=True):  # all or none: one by one tells which
                try:
                    await self.call("item.create", [body])
                except ApiError as error:
                    if _lacks_permission(error.reason):
                        raise
                    if "already exists" not in error.reason:
                        refused[item] = error.reason
            return refused
        return {}

    async def call(self, method: str, params: Any) -> Any:
        """One call, signed in; signs in again once when the session is over. Raises Unavailable, or ApiError."""
        if self._auth is None:
            await self._sign_in()
        try:
            return await self._request(method, params)
        except ApiError as error:
            if self._api_key or not _signed_out(error.reason):
                raise
        await self._sign_in()
        return await self._request(method, params)

    async def _sign_in(self) -> None:
        self._auth = None
        found = re.match(r"(\d+)\.(\d+)", str(await self._request("apiinfo.version", [])))
        self._header = found is not None and (int(found[1]), int(found[2])) >= _BEARER_FROM
        if self._api_key:
            self._auth = self._api_key.reveal()
        else:
            self._auth = str(await self._request("user.login", {"username": self._username, "password": self._password.reveal()}))

    async def _request(self, method: str, params: Any) -> Any:
        request: dict[str, Any] = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        headers = {"Content-Type": "application/json-rpc"}
        if self._auth is not None:
            if self._header:
                headers["Authorization"] = f"Bearer {self._auth}"
            else:
                request["auth"] = self._auth
        answer = await self._http.request("POST", self._url, content=msgspec.json.encode(request), headers=headers)
        try:
            content = msgspec.json.decode(answer.content, type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Unavailable(
                f"{self._url} answers {phrase(answer.status)} and not like the Zabbix API: "
                "`api_url` usually ends in /api_jsonrpc.php, after the frontend's own address"
            ) from error
        if "error" in content:
            raise self._error(method, content["error"])
        if "result" not in content:
            raise Unavailable(f"{self._url} answers {phrase(answer.status)} without a result to {method}: is it the Zabbix API?")
        return content["result"]

    def _error(self, method: str, error: Any) -> ApiError:
        parts = [str(error.get("message", "")), str(error.get("data", ""))] if isinstance(error, dict) else [str(error)]
        reason = " ".join(" ".join(parts).split())[:500]
        for secret in (self._api_key.reveal(), self._password.reveal(), self._auth or ""):
            reason = reason.replace(secret, "***") if secret else reason
        if _signed_out(reason) or method == "user.login":
            which = "api_key" if self._api_key else "username and password"
            advice = f"the credential is refused: set {which} to what Zabbix has (Administration, General, API tokens)"
        elif _lacks_permission(reason):
            advice = (
                "the user may not do that: give the role that owns the credential write access to the host group, and API access"
            )
        else:
            advice = "see the reason"
        return ApiError(f"the Zabbix API at {self._url} refuses {method} ({reason}): {advice}", reason)

    async def _value_map(self, host: KnownHost) -> str:
        question = {"output": ["valuemapid"], "hostids": [host.number], "filter": {"name": [VALUE_MAP]}}
        found = await self.call("valuemap.get", question)
        if found:
            return str(found[0]["valuemapid"])
        names = [{"value": str(number), "newvalue": name} for number, name in RUN_STATES.items()]
        try:
            made = await self.call("valuemap.create", {"hostid": host.number, "name": VALUE_MAP, "mappings": names})
        except ApiError as error:
            if "already exists" not in error.reason:
                raise
            return str((await self.call("valuemap.get", question))[0]["valuemapid"])
        return str(made["valuemapids"][0])


def _body(item: Item, host: KnownHost, mapping: str, history: str) -> dict[str, Any]:
    family = item.family
    return {
        "hostid": host.number,
        "name": item.title,
        "key_": item.key,
        "type": TRAPPER_TYPE,
        "value_type": family.value_type,
        "history": history,
        "tags": item.tags,
        **({"units": family.units} if family.units else {}),
        **({"valuemapid": mapping} if family.mapped else {}),
    }


def _seconds(text: str) -> float | None:
    """Seconds of Zabbix's way to write a time (`90d`, `4w`, `3600`); None for a macro, and for 0: nothing is kept on purpose."""
    try:
        seconds = float(text[:-1]) * _WEEK_DAYS * 86400 if text.endswith("w") else parse_duration(text)
    except ValueError:
        return None
    return seconds or None


def _signed_out(reason: str) -> bool:
    return any(words in reason for words in _SIGNED_OUT)


def _lacks_permission(reason: str) -> bool:
    return any(words in reason for words in _PERMISSION)
