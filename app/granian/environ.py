"""Makes the WSGI environment of an RSGI request, without the header names that WSGI would merge."""

import re
import sys
from functools import lru_cache
from typing import Final

from granian.rsgi import Scope

from app.ingest.fast_path import Environ

__all__ = ["Environ", "complete", "environ_of"]

# Headers with other names are dropped. WSGI has one name for X_API_Key and X-API-Key, so the first would stand for the
# second, past a proxy that drops or sets the real one. gunicorn and Django drop such names too.
_NAME: Final = re.compile(r"[a-z0-9-]+")
# granian takes names of 64 KB. Nothing reads a header with such a name, and the cache would keep a thousand of them.
_NAME_CHARACTERS_MAX: Final = 100
# granian lists a header whose value is not ASCII by its name alone. It must not count as missing.
_UNREADABLE: Final = "\xff"
_NO_PREFIX: Final = {"content-type": "CONTENT_TYPE", "content-length": "CONTENT_LENGTH"}
_ALWAYS: Final[Environ] = {
    "SCRIPT_NAME": "",
    "SERVER_SOFTWARE": "Granian",
    "wsgi.version": (1, 0),
    "wsgi.errors": sys.stderr,
    "wsgi.multithread": True,
    "wsgi.multiprocess": True,
    "wsgi.run_once": False,
    "wsgi.input_terminated": True,
}


def environ_of(scope: Scope) -> Environ:
    """The part of a WSGI environment that describes the request; complete() adds the rest for an application."""
    environ: Environ = {
        "REQUEST_METHOD": scope.method,
        "PATH_INFO": _latin(scope.path),
        "QUERY_STRING": scope.query_string,
        "SERVER_PROTOCOL": f"HTTP/{scope.http_version}",
        "REMOTE_ADDR": _host_of(scope.client),
    }
    headers = scope.headers
    seen = headers.items()
    for name, value in seen:
        if (variable := _variable_of(name)) is not None:
            environ[variable] = f"{environ[variable]},{value}" if variable in environ else value
    if len(seen) < len(headers):  # type: ignore[arg-type]
        for name in headers.keys():  # noqa: SIM118 - RSGI's own class
            if (variable := _variable_of(name)) is not None:
                environ.setdefault(variable, _UNREADABLE)
    if "HTTP_HOST" not in environ and scope.authority is not None:
        environ["HTTP_HOST"] = scope.authority  # of HTTP/2
    return environ


def complete(environ: Environ, scope: Scope) -> None:
    """Add what WSGI requires beside the request itself."""
    environ.update(_ALWAYS)
    environ["wsgi.url_scheme"] = scope.scheme
    environ["SERVER_NAME"], environ["SERVER_PORT"] = _server_of(scope.server)


def _latin(text: str) -> str:
    return text if text.isascii() else text.encode().decode("latin-1")


def _variable_of(name: str) -> str | None:
    """The WSGI name of a header; None if it is dropped."""
    return _variable_of_short(name) if len(name) <= _NAME_CHARACTERS_MAX else None


@lru_cache(maxsize=1_024)
def _variable_of_short(name: str) -> str | None:
    if not _NAME.fullmatch(name):
        return None
    return _NO_PREFIX.get(name) or "HTTP_" + name.upper().replace("-", "_")


def _host_of(address: str) -> str:
    return address.rpartition(":")[0].strip("[]")


@lru_cache(maxsize=16)
def _server_of(address: str) -> tuple[str, str]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), port
