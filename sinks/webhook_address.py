"""Where a webhook's name leads: resolved once, judged, and connected to as judged, so that no second answer of DNS counts."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from functools import lru_cache
from typing import Final

from sinks.base import Unavailable
from sinks.http_client import unavailable

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_SITE_LOCAL: Final = ipaddress.IPv6Network("fec0::/10")


def is_public(address: Address) -> bool:
    """Whether it is an address of the internet: not of this host, a private network, a link, a group, nor reserved."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = _carried(address)
        if inner is not None:
            return is_public(inner)
        if address in _SITE_LOCAL:
            return False
    return address.is_global and not (
        address.is_private
        or address.is_loopback
        or address.is_link_local
        or address.is_multicast
        or address.is_reserved
        or address.is_unspecified
    )


def _carried(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that packets to this one end at: mapped, 6to4, Teredo, NAT64."""
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF) if address in _NAT64 else None


@lru_cache(maxsize=64)
def is_address(host: str) -> bool:
    """Whether it is an address in its usual spelling, and no name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


async def resolve(host: str, port: int, *, allow_private: bool, timeout: float, shown: str) -> list[str]:  # noqa: ASYNC109 - of a call that can't be cancelled
    """The addresses of `host` that may be connected to, in the resolver's order.

    Raises Unavailable when there is none: the name is unknown, or leads only to addresses that are not public.
    """
    if is_address(host):
        addresses = [host]
    else:
        try:
            async with asyncio.timeout(timeout):
                found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise unavailable(error, shown) from error
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    allowed = [text for text in addresses if allow_private or is_public(ipaddress.ip_address(text.partition("%")[0]))]
    if not allowed:
        message = (
            f"{shown} is not called: '{host}' leads to {', '.join(addresses)}, which is no public address: "
            "set allow_private to true if that is meant"
        )
        raise Unavailable(message)
    return allowed
