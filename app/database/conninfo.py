"""Libpq's keywords for a database URL, of one server or of several hosts of which libpq takes the one that fits."""

import re
from collections.abc import Iterable
from typing import Any, Final

from sqlalchemy import make_url

# `user:password@one:5432,two:5433`: SQLAlchemy takes the second colon for a part of the port. A password may hold a
# slash or a comma, as SQLAlchemy reads it.
_SEVERAL: Final = re.compile(
    r"(?P<before>[^:/]+://(?:[^:/@]*(?::[^@]*)?@)?)(?P<hosts>[^/?@]*,[^/?@]*)(?P<behind>(?:[/?].*)?)", re.DOTALL
)
_HOST: Final = re.compile(r"(?P<name>\[[^\]]*\]|[^:]*)(?::(?P<port>[0-9]+))?")


def conninfo_of(url: str) -> dict[str, Any]:
    """The keywords of `postgresql://…`, as SQLAlchemy reads it.

    Several hosts stand as libpq has them (`one:5432,two:5433`) or as SQLAlchemy does (`?host=one:5432&host=two:5433`).
    """
    several = _SEVERAL.fullmatch(url)
    parsed = make_url(several["before"] + several["behind"] if several else url)
    keywords: dict[str, Any] = dict(parsed.query)
    if isinstance(keywords.get("host"), tuple):
        keywords |= _of_hosts(keywords["host"])
    named = {"host": parsed.host, "port": parsed.port, "dbname": parsed.database}
    named |= {"user": parsed.username, "password": parsed.password}
    keywords |= {name: value for name, value in named.items() if value is not None}
    return keywords | (_of_hosts(several["hosts"].split(",")) if several else {})


def _of_hosts(hosts: Iterable[str]) -> dict[str, str]:
    parts = [(found["name"], found["port"]) if (found := _HOST.fullmatch(host)) else (host, None) for host in hosts]
    of_hosts = {"host": ",".join(name.strip("[]") for name, _ in parts)}
    if any(port for _, port in parts):
        of_hosts["port"] = ",".join(port or "" for _, port in parts)
    return of_hosts
