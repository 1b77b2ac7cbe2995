"""Finds the address of a request's client: the peer's, or the one that trusted proxies have added to a header.

A proxy appends the address of its own peer to X-Forwarded-For; everything further left came with the request and may be
invented. So the list is read from the right, as long as the address to the right of a hop is a trusted proxy's.
"""

from collections.abc import Mapping
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, Final

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# A header may have 400 KB; a chain of proxies has a handful of hops. What is further left is not read.
_FORWARDED_CHARACTERS_MAX: Final = 2_000


def client_address(environ: Mapping[str, Any], trusted_proxies: tuple[str, ...]) -> str:
    """The address of the client behind this WSGI environment, or "" if it is unknown. 0.3 µs.

    It is unknown for a peer on a Unix socket, and if a trusted proxy has added something that is no address. A key with
    allowed networks is then refused (SQL's NULL lies in no network). The form is the shortest, without port and zone;
    an IPv4 address over an IPv6 socket is IPv4.

    `trusted_proxies` are networks in CIDR; as texts, because a text caches its hash and a network does not.
    """
    peer = environ.get("REMOTE_ADDR") or ""
    # Without a trusted proxy the header may be invented, and must not fill the cache.
    forwarded = environ.get("HTTP_X_FORWARDED_FOR", "") if trusted_proxies else ""
    if len(forwarded) > _FORWARDED_CHARACTERS_MAX:
        # Up to the next comma it may be half an address; without one it is no address at all.
        forwarded = forwarded[-_FORWARDED_CHARACTERS_MAX:].partition(",")[2] or "?"
    return _client_of(peer, forwarded, trusted_proxies)


def read_network(text: str) -> Network:
    """A network in CIDR, or a bare address as a network of one; IPv4 in IPv6 becomes IPv4, as in addresses.

    Raises ValueError with a sentence for the operator.
    """
    try:
        # A zone (`fe80::1%eth0`) has a meaning on one machine only.
        network = ip_network("" if "%" in text else text, strict=False)
    except ValueError:
        raise ValueError("Must be a network such as 192.0.2.0/24 or 2001:db8::/32, or an address.") from None
    address = ip_address(text.partition("/")[0])
    if address != network.network_address:
        raise ValueError(f"Has bits set beyond its prefix: write {network}, or {address} for that address alone.")
    mapped = network.network_address.ipv4_mapped if isinstance(network, IPv6Network) else None
    if mapped is not None and network.prefixlen >= 96:
        return IPv4Network((mapped, network.prefixlen - 96))
    return network


@lru_cache(maxsize=8_192)
def _client_of(peer: str, forwarded: str, trusted_proxies: tuple[str, ...]) -> str:
    address = _read(peer)
    trusted = _networks(trusted_proxies)
    for hop in reversed(forwarded.split(",")) if forwarded else ():
        if address is None or not any(address in network for network in trusted):
            break
        # A hop that is no address makes the client unknown: the proxy itself is not the client.
        address = _read(hop)
    return "" if address is None else str(address)


@lru_cache(maxsize=16)
def _networks(texts: tuple[str, ...]) -> tuple[Network, ...]:
    return tuple(map(read_network, texts))


def _read(hop: str) -> Address | None:
    """The address in `203.0.113.7`, `203.0.113.7:4711`, `2001:db8::7`, `[2001:db8::7]` or `[2001:db8::7]:4711`."""
    text = hop.strip()
    if text.startswith("["):
        text, _, port = text[1:].partition("]")
        if port and not (port[0] == ":" and port[1:].isdecimal()):
            return None
    elif text.count(":") == 1:
        text, _, port = text.partition(":")
        if not port.isdecimal():
            return None
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address
