"""Makes a WSGI environment of a request of granian's, without the merging of names that WSGI servers are known for."""

import re
import sys
from functools import lru_cache
from typing import Any, Final, Protocol

Environ = dict[str, Any]

# What a name must look like to reach the application. An underscore would become the hyphen of another name: X_API_Key
# would stand for X-API-Key, past a proxy that drops or sets the real one. gunicorn and Django drop such names too.
_NAME: Final = re.compile(r"[a-z0-9-]+")
# A header whose value is not ASCII is listed by its name alone. It must not count as one that is missing.
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


class Headers(Protocol):
    """RSGI's headers."""

    def __len__(self) -> int: ...
    def keys(self) -> list[str]: ...
    def items(self) -> list[tuple[str, str]]: ...


class Scope(Protocol):
    """RSGI's scope of an HTTP request."""

    http_version: str
    scheme: str
    method: str
    path: str
    query_string: str
    server: str
    client: str
    authority: str | None
    headers: Headers


def environ_of(scope: Scope) -> Environ:
    """What of a WSGI environment tells of the request; complete() adds the rest, for an application."""
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
    if len(seen) < len(headers):
        for name in headers.keys():  # noqa: SIM118 - RSGI's own class
            if (variable := _variable_of(name)) is not None:
                environ.setdefault(variable, _UNREADABLE)
    if "HTTP_HOST" not in environ and scope.authority is not None:
        environ["HTTP_HOST"] = scope.authority  # HTTP/2 has it there
    return environ


def complete(environ: Environ, scope: Scope) -> None:
    """Add what WSGI wants and no request says."""
    environ.update(_ALWAYS)
    environ["wsgi.url_scheme"] = scope.scheme
    environ["SERVER_NAME"], environ["SERVER_PORT"] = _server_of(scope.server)


def _latin(text: str) -> str:
    return text if text.isascii() else text.encode().decode("latin-1")


@lru_cache(maxsize=1_024)
def _variable_of(name: str) -> str | None:
    if not _NAME.fullmatch(name):
        return None
    return _NO_PREFIX.get(name) or "HTTP_" + name.upper().replace("-", "_")


def _host_of(address: str) -> str:
    return address.rpartition(":")[0].strip("[]")


@lru_cache(maxsize=16)
def _server_of(address: str) -> tuple[str, str]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), port
