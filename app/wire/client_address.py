"""Whose request is it, as the network has it: the peer's address, or what trusted proxies say of theirs.

A proxy adds the address of its own peer at the right end of X-Forwarded-For; what stands further left was brought by
whoever came to it. So the list is read from the right, as long as the one who speaks is trusted, and never further.
"""

from collections.abc import Mapping
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, Final

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# A header may have 400 KB; a chain of proxies has a handful of hops. What is further left is not looked at.
_FORWARDED_CHARACTERS_MAX: Final = 2_000


def client_address(environ: Mapping[str, Any], trusted_proxies: tuple[str, ...]) -> str:
    """The address from which the request with this WSGI environment comes; "" if nobody can say.

    That is so for a peer that came over no network, and if a trusted proxy names something that is no address. A key
    with allowed networks is then refused (SQL's NULL lies in no network).

    `trusted_proxies` are networks in CIDR; as texts, because their hashes are known and a network's is not.
    In its shortest form, IPv4 as IPv4 also where it came over an IPv6 socket, without port and zone. 0.3 µs.
    """
    peer = environ.get("REMOTE_ADDR") or ""
    # Without a proxy the header is anybody's invention, and not worth a place in the cache.
    forwarded = environ.get("HTTP_X_FORWARDED_FOR", "") if trusted_proxies else ""
    if len(forwarded) > _FORWARDED_CHARACTERS_MAX:
        # Up to the next comma it may be half an address; without one it is no address at all.
        forwarded = forwarded[-_FORWARDED_CHARACTERS_MAX:].partition(",")[2] or "?"
    return _client_of(peer, forwarded, trusted_proxies)


def read_network(text: str) -> Network:
    """A network in CIDR, or a bare address as the network of itself; IPv4 in IPv6 is IPv4, as addresses are.

    Raises ValueError with a sentence for whoever chose it.
    """
    try:
        # A zone (`fe80::1%eth0`) means something on one machine only.
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
        # A hop that cannot be read is nobody: the proxy spoke for someone, and is not the client itself.
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
