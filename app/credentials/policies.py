"""What the policies of a source key may hold: event types, and origins of web pages. Networks: wire/client_address.py.

Each reader returns the one spelling that the writing statement compares, letter by letter. Raises ValueError with a
sentence for the caller.
"""

import re
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final

POLICY_ENTRIES_MAX: Final = 50
EVENT_TYPE_CHARACTERS_MAX: Final = 200
# A browser sends no longer one: a host has 253 characters at the most.
ORIGIN_CHARACTERS_MAX: Final = 300
EVENT_TYPE_PATTERN: Final = r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*(\.\*)?"

_EVENT_TYPE_PATTERN = re.compile(EVENT_TYPE_PATTERN)
# Not urllib's parser, which drops line breaks and tabs in silence.
_ORIGIN = re.compile(
    r"(?P<scheme>https?)://(?:\[(?P<ipv6>[0-9A-Fa-f:.]+)\]|(?P<host>[^\s/?#@:\[\]\\%*]+))(?::(?P<port>[0-9]{1,5}))?",
    re.IGNORECASE,
)
_SENT_ORIGIN = re.compile(rf"https?://[!-~]{{1,{ORIGIN_CHARACTERS_MAX}}}")
_HOST_CHARACTERS_MAX: Final = 253
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_PORT_MAX: Final = 65_535
# Python has IDNA 2003, which writes these otherwise than browsers do: the sharp s, the final sigma and two joiners.
_DEVIATIONS: Final = frozenset("ß\u03c2\u200c\u200d")
_NOT_BY_RULE: Final = "The host cannot be written in ASCII for sure: write it as browsers do, xn--…"
_OPAQUE: Final = "null"


def read_event_type_pattern(text: str) -> str:
    """A whole event type, or `payment.*` for all types below `payment`."""
    if len(text) > EVENT_TYPE_CHARACTERS_MAX:
        raise ValueError(f"Must be at most {EVENT_TYPE_CHARACTERS_MAX} characters.")
    if not _EVENT_TYPE_PATTERN.fullmatch(text):
        raise ValueError("Must be an event type such as payment.failed, or a prefix of whole segments: payment.*")
    return text


def read_origin(text: str) -> str:
    """An origin as browsers send it: scheme, host in lower case and IDNA's ASCII form, no port if it is the default."""
    parts = _ORIGIN.fullmatch(text) if len(text) <= ORIGIN_CHARACTERS_MAX else None
    if parts is None:
        raise ValueError("Must be an origin such as https://shop.example: no path, no user, no wildcard.")
    scheme = parts["scheme"].lower()
    host = f"[{_read_ipv6(parts['ipv6'])}]" if parts["ipv6"] else _read_host(parts["host"])
    if parts["port"] is None or (port := int(parts["port"])) == _DEFAULT_PORTS[scheme]:
        return f"{scheme}://{host}"
    if not 0 < port <= _PORT_MAX:
        raise ValueError(f"The port must be 1 to {_PORT_MAX}.")
    return f"{scheme}://{host}:{port}"


def origin_of(header: str | None) -> str | None:
    """The origin in an Origin header; `null`, which no key allows, for anything else; None without a header."""
    return header if header is None or _SENT_ORIGIN.fullmatch(header) else _OPAQUE


def _read_ipv6(text: str) -> IPv6Address:
    try:
        return IPv6Address(text)
    except AddressValueError:
        raise ValueError("The host in brackets is no IPv6 address.") from None


def _read_host(text: str) -> str:
    if _DEVIATIONS & set(text):
        raise ValueError(_NOT_BY_RULE)
    try:
        host = text.lower() if text.isascii() else text.encode("idna").decode().lower()
    except UnicodeError:
        raise ValueError(_NOT_BY_RULE) from None
    labels = host.split(".")
    if labels[-1].isdecimal():
        return str(_read_ipv4(host))
    if len(host) > _HOST_CHARACTERS_MAX or not all(map(_LABEL.fullmatch, labels)):
        raise ValueError("The host is no name: labels of letters, digits, - and _, joined by dots.")
    return host


def _read_ipv4(text: str) -> IPv4Address:
    """Browsers take a host that ends in a number for an address."""
    try:
        return IPv4Address(text)
    except AddressValueError:
        raise ValueError("The host ends in a number and is no IPv4 address.") from None
