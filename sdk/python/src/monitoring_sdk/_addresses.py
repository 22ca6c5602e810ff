"""Which addresses a webhook may be sent to: those of the internet, unless the configuration allows others."""

from __future__ import annotations

import ipaddress
import socket
from typing import Union

_Address = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_SITE_LOCAL = ipaddress.IPv6Network("fec0::/10")


def public_only(host: str, port: int) -> list[str]:
    """The public addresses of `host`, in the resolver's order, to be connected to as they were judged.

    Raises OSError when the name is unknown or leads only to addresses that are not public.
    """
    found = list(dict.fromkeys(str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)))
    allowed = [text for text in found if is_public(ipaddress.ip_address(text.partition("%")[0]))]
    if not allowed:
        message = f"'{host}' leads to {', '.join(found)}, which is no public address: set allow_private to true if that is meant"
        raise OSError(message)
    return allowed


def is_public(address: _Address) -> bool:
    """Whether it is an address of the internet: not of this host, a private network, a link, a group, nor reserved."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = _carried(address)
        if inner is not None:
            return is_public(inner)
        if address in _SITE_LOCAL:
            return False
    kept_out = (
        address.is_private
        or address.is_loopback
        or address.is_link_local
        or address.is_multicast
        or address.is_reserved
        or address.is_unspecified
    )
    return address.is_global and not kept_out


def _carried(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that packets to this one end at: mapped, 6to4, Teredo, NAT64."""
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF) if address in _NAT64 else None
